"""Gaussian mixtures side by side with scikit-learn, in processor time.

    OMP_NUM_THREADS=1 python benchmarks/gaussian_mixture.py

Two questions, on 200 000 rows of 10 features and 20 components:

- the time of an iteration from the same start, with one run and with five;
- a fit with the defaults: time, and log-likelihood of 20 000 other rows, over seeds.

Results go to results/gaussian_mixture.csv.
"""

import argparse
import warnings

import numpy as np
from common import save, timed
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from skmdn import MAPGaussianMixture

N_FEATURES, N_COMPONENTS, N_HELD_OUT = 10, 20, 20_000
KINDS = ("full", "tied", "diag", "spherical")
HEADER = [
    "question",
    "covariance_type",
    "spread",
    "seed",
    "model",
    "n_init",
    "seconds",
    "n_iter",
    "held_out",
]


def groups(n_samples, spread, seed):
    """Return rows of normal groups with matrices of their own."""
    rng = np.random.RandomState(seed)
    mix = rng.normal(size=(N_COMPONENTS, N_FEATURES, N_FEATURES)) / N_FEATURES**0.5
    centers = spread * rng.normal(size=(N_COMPONENTS, N_FEATURES))
    y = rng.choice(N_COMPONENTS, n_samples, p=rng.dirichlet(np.full(N_COMPONENTS, 5.0)))
    X = centers[y] + 0.1 * rng.normal(size=(n_samples, N_FEATURES))
    noise = rng.normal(size=(n_samples, N_FEATURES))
    for k in range(N_COMPONENTS):
        X[y == k] += noise[y == k] @ mix[k].T
    return X


def seconds_per_iteration(kind, X, make, n_init=1):
    """Return what ten more iterations cost, per iteration."""
    start = GaussianMixture(
        N_COMPONENTS, covariance_type=kind, random_state=0, max_iter=2
    ).fit(X[:20_000])
    given = {
        "weights_init": start.weights_,
        "means_init": start.means_,
        "precisions_init": start.precisions_,
    }
    if n_init > 1:
        # Five runs have to differ in where they begin.
        given = {"init_params": "random"}

    def fit(n_iter):
        model = make(N_COMPONENTS, covariance_type=kind, tol=0.0, n_init=n_init)
        model.set_params(max_iter=n_iter, **given)
        return timed(lambda: model.fit(X))

    fit(1)
    return (min(fit(12) for _ in range(2)) - min(fit(2) for _ in range(2))) / 10


def iterations(n_samples):
    """Compare iterations from the same start."""
    X = groups(n_samples, 1.5, seed=0)
    for kind in KINDS:
        for name, make, n_init in [
            ("scikit-learn", GaussianMixture, 1),
            ("skmdn", MAPGaussianMixture, 1),
            ("skmdn", MAPGaussianMixture, 5),
        ]:
            seconds = seconds_per_iteration(kind, X, make, n_init)
            print(f"{kind} {name} n_init={n_init}: {1e3 * seconds:.0f} ms", flush=True)
            row = ["iteration", kind, 1.5, 0, name, n_init, f"{seconds:.4f}", 1, ""]
            yield row


def defaults(n_samples, n_seeds):
    """Compare fits with the defaults."""
    for kind in ("full", "diag"):
        for spread in (0.5, 1.5, 4.0):
            for seed in range(n_seeds):
                rows = groups(n_samples + N_HELD_OUT, spread, seed)
                X, other = rows[:n_samples], rows[n_samples:]
                for name, make, n_init in [
                    ("scikit-learn", GaussianMixture, 1),
                    ("skmdn", MAPGaussianMixture, 1),
                    ("skmdn", MAPGaussianMixture, 5),
                ]:
                    model = make(
                        N_COMPONENTS,
                        covariance_type=kind,
                        n_init=n_init,
                        random_state=seed,
                    )
                    seconds = timed(lambda model=model, X=X: model.fit(X))
                    held_out = f"{model.score(other):.4f}"
                    row = [
                        "defaults",
                        kind,
                        spread,
                        seed,
                        name,
                        n_init,
                        f"{seconds:.2f}",
                        model.n_iter_,
                        held_out,
                    ]
                    print(*row, flush=True)
                    yield row


def main():
    """Run both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n-samples", type=int, default=200_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--skip-defaults", action="store_true")
    options = parser.parse_args()
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        rows = list(iterations(options.n_samples))
        if not options.skip_defaults:
            rows += defaults(options.n_samples, options.seeds)
    save("gaussian_mixture", HEADER, rows)


if __name__ == "__main__":
    main()
