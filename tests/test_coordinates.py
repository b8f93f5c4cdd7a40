"""Coordinates of a prior: there and back, Jacobians, ends."""

import math

import pytest
import torch
from scipy import stats

from skmdn.coordinates import Coordinates
from tests.helpers import randn, tensor

INF = math.inf


def mixed():
    """A box, both half-lines and the line, correlated before the links."""
    low, high = tensor([-1.0, 0.5, -INF, -INF]), tensor([3.0, INF, 2.0, INF])
    root = 0.2 * randn(4, 4).tril(-1) + torch.diag(tensor([1.0, 0.5, 1.5, 2.0]))
    return Coordinates(low, high, tensor([0.1, -0.3, 0.2, 5.0]), root)


def test_there_and_back():
    coordinates, u = mixed(), randn(50, 4, seed=1)
    theta = coordinates.forward(u)
    assert bool(coordinates.contains(theta).all())
    torch.testing.assert_close(coordinates.inverse(theta), u, atol=1e-9, rtol=1e-9)


def test_the_jacobian_is_that_of_the_map():
    coordinates, points = mixed(), randn(5, 4, seed=2)
    for u in points:
        matrix = torch.autograd.functional.jacobian(coordinates.forward, u)
        expected = torch.linalg.slogdet(matrix).logabsdet
        torch.testing.assert_close(coordinates.log_jacobian(u), expected)


def test_gradients_flow_through_the_links():
    u = randn(3, 4, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(mixed().forward, u)
    assert torch.autograd.gradcheck(mixed().log_jacobian, u)


def test_far_out_nothing_leaves_the_support():
    coordinates = mixed()
    for far in (-40.0, 40.0):
        theta = coordinates.forward(torch.full((1, 4), far, dtype=torch.float64))
        assert bool((theta[:, :3] > coordinates.low[:3]).all())
        assert bool((theta[:, :3] < coordinates.high[:3]).all())


def test_points_outside_are_not_contained():
    coordinates = mixed()
    inside = tensor([0.0, 1.0, 0.0, 0.0])
    assert bool(coordinates.contains(inside))
    for place, value in ((0, -1.0), (0, 4.0), (1, 0.5), (2, 2.0), (3, INF)):
        outside = inside.clone()
        outside[place] = value
        assert not bool(coordinates.contains(outside))


@pytest.mark.parametrize(
    "prior",
    [stats.uniform(-2, 5), stats.norm(3, 2), stats.lognorm(0.7, scale=2.0)],
    ids=["uniform", "normal", "lognormal"],
)
def test_these_priors_are_standard_normal(prior):
    low, high = prior.support()
    levels = tensor(stats.norm.cdf([-1.0, 0.0, 1.0]))
    quantiles = tensor(prior.ppf(levels.numpy())).unsqueeze(1)
    coordinates = Coordinates.from_quantiles(tensor([low]), tensor([high]), quantiles)
    u = torch.linspace(-3.0, 3.0, 13, dtype=torch.float64).unsqueeze(1)
    density = prior.logpdf(coordinates.forward(u).squeeze(1).numpy())
    pulled = tensor(density) + coordinates.log_jacobian(u)
    torch.testing.assert_close(pulled, tensor(stats.norm.logpdf(u.squeeze(1).numpy())))
