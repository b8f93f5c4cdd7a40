"""What do the default settings of MixtureDensityRegressor cost and bring?

    OMP_NUM_THREADS=1 python benchmarks/defaults.py --data FOLDER

FOLDER holds the sets ``concrete`` and ``energy`` of the UCI regression benchmark as
``NAME.npz`` with ``X``, ``y``, ``test_mask`` (packed, 20 published splits) and
``n_rows``: the files published with Y. Gal and Z. Ghahramani, "Dropout as a Bayesian
approximation", ICML 2016. Without it only scikit-learn's diabetes data are used.

Only training rows are read: those of published split 7, divided again at random into
90 % to fit and 10 % to score, three times. Every variant differs from the defaults in
what its name says. Prints mean held-out negative log-likelihood (nats, original
units), CRPS, coverage of the 90 % interval and processor seconds of a fit; writes
``benchmarks/results/defaults.csv``.
"""

import argparse
from pathlib import Path

import numpy as np
from common import save, timed
from sklearn.datasets import load_diabetes
from sklearn.model_selection import ShuffleSplit

from skmdn import MixtureDensityRegressor

VARIANTS = {
    "defaults": {},
    "learning_rate_init=0.005": {"learning_rate_init": 0.005},
    "learning_rate_init=0.02": {"learning_rate_init": 0.02},
    "hidden_layer_sizes=(128, 128)": {"hidden_layer_sizes": (128, 128)},
    "n_components=1": {"n_components": 1},
    "n_components=10": {"n_components": 10},
    "n_estimators=1": {"n_estimators": 1},
    "max_iter=100": {"max_iter": 100},
    "max_iter=400": {"max_iter": 400},
    "n_iter_no_change=20": {"n_iter_no_change": 20},
    "early_stopping=False": {"early_stopping": False},
    "x_noise=0.05": {"x_noise": 0.05},
    "embedding='ple'": {"embedding": "ple"},
    "embedding='ple+cos'": {"embedding": "ple+cos"},
}


def data_sets(folder):
    """Return names with features and targets; training rows only."""
    sets = {"diabetes": load_diabetes(return_X_y=True)}
    if folder is not None:
        for name in ("concrete", "energy"):
            file = np.load(Path(folder) / f"{name}.npz")
            n_rows = int(file["n_rows"])
            masks = np.unpackbits(file["test_mask"], axis=1)[:, :n_rows].astype(bool)
            training = ~masks[7]
            sets[name] = (file["X"][training], file["y"][training])
    return sets


def score(X, y, params):
    """Return NLL, CRPS, coverage and seconds, averaged over nested splits."""
    results = []
    splits = ShuffleSplit(3, test_size=0.1, random_state=0).split(X)
    for seed, (fit, held_out) in enumerate(splits):
        model = MixtureDensityRegressor(random_state=seed, **params)
        seconds = timed(lambda m=model, rows=fit: m.fit(X[rows], y[rows]))
        dist = model.predict_distribution(X[held_out])
        target = y[held_out]
        inside = np.abs(dist.pit(target) - 0.5) <= 0.45
        nll = -dist.log_prob(target).mean()
        results.append([nll, dist.crps(target).mean(), inside.mean(), seconds])
    return np.mean(results, axis=0)


def main():
    """Score every variant on every set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of the UCI files")
    sets = data_sets(parser.parse_args().data)
    rows = []
    for variant, params in VARIANTS.items():
        for name, (X, y) in sets.items():
            nll, crps, coverage, seconds = score(X, y, params)
            print(
                f"{variant:30} {name:9} NLL {nll:7.3f}  CRPS {crps:7.3f}  "
                f"coverage {coverage:.2f}  {seconds:5.1f} s",
                flush=True,
            )
            scores = (f"{value:.4f}" for value in (nll, crps, coverage, seconds))
            rows.append([variant, name, *scores])
    save("defaults", ["variant", "set", "nll", "crps", "coverage_90", "fit_s"], rows)


if __name__ == "__main__":
    main()
