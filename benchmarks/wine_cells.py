"""How likely are the observed grades of wine, beside their frequencies?

    python benchmarks/wine_cells.py FOLDER

FOLDER has ``wine.npz`` in the form that ``uci.py`` tells. The loss of skmdn, minus
the log probability of the cell of each grade, is that of ``results/uci.csv``. The
frequencies are those of the training rows, with one row added to each grade.
"""

import csv
import sys
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).resolve().parent / "results" / "uci.csv"


def losses_of_frequencies(file):
    """Return the mean loss of the frequencies in every split."""
    data = np.load(file)
    masks = np.unpackbits(data["test_mask"], axis=1)[:, : int(data["n_rows"])]
    losses = []
    for test in masks.astype(bool):
        grades, counts = np.unique(data["y"][~test], return_counts=True)
        shares = (counts + 1.0) / (counts + 1.0).sum()
        found = np.searchsorted(grades, data["y"][test])
        losses.append(-np.log(shares[found]).mean())
    return np.array(losses)


def main():
    """Print both losses, averaged over the splits, and the least of ours."""
    with open(RESULTS, newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["set"] == "wine"]
    ours = np.array([float(r["nll_cell"]) for r in rows if r["model"] == "skmdn"])
    other = losses_of_frequencies(Path(sys.argv[1]) / "wine.npz")
    print(f"skmdn {ours.mean():.3f} (least {ours.min():.3f}), ", end="")
    print(f"frequencies {other.mean():.3f}, {len(ours)} splits")


if __name__ == "__main__":
    main()
