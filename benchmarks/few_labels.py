"""Digits from few labels: what rows without label are worth, and to whom.

    OMP_NUM_THREADS=1 python benchmarks/few_labels.py

All but a few labels of each class are hidden in 70 % of the digits; the accuracy is
that on the other 30 %. All models see the same principal components of the same rows.

Results go to results/few_labels.csv.
"""

import argparse
import warnings

import numpy as np
from common import save, timed
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier

from skmdn import GaussianMixtureClassifier
from skmdn.priors import InverseGamma

HEADER = ["labels", "n_features", "model", "accuracy", "standard_error", "seconds"]
PRIOR = {"scales_prior": InverseGamma(20.0, 400.0)}
# The first see the labels alone.
ALONE = {
    "nearest mean": NearestCentroid(),
    "nearest row": KNeighborsClassifier(1),
    "logistic regression": LogisticRegression(max_iter=2000),
    "mixture": GaussianMixtureClassifier(random_state=0),
    "mixture, prior": GaussianMixtureClassifier(random_state=0, **PRIOR),
}
ALL_ROWS = {
    "self-training": SelfTrainingClassifier(LogisticRegression(max_iter=2000)),
    "label spreading": LabelSpreading(kernel="knn", n_neighbors=7),
    "mixture, all rows": GaussianMixtureClassifier(random_state=0),
    "mixture, prior, all rows": GaussianMixtureClassifier(random_state=0, **PRIOR),
    "three components, all rows": GaussianMixtureClassifier(
        3, n_init=3, random_state=0, **PRIOR
    ),
}


def hidden(y, n_labels, rng):
    """Return labels of which all but some of each class are -1."""
    labels = np.full_like(y, -1)
    for c in np.unique(y):
        known = rng.choice(np.flatnonzero(y == c), n_labels, replace=False)
        labels[known] = c
    return labels


def runs(n_labels, n_features, seed):
    """Yield every model's name, accuracy and processor seconds."""
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(
        X, y, test_size=0.3, random_state=seed, stratify=y
    )
    reduce = PCA(n_features, random_state=0).fit(X)
    X, X_test = reduce.transform(X), reduce.transform(X_test)
    labels = hidden(y, n_labels, np.random.RandomState(seed))
    known = labels >= 0
    for name, model in ALONE.items():
        seconds = timed(lambda model=model: model.fit(X[known], labels[known]))
        yield name, model.score(X_test, y_test), seconds
    for name, model in ALL_ROWS.items():
        seconds = timed(lambda model=model: model.fit(X, labels))
        yield name, model.score(X_test, y_test), seconds


def main():
    """Run all models on the same splits."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=30)
    options = parser.parse_args()
    rows = []
    for n_labels, n_features in [(n_labels, 20) for n_labels in (1, 2, 5, 20)]:
        found = {}
        for seed in range(options.seeds):
            # Not converged, or classes without variance: the accuracy tells.
            with warnings.catch_warnings(action="ignore"):
                for name, *numbers in runs(n_labels, n_features, seed):
                    found.setdefault(name, []).append(numbers)
        for name, numbers in found.items():
            accuracy, seconds = np.mean(numbers, axis=0)
            error = np.std(numbers, axis=0)[0] / np.sqrt(options.seeds)
            row = [n_labels, n_features, name]
            rows.append([*row, f"{accuracy:.3f}", f"{error:.3f}", f"{seconds:.3f}"])
            print(*rows[-1], flush=True)
    save("few_labels", HEADER, rows)


if __name__ == "__main__":
    main()
