"""What the benchmarks share: processor time, and results with their versions."""

import csv
import platform
import time
from pathlib import Path

import numpy as np
import sklearn
import torch

import skmdn

VERSIONS = (
    f"skmdn {skmdn.__version__}, torch {torch.__version__}, scikit-learn "
    f"{sklearn.__version__}, numpy {np.__version__}, {platform.machine()}"
)


def timed(function):
    """Return the processor seconds of a call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def toy(n_samples, n_features=8):
    """Return a heteroscedastic regression problem."""
    rng = np.random.RandomState(0)
    X = rng.normal(size=(n_samples, n_features))
    return X, np.sin(X[:, 0]) + X[:, 1] * rng.normal(size=n_samples)


def save(name, header, rows):
    """Write rows to results/name.csv, each with the versions."""
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    with open(folder / f"{name}.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*header, "versions"])
        writer.writerows([*row, VERSIONS] for row in rows)
