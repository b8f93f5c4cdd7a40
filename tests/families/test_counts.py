"""Families of counts against scipy."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from skmdn.families import Bernoulli, NegativeBinomial, Poisson
from skmdn.mixture import Block, Mixture
from tests.families import oracle
from tests.helpers import randn, tensor

COUNTS = [0.0, 1.0, 2.0, 7.0, 30.0]
# Where there is no mass; the distribution functions are defined there too.
BESIDE = [-3.0, -1.0, -0.5, 0.5, 1.0 - 1e-12, 6.7]


def negative_binomial(mean, concentration):
    return stats.nbinom(concentration, concentration / (concentration + mean))


FAMILIES = {
    "poisson": (Poisson(), lambda rate: stats.poisson(rate)),
    "negative binomial": (NegativeBinomial(), negative_binomial),
    "bernoulli": (Bernoulli(), lambda logit: stats.bernoulli(special.expit(logit))),
}


@pytest.fixture(params=FAMILIES)
def case(request):
    family, frozen = FAMILIES[request.param]
    return family, frozen, oracle.parameters(family)


def rate(value):
    return {"rate": tensor([[value]])}


def two(mean, concentration):
    return {"mean": tensor([[mean]]), "concentration": tensor([[concentration]])}


def test_probabilities(case):
    family, frozen, params = case
    oracle.check_density(family, params, frozen, COUNTS + BESIDE)


def test_tails(case):
    family, frozen, params = case
    oracle.check_tails(family, params, frozen, COUNTS + BESIDE)


def test_quantiles(case):
    family, frozen, params = case
    oracle.check_quantiles(family, params, frozen)


def test_moments(case):
    family, frozen, params = case
    oracle.check_moments(family, params, frozen)


def test_draws(case):
    oracle.check_draws(case[0], case[2])


def test_draws_repeat(case):
    family, _, params = case
    first, again = (
        family.draw(params, torch.Generator().manual_seed(3)) for _ in range(2)
    )
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert family.contains(first).all()


def test_links(case):
    oracle.check_links(case[0], [0.0, 1.0])
    if not isinstance(case[0], Bernoulli):
        oracle.check_links(case[0], [2.0, 9.0])


RAW = {
    "poisson": {"rate": tensor([[3.5]]).log()},
    "negative binomial": {"mean": tensor([[6.0]]).log(), "width": tensor([[-0.5]])},
    "bernoulli": {"logit": tensor([[-1.2]])},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_recovery(name):
    oracle.check_recovery(FAMILIES[name][0], RAW[name])


def test_starts():
    chance = np.array([[0.2], [0.7]])
    oracle.check_start(Bernoulli(), chance, np.sqrt(chance * (1.0 - chance)))
    centers = np.array([[0.4], [50.0]])
    oracle.check_start(Poisson(), centers, np.sqrt(centers))
    oracle.check_start(NegativeBinomial(), centers, [[1.2], [30.0]])


@pytest.mark.parametrize("family", [f for f, _ in FAMILIES.values()])
def test_starts_are_valid_whatever_the_data(family):
    centers = tensor([[0.0], [-1.0], [1.0], [4.0], [1e6]])
    for spread in (0.0, 1e-3, 2.0, 1e5):
        raw = family.start(centers, torch.full_like(centers, spread), 0.01)
        leaves = {name: value.requires_grad_() for name, value in raw.items()}
        y = tensor([0.0, 1.0]).view(-1, 1, 1)
        family.log_prob(family.from_raw(leaves, 0.01), y).sum().backward()
        for leaf in leaves.values():
            assert leaf.grad.isfinite().all()
            assert (leaf.grad != 0.0).all()


def test_what_counts_do_not_have(case):
    family, _, params = case
    assert family.discrete
    assert (family.units, family.mirrors) == ("none", False)
    assert family.affine(params, tensor([1.0]), tensor([0.0])) is params
    wide = family.widen(params, tensor([0.5, 2.0]).view(2, 1, 1))
    for name, value in params.items():
        torch.testing.assert_close(wide[name], value.expand(2, 3, 2))
    assert (family.scales(params) == 1.0).all()
    assert family.in_units((1.0,), (0.0,)) is family
    assert family.pinned(params) is params


def test_supports():
    y = tensor([-1.0, 0.0, 0.5, 1.0, 2.0, math.inf, math.nan])
    for family in (Poisson(), NegativeBinomial()):
        assert family.contains(y).tolist() == [0, 1, 0, 1, 1, 0, 0]
        assert family.support() == "non-negative integers"
    assert Bernoulli().contains(y).tolist() == [0, 1, 0, 1, 0, 0, 0]
    assert Bernoulli().support() == "0 and 1"


def test_beside_the_support(case):
    family = case[0]
    raw = {name: randn(1, 1, seed=2) for name in family.raw_names}
    for y in (-1.0, 0.5, 1e15 + 0.5, math.inf, -math.inf, math.nan):
        leaves = {name: value.clone().requires_grad_() for name, value in raw.items()}
        params = family.from_raw(leaves, 0.05)
        value = family.log_density(params, oracle.at(y))
        assert (value == -math.inf).all()
        value.sum().backward()
        assert all(leaf.grad.isfinite().all() for leaf in leaves.values())


def test_a_mixture_learns_beside_the_support():
    params = {"rate": tensor([[1.0], [4.0]]).requires_grad_()}
    logits = tensor([0.3, -0.3]).requires_grad_()
    mixture = Mixture.from_logits(logits, [Block(Poisson(), params, 2)])
    value = mixture.log_prob(tensor([[0.5], [3.0]]))
    assert value[0] == -math.inf
    value[1].backward()
    assert logits.grad.isfinite().all()
    assert params["rate"].grad.isfinite().all()


@pytest.mark.parametrize("raw", [-1e3, -200.0, -40.0, 40.0, 1e3, 1e6])
def test_extreme_numbers_of_a_network_have_gradients(case, raw):
    family = case[0]
    for dtype in (torch.float32, torch.float64):
        leaves = {
            name: torch.full((1, 1), raw, dtype=dtype, requires_grad=True)
            for name in family.raw_names
        }
        for y in COUNTS[: 2 if isinstance(family, Bernoulli) else None]:
            value = family.log_prob(
                family.from_raw(leaves, 0.05), oracle.at(y).to(dtype)
            )
            gradients = torch.autograd.grad(value.sum(), leaves.values())
            assert value.isfinite().all()
            assert all(gradient.isfinite().all() for gradient in gradients)


def test_single_precision(case):
    family, _, params = case
    single = {name: value.float() for name, value in params.items()}
    for y in (0.0, 1.0):
        found = family.log_density(single, oracle.at(y).float())
        assert found.dtype == torch.float32
        exact = family.log_density(params, oracle.at(y))
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)
    quantile = family.ppf(single, torch.tensor(0.7))
    torch.testing.assert_close(quantile.double(), family.ppf(params, tensor(0.7)))


# Large and small means.

MEANS = [1e-8, 0.3, 3.0, 50.0, 1e3, 1e6]
LEVELS = [1e-250, 1e-30, 1e-8, 0.01, 0.3, 0.5, 0.7, 0.9999, 1 - 1e-12, 1 - 1.2e-16]


def around(mean, std):
    """Return counts within what can happen."""
    k = np.array([0.0, 1.0, 2.0, mean - 5 * std, mean - std, mean, mean + 6 * std])
    return np.unique(np.round(k.clip(0.0)))


@pytest.mark.parametrize("mean", MEANS)
def test_poisson_probabilities_of_any_rate(mean):
    k = around(mean, math.sqrt(mean))
    found = Poisson().log_density(rate(mean), tensor(k).view(-1, 1, 1)).flatten()
    # scipy's own error is that of log(k!) = 1e7.
    np.testing.assert_allclose(found, stats.poisson(mean).logpmf(k), rtol=1e-9)


@pytest.mark.parametrize("mean", [0.01, 3.0, 1e3, 1e6])
@pytest.mark.parametrize("concentration", [0.01, 0.3, 7.0, 1e3])
def test_negative_binomial_probabilities_of_any_size(mean, concentration):
    frozen = negative_binomial(mean, concentration)
    k = around(mean, frozen.std())
    y = tensor(k).view(-1, 1, 1)
    family, params = NegativeBinomial(), two(mean, concentration)
    # scipy's own errors are those of a success probability near 0 or 1.
    found = family.log_density(params, y).flatten()
    np.testing.assert_allclose(found, frozen.logpmf(k), rtol=3e-9)
    np.testing.assert_allclose(family.cdf(params, y).flatten(), frozen.cdf(k), 1e-9)
    np.testing.assert_allclose(family.sf(params, y).flatten(), frozen.sf(k), 1e-9)


CASES = [(Poisson(), rate(mean)) for mean in MEANS] + [
    (NegativeBinomial(), two(mean, r))
    for mean in (1e-3, 3.0, 1e6)
    for r in (1e-3, 0.3, 7.0, 1e5, 1e16)
]


def _name(value):
    if not isinstance(value, dict):
        return type(value).__name__
    return "-".join(f"{float(v):g}" for v in value.values())


@pytest.mark.parametrize(("family", "params"), CASES, ids=_name)
def test_quantiles_are_the_smallest_integers_that_reach_a_level(family, params):
    q = tensor(LEVELS).view(-1, 1, 1)
    n = family.ppf(params, q)
    assert (n == n.floor()).all()
    assert (n >= 0.0).all()
    low = q <= 0.5
    reached = torch.where(
        low, family.cdf(params, n) >= q, family.sf(params, n) <= 1 - q
    )
    before = torch.where(
        low, family.cdf(params, n - 1) < q, family.sf(params, n - 1) > 1 - q
    )
    assert reached.all()
    assert before.all()


@pytest.mark.parametrize("mean", MEANS)
def test_poisson_quantiles_are_those_of_scipy(mean):
    # Beyond, scipy compares lower tails, which are 1.
    q = [q for q in LEVELS if q < 1 - 1e-13]
    found = Poisson().ppf(rate(mean), tensor(q).view(-1, 1, 1)).flatten()
    np.testing.assert_array_equal(found, stats.poisson(mean).ppf(q))


def test_quantiles_at_the_ends_and_at_steps(case):
    family, _, params = case
    assert (family.ppf(params, oracle.at(0.0)) == 0.0).all()
    last = 1.0 if isinstance(family, Bernoulli) else math.inf
    assert (family.ppf(params, oracle.at(1.0)) == last).all()
    for n in (0.0,) if isinstance(family, Bernoulli) else (0.0, 1.0, 3.0):
        step = family.cdf(params, oracle.at(n))
        low = step < 0.5
        at, above = family.ppf(params, step), family.ppf(params, step * (1 + 1e-13))
        assert (at[low] == n).all()
        assert (above[low] == n + 1.0).all()


def test_tails_far_from_everything(case):
    family, _, params = case
    for y, below in ((-math.inf, 0.0), (-1.0, 0.0), (math.inf, 1.0)):
        assert (family.cdf(params, oracle.at(y)) == below).all()
        assert (family.sf(params, oracle.at(y)) == 1.0 - below).all()


@pytest.mark.parametrize("k", [1_000_000, 1_005_000, 1_030_000])
def test_upper_tails_are_the_sums_of_probabilities(k):
    # scipy's Poisson tail at 1 005 000 is wrong by 5e-6 of itself.
    params = rate(1e6)
    terms = torch.arange(k + 40_000, k, -1, dtype=torch.float64).view(-1, 1, 1)
    expected = float(Poisson().log_density(params, terms).exp().sum())
    assert float(Poisson().sf(params, oracle.at(float(k)))) == pytest.approx(
        expected, rel=1e-11
    )


def test_probabilities_sum_to_one():
    k = torch.arange(0.0, 4000.0, dtype=torch.float64).view(-1, 1, 1)
    for family, params in (
        (Poisson(), rate(2000.0)),
        (NegativeBinomial(), two(20.0, 0.3)),
        (NegativeBinomial(), two(2000.0, 1e12)),
    ):
        total = family.log_density(params, k).exp().sum()
        assert float(total) == pytest.approx(1.0, rel=1e-12)


# The Poisson limit.


@pytest.mark.parametrize("mean", [0.01, 5.0, 1e4])
def test_no_width_is_poisson(mean):
    raw = {"mean": tensor([[mean]]).log(), "width": tensor([[-1e3]])}
    params = NegativeBinomial().from_raw(raw, 0.05)
    single = Poisson().from_raw({"rate": raw["mean"]}, 0.05)
    y = tensor([0.0, 1.0, 7.0, 9900.0, 10_000.0, 10_300.0]).view(-1, 1, 1)
    for name in ("log_density", "cdf", "sf"):
        found = getattr(NegativeBinomial(), name)(params, y)
        expected = getattr(Poisson(), name)(single, y)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-300)
    q = tensor(LEVELS).view(-1, 1, 1)
    torch.testing.assert_close(
        NegativeBinomial().ppf(params, q), Poisson().ppf(single, q)
    )


@pytest.mark.parametrize("width", [1e-1, 1e-3, 1e-5, 1e-7])
def test_the_gradient_in_the_width_keeps_its_digits(width):
    mean = 20.0
    for k in (0.0, 3.0, 17.0, 40.0):
        leaf = tensor([[width]]).requires_grad_()
        params = {"mean": tensor([[mean]]), "concentration": leaf.pow(-2)}
        value = NegativeBinomial().log_density(params, oracle.at(k))
        (found,) = torch.autograd.grad(value.sum(), leaf)
        # By phi = width^2, the log probability is log m^k / k! and the sum of
        # log(1 + j phi) over j < k, less (k + 1 / phi) log(1 + phi m).
        phi = width**2
        j = np.arange(k)
        by_phi = (j / (1.0 + j * phi)).sum() - k * mean / (1.0 + phi * mean)
        t = phi * mean
        less = (
            t**2 * (0.5 - 2.0 * t / 3.0 + 0.75 * t**2)
            if t < 1e-3
            else math.log1p(t) - t / (1.0 + t)
        )
        expected = (by_phi + less / phi**2) * 2.0 * width
        assert float(found) == pytest.approx(expected, rel=1e-6, abs=1e-7)


# What mixtures ask of masses.


def test_masses_between():
    low, high = tensor([[-2.0, 0.5], [3.0, 7.1]]), tensor([[1.5, 4.0], [3.0, 7.9]])
    for family in (Poisson(), NegativeBinomial()):
        found = family.masses_between({}, low, high, 4)
        assert found[:, :, 0].tolist() == [[0, 1, 1, 1], [3, 3, 3, 3]]
        assert found[0, :, 1].tolist() == [1, 2, 3, 4]
        assert family.masses_between({}, low, high, 3) is None
        nearest = family.nearest_mass({}, tensor([-3.0, 0.4, 0.6, 7.2]))
        assert nearest.tolist() == [0.0, 0.0, 1.0, 7.0]
    ends = tensor([-0.5]), tensor([1.0])
    assert Bernoulli().masses_between({}, *ends, 2).flatten().tolist() == [0.0, 1.0]
    assert Bernoulli().nearest_mass({}, tensor([-3.0, 0.6, 7.2])).tolist() == [0, 1, 1]


def test_mixtures_of_counts(case):
    family, _, params = case
    logits = tensor([[0.0, 1.0, -1.0], [0.0, 0.0, 2.0]])
    params = {name: value.expand(2, 3, 2) for name, value in params.items()}
    mixture = Mixture.from_logits(logits, [Block(family, params, 3)])
    levels = tensor([0.01, 0.3, 0.5, 0.9, 0.999])
    quantiles = mixture.ppf(levels)
    for row in range(2):
        for output in range(2):
            alone = mixture[row].marginal([output])
            k = torch.arange(0.0, 300.0, dtype=torch.float64).unsqueeze(-1)
            below = alone.unsqueeze().log_prob(k).exp().cumsum(0)
            expected = [int((below < q).sum()) for q in levels]
            assert quantiles[row, :, output].tolist() == expected
            # The integral of a staircase, from 0 and, beyond y, of the rest.
            y = tensor([0.75])
            upper = (1.0 - below).square().sum()
            expected = upper - (1.0 - below[0]).square() * 0.75
            expected = float(expected + below[0].square() * 0.75)
            assert float(alone.crps(y)) == pytest.approx(expected, rel=1e-6)
