"""Families on an interval against scipy."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.special import betaln

from skmdn.families import Beta, TruncatedNormal, bell
from tests.families import oracle
from tests.helpers import generator, tensor

INF = math.inf


def beta(a, b, low, high):
    return stats.beta(a, b, low, high - low)


def truncated(loc, scale, low, high):
    return stats.truncnorm((low - loc) / scale, (high - loc) / scale, loc, scale)


FAMILIES = {
    "beta": (Beta(), beta, [1e-9, 0.02, 0.3, 0.5, 0.83, 0.999]),
    "beta elsewhere": (Beta(-2.0, 5.0), beta, [-1.999, -1.0, 0.0, 2.0, 4.9]),
    "interval": (TruncatedNormal(-1.0, 2.0), truncated, [-1, -0.99, 0, 0.5, 1.9, 2]),
    "half line": (TruncatedNormal(low=0.0), truncated, [0.0, 1e-5, 0.4, 2.0, 9.0]),
    "other half": (TruncatedNormal(high=1.0), truncated, [-9.0, -1.0, 0.3, 1.0]),
    "line": (TruncatedNormal(), truncated, [-30.0, -1.0, 0.0, 0.7, 12.0]),
}
KINDS = [Beta(), TruncatedNormal(-1.0, 2.0)]


@pytest.fixture(params=FAMILIES)
def case(request):
    family, frozen, points = FAMILIES[request.param]
    return family, frozen, oracle.parameters(family), points


def test_densities(case):
    family, frozen, params, points = case
    oracle.check_density(family, params, frozen, points)


def test_tails(case):
    family, frozen, params, points = case
    oracle.check_tails(family, params, frozen, points)


@pytest.mark.parametrize("y", [1e-9, 1.0 - 2.0**-30])
def test_beta_tails_keep_the_digits_of_points_close_to_an_end(y):
    oracle.check_tails(Beta(), oracle.parameters(Beta()), beta, [y], rtol=1e-12)


def test_quantiles(case):
    family, frozen, params, _ = case
    if isinstance(family, Beta):
        # With b far below 1, quantiles are within a spacing of numbers of 1; and of
        # very small levels scipy's search gives up, see below.
        params = family.widen(params, tensor(0.5))
        oracle.check_quantiles(family, params, frozen, oracle.LEVELS[1:])
    else:
        oracle.check_quantiles(family, params, frozen)


def test_beta_quantiles_of_the_smallest_levels_follow_the_power_law():
    family, params = Beta(), oracle.parameters(Beta())
    a, b = params["a"].numpy(), params["b"].numpy()
    for q in (1e-40, 1e-250):
        expected = np.exp((math.log(q) + np.log(a) + betaln(a, b)) / a)
        found = family.ppf(params, oracle.at(q))
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-307)


def test_moments(case):
    family, frozen, params, _ = case
    oracle.check_moments(family, params, frozen)


def test_draws(case):
    oracle.check_draws(case[0], case[2])


def test_links(case):
    oracle.check_links(case[0], case[3][1:-1])


@pytest.mark.parametrize(
    ("family", "centers", "spreads"),
    [
        (Beta(), [[0.2], [0.7], [0.01]], [[0.1], [0.4], [0.02]]),
        (Beta(-2.0, 5.0), [[-1.0], [3.0]], [[0.5], [2.0]]),
        (TruncatedNormal(-1.0, 2.0), [[0.5], [-0.5], [1.7]], [[0.5], [0.3], [0.2]]),
        (TruncatedNormal(low=0.0), [[1.0], [5.0]], [[0.6], [0.5]]),
        (TruncatedNormal(), [[1.0], [5.0]], [[0.6], [0.5]]),
    ],
)
def test_start(family, centers, spreads):
    oracle.check_start(family, centers, spreads)


@pytest.mark.parametrize("family", KINDS)
def test_a_start_that_cannot_be_had_is_valid(family):
    centers = tensor([[-5.0], [0.4], [0.5], [9.0]])
    raw = family.start(centers, tensor([[3.0], [5.0], [0.0], [1.0]]), 0.01)
    params = family.from_raw(raw, 0.01)
    mean, std = family.mean(params), family.std(params)
    assert mean.isfinite().all()
    assert (std > 0).all()
    torch.testing.assert_close(mean[2], centers[2], rtol=1e-4, atol=1e-4)


def test_units(case):
    oracle.check_units(case[0], case[2], case[3])
    assert case[0].units == "location-scale"


@pytest.mark.parametrize("family", KINDS)
def test_a_negative_scale_mirrors(family):
    params = oracle.parameters(family)
    assert family.mirrors
    mirrored = family.affine(params, tensor([-1.0, -2.0]), tensor([0.0, 0.5]))
    y = tensor([[0.3, 0.9]])
    there = y * tensor([-1.0, -2.0]) + tensor([0.0, 0.5])
    torch.testing.assert_close(
        family.log_density(mirrored, there) + tensor([0.0, math.log(2.0)]),
        family.log_density(params, y),
    )
    torch.testing.assert_close(family.sf(mirrored, there), family.cdf(params, y))
    torch.testing.assert_close(family.std(mirrored)[:, 1], 2 * family.std(params)[:, 1])


@pytest.mark.parametrize("family", [*KINDS, TruncatedNormal(low=0.3)])
def test_units_there_and_back_are_pinned(family):
    scale, shift = (-0.3, 7.0), (0.1, 1e6 / 3)
    inner = family.in_units(scale, shift)
    params = oracle.parameters(inner)
    back = family.affine(params, tensor(scale), tensor(shift))
    pinned = family.pinned(back)
    for name, end in (("low", family.low), ("high", family.high)):
        np.testing.assert_array_equal(pinned[name], np.full((3, 2), end))
        np.testing.assert_allclose(back[name], pinned[name], rtol=1e-9, atol=1e-9)
    ends = zip(inner.low, inner.high, strict=True)
    assert all(low < high for low, high in ends)
    same = family.in_units((1.0, 1.0), (0.0, 0.0))
    for end in ("low", "high"):
        ends = (getattr(family, end),) * 2
        np.testing.assert_allclose(getattr(same, end), ends, atol=1e-300)


def test_a_target_that_rounds_onto_an_open_end_can_be_learned_from():
    scale, shift = (0.3,), (1 / 3,)
    inner = Beta().in_units(scale, shift)
    params = oracle.parameters(inner, n_outputs=1)
    for y in (5e-324, 1e-30, 1.0 - 2.0**-53):
        there = (tensor([y]) - shift[0]) / scale[0]
        assert inner.log_density(params, there).isfinite().all()


def test_the_ends_of_a_closed_interval_stay_inside_in_other_units():
    family = TruncatedNormal(0.1, 0.7)
    scale, shift = np.array([0.3, 1 / 7]), np.array([1.7, -2.3])
    inner = family.in_units(tuple(scale), tuple(shift))
    for dtype in (torch.float32, torch.float64):
        for end in (0.1, 0.7):
            y = torch.as_tensor((end - shift) / scale).to(dtype)
            params = oracle.parameters(inner)
            params = {name: value.to(dtype) for name, value in params.items()}
            assert inner.contains(y).all()
            assert inner.log_density(params, y).isfinite().all()


@pytest.mark.parametrize("factor", [0.6, 1.7])
def test_widening_beta_keeps_means_and_multiplies_widths(factor):
    family, params = Beta(-2.0, 5.0), oracle.parameters(Beta(-2.0, 5.0))
    wide = family.widen(params, tensor(factor))
    torch.testing.assert_close(family.mean(wide), family.mean(params))
    torch.testing.assert_close(family.scales(wide), factor * family.scales(params))
    assert ((family.std(wide) > family.std(params)) == (factor > 1)).all()


def test_widening_truncated_normals_widens_the_normals():
    oracle.check_widening(TruncatedNormal(), oracle.parameters(TruncatedNormal()))
    family = TruncatedNormal(-1.0, 2.0)
    params = oracle.parameters(family)
    wide = family.widen(params, tensor(1.7))
    torch.testing.assert_close(family.scales(wide), 1.7 * family.scales(params))
    assert (family.std(wide) > family.std(params)).all()


@pytest.mark.parametrize(
    ("family", "raw"),
    [
        (Beta(), {"mean": tensor([[-0.6]]), "width": oracle.raw_scale(0.3)}),
        (Beta(-2.0, 5.0), {"mean": tensor([[0.6]]), "width": oracle.raw_scale(4.0)}),
        (
            TruncatedNormal(-1.0, 2.0),
            {"loc": tensor([[1.5]]), "scale": oracle.raw_scale(0.8)},
        ),
        (
            TruncatedNormal(low=0.0),
            {"loc": tensor([[-0.2]]), "scale": oracle.raw_scale(1.0)},
        ),
    ],
)
def test_recovery(family, raw):
    oracle.check_recovery(family, raw)


@pytest.mark.parametrize(
    ("family", "outside"),
    [
        *((Beta(), y) for y in (-INF, -0.1, 0.0, 1.0, 1.1, INF)),
        *((TruncatedNormal(-1.0, 2.0), y) for y in (-INF, -1.1, 2.1, INF)),
        *((TruncatedNormal(low=-1.0), y) for y in (-INF, -1.1, INF)),
    ],
)
def test_outside_the_support(family, outside):
    raw = {name: oracle.raw_scale(0.7).requires_grad_() for name in family.raw_names}
    y = tensor([[outside], [0.4]]).unsqueeze(-1).requires_grad_()
    params = family.from_raw(raw, 0.05)
    value = family.log_density(params, y)
    cdf, sf = family.cdf(params, y), family.sf(params, y)
    assert value[0] == -INF
    assert value[1].isfinite()
    assert not family.contains(y)[0]
    below = outside < 0.4
    assert (cdf[0], sf[0]) == ((0.0, 1.0) if below else (1.0, 0.0))
    (value[1] + value[0].exp() + cdf.sum() + sf.sum()).sum().backward()
    assert all(v.grad.isfinite().all() for v in [*raw.values(), y])
    if math.isfinite(outside):
        oracle.check_outside(family, [outside])


def test_nan_is_outside(case):
    assert case[0].log_density(case[2], oracle.at(math.nan)).eq(-INF).all()


@pytest.mark.parametrize("family", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_raw_numbers_give_finite_slopes(family, dtype):
    ends = torch.tensor([-300.0, -20.0, 0.0, 20.0, 300.0], dtype=dtype)
    grid = torch.cartesian_prod(ends, ends).unsqueeze(-1)
    raw = {
        name: grid[:, i, None].clone().requires_grad_()
        for i, name in enumerate(family.raw_names)
    }
    for y in (1e-6, 0.4, 0.9999):
        point = torch.full((1, 1, 1), y, dtype=dtype)
        value = family.log_density(family.from_raw(raw, 0.01), point)
        gradients = torch.autograd.grad(value.sum(), raw.values())
        assert value.isfinite().all()
        assert all(g.isfinite().all() for g in gradients)


def test_support_in_words():
    assert Beta().support() == "the open interval (0, 1)"
    assert TruncatedNormal(0.0).support() == "the closed interval [0, inf)"
    both = TruncatedNormal((0.0, -1.0), (1.5, INF))
    assert both.support() == "the closed intervals [0, 1.5], [-1, inf)"
    assert both.contains(tensor([[1.5, -1.0], [1.6, 0.0]])).tolist() == [
        [True, True],
        [False, True],
    ]


@pytest.mark.parametrize(
    ("kind", "low", "high", "message"),
    [
        (Beta, 1.0, 1.0, "has to be below"),
        (Beta, 0.0, INF, "not finite"),
        (TruncatedNormal, 3.0, (4.0, 2.0), "has to be below"),
        (TruncatedNormal, math.nan, 2.0, "has to be below"),
    ],
)
def test_impossible_intervals(kind, low, high, message):
    with pytest.raises(ValueError, match=message):
        kind(low=low, high=high)


# Far outside the interval


def far(loc, low, high):
    """Return a truncated normal of scale 1 as the tests' tables want it."""
    return {
        name: tensor([[value]])
        for name, value in zip(
            ("loc", "scale", "low", "high"), (loc, 1.0, low, high), strict=True
        )
    }


