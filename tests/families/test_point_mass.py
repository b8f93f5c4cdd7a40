"""A component that is a single number."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from skmdn.families import Normal, PointMass
from skmdn.mixture import Block, Mixture
from tests.families import oracle
from tests.helpers import generator, tensor

FAMILY = PointMass((0.0, 2.5))
POINTS = tensor([[-1.0, 2.5], [0.0, 2.5], [0.0, 3.0], [1e-300, 2.5]])


@pytest.fixture
def params():
    return oracle.parameters(FAMILY)


def test_a_network_has_nothing_to_make():
    assert PointMass().raw_names == ()
    (shape,) = PointMass().raw_shapes(3, 2).values()
    assert math.prod(shape) == 0
    raw = PointMass().start(torch.ones(3, 2), torch.ones(3, 2), 0.1)
    assert {name: tuple(value.shape) for name, value in raw.items()} == (
        PointMass().raw_shapes(3, 2)
    )
    params = PointMass(1.5).from_raw(raw, 0.1)
    assert params["value"].dtype == torch.float32
    torch.testing.assert_close(params["value"], torch.full((3, 2), 1.5))


def test_values_follow_the_outputs(params):
    assert params["value"].tolist() == [[0.0, 2.5]] * 3
    assert FAMILY.marginal(params, [1])["value"].tolist() == [[2.5]] * 3


def test_probabilities(params):
    points = POINTS.unsqueeze(-2)
    found = FAMILY.log_density(params, points)
    off = -math.inf
    expected = tensor([[off, 0.0], [0.0, 0.0], [0.0, off], [off, 0.0]])
    torch.testing.assert_close(found, expected.unsqueeze(-2).expand(4, 3, 2))
    joint = FAMILY.log_prob(params, points)
    assert joint[:, 0].tolist() == [off, 0.0, off, off]
    assert not FAMILY.log_density(params, points * math.nan).isnan().any()


def test_tails_and_quantiles(params):
    points = POINTS.unsqueeze(-2)
    below = tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    expected = below.unsqueeze(-2).expand(4, 3, 2)
    torch.testing.assert_close(FAMILY.cdf(params, points), expected)
    torch.testing.assert_close(FAMILY.sf(params, points), 1.0 - expected)
    levels = tensor([1e-250, 0.5, 0.9]).view(-1, 1, 1)
    quantiles = FAMILY.ppf(params, levels)
    torch.testing.assert_close(quantiles, params["value"].expand(3, 3, 2))


def test_moments_and_draws(params):
    torch.testing.assert_close(FAMILY.mean(params), params["value"])
    assert (FAMILY.std(params) == 0.0).all()
    assert (FAMILY.covariance(params) == 0.0).all()
    assert (FAMILY.precision(params).diagonal(dim1=-2, dim2=-1) == math.inf).all()
    assert (FAMILY.scales(params) == 1.0).all()
    draws = FAMILY.draw(params, generator())
    torch.testing.assert_close(draws, params["value"])
    assert draws.data_ptr() != params["value"].data_ptr()


def test_support():
    assert PointMass().support() == "the number 0.0"
    assert FAMILY.support() == "the numbers (0.0, 2.5)"
    assert PointMass(2.0).contains(tensor([2.0, 2.0 + 1e-15])).tolist() == [True, False]
    assert FAMILY.contains(POINTS).tolist() == [
        [False, True],
        [True, True],
        [True, False],
        [False, True],
    ]
    assert FAMILY.discrete
    assert FAMILY.mirrors
    assert FAMILY.units == "location-scale"


def test_widening_and_units(params):
    wide = FAMILY.widen(params, tensor([0.5, 2.0]).view(2, 1, 1))
    torch.testing.assert_close(wide["value"], params["value"].expand(2, 3, 2))
    moved = FAMILY.affine(params, tensor([-2.0, 0.5]), tensor([1.0, 0.0]))
    assert moved["value"].tolist() == [[1.0, 1.25]] * 3
    inside = FAMILY.in_units((-0.5, 2.0), (0.5, 0.0))
    assert inside == PointMass((1.0, 1.25))


@pytest.mark.parametrize("value", [0.0, 0.1, -1e-7, 123.456, 1e12])
def test_standardised_values_stay_equal_to_the_last_digit(value):
    y = np.random.RandomState(0).normal(3.0, 17.0, size=(50, 3)) * [1.0, 1e-5, 1e8]
    y[::3] = value
    mean, scale = y.mean(0), y.std(0)
    family = PointMass(value)
    inside = family.in_units(scale, mean)
    assert all(isinstance(v, float) for v in inside.value)
    for dtype in (torch.float64, torch.float32):
        z = tensor((y - mean) / scale).to(dtype)
        assert inside.contains(z)[::3].all()
        raw = {"value": torch.empty(1, 0, 3, dtype=dtype)}
        params = inside.from_raw(raw, 0.1)
        assert (inside.log_prob(params, z.unsqueeze(-2))[::3] == 0.0).all()
    back = family.affine(
        inside.from_raw({"value": torch.empty(1, 0, 3, dtype=torch.float64)}, 0.1),
        tensor(scale),
        tensor(mean),
    )
    assert (family.pinned(back)["value"] == value).all()
    assert family.pinned(back)["value"].shape == (1, 3)


def test_conditioning_keeps_the_rest(params):
    rest, log_prob = FAMILY.condition(params, [0], tensor([[0.0]]))
    assert rest["value"].tolist() == [[2.5]] * 3
    assert (log_prob == 0.0).all()


def test_a_mass_beside_a_density():
    blocks = [
        Block(PointMass(), {"value": tensor([[0.0]])}, 1),
        Block(Normal(), {"mean": tensor([[1.0]]), "scale": tensor([[2.0]])}, 1),
    ]
    mixture = Mixture(tensor([0.25, 0.75]).log(), blocks)
    assert float(mixture.mean()) == pytest.approx(0.75)
    assert float(mixture.variance()) == pytest.approx(3.0 + 0.75 * 0.25)
    jump = mixture.cdf(tensor([0.0])) - mixture.cdf(tensor([-1e-12]))
    assert float(jump) == pytest.approx(0.25, rel=1e-9)
    draws = mixture.sample(20_000, generator())
    share = (draws == 0.0).double().mean()
    assert abs(float(share) - 0.25) < 4.0 * math.sqrt(0.25 * 0.75 / 20_000)
    assert mixture.log_prob(tensor([3.0])).isfinite()
    assert float(mixture.log_prob(tensor([0.0])).exp()) == pytest.approx(0.25)


def test_quantiles_and_scores_of_a_mass_beside_a_density():
    value = torch.zeros(4, 1, 1, dtype=torch.float64)
    params = {"mean": value + 1.0, "scale": value + 2.0}
    blocks = [Block(PointMass(), {"value": value}, 1), Block(Normal(), params, 1)]
    mixture = Mixture(tensor([0.25, 0.75]).log().expand(4, 2), blocks)
    below = 0.75 * stats.norm.cdf(-0.5)
    levels = tensor([0.5 * below, below + 0.01, below + 0.24, 0.9])
    expected = [1 + 2 * stats.norm.ppf(levels[0] / 0.75), 0.0, 0.0]
    expected.append(1 + 2 * stats.norm.ppf((0.9 - 0.25) / 0.75))
    found = mixture.ppf(levels)[..., 0]
    np.testing.assert_allclose(found, [expected] * 4, atol=1e-12)
    assert (found[:, 1:3] == 0.0).all()

    def height(x, y):
        step = 0.25 * (x >= 0.0) + 0.75 * stats.norm.cdf(x, 1.0, 2.0)
        return (step - (x >= y)) ** 2

    points = tensor([[-3.0], [0.0], [0.5], [9.0]])
    for score, y in zip(mixture.crps(points)[:, 0], points[:, 0], strict=True):
        edges = np.unique([-25.0, float(y), 0.0, 1.0, 30.0])
        pieces = [
            integrate.quad(height, a, b, args=(float(y),), epsabs=1e-11)[0]
            for a, b in itertools.pairwise(edges)
        ]
        assert float(score) == pytest.approx(sum(pieces), rel=1e-7)


def test_masses_for_mixtures(params):
    low, high = tensor([-1.0, 0.0]), tensor([1.0, 2.0])
    masses = FAMILY.masses_between(params, low, high, 0)
    assert masses.tolist() == [[0.0, 2.0]] * 3
    nearest = FAMILY.nearest_mass(params, POINTS.unsqueeze(-2))
    torch.testing.assert_close(nearest, params["value"].expand(4, 3, 2))
