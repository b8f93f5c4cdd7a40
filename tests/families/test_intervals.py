"""Probabilities of intervals against integrals of scipy's densities; their slopes."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit, logsumexp

from skmdn.families import (
    Bernoulli,
    Beta,
    Exponential,
    Gamma,
    Gumbel,
    Laplace,
    Logistic,
    LogNormal,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    PointMass,
    Poisson,
    StudentT,
    TruncatedNormal,
    Weibull,
)
from skmdn.families.bell import log_mass, log_probability
from tests.families import oracle
from tests.helpers import random_raw, tensor

NODES, WEIGHTS = np.polynomial.legendre.leggauss(60)


def normal(mean, scale):
    return stats.norm(mean, scale)


def lognormal(loc, scale):
    return stats.lognorm(scale, scale=math.exp(loc))


def gamma(concentration, rate):
    return stats.gamma(concentration, scale=1.0 / rate)


def weibull(concentration, scale):
    return stats.weibull_min(concentration, scale=scale)


def exponential(rate):
    return stats.expon(scale=1.0 / rate)


def beta(a, b, low, high):
    return stats.beta(a, b, loc=low, scale=high - low)


def truncated(loc, scale, low, high):
    ends = (low - loc) / scale, (high - loc) / scale
    return stats.truncnorm(*ends, loc=loc, scale=scale)


CONTINUOUS = {
    "normal": (Normal(), normal),
    "spherical": (Normal("spherical"), normal),
    "laplace": (Laplace(), stats.laplace),
    "logistic": (Logistic(), stats.logistic),
    "gumbel": (Gumbel(), stats.gumbel_r),
    "student": (StudentT(), lambda loc, scale, df: stats.t(df, loc, scale)),
    "lognormal": (LogNormal(), lognormal),
    "gamma": (Gamma(), gamma),
    "weibull": (Weibull(), weibull),
    "exponential": (Exponential(), exponential),
    "beta": (Beta(), beta),
    "truncated": (TruncatedNormal(-1.0, 2.0), truncated),
}
COUNTS = {
    "poisson": (Poisson(), lambda rate: stats.poisson(rate)),
    "negative_binomial": (
        NegativeBinomial(),
        lambda mean, concentration: stats.nbinom(
            concentration, concentration / (concentration + mean)
        ),
    ),
    "bernoulli": (Bernoulli(), lambda logit: stats.bernoulli(expit(logit))),
}


def components(family, seed=0):
    """Yield parameters of single components, as tensors and as numbers."""
    params = oracle.parameters(family, 3, 1, seed=seed)
    for index, numbers in oracle.cells(params):
        yield {name: value[index].view(1, 1) for name, value in params.items()}, numbers


def interval(family, params, low, high):
    ends = (torch.full((1, 1), end, dtype=torch.float64) for end in (low, high))
    return float(family.log_interval(params, *ends))


def integrated(log_density, low, high, kinks=()):
    """Return the log integral of a density, piece by piece between its kinks."""
    edges = [low, *sorted(k for k in kinks if low < k < high), high]
    parts = []
    for left, right in itertools.pairwise(edges):
        half = 0.5 * (right - left)
        points = left + half * (1.0 + NODES)
        parts.append(logsumexp(log_density(points), b=half * WEIGHTS))
    return logsumexp(parts)


def places(frozen):
    """Yield intervals in the bulk and in both tails, of many widths."""
    for level in (1e-12, 1e-4, 0.2, 0.5, 0.9, 1 - 1e-4, 1 - 1e-12):
        low = float(frozen.ppf(level))
        nearby = abs(float(frozen.ppf(min(level * 1.5, 1 - (1 - level) / 1.5))) - low)
        for width in (1e-9, 1e-5, 2e-3, 0.1, 1.0):
            if low + width * nearby > low:
                yield low, low + width * nearby


@pytest.mark.parametrize("name", CONTINUOUS)
def test_an_interval_has_the_integral_of_the_density(name):
    family, scipy = CONTINUOUS[name]
    for params, numbers in components(family):
        frozen = scipy(**numbers)
        kinks = [numbers["loc"]] if name == "laplace" else []
        for low, high in places(frozen):
            found = interval(family, params, low, high)
            expected = integrated(frozen.logpdf, low, high, kinks)
            if np.isinf(expected):
                # At an end where the density is infinite, which is not integrated.
                continue
            # A difference of ends has the rounding errors of both.
            rounding = 4e-16 * max(abs(low), abs(high)) / (high - low)
            assert found == pytest.approx(expected, rel=1e-11, abs=1e-11 + rounding)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_intervals_without_an_end_are_tails_and_add_up(name):
    family, scipy = CONTINUOUS[name]
    # scipy's tails of truncated laws are differences.
    levels = (0.3, 0.8) if name == "truncated" else (1e-12, 0.3, 0.8, 1 - 1e-12)
    for params, numbers in components(family):
        frozen = scipy(**numbers)
        assert interval(family, params, -np.inf, np.inf) == 0.0
        for level in levels:
            y = float(frozen.ppf(level))
            lower = interval(family, params, -np.inf, y)
            upper = interval(family, params, y, np.inf)
            assert lower == pytest.approx(frozen.logcdf(y), rel=1e-8, abs=1e-12)
            assert upper == pytest.approx(frozen.logsf(y), rel=1e-8, abs=1e-12)
            far = float(frozen.ppf(1.0 - 0.1 * (1.0 - level)))
            parts = [
                interval(family, params, *ends) for ends in ((y, far), (far, np.inf))
            ]
            assert logsumexp(parts) == pytest.approx(upper, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("name", ["normal", "laplace", "logistic", "student", "gumbel"])
@pytest.mark.parametrize("distance", [40.0, 200.0, 600.0])
def test_intervals_far_out_keep_their_digits(name, distance):
    family, scipy = CONTINUOUS[name]
    for params, numbers in components(family):
        frozen = scipy(**numbers)
        start = float(family.mean(params)) + distance * numbers.get("scale", 1.0)
        # The density falls to e^-30 of itself within the interval, or not at all.
        for fall in (1e-3, 0.5, 30.0):
            slope = (frozen.logpdf(start) - frozen.logpdf(start * (1 + 1e-6))) / 1e-6
            high = start * (1.0 + fall / slope)
            found = interval(family, params, start, high)
            expected = integrated(frozen.logpdf, start, high)
            assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", CONTINUOUS | COUNTS)
def test_intervals_that_nothing_can_reach_have_the_logarithm_of_nothing(name):
    family = (CONTINUOUS | COUNTS)[name][0]
    ends = {
        "lognormal": (-2.0, 0.0),
        "gamma": (-2.0, -1.0),
        "weibull": (-np.inf, 0.0),
        "exponential": (-np.inf, -1.0),
        "beta": (1.0, 2.0),
        "truncated": (2.5, np.inf),
        "poisson": (2.1, 2.9),
        "negative_binomial": (-3.0, -0.5),
        "bernoulli": (1.5, np.inf),
    }.get(name)
    low, high = (tensor([[end]]) for end in ends or (0.0, 1.0))
    assert bool(family.overlaps(low, high)) == (ends is None)
    if ends is None:
        return
    for params, _ in components(family):
        leaves = {key: value.clone().requires_grad_() for key, value in params.items()}
        value = family.log_interval(leaves, low, high)
        assert float(value.detach()) == -np.inf
        gradients = torch.autograd.grad(
            torch.where(value.isinf(), 0.0, value).sum(),
            list(leaves.values()),
            allow_unused=True,
        )
        assert all(g is None or not g.isnan().any() for g in gradients)


@pytest.mark.parametrize("name", ["lognormal", "gamma", "weibull", "exponential"])
def test_an_interval_may_begin_before_the_support(name):
    family, scipy = CONTINUOUS[name]
    for params, numbers in components(family):
        expected = scipy(**numbers).logcdf(0.7)
        for low in (-np.inf, -3.0, 0.0):
            found = interval(family, params, low, 0.7)
            assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_between_two_ends_include_both(name):
    family, scipy = COUNTS[name]
    for params, numbers in components(family):
        frozen = scipy(**numbers)
        for low, high in ((0, 0), (1, 1), (0, 3), (-4, 1), (0.2, 1.7), (0, 40)):
            inside = np.arange(math.ceil(low), math.floor(high) + 1)
            expected = logsumexp(frozen.logpmf(inside))
            found = interval(family, params, low, high)
            assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert interval(family, params, 1.0, np.inf) == pytest.approx(
            frozen.logsf(0), rel=1e-9
        )
        assert interval(family, params, -np.inf, 0.0) == pytest.approx(
            frozen.logpmf(0), rel=1e-9
        )


def test_counts_far_out():
    rate = {"rate": tensor([[2.0]])}
    inside = np.arange(900, 1000)
    expected = logsumexp(stats.poisson(2.0).logpmf(inside))
    for high in (999.0, np.inf):
        found = interval(Poisson(), rate, 900.0, high)
        assert found == pytest.approx(expected, rel=1e-12)


def test_a_point_mass_is_inside_or_not():
    family = PointMass((1.0, -2.0))
    params = {"value": tensor([[1.0, -2.0]])}
    low, high = tensor([[1.0, -np.inf]]), tensor([[1.0, -2.5]])
    assert family.log_interval(params, low, high).tolist() == [[0.0, -np.inf]]
    assert family.overlaps(low, high).tolist() == [[True, False]]


@pytest.mark.parametrize("name", CONTINUOUS | COUNTS)
@pytest.mark.parametrize(
    ("low", "high"),
    [(0.2, 0.9), (0.3, 0.3 + 1e-6), (-np.inf, 0.6), (0.4, np.inf), (0.9, 0.95)],
)
def test_slopes_agree_with_differences(name, low, high):
    family = (CONTINUOUS | COUNTS)[name][0]
    if family.discrete:
        low, high = np.floor(low) if np.isfinite(low) else low, np.ceil(high)
    ends = tensor([[low]]), tensor([[high]])
    raw = random_raw(family, (), 2, 1, 3)
    leaves = {key: value.clone().requires_grad_() for key, value in raw.items()}

    def evaluate(raw):
        return family.log_interval(family.from_raw(raw, 0.05), *ends).sum()

    evaluate(leaves).backward()
    for key, leaf in leaves.items():
        for index in np.ndindex(*leaf.shape):
            step = torch.zeros_like(leaf)
            step[index] = 1e-5
            up, down = (
                evaluate({**raw, key: raw[key] + sign * step}) for sign in (1, -1)
            )
            expected = float(up - down) / 2e-5
            assert float(leaf.grad[index]) == pytest.approx(
                expected, rel=1e-5, abs=1e-6
            )


@pytest.mark.parametrize("name", CONTINUOUS | COUNTS)
def test_slopes_are_finite_wherever_the_interval_is(name):
    family = (CONTINUOUS | COUNTS)[name][0]
    raw = random_raw(family, (), 3, 1, 5)
    leaves = {key: value.clone().requires_grad_() for key, value in raw.items()}
    centre = 0.5
    for low, high in (
        (-np.inf, np.inf),
        (300.0, np.inf),
        (1e5, 1.001e5),
        (-np.inf, -300.0),
        (-300.0, 300.0),
        (-1e5, centre),
        (centre, 1e7),
        (centre, np.nextafter(centre, 1.0)),
        (1e-9, 2e-9),
        (1.0 - 1e-9, 1.0),
    ):
        value = family.log_interval(
            family.from_raw(leaves, 0.05), tensor([[low]]), tensor([[high]])
        )
        possible = bool(family.overlaps(tensor([[low]]), tensor([[high]])))
        assert bool(value.isfinite().all()) == possible, (low, high)
        if possible:
            gradients = torch.autograd.grad(
                value.sum(), list(leaves.values()), allow_unused=True
            )
            assert all(g is None or bool(g.isfinite().all()) for g in gradients)


def test_the_normal_probability_is_the_integral_of_the_bell():
    loc, scale = tensor([0.3]), tensor([1.7])
    low = tensor([-np.inf, -50.0, -3.0, 0.2, 0.3, 5.0, 40.0, 40.0]).unsqueeze(1)
    width = tensor([1e-8, 1e-3, 0.2, 0.4, 1.0, 7.0, 300.0, np.inf])
    found = log_probability(loc, scale, low, low + width)
    expected = log_mass(loc, scale, low, low + width)
    expected = expected - scale.log() - 0.5 * math.log(2.0 * math.pi)
    # Of an endless interval that is moved nothing is left.
    there = low + width > low
    torch.testing.assert_close(found[there], expected[there], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_outputs_that_vary_together_have_the_intervals_of_their_marginals(
    covariance_type,
):
    family = MultivariateNormal(covariance_type)
    params = oracle.parameters(family, 3, 2)
    alone = {"mean": params["mean"], "scale": family.std(params)}
    low, high = tensor([[-0.3, 1.0]]), tensor([[0.4, np.inf]])
    torch.testing.assert_close(
        family.log_interval(params, low, high),
        Normal().log_interval(alone, low, high),
    )
    for d in range(2):
        expected = stats.norm.logpdf(
            low[:, d], alone["mean"][:, d], alone["scale"][:, d]
        )
        np.testing.assert_allclose(family.log_density(params, low)[:, d], expected)