def by_quadrature(loc, low, high):
    """Return mass, mean and deviation of z - low, without cancellation."""
    end = min(high, low + 60.0 / max(low - loc, 1.0))
    moments = []
    for power in range(3):
        value, _ = integrate.quad(
            lambda y, power=power: (
                (y - low) ** power * math.exp(-(y - low) * (0.5 * (y + low) - loc))
            ),
            low,
            end,
            epsrel=1e-13,
            epsabs=0.0,
            limit=400,
        )
        moments.append(value)
    return moments


@pytest.mark.parametrize("loc", [-30.0, -300.0])
@pytest.mark.parametrize("high", [INF, 0.5, 1e-3, 1e-6])
def test_truncated_far_outside(loc, high):
    """Quadrature is the oracle: scipy's truncnorm has few digits left out there."""
    params, family = far(loc, 0.0, high), TruncatedNormal(0.0, high)
    mass, first, second = by_quadrature(loc, 0.0, high)
    mean, std = first / mass, math.sqrt(second / mass - (first / mass) ** 2)
    assert float(family.mean(params)) == pytest.approx(mean, rel=1e-10)
    assert float(family.std(params)) == pytest.approx(std, rel=1e-8)
    frozen = truncated(loc, 1.0, 0.0, high)
    for share in (0.0, 0.3, 2.0, 20.0):
        y = min(share / abs(loc), high)
        expected = y * (loc - 0.5 * y) - math.log(mass)
        found = float(family.log_density(params, tensor([[y]])))
        assert found == pytest.approx(expected, rel=1e-10, abs=1e-9)
        assert found == pytest.approx(float(frozen.logpdf(y)), rel=1e-6, abs=1e-6)
    for q in (1e-12, 0.01, 0.5, 0.99, 1 - 1e-12):
        y = family.ppf(params, tensor([[q]]))
        tail = "cdf" if q < 0.5 else "sf"
        level = q if q < 0.5 else 1 - q
        assert float(getattr(family, tail)(params, y)) == pytest.approx(level, rel=1e-8)
        if q >= 0.01 and high > 1e-4:
            assert float(y) == pytest.approx(float(frozen.ppf(q)), rel=1e-4)


