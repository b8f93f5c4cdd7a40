"""Components of the real line on intervals, against scipy's own transformed laws."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from skmdn.composition import Composition
from skmdn.families import (
    Beta,
    Gumbel,
    Laplace,
    Logistic,
    LogNormal,
    MultivariateNormal,
    Normal,
    Poisson,
    StudentT,
    Transformed,
    TruncatedNormal,
)
from skmdn.mixture import Block, Mixture
from tests.families.oracle import check_recovery
from tests.helpers import generator, random_block, random_raw, tensor

LEVELS = [1e-250, 1e-12, 0.01, 0.5, 0.9, 0.999999]


def normal(loc, scale):
    return {"mean": tensor([[loc]]), "scale": tensor([[scale]])}


def located(loc, scale, **more):
    more = {name: tensor([[value]]) for name, value in more.items()}
    return {"loc": tensor([[loc]]), "scale": tensor([[scale]]), **more}


# Each with the law of scipy that it is: where the law is mirrored, of -y.
M, S = 0.4, 0.3
CASES = {
    "lognormal": (
        Transformed(Normal(), 0.0),
        normal(M, S),
        stats.lognorm(S, scale=math.exp(M)),
        1,
    ),
    "mirrored": (
        Transformed(Normal(), None, 2.0),
        normal(M, S),
        stats.lognorm(S, -2.0, math.exp(-M)),
        -1,
    ),
    "shifted": (
        Transformed(Laplace(), -1.0),
        located(M, S),
        stats.loglaplace(1 / S, -1.0, math.exp(M)),
        1,
    ),
    "log-logistic": (
        Transformed(Logistic(), 0.0),
        located(M, S),
        stats.fisk(1 / S, scale=math.exp(M)),
        1,
    ),
    "frechet": (
        Transformed(Gumbel(), 0.0),
        located(M, S),
        stats.invweibull(1 / S, scale=math.exp(M)),
        1,
    ),
    "weibull": (
        Transformed(Gumbel(), None, 0.0),
        located(M, S),
        stats.weibull_min(1 / S, scale=math.exp(-M)),
        -1,
    ),
    "logit-normal": (
        Transformed(Normal(), -1.0, 3.0),
        normal(M, S),
        stats.johnsonsb(-M / S, 1 / S, -1.0, 4.0),
        1,
    ),
}


@pytest.fixture(params=list(CASES))
def case(request):
    return CASES[request.param]


def test_densities_and_tails_are_scipys(case):
    family, params, law, sign = case
    for level in (1e-9, 0.02, 0.5, 0.97):
        y = sign * law.ppf(level)
        point = tensor([[y]])
        found = family.log_prob(params, point)
        np.testing.assert_allclose(found, law.logpdf(sign * y), rtol=1e-9)
        below, above = ("sf", "cdf") if sign < 0 else ("cdf", "sf")
        for name, of_law in (("cdf", below), ("sf", above)):
            value = getattr(law, of_law)(sign * y)
            found = getattr(family, name)(params, point)
            np.testing.assert_allclose(found, value, rtol=1e-8)
            found = getattr(family, f"log_{name}")(params, point)
            np.testing.assert_allclose(found, math.log(value), rtol=1e-8, atol=1e-12)


def test_quantiles_are_scipys(case):
    family, params, law, sign = case
    for q in LEVELS:
        expected = sign * (law.isf(q) if sign < 0 else law.ppf(q))
        found = family.ppf(params, tensor([[q]]))
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_moments_are_scipys(case):
    family, params, law, sign = case
    mean, std = float(family.mean(params)), float(family.std(params))
    if isinstance(family.base, Normal) and math.isfinite(family.high + family.low):
        # scipy's own are an integral, but not to the last digits.
        mean_of, square = (law.expect(lambda y, k=k: y**k) for k in (1, 2))
        expected = (mean_of, math.sqrt(square - mean_of**2))
        np.testing.assert_allclose((mean, std), expected, rtol=1e-7)
    else:
        expected = (sign * law.mean(), law.std())
        np.testing.assert_allclose((mean, std), expected, rtol=1e-9)


def test_draws_follow_and_stay_inside(case):
    family, params, law, sign = case
    taken = {name: value.expand(20_000, 1, 1) for name, value in params.items()}
    draws = family.draw(taken, generator())
    assert family.contains(draws).all()
    assert stats.kstest(sign * draws.flatten().numpy(), law.cdf).statistic < 0.0115
    wild = {name: 100.0 * value for name, value in taken.items()}
    assert family.contains(family.draw(wild, generator())).all()


def test_outside_nothing_is_possible_and_nothing_is_nan(case):
    family, params, _, _ = case
    ends = [end for end in (family.low, family.high) if math.isfinite(end)]
    outside = [
        y
        for end in ends
        for y in (end, end - 1.0, end + 1.0)
        if not family.low < y < family.high
    ]
    for y in [*outside, math.inf, -math.inf, math.nan]:
        point = tensor([[y]])
        assert float(family.log_prob(params, point)) == -math.inf
        assert not bool(family.contains(point))
        above = float(y >= family.high)
        if not math.isnan(y):
            assert float(family.cdf(params, point)) == above
            assert float(family.sf(params, point)) == 1.0 - above
            assert float(family.log_cdf(params, point).exp()) == above
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    points = tensor([[outside[0]], [float(family.ppf(params, tensor([[0.3]])))]])
    value = family.log_prob(leaves, points.unsqueeze(-2))
    value[1].sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves.values())


def test_close_to_the_ends_densities_stay_finite():
    family = Transformed(Normal(), 0.0, 1.0)
    y = tensor([[1e-300], [1e-17], [1.0 - 1.2e-16]])
    for scale in (0.01, 1.0, 50.0):
        found = family.log_prob(normal(0.0, scale), y.unsqueeze(-2))
        z = y.log().numpy()[:2]
        expected = stats.norm.logpdf(z, 0.0, scale) - z
        np.testing.assert_allclose(found[:2], expected, rtol=1e-12)
        assert found.isfinite().all()


def logistic_oracle(law, center):
    """Return mean and deviation of the logistic function by adaptive quadrature."""

    def part(power):
        def integrand(z):
            rise = 1 / (1 + math.exp(-z)) - 1 / (1 + math.exp(-center))
            return rise**power * law.pdf(z)

        spread = law.ppf(0.75) - law.ppf(0.25)
        edges = center + spread * np.array([-60, -10, -3, -1, 0, 1, 3, 10, 60])
        edges = np.union1d(edges, [-60, -20, -8, -3, 0, 3, 8, 20, 60])
        edges = edges[np.abs(edges) <= 60.0]
        inner = sum(
            integrate.quad(integrand, a, b, epsabs=0, epsrel=1e-11, limit=100)[0]
            for a, b in itertools.pairwise(edges)
        )
        at = 1 / (1 + math.exp(-center))
        return inner + (1 - at) ** power * law.sf(60) + (-at) ** power * law.cdf(-60)

    first, second = part(1), part(2)
    mean = 1 / (1 + math.exp(-center)) + first
    return mean, math.sqrt(second - first**2)


@pytest.mark.parametrize(
    ("base", "params", "law"),
    [
        (Normal(), normal(-20.0, 0.01), stats.norm(-20.0, 0.01)),
        (Normal(), normal(-4.0, 1.2), stats.norm(-4.0, 1.2)),
        (Normal(), normal(1.0, 2.5), stats.norm(1.0, 2.5)),
        (Normal(), normal(-9.0, 5.0), stats.norm(-9.0, 5.0)),
        (Normal(), normal(0.5, 30.0), stats.norm(0.5, 30.0)),
        (Laplace(), located(-2.0, 0.05), stats.laplace(-2.0, 0.05)),
        (Logistic(), located(1.0, 3.0), stats.logistic(1.0, 3.0)),
        (Gumbel(), located(-1.0, 0.4), stats.gumbel_r(-1.0, 0.4)),
        (StudentT(), located(0.7, 0.01, df=2.1), stats.t(2.1, 0.7, 0.01)),
        (StudentT(), located(-3.0, 1.0, df=4.0), stats.t(4.0, -3.0, 1.0)),
        (StudentT(1.0), located(0.7, 0.5, df=1.0), stats.t(1.0, 0.7, 0.5)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_moments_on_an_interval_are_those_of_quadrature(base, params, law):
    mean, std = logistic_oracle(law, law.median())
    family = Transformed(base, 0.0, 1.0)
    np.testing.assert_allclose(float(family.mean(params)), mean, rtol=1e-8)
    np.testing.assert_allclose(float(family.std(params)), std, rtol=1e-8)
    mirrored = Transformed(base, -1.0, 0.0)
    if base.mirrors:
        turned = base.affine(params, tensor(-1.0), tensor(0.0))
        np.testing.assert_allclose(float(mirrored.mean(turned)), -mean, rtol=1e-8)


@pytest.mark.parametrize("scale", [1e-7, 1e-5, 1e-3])
@pytest.mark.parametrize("base", [Normal(), Laplace(), Logistic(), Gumbel()], ids=str)
def test_narrow_components_keep_their_digits(base, scale):
    place = normal(5.0, scale) if base == Normal() else located(5.0, scale)
    center, width = float(base.mean(place)), float(base.std(place))
    for low, high in ((0.0, None), (None, 0.0), (0.0, 1.0)):
        family = Transformed(base, low, high)
        slope = float(family.onto.log_jacobian(tensor([[center]])).exp())
        found = float(family.std(place)) / (width * slope)
        assert found == pytest.approx(1.0, abs=max(1e-8, 4.0 * scale))


def test_moments_that_do_not_exist_are_infinite():
    student = located(0.0, 0.1, df=30.0)
    for low, high, sign in ((1.0, None, 1), (None, 1.0, -1)):
        family = Transformed(StudentT(), low, high)
        assert float(family.mean(student)) == sign * math.inf
        assert float(family.std(student)) == math.inf
    for base in (Laplace(), Logistic(), Gumbel()):
        family = Transformed(base, 0.0)
        heavy = located(0.0, 0.6)
        assert math.isfinite(float(family.mean(heavy)))
        assert float(family.std(heavy)) == math.inf
        assert float(family.mean(located(0.0, 1.0))) == math.inf
    # A mixture has none either, and says so; with weight 0 it does not matter.
    params = {name: value.expand(2, 1) for name, value in student.items()}
    block = Block(Transformed(StudentT(), 0.0), params, 2)
    mixture = Mixture(tensor([0.5, 0.5]).log(), [block])
    assert float(mixture.mean()) == math.inf
    assert float(mixture.variance()) == math.inf


@pytest.mark.parametrize("link", ["logit", "probit"])
@pytest.mark.parametrize(
    ("low", "high"),
    [
        ((0.0, 0.0, None), (1.0, None, None)),
        ((0.0, -1.0, None), (1.0, 2.0, 0.0)),
        ((None, None, 0.0), (None, 3.0, None)),
        (None, None),
    ],
)
def test_covariances_of_full_components_are_those_of_gauss_hermite(low, high, link):
    block = random_block("full", n_components=2, n_outputs=3, seed=5)
    family = Transformed(MultivariateNormal(), low, high, link)
    found = family.covariance(block.params)
    means = family.base.mean(block.params).numpy()
    inner = family.base.covariance(block.params).numpy()
    x, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = np.outer(weights, weights) / weights.sum() ** 2
    for k, i, j in itertools.product(range(2), range(3), range(3)):
        if j >= i:
            continue
        root = np.linalg.cholesky(inner[k][[j, i]][:, [j, i]])
        z = np.zeros((80, 80, 3))
        z[..., j] = means[k, j] + root[0, 0] * x[:, None]
        z[..., i] = means[k, i] + root[1, 0] * x[:, None] + root[1, 1] * x
        y = family.onto.forward(torch.from_numpy(z)).numpy()
        one, other = (y[..., d] - (weights * y[..., d]).sum() for d in (i, j))
        np.testing.assert_allclose(
            found[k, i, j], (weights * one * other).sum(), rtol=1e-7, atol=1e-10
        )
    variances = found.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(variances, family.std(block.params).square())
    product = found @ family.precision(block.params)
    torch.testing.assert_close(product, torch.eye(3).double().expand(2, 3, 3))


def test_marginals_and_conditionals_keep_the_ends():
    block = random_block("full", n_components=2, n_outputs=3, seed=2)
    family = Transformed(MultivariateNormal(), (0.0, None, -1.0), (1.0, None, None))
    mixture = Mixture(tensor([0.4, 0.6]).log(), [Block(family, block.params, 2)])
    y = tensor([0.3, 1.2, 0.5])
    joint = mixture.log_prob(y)
    for outputs in ([0], [2], [2, 0], [1, 2]):
        rest = [d for d in range(3) if d not in outputs]
        known = mixture.marginal(outputs)
        given = mixture.condition(outputs, y[outputs])
        found = known.log_prob(y[outputs]) + given.log_prob(y[rest])
        torch.testing.assert_close(found, joint)
        torch.testing.assert_close(known.mean(), mixture.mean()[outputs])
    outside = mixture.marginal([0]).log_prob(tensor([[1.0], [-0.1]]))
    assert (outside == -math.inf).all()


def test_ends_per_output_survive_marginals_of_other_families():
    family = Beta((0.0, -1.0), (1.0, 2.0))
    params = family.from_raw(random_raw(family, (), 2, 2), 0.1)
    mixture = Mixture(tensor([0.4, 0.6]).log(), [Block(family, params, 2)])
    alone = mixture.marginal([1])
    assert alone.blocks[0].family == Beta((-1.0,), (2.0,))
    assert float(alone.log_prob(tensor([1.5])).exp()) > 0.0


def test_quantiles_of_a_mixture_are_those_of_the_line():
    params = {"mean": tensor([[-1.0], [2.0]]), "scale": tensor([[0.5], [0.1]])}
    blocks = [
        Block(Transformed(Normal(), 0.0, 1.0), params, 2),
        Block(Transformed(Laplace(), 0.0, 1.0), located(0.0, 0.2), 1),
    ]
    mixture = Mixture(tensor([0.2, 0.5, 0.3]).log(), blocks)
    levels = tensor([1e-10, 0.05, 0.5, 0.99])
    quantiles = mixture.ppf(levels)
    torch.testing.assert_close(
        mixture.cdf(quantiles), levels.unsqueeze(-1), rtol=1e-9, atol=0
    )
    draws = mixture.sample(20_000, generator())
    for q in (0.1, 0.5, 0.9):
        share = (draws <= mixture.ppf(tensor([q]))).double().mean()
        assert abs(float(share) - q) < 4 * math.sqrt(q * (1 - q) / 20_000)


def test_it_can_be_learned_beside_others():
    family = Transformed(Normal(), 0.0)
    check_recovery(family, random_raw(family.base, (), 1, 1))
    made = Composition.make([family, "normal"], 1)
    assert made.units == "none"
    assert not made.mirrors
    assert made.support() == "the open interval (0, inf) or all real numbers"


def test_the_start_has_the_medians():
    family = Transformed(Normal(), 0.0, 1.0)
    centers = tensor([[0.01], [0.5], [0.8]])
    params = family.from_raw(family.start(centers, 0.1 * centers, 1e-3), 1e-3)
    torch.testing.assert_close(family.ppf(params, tensor([[0.5]])), centers)


@pytest.mark.parametrize(
    "base",
    [LogNormal(), Poisson(), Beta(), TruncatedNormal(0.0), Transformed(Normal(), 0.0)],
    ids=str,
)
def test_only_families_of_the_line_can_be_mapped(base):
    with pytest.raises(ValueError, match="cannot be taken onto an interval"):
        Transformed(base, 0.0, 1.0)


def test_there_are_no_other_units():
    family = Transformed(Normal(), 0.0)
    with pytest.raises(TypeError, match="no other units"):
        family.affine(normal(0.0, 1.0), tensor(2.0), tensor(0.0))
    wide = family.widen(normal(0.0, 0.5), tensor(2.0))
    torch.testing.assert_close(wide, normal(0.0, 1.0))


def test_families_that_do_not_say_their_moments_have_none_on_half_lines():
    with pytest.raises(NotImplementedError, match="exponential moments"):
        LogNormal().cumulant(located(0.0, 1.0), 1.0)


def test_intervals_are_those_of_the_line():
    family = Transformed(Normal(), 0.0, None)
    params = {"mean": tensor([[0.3, -1.0]]), "scale": tensor([[0.5, 2.0]])}
    law = stats.lognorm([0.5, 2.0], scale=np.exp([0.3, -1.0]))
    for low, high in ((0.2, 3.0), (-1.0, 0.7), (2.0, np.inf), (1e-3, 1.0001e-3)):
        found = family.log_interval(params, tensor([low]), tensor([high]))
        expected = np.log(law.cdf(high) - law.cdf(low))
        np.testing.assert_allclose(found[0], expected, rtol=1e-9)
        assert family.overlaps(tensor([low]), tensor([high])).all()
    beyond = family.log_interval(params, tensor([-2.0]), tensor([-1.0]))
    assert (beyond == -torch.inf).all()
    assert not family.overlaps(tensor([-2.0]), tensor([0.0])).any()


@pytest.mark.parametrize("base", [Normal(), MultivariateNormal()], ids=str)
def test_likelihoods_of_targets_known_in_part(base):
    family = Transformed(base, 0.0, 1.0)
    params = {"mean": tensor([[0.3, -1.0]]), "scale": tensor([[0.5, 2.0]])}
    if family.correlated:
        params = base.assembled(params["mean"], params["scale"], tensor([[0.7]]))
    y = tensor([[0.2, 0.9]])
    whole = family.log_likelihood(params, y, y)
    torch.testing.assert_close(whole, family.log_prob(params, y))
    hole = tensor([[torch.nan, 0.9]])
    part = family.for_outputs([1]).log_prob(family.marginal(params, [1]), y[:, 1:])
    torch.testing.assert_close(family.log_likelihood(params, hole, hole), part)
    outside = tensor([[0.2, 1.5]])
    assert family.log_likelihood(params, outside, outside) == -torch.inf


# The probit map.


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1e-3), (-6.0, 0.5), (3.0, 6.0)])
def test_moments_behind_the_probit_map(mean, std):
    family = Transformed(Normal(), -1.0, 2.0, "probit")
    params = {"mean": tensor([[mean]]), "scale": tensor([[std]])}
    x = np.linspace(-14, 14, 400_001)
    weights = stats.norm.pdf(x) * (x[1] - x[0])
    values = -1.0 + 3.0 * stats.norm.cdf(mean + std * x)
    center = weights @ values
    assert float(family.mean(params)) == pytest.approx(center, rel=1e-9)
    # From the nearer end: what is left of its digits.
    spread = math.sqrt(weights @ (values - center) ** 2)
    assert float(family.std(params)) == pytest.approx(spread, rel=1e-8)


def test_the_probit_map_is_for_normal_components():
    with pytest.raises(ValueError, match="probit"):
        Transformed(Laplace(), 0.0, 1.0, "probit")
