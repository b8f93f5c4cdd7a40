"""Densities behind links: integrals, moments, marginals, conditionals."""

import math

import pytest
import torch

from skmdn.coordinates import Coordinates
from skmdn.covering import LinkedNormals
from tests.covering.densities import random_normals
from tests.helpers import generator, tensor

INF = math.inf
ENDS = {
    "box": (tensor([-1.0, 0.0]), tensor([2.0, 3.0])),
    "half": (tensor([0.0, -INF]), tensor([INF, 1.0])),
    "mixed": (tensor([-1.0, -INF]), tensor([2.0, INF])),
}


def linked(name):
    root = tensor([[0.6, 0.0], [0.2, 0.5]])
    coordinates = Coordinates(*ENDS[name], tensor([0.1, 0.2]), root)
    return LinkedNormals(coordinates, random_normals())


def grid(density, n=600):
    """Return points with weights of a rule in the coordinates before the links."""
    t = torch.linspace(-9.0, 9.0, n, dtype=torch.float64)
    both = torch.cartesian_prod(t, t)
    coordinates = Coordinates.standard(
        density.coordinates.low, density.coordinates.high
    )
    weights = coordinates.log_jacobian(both).exp() * (t[1] - t[0]) ** 2
    return coordinates.forward(both), weights


@pytest.mark.parametrize("name", ENDS)
def test_it_integrates_to_one_and_has_its_moments(name):
    density = linked(name)
    theta, weights = grid(density)
    mass = weights * density.log_prob(theta).exp()
    assert math.isclose(float(mass.sum()), 1.0, abs_tol=1e-6)
    mean = mass @ theta
    covariance = (theta - mean).mT @ ((theta - mean) * mass.unsqueeze(1))
    torch.testing.assert_close(density.mean(), mean, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(density.covariance(), covariance, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ENDS)
def test_marginals_and_conditionals_are_the_joints(name):
    density = linked(name)
    n = 4000
    t = torch.linspace(-9.0, 9.0, n, dtype=torch.float64)
    for known, other in ((0, 1), (1, 0)):
        coordinates = density.coordinates
        value = coordinates.forward(torch.zeros(1, 2, dtype=torch.float64))[0, known]
        links = Coordinates.standard(
            coordinates.low[[other]], coordinates.high[[other]]
        )
        line = links.forward(t.unsqueeze(1))
        joint = line.new_empty(n, 2)
        joint[:, [other]], joint[:, known] = line, value
        log_joint = density.log_prob(joint)
        mass = (log_joint + links.log_jacobian(t.unsqueeze(1))).exp() * (t[1] - t[0])
        marginal = density.marginal([known]).log_prob(value.reshape(1, 1))
        torch.testing.assert_close(marginal.exp()[0], mass.sum(), atol=1e-7, rtol=1e-6)
        conditional = density.condition([known], value.reshape(1)).log_prob(line)
        middle = slice(n // 3, 2 * n // 3)
        torch.testing.assert_close(
            conditional[middle], (log_joint - marginal)[middle], atol=1e-7, rtol=1e-7
        )


@pytest.mark.parametrize("name", ENDS)
def test_draws_stay_inside(name):
    density = linked(name)
    draws = density.draw(20_000, generator())
    assert bool(density.coordinates.contains(draws).all())
    se = (density.covariance().diagonal() / len(draws)).sqrt()
    assert bool(((draws.mean(0) - density.mean()).abs() < 5 * se).all())
    outside = tensor([[5.0, 5.0]]) if name != "half" else tensor([[-1.0, 0.0]])
    if name != "mixed":
        assert density.log_prob(outside).tolist() == [-INF]


def test_marginals_follow_the_order_asked_for():
    density = linked("mixed")
    swapped = density.marginal([1, 0])
    theta = density.draw(5, generator())
    torch.testing.assert_close(
        swapped.log_prob(theta[:, [1, 0]]), density.log_prob(theta)
    )
