"""Densities with known integrals, modes and moments, in coordinates and beyond."""

import math

import torch

from skmdn.coordinates import Coordinates
from skmdn.covering import Normals, Target
from tests.helpers import randn, tensor


def normal(theta, mean, std, weight=1.0):
    """Return log (weight N(mean, std^2 I)) of rows."""
    n_features = theta.shape[1]
    square = (theta - tensor(mean)).square().sum(1) / std**2
    return math.log(weight) - 0.5 * (
        square + n_features * math.log(2.0 * math.pi * std**2)
    )


def two_modes(theta):
    """0.9 and 0.1 of the mass, at -3 and 3 of every coordinate."""
    near = normal(theta, [-3.0] * theta.shape[1], 1.0, 0.9)
    return torch.logaddexp(near, normal(theta, [3.0] * theta.shape[1], 0.5, 0.1))


def ring(theta):
    """Radius 3, standard deviation 0.1."""
    radius = theta.norm(dim=1)
    log_arc = math.log(2.0 * math.pi * 0.1 * math.sqrt(2.0 * math.pi))
    return -0.5 * ((radius - 3.0) / 0.1).square() - radius.log() - log_arc


def line(std, n_features):
    """Coordinates of N(0, std^2 I)."""
    end = torch.full((n_features,), math.inf, dtype=torch.float64)
    return Coordinates.standard(-end, end, torch.full_like(end, std))


def box(low, high, n_features):
    """Coordinates of a uniform law."""
    ends = torch.full((n_features,), 1.0, dtype=torch.float64)
    return Coordinates.standard(low * ends, high * ends)


def target_of(potential, coordinates, **kwargs):
    return Target(potential, coordinates, max_evals=400_000, **kwargs)


def random_normals(n_components=3, n_features=2, seed=0):
    roots = 0.3 * randn(n_components, n_features, n_features, seed=seed).tril(-1)
    scales = 0.5 + randn(n_components, n_features, seed=seed + 1).abs()
    log_weights = torch.log_softmax(randn(n_components, seed=seed + 2), 0)
    means = 2.0 * randn(n_components, n_features, seed=seed + 3)
    return Normals(log_weights, means, roots + torch.diag_embed(scales))