@pytest.mark.parametrize("high", [INF, 0.7])
def test_both_sides_are_the_same(high):
    near, family = far(-40.0, 0.0, high), TruncatedNormal()
    other = family.affine(near, tensor(-1.0), tensor(0.0))
    torch.testing.assert_close(family.mean(other), -family.mean(near))
    torch.testing.assert_close(family.std(other), family.std(near))
    for q in (1e-9, 0.2, 0.5, 0.9):
        y = family.ppf(near, tensor([[q]]))
        torch.testing.assert_close(family.ppf(other, 1 - tensor([[q]])), -y)
        torch.testing.assert_close(family.sf(other, -y), tensor([[q]]))


def test_moments_and_tails_have_slopes():
    family = TruncatedNormal(-0.5, 2.0)
    parts = [tensor([[0.3], [-9.0], [12.0]]), tensor([[0.8], [1.0], [0.5]])]
    parts += [tensor([[-0.5]] * 3), tensor([[2.0]] * 3)]
    names = ["loc", "scale", "low", "high"]

    def query(name):
        def function(*values):
            params = dict(zip(names, values, strict=True))
            if name in ("mean", "std"):
                return getattr(family, name)(params)
            return getattr(family, name)(params, tensor([[0.4]]))

        return function

    leaves = [part.requires_grad_() for part in parts]
    for name in ("mean", "std", "cdf", "sf", "log_density"):
        assert torch.autograd.gradcheck(query(name), leaves, atol=1e-6), name


