"""Components of every family beside the laws of scipy that they are."""

import itertools
import math

import numpy as np
import torch
from scipy import integrate, stats

from skmdn.families import (
    Bernoulli,
    Beta,
    Exponential,
    Gamma,
    Gumbel,
    Laplace,
    Logistic,
    LogNormal,
    NegativeBinomial,
    Normal,
    PointMass,
    Poisson,
    StudentT,
    Transformed,
    TruncatedNormal,
    Weibull,
)
from skmdn.mixture import Block, Mixture
from tests.helpers import tensor

CONTINUOUS = {
    "normal": (Normal(), {"mean": -1.0, "scale": 0.3}, stats.norm(-1.0, 0.3)),
    "student": (
        StudentT(),
        {"loc": 1.0, "scale": 0.5, "df": 2.1},
        stats.t(2.1, 1.0, 0.5),
    ),
    "cauchy": (
        StudentT(1.0),
        {"loc": 5.0, "scale": 1e-3, "df": 1.0},
        stats.cauchy(5.0, 1e-3),
    ),
    "laplace": (Laplace(), {"loc": 0.5, "scale": 0.2}, stats.laplace(0.5, 0.2)),
    "logistic": (Logistic(), {"loc": 0.5, "scale": 2.0}, stats.logistic(0.5, 2.0)),
    "gumbel": (Gumbel(), {"loc": 2.0, "scale": 0.4}, stats.gumbel_r(2.0, 0.4)),
    "lognormal": (
        LogNormal(),
        {"loc": 0.3, "scale": 2.0},
        stats.lognorm(2.0, scale=math.exp(0.3)),
    ),
    "spiked gamma": (
        Gamma(),
        {"concentration": 0.3, "rate": 0.5},
        stats.gamma(0.3, scale=2.0),
    ),
    "gamma": (
        Gamma(),
        {"concentration": 40.0, "rate": 8.0},
        stats.gamma(40.0, scale=1 / 8),
    ),
    "weibull": (
        Weibull(),
        {"concentration": 0.5, "scale": 2.0},
        stats.weibull_min(0.5, scale=2.0),
    ),
    "exponential": (Exponential(), {"rate": 0.5}, stats.expon(scale=2.0)),
    "beta": (
        Beta(),
        {"a": 0.4, "b": 1.5, "low": 0.0, "high": 1.0},
        stats.beta(0.4, 1.5),
    ),
    "shifted beta": (
        Beta(2.0, 5.0),
        {"a": 3.0, "b": 1.2, "low": 2.0, "high": 5.0},
        stats.beta(3.0, 1.2, 2.0, 3.0),
    ),
    "truncated": (
        TruncatedNormal(0.0),
        {"loc": 0.5, "scale": 1.0, "low": 0.0, "high": math.inf},
        stats.truncnorm(-0.5, np.inf, 0.5, 1.0),
    ),
    "logit-normal": (
        Transformed(Normal(), 0.0, 2.0),
        {"mean": 1.0, "scale": 2.0},
        stats.johnsonsb(-0.5, 0.5, 0.0, 2.0),
    ),
    "frechet": (
        Transformed(Gumbel(), 0.0),
        {"loc": 0.2, "scale": 0.4},
        stats.invweibull(2.5, scale=math.exp(0.2)),
    ),
}
DISCRETE = {
    "poisson": (Poisson(), {"rate": 7.3}, stats.poisson(7.3)),
    "negative binomial": (
        NegativeBinomial(),
        {"mean": 4.0, "concentration": 0.6},
        stats.nbinom(0.6, 0.6 / 4.6),
    ),
    "bernoulli": (
        Bernoulli(),
        {"logit": 0.4},
        stats.bernoulli(1 / (1 + math.exp(-0.4))),
    ),
    "zero": (PointMass(0.0), {"value": 0.0}, None),
}
LAWS = CONTINUOUS | DISCRETE


def mixture_of(*names, weights=None):
    """Return a mixture of these components, each a block."""
    weights = weights or [1 / len(names)] * len(names)
    blocks = []
    for name in names:
        family, params, _ = LAWS[name]
        params = {key: tensor([[value]]) for key, value in params.items()}
        blocks.append(Block(family, params, 1))
    return Mixture(tensor(weights).log(), blocks)


def split_points(law):
    """Return points between which the law is smooth."""
    z = np.linspace(-8.0, 8.0, 33)
    lower = law.ppf(stats.norm.cdf(z[z < 0]))
    return np.concatenate([lower, [law.median()], law.isf(stats.norm.sf(z[z > 0]))])


def integral(function, points):
    """Integrate between points, with a logarithm for the place where they grow."""
    points = np.unique(points)
    total = 0.0
    for a, b in itertools.pairwise(points):
        if a > 0.0 and b > 2.0 * a:
            total += integrate.quad(
                lambda t: function(math.exp(t)) * math.exp(t),
                math.log(a),
                math.log(b),
                epsabs=1e-13,
                epsrel=1e-11,
                limit=200,
            )[0]
        else:
            total += integrate.quad(
                function, a, b, epsabs=1e-13, epsrel=1e-11, limit=200
            )[0]
    return total


def row(mixture):
    """Return the mixture with a batch axis of length 1."""
    return mixture.map(lambda value: torch.unsqueeze(value, 0))
