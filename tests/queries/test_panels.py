"""Quadrature over mixtures: edges, nodes, and points with a probability."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from skmdn.families import Laplace, Normal, Poisson
from skmdn.mixture import Block, Mixture
from skmdn.queries.panels import (
    Panels,
    _largest_above,
    component_quantiles,
    integration_matrix,
    log_density,
    masses,
)
from tests.helpers import generator, normal_mixture, randn, tensor
from tests.laws import CONTINUOUS, LAWS, mixture_of, row


def total(mixture, n_nodes=12):
    nodes, weights, _ = integration_matrix(n_nodes)
    points, slopes = Panels(mixture).points(nodes)
    density = log_density(mixture, points.flatten(-2)).exp().view_as(points)
    return (density * slopes * weights).sum((-1, -2))


@pytest.mark.parametrize("n_nodes", [1, 2, 5, 12])
def test_integrals_of_polynomials_are_exact(n_nodes):
    nodes, weights, matrix = integration_matrix(n_nodes)
    for degree in range(n_nodes):
        values = nodes**degree
        expected = nodes ** (degree + 1) / (degree + 1)
        torch.testing.assert_close(matrix @ values, expected, rtol=0, atol=1e-14)
        assert float(weights @ values) == pytest.approx(1 / (degree + 1), abs=1e-14)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_densities_integrate_to_one(name):
    assert float(total(mixture_of(name))) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    "names",
    [
        ("normal", "cauchy", "lognormal"),
        ("student", "gamma", "laplace"),
        ("spiked gamma", "weibull", "logistic", "gumbel"),
        ("beta", "truncated", "exponential", "shifted beta"),
        ("logit-normal", "frechet", "normal"),
    ],
    ids=str,
)
def test_mixtures_of_several_families_integrate_to_one(names):
    weights = [0.5 ** (i + 1) for i in range(len(names))]
    weights[0] += 1.0 - sum(weights)
    assert float(total(mixture_of(*names, weights=weights))) == pytest.approx(
        1.0, abs=1e-9
    )


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1.0, 1e6])
def test_narrow_components_far_from_broad_ones_have_nodes(scale):
    mixture = normal_mixture([0.5, 0.3, 0.2], [0.0, 1.0, 1e2], [1.0, scale, 1e-6])
    # The spacing of numbers there is 1e-8 deviates.
    assert float(total(mixture)) == pytest.approx(1.0, abs=1e-8)


def test_similar_components_share_panels():
    alone = normal_mixture([1.0], [0.0], [1.0])
    many = 60
    means = 0.1 * randn(many, seed=1)
    scales = torch.exp(0.1 * randn(many, seed=2))
    mixture = normal_mixture([1 / many] * many, means.tolist(), scales.tolist())
    few = Panels(alone).edges.shape[-1]
    assert Panels(mixture).edges.shape[-1] < 4 * few
    assert float(total(mixture)) == pytest.approx(1.0, abs=1e-12)


def test_the_largest_value_of_overlapping_ranges():
    left = torch.randint(0, 30, (3, 4, 5), generator=generator(0))
    right = left + torch.randint(1, 11, (3, 4, 5), generator=generator(1))
    values = randn(3, 4, 5, seed=2).abs()
    found = _largest_above(left, right, values, 41)
    cells = torch.arange(41).view(-1, 1, 1)
    for b in range(3):
        inside = (cells >= left[b]) & (cells < right[b])
        expected = torch.where(inside, values[b], 0.0).amax((-1, -2))
        torch.testing.assert_close(found[b], expected)


def test_components_without_weight_may_be_anything():
    params = {"loc": tensor([[1.0], [math.nan]]), "scale": tensor([[1.0], [math.nan]])}
    mixture = Mixture(tensor([1.0, 0.0]).log(), [Block(Laplace(), params, 2)])
    panels = Panels(mixture)
    assert panels.edges.isfinite().all()
    alone = mixture.choose([0])
    torch.testing.assert_close(
        component_quantiles(mixture)[0], component_quantiles(alone)[0]
    )


def test_batches_have_panels_of_their_own():
    mixture = normal_mixture(
        [[0.5, 0.5], [0.9, 0.1]], [[0.0, 1.0], [5.0, -300.0]], [[1.0, 1.0], [1e-3, 2.0]]
    )
    torch.testing.assert_close(
        total(mixture), torch.ones(2).double(), rtol=0, atol=1e-12
    )


def test_points_with_a_probability_are_counted_once():
    mixture = row(mixture_of("poisson", "zero", "bernoulli", weights=[0.5, 0.3, 0.2]))
    points, probability = masses(mixture)
    once = probability[0] > 0.0
    assert len(points[0][once].unique()) == once.sum()
    assert float(probability.sum()) == pytest.approx(1.0, abs=1e-14)
    poisson, bernoulli = LAWS["poisson"][2], LAWS["bernoulli"][2]
    expected = 0.5 * poisson.pmf(0) + 0.3 + 0.2 * bernoulli.pmf(0)
    at_zero = probability[0][once & (points[0] == 0.0)]
    np.testing.assert_allclose(at_zero, [expected], rtol=1e-12)


def test_too_many_points_are_refused():
    block = Block(Poisson(), {"rate": tensor([[1e12]])}, 1)
    with pytest.raises(ValueError, match="spreads over more than 100000 integers"):
        masses(Mixture(tensor([0.0]), [block]))


def test_densities_are_those_of_the_mixture_however_many_points():
    block = Block(Normal(), {"mean": tensor([[0.5]]), "scale": tensor([[2.0]])}, 1)
    mixture = Mixture(tensor([0.0]), [block])
    points = torch.linspace(-5.0, 5.0, 2**20 + 7, dtype=torch.float64)
    found = log_density(mixture, points)
    expected = stats.norm.logpdf(points[::1000], 0.5, 2.0)
    np.testing.assert_allclose(found[::1000], expected, rtol=1e-12)
