"""Random mixtures, and the same mixtures as dense numpy arrays."""

import math

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from skmdn.families import MultivariateNormal, Normal, make_family
from skmdn.mixture import Block, Mixture

COVARIANCE_TYPES = ["full", "diag", "spherical", "tied"]
BATCH_SHAPES = [(), (3,), (2, 3)]

# What a mixture can be made of: each entry lists its blocks.
LAYOUTS = {
    "full": ["full"],
    "diag": ["diag"],
    "spherical": ["spherical"],
    "tied": ["tied"],
    "mixed": ["diag", "full", "tied"],
}

# The first call imports sympy, which adds a warning filter; the guard in conftest
# would blame the test that happens to come first.
torch.testing.assert_close(torch.zeros(1), torch.zeros(1))

algebra = settings(derandomize=True, deadline=None, max_examples=25, database=None)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed))


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def random_raw(family, batch=(), n_components=3, n_outputs=2, seed=0):
    """Unconstrained numbers as a network would make them."""
    shapes = family.raw_shapes(n_components, n_outputs)
    return {
        name: randn(*batch, *shape, seed=1000 * seed + position)
        for position, (name, shape) in enumerate(shapes.items())
    }


def random_block(covariance_type, batch=(), n_components=3, n_outputs=2, seed=0):
    family = make_family("normal", covariance_type)
    raw = random_raw(family, batch, n_components, n_outputs, seed)
    return Block(family, family.from_raw(raw, 0.2), n_components)


def random_mixture(layout="diag", batch=(), n_components=3, n_outputs=2, seed=0):
    """Blocks of ``n_components`` each, with random weights."""
    blocks = [
        random_block(kind, batch, n_components, n_outputs, seed + 17 * position)
        for position, kind in enumerate(LAYOUTS[layout])
    ]
    logits = randn(*batch, n_components * len(blocks), seed=seed + 7)
    return Mixture.from_logits(logits, blocks)


def normal_mixture(weights, means, scales):
    """One-dimensional components, given by lists ``(..., n_components)``."""
    params = {
        "mean": tensor(means).unsqueeze(-1),
        "scale": tensor(scales).unsqueeze(-1),
    }
    block = Block(Normal(), params, params["mean"].shape[-2])
    return Mixture(tensor(weights).log(), [block])


def full_mixture(weights, means, covariances):
    factor = np.linalg.inv(np.linalg.cholesky(np.asarray(covariances)))
    params = {"mean": tensor(means), "precision_factor": tensor(np.tril(factor))}
    block = Block(MultivariateNormal(), params, params["mean"].shape[-2])
    return Mixture(tensor(weights).log(), [block])


@st.composite
def mixtures(draw, min_outputs=1, max_outputs=4, layouts=tuple(LAYOUTS)):
    return random_mixture(
        draw(st.sampled_from(layouts)),
        batch=draw(st.sampled_from(BATCH_SHAPES)),
        n_components=draw(st.integers(1, 3)),
        n_outputs=draw(st.integers(min_outputs, max_outputs)),
        seed=draw(st.integers(0, 999)),
    )


# Oracles: the definition, in numpy, from the parameters alone.


def dense_components(block):
    """Return means ``(..., K, D)`` and covariances ``(..., K, D, D)``."""
    params = {name: value.numpy() for name, value in block.params.items()}
    mean = params["mean"]
    if "scale" in params:
        scale = np.broadcast_to(params["scale"], mean.shape)
        return mean, scale[..., None] ** 2 * np.eye(mean.shape[-1])
    factor = params["precision_factor"]
    covariance = np.linalg.inv(np.swapaxes(factor, -1, -2) @ factor)
    return mean, np.broadcast_to(covariance, mean.shape + mean.shape[-1:])


def dense(mixture):
    """Return weights ``(..., K)``, means and covariances as numpy arrays."""
    means, covariances = zip(*map(dense_components, mixture.blocks), strict=True)
    axis = mixture.log_weights.ndim - 1
    return (
        np.exp(mixture.log_weights.numpy()),
        np.concatenate(means, axis),
        np.concatenate(covariances, axis),
    )


def reference_log_prob(weights, means, covariances, y):
    """Log density of one mixture at one point, by scipy."""
    parts = [
        multivariate_normal(mean, covariance).logpdf(y)
        for mean, covariance in zip(means, covariances, strict=True)
    ]
    return logsumexp(parts, b=weights)


def within_standard_errors(draws, expected, axis, n_errors=4.0):
    """Whether the average of ``draws`` over an axis is ``expected``, by chance."""
    error = draws.std(axis) / math.sqrt(draws.shape[axis])
    return bool(np.all(np.abs(draws.mean(axis) - expected) <= n_errors * error))