def test_slopes_after_a_first_query_in_inference_mode():
    bell._rule.cache_clear()
    family, params = TruncatedNormal(), far(0.4, 0.0, INF)
    with torch.inference_mode():
        family.mean(params)
    params["loc"].requires_grad_()
    family.mean(params).sum().backward()
    assert params["loc"].grad.isfinite().all()


def test_slopes_of_moments_with_an_infinite_end():
    params = {name: v.requires_grad_() for name, v in far(0.4, 0.0, INF).items()}
    total = TruncatedNormal().mean(params) + TruncatedNormal().std(params)
    total.sum().backward()
    assert params["loc"].grad.isfinite().all()
    assert params["scale"].grad.isfinite().all()


@pytest.mark.parametrize("family", KINDS)
def test_levels_zero_and_one_are_the_ends(family):
    params = oracle.parameters(family)
    for level, end in ((0.0, family.low), (1.0, family.high)):
        found = family.ppf(params, oracle.at(level))
        assert (found == end).all()


def test_narrow_beta_components_keep_their_digits():
    raw = {"mean": tensor([[0.8]]), "width": oracle.raw_scale(1e-3)}
    point = tensor([[0.6901]])
    exact = Beta().log_density(Beta().from_raw(raw, 0.0), point)
    params = Beta().from_raw({name: v.float() for name, v in raw.items()}, 0.0)
    found = Beta().log_density(params, point.float())
    assert float(found) == pytest.approx(float(exact), abs=1e-3)


def test_draws_follow_the_generator(case):
    family, _, params, _ = case
    first, second = (family.draw(params, generator(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, family.draw(params, generator(4)))


def test_draws_stay_inside_where_all_mass_is_at_the_ends():
    raw = {"mean": tensor([[0.3]]), "width": oracle.raw_scale(60.0)}
    params = {k: v.expand(4000, 1, 1) for k, v in Beta().from_raw(raw, 0.0).items()}
    draws = Beta().draw(params, generator(1))
    assert Beta().contains(draws).all()
    assert Beta().log_density(params, draws).isfinite().all()
    share = float((draws > 0.5).double().mean())
    expected = float(torch.sigmoid(tensor(0.3)))
    assert share == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 4000))
