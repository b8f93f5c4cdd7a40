"""The sets of the benchmark and their splits; see ``uci.py``."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from scores import lattice_spacing
from sklearn.datasets import fetch_openml, load_diabetes
from sklearn.model_selection import ShuffleSplit

N_SPLITS = 20
# Small sets first, so that a run that is cut off has all splits of some sets.
ORDER = ("diabetes", "energy", "concrete", "wine", "kin8nm", "power")
# Number on OpenML, and the shape that the published files have.
OPENML = {
    "energy": (44960, (768, 8)),
    "concrete": (44959, (1030, 8)),
    "wine": (44972, (1599, 11)),
    "kin8nm": (44980, (8192, 8)),
}


class Table(NamedTuple):
    """Features, targets and test rows: (n, p), (n,) and (n_splits, n) bool."""

    X: np.ndarray
    y: np.ndarray
    test_masks: np.ndarray

    def save(self, path):
        """Write the file that a worker reads."""
        spacing = lattice_spacing(self.y) or 0.0
        np.savez(path, **self._asdict(), spacing=spacing)


def random_splits(X, y):
    """Return a set with 20 seeded random splits, a tenth of the rows for testing."""
    masks = np.zeros((N_SPLITS, len(y)), dtype=bool)
    splits = ShuffleSplit(N_SPLITS, test_size=0.1, random_state=0).split(X)
    for mask, (_, test) in zip(masks, splits, strict=True):
        mask[test] = True
    return Table(np.asarray(X, dtype=float), np.asarray(y, dtype=float), masks)


def published(path):
    """Return a set with its published splits."""
    file = np.load(path)
    n_rows = int(file["n_rows"])
    masks = np.unpackbits(file["test_mask"], axis=1)[:, :n_rows].astype(bool)
    return Table(file["X"].astype(float), file["y"].astype(float), masks)


def names(folder):
    """Return the names of all sets there are, in the order of the run."""
    if folder is None:
        return [name for name in ORDER if name == "diabetes" or name in OPENML]
    found = sorted(path.stem for path in Path(folder).glob("*.npz"))
    known = [name for name in ORDER if name == "diabetes" or name in found]
    return known + [name for name in found if name not in ORDER]


def load(name, folder):
    """Return a set, and say where its rows come from if not from a file."""
    if name == "diabetes":
        return random_splits(*load_diabetes(return_X_y=True))
    if folder is not None:
        return published(Path(folder) / f"{name}.npz")
    number, shape = OPENML[name]
    X, y = fetch_openml(data_id=number, as_frame=False, return_X_y=True)
    if X.shape != shape:
        raise ValueError(f"{name}: OpenML's {number} is {X.shape}, expected {shape}.")
    print(f"{name}: from OpenML, with random splits, not the published ones")
    return random_splits(X, y)


def toy():
    """Return a linear problem with noise N(0, 2^2), far from 0: what peers must get."""
    rng = np.random.RandomState(0)
    X = rng.normal(size=(2000, 2)) * [1, 10] + [0, 50]
    y = 300 + 6 * X[:, 0] - 0.4 * X[:, 1] + rng.normal(0, 2, len(X))
    masks = np.zeros((1, len(X)), dtype=bool)
    masks[0, 1000:] = True
    return Table(X, y, masks)
