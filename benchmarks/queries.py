"""What do queries of Gaussian mixtures cost, and how exact are they?

Run with one thread, on an otherwise idle machine:

    OMP_NUM_THREADS=1 python benchmarks/queries.py

All mixtures have K = 25 components, means of standard deviation 3 and weights that
are uniform on the simplex; standard deviations are log-uniform in [0.05, 1] on easy
rows and in [0.001, 1] on hard ones. Every query goes through the public methods of
``PredictiveDistribution``.

- Quantiles per second, the largest |F(x) - q|, and the largest such error as a share
  of min(q, 1 - q); beside it a plain vectorised bisection on F between the smallest
  and the largest quantile of the components, to the same 1e-9. "tails" are levels
  from 1e-12 to 1 - 1e-9, equally spaced in the logarithm of the tail.
- The CRPS of 10 000 rows; a million draws of 1000 rows, beside the bare numbers
  (uniform and normal, in single and in double precision) that drawing costs
  elsewhere; densities on a grid of 1000 x 1000 points.
- The draws of an estimator: the number of network passes.
- The growth of the process's peak of memory by 100 000 rows x 100 levels.

Writes ``benchmarks/results/queries.csv``.
"""

import resource

import numpy as np
import torch
from common import save, timed, toy
from scipy.special import ndtr, ndtri

from skmdn import MixtureDensityRegressor
from skmdn.distribution import PredictiveDistribution

N_COMPONENTS, N_REPEATS = 25, 5
SMALLEST = {"easy": 0.05, "hard": 1e-3}
N_ROWS = {1: 10_000, 3: 4000, 9: 2000, 99: 400, 1000: 100}


def mixtures(n_rows, rows, seed=0):
    """Return random mixtures."""
    rng = np.random.RandomState(seed)
    size = (n_rows, N_COMPONENTS)
    weights = rng.dirichlet(np.ones(N_COMPONENTS), n_rows)
    stds = np.exp(rng.uniform(np.log(SMALLEST[rows]), 0.0, size))
    return PredictiveDistribution.from_params(
        weights, 3.0 * rng.normal(size=size), stds
    )


def tail_levels(n_levels):
    """Return levels that are equally spaced in the logarithm of the tail."""
    half = n_levels // 2
    low, high = np.geomspace(1e-12, 0.5, half), np.geomspace(1e-9, 0.5, half)
    return np.concatenate([low, 1.0 - high[::-1]])


def bisection(dist, levels):
    """Return quantiles by halving the bracket until |F(x) - q| <= 1e-9."""
    weights, means, stds = dist.weights, dist.means, dist.stds
    ends = means[..., None] + stds[..., None] * ndtri(levels)
    low, high = ends.min(1), ends.max(1)
    while True:
        middle = 0.5 * (low + high)
        z = (middle[:, None] - means[..., None]) / stds[..., None]
        error = (weights[..., None] * ndtr(z)).sum(1) - levels
        if (np.abs(error) <= 1e-9).all():
            return middle
        low = np.where(error < 0, middle, low)
        high = np.where(error < 0, high, middle)


def interleaved(calls):
    """Return the median and the least seconds of each call, taken in turn."""
    times = {name: [] for name in calls}
    for _ in range(N_REPEATS):
        for name, call in calls.items():
            times[name].append(timed(call))
    return {name: (np.median(some), min(some)) for name, some in times.items()}


def quantile_figures():
    """Time quantiles of both kinds of rows and all numbers of levels."""
    results = []
    for rows in SMALLEST:
        for n_levels, n_rows in N_ROWS.items():
            levels = np.linspace(0.0, 1.0, n_levels + 2)[1:-1]
            name = f"quantiles, {rows} rows, {n_levels} levels"
            results += quantiles_of(name, mixtures(n_rows, rows), levels)
        name = f"quantiles, {rows} rows, 1000 tails"
        results += quantiles_of(name, mixtures(100, rows), tail_levels(1000))
    return results


