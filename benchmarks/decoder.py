"""What are a decoder's codes worth: on digits, for missing pixels, and for new rows?

Run with one thread:

    OMP_NUM_THREADS=1 python benchmarks/decoder.py

Three seeds, each with its own split of the digits of scikit-learn (pixels from 0 to 1,
a quarter held out) and ten components. The columns:

- knn: accuracy of ten nearest neighbours on the codes of held-out digits, which have
  ten features; then the same on ten principal components.
- ari: adjusted Rand index of the components and the training digits; then that of
  GaussianMixture with its defaults on ten principal components.
- lower, random: root mean square error of the lower half of the pixels, and of a random
  half, imputed by a decoder with twenty features, one layer of 400 units and noise in
  its codes (decoder), by KNNImputer and by IterativeImputer (ten rounds) with their
  defaults. The first three settings were chosen on rows held out of training rows.
- seconds_impute: processor seconds of the decoder for both masks.
- value: minus the log joint density of held-out rows and their codes, the constant
  left out, for transform; then for the scheme of the published code: the component
  mean with the best reconstruction, then 100 epochs of one step of Adam (rate 0.01,
  betas 0.5 and 0.7, decay 1e-4), gradients in batches of eight rows; then for that
  scheme with all rows in one batch. Then processor seconds of all three.
- seconds_fit; seconds_10000: processor seconds of transform for 10 000 rows, which are
  the held-out ones, repeated, with noise.
"""

import warnings

import numpy as np
import torch
from common import save, timed
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

from skmdn import DeepGenerativeDecoder

HEADER = [
    "seed",
    "knn",
    "knn_pca",
    "ari",
    "ari_pca",
    *[
        f"{mask}_{method}"
        for mask in ("lower", "random")
        for method in ("decoder", "knn", "iterative")
    ],
    "seconds_impute",
    "value",
    "value_original",
    "value_original_one_batch",
    "seconds",
    "seconds_original",
    "seconds_original_one_batch",
    "seconds_fit",
    "seconds_10000",
]


def accuracy(train, y_train, test, y_test):
    """Return the accuracy of ten nearest neighbours."""
    return KNeighborsClassifier(10).fit(train, y_train).score(test, y_test)


def original_scheme(model, X, batch_size, n_epochs=100):
    """Place rows as the published code does; return the codes."""
    joint, table, _, X = model._asked(X, None, None)
    means = joint.prior.blocks[0].parameters.means[0]
    with torch.no_grad():
        fit = [
            joint.blocks.log_prob(joint.network(mean.expand(len(X), -1)), table)
            for mean in means
        ]
    codes = means[torch.stack(fit).argmax(0)].clone().requires_grad_(True)
    adam = torch.optim.Adam([codes], lr=0.01, betas=(0.5, 0.7), weight_decay=1e-4)
    for _ in range(n_epochs):
        adam.zero_grad()
        for rows in torch.arange(len(X)).split(batch_size):
            z, part = codes[rows], table.of(rows)
            log_joint = joint.blocks.log_prob(joint.network(z), part)
            (-log_joint - joint.prior.log_prob(z)).sum().backward()
        adam.step()
    return codes.detach()


def mean_value(model, codes, X):
    """Return minus the mean log joint density, without the constant."""
    joint, table, _, _ = model._asked(X, None, None)
    return float(joint.value(torch.as_tensor(codes), table).mean())


def placing(model, X):
    """Return values and seconds of the three ways to place rows."""
    codes = {}
    ways = {
        "ours": lambda: model.transform(X),
        "eight": lambda: original_scheme(model, X, 8),
        "all": lambda: original_scheme(model, X, len(X)),
    }
    seconds = [
        timed(lambda name=name, way=way: codes.update({name: way()}))
        for name, way in ways.items()
    ]
    return [mean_value(model, codes[name], X) for name in ways] + seconds


def imputing(X_train, X_test, seed):
    """Return the errors of three imputers for two masks, and the decoder's seconds."""
    model = DeepGenerativeDecoder(
        20,
        likelihood="spherical_gaussian",
        hidden_layer_sizes=400,
        code_noise=0.5,
        random_state=seed,
    ).fit(X_train)
    imputers = [KNNImputer(), IterativeImputer(random_state=seed)]
    random_half = np.random.RandomState(seed).rand(*X_test.shape) < 0.5
    lower_half = np.arange(64) >= 32
    errors, seconds = [], 0.0
    for mask in (np.tile(lower_half, (len(X_test), 1)), random_half):
        holed = np.where(mask, np.nan, X_test)
        filled = []
        seconds += timed(
            lambda holed=holed, filled=filled: filled.append(model.impute(holed))
        )
        filled += [imputer.fit(X_train).transform(holed) for imputer in imputers]
        errors += [np.sqrt(np.mean((one - X_test)[mask] ** 2)) for one in filled]
    return [*errors, seconds]


def one_seed(seed):
    """Return a row of the table."""
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(
        X / 16.0, y, random_state=seed, stratify=y
    )
    model = DeepGenerativeDecoder(likelihood="spherical_gaussian", random_state=seed)
    seconds_fit = timed(lambda: model.fit(X_train))
    pca = PCA(10, random_state=seed).fit(X_train)
    scores = pca.transform(X_train)
    peer = GaussianMixture(10, random_state=seed).fit(scores)
    rng = np.random.RandomState(seed)
    many = np.resize(X_test, (10_000, 64))
    many = many + 0.02 * rng.normal(size=many.shape)
    return [
        seed,
        accuracy(model.transform(X_train), y_train, model.transform(X_test), y_test),
        accuracy(scores, y_train, pca.transform(X_test), y_test),
        adjusted_rand_score(y_train, model.labels_),
        adjusted_rand_score(y_train, peer.predict(scores)),
        *imputing(X_train, X_test, seed),
        *placing(model, X_test),
        seconds_fit,
        timed(lambda: model.transform(many)),
    ]


def main():
    """Print and save the table."""
    rows = []
    for seed in range(3):
        with warnings.catch_warnings(record=True):
            row = one_seed(seed)
        rows.append([seed, *(f"{value:.4g}" for value in row[1:])])
        for name, value in zip(HEADER, rows[-1], strict=True):
            print(f"{name:28s}{value}", flush=True)
        save("decoder", HEADER, rows)


if __name__ == "__main__":
    main()
