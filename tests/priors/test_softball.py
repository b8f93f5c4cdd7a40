"""The soft ball against quadrature, and its draws against its density."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import gammaln

from skmdn.priors import Softball
from tests.helpers import generator, randn, tensor


def radial_mass(d, s, low=0.0, high=np.inf):
    """Integral of t^(d-1) / (1 + exp(s (t - 1))), on either side of the edge."""

    def density(t):
        return t ** (d - 1) / (1.0 + math.exp(min(s * (t - 1.0), 700.0)))

    ends = [low, *[e for e in (1 - 5 / s, 1.0, 1 + 40 / s) if low < e < high]]
    ends.append(min(high, 1.0 + (60.0 + 3 * d) / s))
    pieces = [
        quad(density, a, b, limit=200, epsrel=1e-12)[0]
        for a, b in itertools.pairwise(ends)
    ]
    return sum(pieces)


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 20])
@pytest.mark.parametrize("s", [0.1, 1.0, 5.0, 30.0, 100.0])
def test_the_density_integrates_to_one(d, s):
    ball = Softball(radius=1.7, sharpness=s)
    surface = math.log(2.0) + d / 2 * math.log(math.pi) - gammaln(d / 2)
    expected = surface + d * math.log(1.7) + math.log(radial_mass(d, s))
    assert ball.log_normalizer(d) == pytest.approx(expected, abs=1e-9)
    point = 0.3 * torch.ones(1, d, dtype=torch.float64)
    kernel = -math.log1p(math.exp(s * (0.3 * math.sqrt(d) / 1.7 - 1.0)))
    assert float(ball.log_prob(point)) == pytest.approx(kernel - expected, abs=1e-9)


# Ratios of the normaliser to the volume of the ball that multiDGD takes for it.
@pytest.mark.parametrize(
    ("d", "s", "error"),
    [(1, 1, 0.2725), (2, 5, 0.1232), (20, 5, 15.147), (50, 5, 73.0)],
)
def test_the_normaliser_is_not_the_volume_of_the_ball(d, s, error):
    ball = Softball(radius=2.0, sharpness=s)
    volume = d / 2 * math.log(math.pi) + d * math.log(2.0) - gammaln(1 + d / 2)
    assert ball.log_normalizer(d) - volume == pytest.approx(error, abs=0.05)


@pytest.mark.parametrize("d", [1, 2, 3, 20, 64, 512])
@pytest.mark.parametrize("s", [1e-3, 0.1, 5.0, 700.0, 1e4, "auto"])
def test_nothing_overflows(d, s):
    ball = Softball(radius=0.5, sharpness=s)
    assert math.isfinite(ball.log_normalizer(d))
    radii = tensor([[0.0], [1e-300], [0.5], [5e5], [1e100]])
    points = (radii * torch.ones(d, dtype=torch.float64)).requires_grad_()
    log_prob = ball.log_prob(points)
    assert log_prob.isfinite().all()
    (slope,) = torch.autograd.grad(log_prob.sum(), points)
    assert slope.isfinite().all()
    assert (slope[0] == 0).all()


def test_far_out_the_force_is_constant():
    ball = Softball(radius=2.0, sharpness=5.0)
    point = tensor([2e6, 0.0]).requires_grad_()
    (slope,) = torch.autograd.grad(ball.log_prob(point), point)
    np.testing.assert_allclose(slope, [-2.5, 0.0], rtol=1e-12)


@pytest.mark.parametrize(
    ("d", "s"),
    [
        (1, 5.0),
        (2, 0.5),
        (3, 5.0),
        (20, 5.0),
        (20, "auto"),
        (50, 1000.0),
        (512, "auto"),
    ],
)
def test_radii_of_draws_follow_the_radial_law(d, s):
    ball = Softball(radius=3.0, sharpness=s, center=1.0)
    draws = ball.sample((20_000, d), generator(3))
    radii = torch.linalg.vector_norm(draws - 1.0, dim=-1) / 3.0
    sharpness = ball.resolved_sharpness(d)
    # In units of the largest value, which keeps the 511th power inside the range.
    assert ks_distance(radii.numpy(), d, sharpness) < 1.95 / math.sqrt(20_000)


def ks_distance(radii, d, s):
    """Distance of the empirical distribution of radii to their law."""
    top = 1.0 + (60.0 + 6 * d) / s
    grid = np.unique(
        np.concatenate(
            [
                np.linspace(0.0, top, 200_001),
                np.linspace(max(0.0, 1.0 - 60 / d), 1.0 + 80 / s, 200_001).clip(0, top),
            ]
        )
    )[1:]
    log_density = (d - 1) * np.log(grid) - np.logaddexp(0.0, s * (grid - 1.0))
    density = np.exp(log_density - log_density.max())
    mass = np.concatenate(
        [[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(grid))]
    )
    at = np.interp(np.sort(radii), grid, mass / mass[-1])
    n = len(radii)
    return max((np.arange(1, n + 1) / n - at).max(), (at - np.arange(n) / n).max())


def test_directions_of_draws_are_uniform():
    draws = Softball().sample((40_000, 3), generator(1))
    unit = draws / draws.norm(dim=-1, keepdim=True)
    error = 4.0 / math.sqrt(3 * 40_000)
    assert (unit.mean(0).abs() < error).all()


def test_draws_have_the_shape_and_the_generators_reproduce_them():
    ball = Softball(radius=2.0, center=[1.0, -1.0])
    draws = ball.sample((4, 3, 2), generator(5))
    assert draws.shape == (4, 3, 2)
    assert draws.dtype == torch.float64
    assert torch.equal(draws, ball.sample((4, 3, 2), generator(5)))


@pytest.mark.parametrize("d", [1, 2, 10, 512])
def test_by_default_most_of_the_mass_is_in_the_ball(d):
    radii = Softball().sample((4000, d), generator()).norm(dim=-1)
    assert (radii < 1.0).double().mean() > 0.8


def test_the_density_is_that_of_a_ball_around_its_centre():
    points = randn(6, 3)
    moved = Softball(2.0, 7.0, center=[1.0, 2.0, 3.0])
    shift = tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(
        moved.log_prob(points + shift), Softball(2.0, 7.0).log_prob(points)
    )


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"radius": 0.0}, "radius of Softball must be positive"),
        ({"radius": -1.0}, "radius of Softball must be positive"),
        ({"sharpness": 0.0}, "sharpness of Softball must be positive"),
        ({"sharpness": "sharp"}, "must be a positive number or 'auto'"),
        ({"center": [1.0, 2.0]}, "for points in 3 dimensions"),
        ({"center": math.nan}, "center of Softball must be finite"),
    ],
)
def test_bad_parameters_are_named(params, message):
    with pytest.raises(ValueError, match=message):
        Softball(**params).log_prob(randn(2, 3))
