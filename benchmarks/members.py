"""What do five members cost when they train in one batch?

Run with one thread, on an otherwise idle machine:

    OMP_NUM_THREADS=1 python benchmarks/members.py

Fits ``MixtureDensityRegressor`` with n_estimators=5 and, in turn, five separate fits
with n_estimators=1 and other seeds, on the same synthetic rows (2 x 64 hidden units,
K = 5, batch 128, float64), and prints the median ratio of processor times. Writes
``benchmarks/results/members.csv``.
"""

import numpy as np
from common import save, timed, toy

from skmdn import MixtureDensityRegressor

N_REPEATS = 5
COMMON = {
    "n_components": 5,
    "hidden_layer_sizes": (64, 64),
    "batch_size": 128,
    "max_iter": 12,
    "early_stopping": False,
}


def main():
    """Time, print and save."""
    X, y = toy(4096)

    def seconds(n_members, seed):
        model = MixtureDensityRegressor(
            **COMMON, n_estimators=n_members, random_state=seed
        )
        return timed(lambda: model.fit(X, y))

    seconds(1, 0)
    rows = []
    for repeat in range(N_REPEATS):
        together = seconds(5, repeat)
        apart = sum(seconds(1, 10 * repeat + member) for member in range(5))
        ratio = together / apart
        rows.append([repeat, f"{together:.3f}", f"{apart:.3f}", f"{ratio:.3f}"])
        print(f"batched {together:.2f} s  separate {apart:.2f} s  ratio {ratio:.2f}")
    median = np.median([float(row[-1]) for row in rows])
    print(f"median ratio {median:.2f}")
    save("members", ["repeat", "batched_s", "separate_s", "ratio"], rows)


if __name__ == "__main__":
    main()
