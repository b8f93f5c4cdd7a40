"""Families on the positive numbers against scipy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from skmdn.families import Exponential, Gamma, LogNormal, Weibull
from tests.families import oracle
from tests.helpers import generator, tensor

POINTS = [1e-4, 0.02, 0.3, 1.0, 2.7, 8.0, 40.0]
OUTSIDE = [-math.inf, -3.0, -1e-300, 0.0]

FAMILIES = {
    "lognormal": (LogNormal(), lambda loc, scale: stats.lognorm(scale, 0, np.exp(loc))),
    "gamma": (
        Gamma(),
        lambda concentration, rate: stats.gamma(concentration, scale=1 / rate),
    ),
    "weibull": (
        Weibull(),
        lambda concentration, scale: stats.weibull_min(concentration, scale=scale),
    ),
    "exponential": (Exponential(), lambda rate: stats.expon(scale=1 / rate)),
}


@pytest.fixture(params=FAMILIES)
def case(request):
    family, frozen = FAMILIES[request.param]
    return family, frozen, oracle.parameters(family)


def moderate(family):
    """Return parameters under which a sample's variance is worth something."""
    raw = {
        name: oracle.raw_scale(value).expand(3, 2)
        for name, value in zip(family.raw_names, (1.3, 0.4), strict=False)
    }
    return family.from_raw(raw, 0.05)


def test_densities(case):
    family, frozen, params = case
    oracle.check_density(family, params, frozen, POINTS)


def test_tails(case):
    family, frozen, params = case
    oracle.check_tails(family, params, frozen, POINTS)


def test_quantiles(case):
    family, frozen, params = case
    oracle.check_quantiles(family, params, frozen)


def test_moments(case):
    family, frozen, params = case
    oracle.check_moments(family, params, frozen)


def test_draws(case):
    oracle.check_draws(case[0], moderate(case[0]))


def test_links(case):
    oracle.check_links(case[0], [0.05, 0.7, 4.0])


def test_start(case):
    spreads = [[0.2], [1.5], [9.0]]
    centers = spreads if isinstance(case[0], Exponential) else [[0.5], [3.0], [4.0]]
    oracle.check_start(case[0], centers, spreads)


def test_start_below_the_floor(case):
    family = case[0]
    raw = family.start(tensor([[2.0]]), tensor([[0.0]]), 0.1)
    params = family.from_raw(raw, 0.1)
    torch.testing.assert_close(family.mean(params), tensor([[2.0]]))
    if not isinstance(family, Exponential):
        assert 0.1 < float(family.scales(params)) < 0.12


def test_units(case):
    oracle.check_units(case[0], case[2], POINTS)
    assert case[0].units == "scale"
    assert not case[0].mirrors


@pytest.mark.parametrize("factor", [0.3, 1.7])
@pytest.mark.parametrize("family", [LogNormal(), Gamma()])
def test_widening(family, factor):
    oracle.check_widening(family, oracle.parameters(family), factor)


def test_widening_a_weibull_keeps_the_mean_and_widens_the_logarithm():
    family, params = Weibull(), oracle.parameters(Weibull())
    wide = family.widen(params, tensor(1.7))
    torch.testing.assert_close(family.mean(wide), family.mean(params))
    torch.testing.assert_close(family.scales(wide), 1.7 * family.scales(params))
    narrow = {"concentration": tensor([[1e4]]), "scale": tensor([[2.0]])}
    ratio = family.std(family.widen(narrow, tensor(1.7))) / family.std(narrow)
    assert float(ratio) == pytest.approx(1.7, rel=1e-3)


def test_an_exponential_cannot_be_widened():
    params = oracle.parameters(Exponential())
    wide = Exponential().widen(params, tensor(1.7))
    torch.testing.assert_close(wide["rate"], params["rate"], rtol=0, atol=0)


def test_narrow_components_are_never_narrowed_by_more_than_the_factor(case):
    family, _, params = case
    scales = family.scales(family.widen(params, tensor(0.3)))
    assert bool((scales >= 0.3 * family.scales(params) * (1 - 1e-12)).all())


