"""Priors as users write them."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import distributions

from skmdn.parameter_space import ParameterSpace
from skmdn.simulation import Prior
from tests.helpers import randn, tensor

JOINT = stats.multivariate_normal([1.0, 2.0], [[2.0, 0.3], [0.3, 0.5]])


def uniform(low, high):
    return distributions.Uniform(tensor(low), tensor(high))


EXACT = {
    "pairs": ([(0, 2), (-1, 1)], stats.uniform(0, 2), 2),
    "scipy": ([stats.norm(3, 2), stats.lognorm(0.5)], stats.norm(3, 2), 2),
    "one of scipy": (stats.uniform(-1, 5), stats.uniform(-1, 5), 1),
    "torch box": (
        distributions.Independent(uniform([-1.0, 0.0], [4.0, 1.0]), 1),
        stats.uniform(-1, 5),
        2,
    ),
    "torch normal": (
        distributions.Normal(tensor([2.0]), tensor([3.0])),
        stats.norm(2, 3),
        1,
    ),
    "joint": (JOINT, stats.norm(1, math.sqrt(2)), 2),
    "torch joint": (
        distributions.MultivariateNormal(tensor(JOINT.mean), tensor(JOINT.cov)),
        stats.norm(1, math.sqrt(2)),
        2,
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_these_priors_become_standard_normal(name):
    prior, first, n_features = EXACT[name]
    space = ParameterSpace.parse(prior)
    assert space.n_features == n_features
    assert space.exact
    theta = space.coordinates.forward(randn(4000, n_features))[:, 0]
    assert stats.kstest(theta.numpy(), first.cdf).statistic < 0.03


INEXACT = {
    "gamma": stats.gamma(2.0),
    "beta": stats.beta(2.0, 5.0),
    "t": stats.t(4),
    "torch gamma": distributions.Gamma(tensor([2.0]), tensor([1.0])),
    "torch beta": distributions.Beta(tensor([2.0]), tensor([5.0])),
}


@pytest.mark.parametrize("name", INEXACT)
def test_others_come_close_and_keep_their_density(name):
    prior = INEXACT[name]
    space = ParameterSpace.parse(prior)
    assert not space.exact
    theta = space.coordinates.forward(randn(4000, 1))
    known = {"torch gamma": stats.gamma(2.0), "torch beta": stats.beta(2.0, 5.0)}
    law = known.get(name, prior)
    assert stats.kstest(theta[:, 0].numpy(), law.cdf).statistic < 0.12
    np.testing.assert_allclose(
        space.log_prob(theta).numpy(), law.logpdf(theta.numpy())[:, 0]
    )


def test_a_half_line_begins_wide():
    space = ParameterSpace.parse([(0, math.inf), (-math.inf, 2)])
    theta = space.coordinates.forward(tensor([[0.0, 0.0], [1.0, 1.0]]))
    np.testing.assert_allclose(theta, [[1.0, 1.0], [math.exp(1.5), 2 - math.exp(-1.5)]])


def test_joint_normals_keep_their_correlation():
    space = ParameterSpace.parse(JOINT)
    root = space.coordinates.root
    torch.testing.assert_close(root @ root.mT, tensor(JOINT.cov))


@pytest.mark.parametrize(
    ("prior", "error", "match"),
    [
        ("x", TypeError, "not understood"),
        (3.0, TypeError, "not understood"),
        ([3.0], TypeError, "entry"),
        ([], ValueError, "empty"),
        ([(1, 0)], ValueError, "low < high"),
        ([(0, math.nan)], ValueError, "low < high"),
        ([(-math.inf, math.inf)], ValueError, "needs a distribution"),
        (distributions.Poisson(tensor([3.0])), ValueError, "cannot be used"),
        (distributions.Dirichlet(tensor([1.0, 1.0])), ValueError, "cannot be used"),
    ],
)
def test_what_is_no_prior_is_refused(prior, error, match):
    with pytest.raises(error, match=match):
        ParameterSpace.parse(prior)


def test_a_dict_puts_its_variables_side_by_side():
    parts = {
        "a": stats.uniform([0, -1], [1, 4]),
        "b": stats.multivariate_normal([1.0, 2.0], [[2.0, 1.0], [1.0, 3.0]]),
        "c": stats.gamma(2.0),
    }
    space = ParameterSpace.parse(parts)
    assert space.n_features == 5
    assert not space.exact
    theta = tensor([[0.3, 2.0, 0.5, 1.0, 1.5], [1.3, 2.0, 0.5, 1.0, 1.5]])
    values = [
        parts["a"].logpdf(theta[:, :2].numpy()).sum(1),
        parts["b"].logpdf(theta[:, 2:4].numpy()),
        parts["c"].logpdf(theta[:, 4].numpy()),
    ]
    np.testing.assert_allclose(space.log_prob(theta), np.sum(values, axis=0))
    exact = ParameterSpace.parse({"a": parts["a"], "b": parts["b"]})
    assert exact.exact
    np.testing.assert_allclose(exact.log_prob(theta[:1, :4]), sum(values[:2])[:1])
    with pytest.raises(ValueError, match="empty"):
        ParameterSpace.parse({})


def test_priors_of_simulators_are_understood():
    prior = Prior({"p": stats.uniform(0, 1), "mu": distributions.Normal(0.0, 2.0)})
    u = ParameterSpace.parse(prior).coordinates.inverse(tensor([[0.5, 2.0]]))
    torch.testing.assert_close(u, tensor([[0.0, 1.0]]))
