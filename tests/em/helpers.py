"""Random mixtures and data for the tests of expectation maximisation."""

import math

import numpy as np
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from skmdn.em import COVARIANCE_TYPES, Parameters, Priors, Rows
from skmdn.priors import (
    Dirichlet,
    InverseGamma,
    InverseWishart,
    LogNormalScale,
    Softball,
)
from tests.helpers import randn, tensor

__all__ = ["COVARIANCE_TYPES"]

SCALES = {
    "flat": None,
    "inverse gamma": InverseGamma(2.0, 0.5),
    "lognormal": LogNormalScale(0.5, 0.7),
    "inverse Wishart": InverseWishart(5.0, 0.8),
}


def random_parameters(kind, n_runs=2, n_components=3, n_features=2, seed=0):
    """Mixtures with well-conditioned covariances."""
    covariances = {
        "full": lambda: _matrices((n_runs, n_components), n_features, seed),
        "tied": lambda: _matrices((n_runs,), n_features, seed),
        "diag": lambda: 0.3 + randn(n_runs, n_components, n_features, seed=seed) ** 2,
        "spherical": lambda: 0.3 + randn(n_runs, n_components, seed=seed) ** 2,
        "fixed": lambda: 0.3 + randn(n_runs, n_components, seed=seed) ** 2,
    }[kind]()
    log_weights = torch.log_softmax(randn(n_runs, n_components, seed=seed + 1), -1)
    means = 2.0 * randn(n_runs, n_components, n_features, seed=seed + 2)
    made, sound = Parameters.from_covariances(kind, log_weights, means, covariances)
    assert sound.all()
    return made


def _matrices(batch, n_features, seed):
    root = randn(*batch, n_features, n_features + 2, seed=seed)
    return root @ root.mT / n_features + 0.2 * torch.eye(n_features)


def random_rows(n_samples=60, n_features=2, seed=0, missing=0.0, weighted=False):
    rng = np.random.RandomState(seed)
    centers = 3.0 * rng.normal(size=(3, n_features))
    values = centers[rng.randint(3, size=n_samples)]
    values = values + rng.normal(size=values.shape)
    values[rng.uniform(size=values.shape) < missing] = np.nan
    weights = tensor(rng.uniform(0.1, 3.0, n_samples)) if weighted else None
    return Rows(tensor(values.T.copy()), weights)


def dense(parameters, run):
    """Weights, means and matrices of one run, in numpy."""
    covariances = parameters.each_covariance()[run]
    if not parameters.matrices:
        covariances = torch.diag_embed(covariances)
    return (
        parameters.log_weights[run].exp().numpy(),
        parameters.means[run].numpy(),
        covariances.numpy(),
    )


def reference_joint(parameters, run, columns):
    """Log of weight times marginal density of what is there, row by row."""
    weights, means, covariances = dense(parameters, run)
    joint = np.zeros((len(weights), columns.shape[1]))
    for i, row in enumerate(columns.T.numpy()):
        there = ~np.isnan(row)
        for k, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
            joint[k, i] = math.log(weights[k])
            if there.any():
                law = multivariate_normal(mean[there], covariance[np.ix_(there, there)])
                joint[k, i] += law.logpdf(row[there])
    return joint


def reference_moments(parameters, run, rows):
    """Log-likelihood and expected moments about 0, by the definition."""
    _weights, means, covariances = dense(parameters, run)
    joint = reference_joint(parameters, run, rows.columns)
    log_density = logsumexp(joint, axis=0)
    share = np.exp(joint - log_density)
    row_weights = np.ones(rows.n_samples)
    if rows.weights is not None:
        row_weights = rows.weights.numpy()
    share = share * row_weights
    K, d = means.shape
    first, second = np.zeros((K, d)), np.zeros((K, d, d))
    for i, row in enumerate(rows.columns.T.numpy()):
        o, u = np.flatnonzero(~np.isnan(row)), np.flatnonzero(np.isnan(row))
        for k in range(K):
            value, spread = row.copy(), np.zeros((d, d))
            if len(u):
                S = covariances[k]
                B = S[np.ix_(u, o)] @ np.linalg.inv(S[np.ix_(o, o)])
                value[u] = means[k][u] + B @ (row[o] - means[k][o])
                spread[np.ix_(u, u)] = S[np.ix_(u, u)] - B @ S[np.ix_(o, u)]
            first[k] += share[k, i] * value
            second[k] += share[k, i] * (np.outer(value, value) + spread)
    return row_weights @ log_density, share.sum(1), first, second


def all_priors(kind):
    """Every combination of priors that a covariance type can have."""
    scales = dict(SCALES)
    if kind in ("diag", "spherical"):
        del scales["inverse Wishart"]
    if kind == "fixed":
        scales = {"flat": None}
    return [
        Priors(weights, means, scale)
        for weights in (
            None,
            Dirichlet(2.5),
            Dirichlet([1.0, 3.0, 1.5]),
            Dirichlet(0.6),
        )
        for means in (None, Softball(1.5, 4.0), Softball(3.0, "auto", center=0.5))
        for scale in scales.values()
    ]
