"""What do draws and quantiles cost beside their bare arithmetic?

Run with one thread, on an otherwise idle machine:

    OMP_NUM_THREADS=1 python benchmarks/queries.py

Draws 1000 values for each of 1000 rows (K = 25 components) through
``MixtureDensityRegressor.sample`` and, in turn, by the bare arithmetic on ready-made
tensors: uniform numbers, a search of the cumulated weights, two gathers, normal
numbers, one multiply-add. Prints the medians and their ratio, the number of network
passes, and quantiles per second. Writes ``benchmarks/results/queries.csv``.
"""

import numpy as np
import torch
from common import save, timed, toy

from skmdn import MixtureDensityRegressor

N_ROWS, N_DRAWS, N_REPEATS = 1000, 1000, 7
LEVELS = np.linspace(0.05, 0.95, 19)


def bare_draws(weights, means, stds, generator):
    """Draw from ready-made mixtures, and nothing else."""
    uniform = torch.empty(N_ROWS, N_DRAWS, dtype=torch.float64)
    uniform.uniform_(generator=generator)
    chosen = torch.searchsorted(weights.cumsum(1), uniform)
    chosen.clamp_(max=weights.shape[1] - 1)
    noise = torch.empty_like(uniform).normal_(generator=generator)
    return noise.mul_(stds.gather(1, chosen)).add_(means.gather(1, chosen))


def network_passes(model, call):
    """Count how often a call runs the network."""
    passes = []
    hook = model.module_.register_forward_hook(lambda *_: passes.append(1))
    call()
    hook.remove()
    return len(passes)


def main():
    """Time, print and save."""
    X, y = toy(N_ROWS)
    model = MixtureDensityRegressor(max_iter=5, random_state=0).fit(X, y)
    dist = model.predict_distribution(X)
    tensors = [torch.tensor(a) for a in (dist.weights, dist.means, dist.stds)]
    generator = torch.Generator().manual_seed(0)
    calls = {
        "sample": lambda: model.sample(X, N_DRAWS),
        "bare draws": lambda: bare_draws(*tensors, generator),
        "19 quantiles": lambda: dist.ppf(LEVELS),
        "crps": lambda: dist.crps(y),
    }
    n_passes = network_passes(model, calls["sample"])
    times = {name: [] for name in calls}
    for _ in range(N_REPEATS):
        for name, call in calls.items():
            times[name].append(timed(call))
    median = {name: float(np.median(values)) for name, values in times.items()}
    print(f"network passes for {N_ROWS} x {N_DRAWS} draws: {n_passes}")
    for name, value in median.items():
        print(f"{name:14} {1e3 * value:8.1f} ms")
    ratio = np.median(np.divide(times["sample"], times["bare draws"]))
    print(f"sample / bare draws: median {ratio:.2f} (limit 2.00)")
    per_second = len(LEVELS) * N_ROWS / median["19 quantiles"]
    print(f"quantiles per second: {per_second:.3g}")
    rows = [[name, f"{value:.5f}"] for name, value in median.items()]
    rows += [["network passes", n_passes], ["sample / bare draws", f"{ratio:.3f}"]]
    save("queries", ["query", "median_s_or_value"], rows)


if __name__ == "__main__":
    main()
