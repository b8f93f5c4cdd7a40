"""Stepwise EM beside EM on all rows at once.

    OMP_NUM_THREADS=1 python benchmarks/stepwise.py

Two passes over 200 000 rows of 10 features, 20 components, in batches, by ``fit`` with
``batch_size`` and by calls of ``partial_fit``. What is printed is by how much the mean
log-likelihood of the rows stays behind that of a fit to all of them, in per cent of it.

Results go to results/stepwise.csv.
"""

import argparse
import itertools
import warnings

from common import save, timed
from gaussian_mixture import N_COMPONENTS, groups
from sklearn.exceptions import ConvergenceWarning

from skmdn import MAPGaussianMixture

HEADER = [
    "covariance_type",
    "spread",
    "seed",
    "way",
    "batch_size",
    "seconds",
    "log_likelihood",
    "behind_percent",
]


def by_fit(model, X, batch_size):
    """Fit in batches, in two passes."""
    model.set_params(batch_size=batch_size, max_iter=2, tol=0.0).fit(X)


def by_partial_fit(model, X, batch_size):
    """Show the rows twice, a batch at a time."""
    for _ in range(2):
        for start in range(0, len(X), batch_size):
            model.partial_fit(X[start : start + batch_size])


def comparisons(n_samples, spreads, seeds, batch_sizes):
    """Yield a row for every fit."""
    for kind, spread, seed in itertools.product(("full", "diag"), spreads, seeds):
        X = groups(n_samples, spread, seed)
        whole = MAPGaussianMixture(
            N_COMPONENTS, covariance_type=kind, random_state=seed
        )
        seconds = timed(lambda whole=whole, X=X: whole.fit(X))
        best = whole.score(X)
        yield [kind, spread, seed, "all rows", "", f"{seconds:.2f}", f"{best:.4f}", 0]
        for way, batch_size in itertools.product((by_fit, by_partial_fit), batch_sizes):
            model = MAPGaussianMixture(
                N_COMPONENTS, covariance_type=kind, random_state=seed
            )
            seconds = timed(lambda m=model, b=batch_size, w=way, X=X: w(m, X, b))
            reached = model.score(X)
            behind = 100.0 * (best - reached) / abs(best)
            yield [
                kind,
                spread,
                seed,
                way.__name__,
                batch_size,
                f"{seconds:.2f}",
                f"{reached:.4f}",
                f"{behind:.3f}",
            ]


def main():
    """Run all comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n-samples", type=int, default=200_000)
    parser.add_argument("--spreads", type=float, nargs="+", default=[0.5, 1.5, 4.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[500, 2_000, 20_000]
    )
    options = parser.parse_args()
    rows = []
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        for row in comparisons(
            options.n_samples, options.spreads, options.seeds, options.batch_sizes
        ):
            print(*row, flush=True)
            rows.append(row)
    save("stepwise", HEADER, rows)


if __name__ == "__main__":
    main()