def test_recovery(case):
    values = (1.3, 0.7)
    raw = dict(zip(case[0].raw_names, map(oracle.raw_scale, values), strict=False))
    oracle.check_recovery(case[0], raw)


@pytest.mark.parametrize("outside", [*OUTSIDE, math.inf])
def test_outside_the_support(case, outside):
    family = case[0]
    raw = {name: oracle.raw_scale(0.7).requires_grad_() for name in family.raw_names}
    y = tensor([[outside], [1.0]]).unsqueeze(-1).requires_grad_()
    params = family.from_raw(raw, 0.05)
    value = family.log_density(params, y)
    cdf, sf = family.cdf(params, y), family.sf(params, y)
    assert value[0] == -math.inf
    assert value[1].isfinite()
    assert not family.contains(y)[0]
    assert (cdf[0], sf[0]) == ((0.0, 1.0) if outside <= 0 else (1.0, 0.0))
    (value[1] + value[0].exp() + cdf.sum() + sf.sum()).sum().backward()
    assert all(v.grad.isfinite().all() for v in [*raw.values(), y])
    if math.isfinite(outside):
        oracle.check_outside(family, [outside])


def test_nan_is_outside(case):
    assert case[0].log_density(case[2], oracle.at(math.nan)).eq(-math.inf).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_raw_numbers_give_finite_slopes(case, dtype):
    family = case[0]
    ends = torch.tensor([-300.0, -20.0, 0.0, 20.0, 300.0], dtype=dtype)
    grid = torch.cartesian_prod(ends, ends).unsqueeze(-1)
    if family.raw_names[0] == "loc":
        grid[:, 0] = grid[:, 0].clamp(-50.0, 50.0)
    raw = {
        name: grid[:, i, None].clone().requires_grad_()
        for i, name in enumerate(family.raw_names)
    }
    for y in (1e-6, 0.4, 1.0, 7.0):
        point = torch.full((1, 1, 1), y, dtype=dtype)
        value = family.log_density(family.from_raw(raw, 0.01), point)
        gradients = torch.autograd.grad(value.clamp_min(-1e4).sum(), raw.values())
        assert not value.isnan().any()
        assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("width", [1e-2, 1e-4])
def test_narrow_gamma_components_keep_their_digits(width):
    raw = {"mean": oracle.raw_scale(2.0), "width": oracle.raw_scale(width)}
    point = tensor([[2.0 * (1 + 0.7 * width)]])
    exact = Gamma().log_density(Gamma().from_raw(raw, 0.0), point)
    single = {name: value.float() for name, value in raw.items()}
    found = Gamma().log_density(Gamma().from_raw(single, 0.0), point.float())
    assert float(found) == pytest.approx(float(exact), abs=1e-5 / width**0.5)
    # Close to a normal density: the lognormal one of the same moments is closer still.
    normal = stats.norm.logpdf(float(point), 2.0, 2.0 * width)
    assert float(exact) == pytest.approx(normal, abs=2.0 * width)


def test_the_deviation_of_a_narrow_weibull_is_that_of_its_logarithm():
    for width in (1e-3, 1.01e-4, 0.99e-4, 1e-6):
        params = {"concentration": tensor([[1 / width]]), "scale": tensor([[1.0]])}
        ratio = float(Weibull().std(params) / Weibull().mean(params))
        expected = width * math.pi / math.sqrt(6.0) * (1.0 - 0.7307 * width)
        assert ratio == pytest.approx(expected, rel=3.0 * width**2 + 1e-8)


def test_draws_follow_the_generator(case):
    family, _, params = case
    first, second = (family.draw(params, generator(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, family.draw(params, generator(4)))


def test_draws_stay_in_the_support():
    raw = {"mean": oracle.raw_scale(1.0), "width": oracle.raw_scale(60.0)}
    params = {k: v.expand(5000, 1, 1) for k, v in Gamma().from_raw(raw, 0.0).items()}
    draws = Gamma().draw(params, generator(1))
    assert Gamma().contains(draws).all()
    assert Gamma().log_density(params, draws).isfinite().all()