def quantiles_of(name, dist, levels):
    """Time the quantiles of some rows and measure their errors."""
    few = dist[: max(1, 1600 // len(levels))]
    x = dist.ppf(levels)
    upper = levels > 0.5
    error = np.where(upper, dist.sf(x) - (1.0 - levels), dist.cdf(x) - levels)
    error = np.abs(error)
    relative = (error / np.minimum(levels, 1.0 - levels)).max()
    times = interleaved(
        {"ppf": lambda: dist.ppf(levels), "slow": lambda: bisection(few, levels)}
    )
    rate, best = x.size / times["ppf"][0], x.size / times["ppf"][1]
    slow = len(few) * len(levels) / times["slow"][0]
    print(
        f"{name:36} {rate:9.3g} /s (best {best:9.3g}), bisection {slow:8.2g}, "
        f"errors {error.max():.1e}, relative {relative:.1e}"
    )
    return [
        (f"{name}: per second", f"{rate:.4g}"),
        (f"{name}: per second, best", f"{best:.4g}"),
        (f"{name}: per second by bisection", f"{slow:.4g}"),
        (f"{name}: largest error", f"{error.max():.2e}"),
        (f"{name}: largest relative error", f"{relative:.2e}"),
    ]


def bare_numbers(dtype):
    """Draw a million uniform and a million normal numbers, in chunks."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(62):
        torch.empty(16_000, dtype=dtype).uniform_(generator=generator)
        torch.empty(16_000, dtype=dtype).normal_(generator=generator)


def other_figures():
    """Time everything else."""
    many, some = mixtures(10_000, "easy"), mixtures(1000, "easy")
    hard = mixtures(1000, "hard")
    y, grid = many.mean(), np.linspace(-10.0, 10.0, 1000)[None]
    times = interleaved(
        {
            "crps, 10 000 rows": lambda: many.crps(y),
            "draws, 1000 x 1000": lambda: some.sample(1000, 0),
            "bare numbers, float32": lambda: bare_numbers(torch.float32),
            "bare numbers, float64": lambda: bare_numbers(torch.float64),
            "cdf, 1000 x 1000": lambda: some.cdf(grid),
            "log_prob, 1000 x 1000": lambda: some.log_prob(grid),
            "log_prob, 1000 x 1000, hard rows": lambda: hard.log_prob(grid),
        }
    )
    results = []
    for name, (median, best) in times.items():
        print(f"{name:36} {1e3 * median:8.1f} ms (best {1e3 * best:8.1f})")
        results += [
            (f"{name}: s", f"{median:.5f}"),
            (f"{name}: s, best", f"{best:.5f}"),
        ]
    return results


def network_passes():
    """Count how often the draws of an estimator run its network."""
    X, y = toy(1000)
    model = MixtureDensityRegressor(max_iter=5, random_state=0).fit(X, y)
    passes = []
    hook = model.module_.register_forward_hook(lambda *_: passes.append(1))
    model.sample(X, 1000)
    hook.remove()
    print(f"network passes for 1000 x 1000 draws: {len(passes)}")
    return [("network passes for 1000 x 1000 draws", len(passes))]


def memory():
    """Measure by how much the peak of the process grows with its answer."""
    dist, levels = mixtures(100_000, "easy"), np.linspace(0.0, 1.0, 102)[1:-1]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = dist.ppf(levels)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown, own = (after - before) / 1024, answer.nbytes / 2**20
    print(
        f"100 000 x 100 quantiles: the peak grows by {grown:.0f} MiB, the answer has "
        f"{own:.0f}, rows x levels x components would be {own * N_COMPONENTS:.0f}"
    )
    return [("100 000 x 100 quantiles: growth of the peak, MiB", f"{grown:.0f}")]


def main():
    """Time, print and save."""
    results = [*memory(), *quantile_figures(), *other_figures(), *network_passes()]
    save("queries", ["query", "value"], results)


if __name__ == "__main__":
    main()
