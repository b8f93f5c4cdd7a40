"""Priors of scipy and torch: draws, densities, supports."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import distributions as td

from skmdn.simulation import Prior, make_simulator
from tests.helpers import within_standard_errors

TORCH = [
    td.Beta(2.0, 3.0),
    td.Cauchy(1.0, 2.0),
    td.Chi2(3.0),
    td.Exponential(2.0),
    td.Gamma(2.0, 3.0),
    td.Gumbel(1.0, 2.0),
    td.HalfCauchy(2.0),
    td.HalfNormal(2.0),
    td.InverseGamma(2.0, 3.0),
    td.Laplace(1.0, 2.0),
    td.LogNormal(0.3, 0.7),
    td.Normal(1.0, 2.0),
    td.Pareto(2.0, 3.0),
    td.StudentT(4.0, 1.0, 2.0),
    td.Uniform(-1.0, 3.0),
    td.Weibull(2.0, 3.0),
]


@pytest.mark.parametrize("torch_distribution", TORCH, ids=lambda d: type(d).__name__)
def test_distributions_of_torch_keep_their_density(torch_distribution):
    prior = Prior({"a": torch_distribution})
    a = prior.sample(50, random_state=0)["a"]
    expected = torch_distribution.log_prob(torch.tensor(a))
    np.testing.assert_allclose(prior.log_prob({"a": a}), expected, rtol=2e-6, atol=2e-6)
    low, high = prior.support()["a"]
    assert low <= a.min()
    assert a.max() <= high


def test_vectors_of_torch():
    prior = Prior(
        {
            "a": td.Independent(td.Normal(torch.zeros(3), torch.ones(3)), 1),
            "b": td.MultivariateNormal(torch.zeros(2), 2.0 * torch.eye(2)),
            "c": td.Uniform(torch.tensor([0.0, -1.0]), torch.tensor([1.0, 5.0])),
        }
    )
    draws = prior.sample(4000, random_state=0)
    assert [draws[name].shape[1:] for name in "abc"] == [(3,), (2,), (2,)]
    assert within_standard_errors(draws["b"] ** 2, 2.0, 0)
    np.testing.assert_array_equal(prior.support()["c"], [[0.0, -1.0], [1.0, 5.0]])
    expected = stats.norm.logpdf(draws["a"]).sum(1) - np.log(6.0)
    expected += stats.norm.logpdf(draws["b"], scale=np.sqrt(2.0)).sum(1)
    np.testing.assert_allclose(prior.log_prob(draws), expected)


def test_the_density_integrates_to_one():
    prior = Prior({"a": stats.lognorm(0.5), "b": stats.uniform(-2.0, 3.0)})

    def density(b, a):
        return np.exp(prior.log_prob({"a": [a], "b": [b]}))[0]

    total, _ = integrate.dblquad(density, 0.0, 20.0, -2.0, 1.0)
    assert total == pytest.approx(1.0, abs=1e-5)
    assert prior.log_prob({"a": [-1.0], "b": [0.0]}) == -np.inf


def test_supports_and_shapes_of_scipy():
    prior = Prior(
        {
            "a": stats.uniform([0.0, 1.0], 2.0),
            "b": stats.multivariate_normal(np.zeros(1), 1.0),
            "k": stats.poisson(3.0),
        }
    )
    bounds = prior.support()
    np.testing.assert_array_equal(bounds["a"], [[0.0, 1.0], [2.0, 3.0]])
    np.testing.assert_array_equal(bounds["k"], [0.0, np.inf])
    one = prior.sample(1, random_state=0)
    assert one["a"].shape == (1, 2)
    assert one["k"].shape == (1,)
    assert np.isfinite(prior.log_prob(prior.sample(5, random_state=0))).all()
    assert repr(prior) == "Prior(a, b, k)"
    with pytest.raises(TypeError, match="not a box"):
        Prior({"w": stats.dirichlet([1.0, 1.0, 1.0])}).support()


def test_draws_have_seeds():
    prior = Prior({"a": td.Gamma(2.0, 3.0), "b": stats.norm()})
    first, again = (prior.sample(5, random_state=1) for _ in range(2))
    np.testing.assert_array_equal(first["a"], again["a"])
    np.testing.assert_array_equal(first["b"], again["b"])
    simulator = make_simulator(prior)
    assert simulator.sample(5, random_state=0).keys() == {"a", "b"}
    # A variable that is fixed leaves the others as they are drawn: not called at all
    # only where all of them are fixed.
    fixed = simulator.sample(5, fixed={"a": 1.0}, random_state=0)
    np.testing.assert_array_equal(fixed["b"], simulator.sample(5, random_state=0)["b"])


@pytest.mark.parametrize(
    ("distributions", "error", "match"),
    [
        ({}, ValueError, "at least one"),
        ({"a": 1.0}, TypeError, "'a' must be"),
        ({"a": stats.norm}, TypeError, "'a' must be"),
        ({"not a name": stats.norm()}, TypeError, "name of a variable"),
        ({"a": td.Dirichlet(torch.ones(3))}, TypeError, "not among those"),
    ],
)
def test_what_is_no_distribution_is_refused(distributions, error, match):
    with pytest.raises(error, match=match):
        Prior(distributions)
    with pytest.raises(ValueError, match="'a' is missing"):
        Prior({"a": stats.norm()}).log_prob({"b": [1.0]})
