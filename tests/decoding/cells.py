"""Simulated counts of cells in batches, and decoders for them."""

import numpy as np

from skmdn import DeepGenerativeDecoder


def true_means(n_genes, n_types, n_batches, rng):
    """Return the means of each batch, type and gene at size 1."""
    log_mean = rng.normal(np.log(8.0), 0.5, n_genes)
    log_mean = log_mean + rng.normal(0.0, 1.0, (n_types, n_genes))
    return np.exp(log_mean + rng.normal(0.0, 0.5, (n_batches, 1, n_genes)))


def simulated_counts(n=600, n_genes=60, n_types=8, dispersion=0.5, n_batches=2, seed=0):
    """Return counts, with what made them: types, batches, sizes and means."""
    rng = np.random.RandomState(seed)
    kind, batch = rng.randint(n_types, size=n), rng.randint(n_batches, size=n)
    means = true_means(n_genes, n_types, n_batches, rng)
    size = np.exp(rng.normal(0.0, 0.2, n))
    mean = means[batch, kind] * size[:, np.newaxis]
    rate = rng.gamma(dispersion, mean / dispersion)
    return rng.poisson(rate).astype(float), kind, batch, size, means


def counts_model(**params):
    """Return a decoder for such counts."""
    params = {"max_iter": 60, "random_state": 0, "hidden_layer_sizes": (64,)} | params
    return DeepGenerativeDecoder(6, 8, likelihood="negative_binomial", **params)
