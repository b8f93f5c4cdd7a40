import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import fixed_quad, quad

from skmdn.families import Gamma, Laplace, Normal, PointMass, Poisson, StudentT
from skmdn.mapped import MappedMixture
from skmdn.mixture import Mixture
from skmdn.queries.blocks import Block
from skmdn.score_maps import ScoreMap, conformal_map, isotonic_map
from tests.helpers import (
    full_mixture,
    generator,
    normal_mixture,
    tensor,
    within_standard_errors,
)


def block(family, **params):
    """Components of one row, from lists."""
    columns = {name: tensor([values]).unsqueeze(-1) for name, values in params.items()}
    return Block(family, columns, len(next(iter(params.values()))))


def one_row(weights, *blocks):
    return Mixture(tensor([weights]).log(), list(blocks))


def learned(fit, law, n=200):
    scores = tensor(law.rvs(n, random_state=np.random.RandomState(0)))
    return fit(scores, torch.ones_like(scores))


def line(location, scale):
    """The map that repairs a wrong location and scale of a normal law."""
    ends = tensor([-1.0, 1.0])
    slopes = torch.full_like(ends, 1.0 / scale)
    return ScoreMap(ends, (ends - location) / scale, slopes)


NORMALS = normal_mixture([[0.3, 0.3, 0.4]], [[-2.0, 1.0, 1.2]], [[0.4, 0.1, 1.0]])
LAWS = {
    "normals": NORMALS,
    "gamma": one_row(
        [0.5, 0.5], block(Gamma(), concentration=[1.5, 5.0], rate=[1.0, 2.0])
    ),
    "laplace": one_row([0.5, 0.5], block(Laplace(), loc=[0.0, 1.0], scale=[0.5, 1.0])),
    "student": one_row(
        [0.4, 0.6],
        block(Normal(), mean=[0.0], scale=[1.0]),
        block(StudentT(), loc=[1.0], scale=[0.5], df=[9.0]),
    ),
}
MAPS = {
    "narrow": learned(isotonic_map, stats.norm(0.1, 0.6)),
    "skew": learned(isotonic_map, stats.gamma(2, loc=-2, scale=0.7)),
    "wide": learned(isotonic_map, stats.norm(10, 30)),
    "ranks": learned(conformal_map, stats.norm(0.3, 1.2)),
}
CASES = [
    (law, name)
    for law, name in itertools.product(LAWS, MAPS)
    # Thirty times as wide, a gamma law overflows.
    if name != "wide" or law == "normals"
]
every_case = pytest.mark.parametrize(("law", "name"), CASES)
POINTS = [-1.0, 0.3, 4.0]


class Oracle:
    """One output of one row, and integrals over it panel by panel."""

    def __init__(self, mapped, rule):
        self.mapped = mapped
        self.rule = rule
        grid = mapped.outputs[0]._grid
        edges = torch.cat([grid.low, grid.high], -1).unique()
        inside = mapped.outputs[0].score(edges.unsqueeze(0))[0].abs() < 9.0
        # And where the Laplace densities have their kinks
        self.edges = np.union1d(edges[inside].numpy(), [0.0, 1.0])

    def __call__(self, query, points):
        asked = tensor(np.atleast_1d(points))[None, :, None]
        return getattr(self.mapped, query)(asked).numpy().reshape(-1)

    def integral(self, function, low=-math.inf, high=math.inf):
        ends = [end for end in (low, high) if math.isfinite(end)]
        edges = np.union1d(self.edges, ends)
        edges = edges[(edges >= low) & (edges <= high)]
        pieces = itertools.pairwise(edges)
        return sum(float(self.rule(function, a, b)) for a, b in pieces)


def adaptive(function, low, high):
    return quad(lambda y: function(y).item(), low, high, epsabs=1e-13)[0]


def fixed(function, low, high):
    """Another rule than the one under test, for laws that are slow to ask."""
    return fixed_quad(function, low, high, n=30)[0]


@pytest.mark.parametrize(("law", "name"), [c for c in CASES if c[1] != "wide"])
def test_densities_are_derivatives(law, name):
    mapped = MappedMixture(LAWS[law], [MAPS[name]])
    y = mapped.ppf(tensor(np.linspace(0.013, 0.97, 30)))[..., 0].requires_grad_()
    sides = mapped.cdf(y.unsqueeze(-1)) - mapped.sf(y.unsqueeze(-1))
    (slope,) = torch.autograd.grad(sides.sum(), y)
    found = mapped.log_prob(y.detach().unsqueeze(-1)).exp()
    np.testing.assert_allclose(found, 0.5 * slope, rtol=1e-7)


@every_case
def test_quantiles_invert_the_distribution_function(law, name):
    mapped = MappedMixture(LAWS[law], [MAPS[name]])
    levels = tensor([1e-6, 0.05, 0.31, 0.5, 0.8, 0.95, 1 - 1e-6])
    y = mapped.ppf(levels)
    np.testing.assert_allclose(mapped.cdf(y)[0, :, 0], levels, rtol=1e-9)
    np.testing.assert_allclose(mapped.sf(y)[0, :, 0], 1.0 - levels, rtol=1e-8)


@pytest.mark.parametrize(
    ("law", "name", "rule"),
    [
        ("normals", "skew", adaptive),
        ("normals", "wide", fixed),
        ("laplace", "skew", fixed),
        pytest.param("gamma", "ranks", fixed, marks=pytest.mark.slow),
    ],
)
def test_integrals_against_scipy(law, name, rule):
    mapped = MappedMixture(LAWS[law], [MAPS[name]])
    oracle = Oracle(mapped, rule)

    def log_density(y):
        return oracle("log_prob", y)

    mean = oracle.integral(lambda y: y * np.exp(log_density(y)))
    variance = oracle.integral(lambda y: (y - mean) ** 2 * np.exp(log_density(y)))
    found = mapped.moments()[0, :, 0]
    np.testing.assert_allclose(found, [mean, variance], rtol=1e-8, atol=1e-9)
    entropy = oracle.integral(lambda y: -log_density(y) * np.exp(log_density(y)))
    assert abs(float(mapped.outputs[0].entropy()) - entropy) < 1e-8
    for y in POINTS:
        below = oracle.integral(lambda x: oracle("cdf", x) ** 2, high=y)
        above = oracle.integral(lambda x: oracle("sf", x) ** 2, low=y)
        crps = mapped.crps(tensor([[[y]]]))
        np.testing.assert_allclose(crps, [[[below + above]]], rtol=1e-8)


@pytest.mark.parametrize(
    ("law", "name"),
    [
        ("normals", "wide"),
        ("gamma", "narrow"),
        ("laplace", "ranks"),
        ("student", "skew"),
    ],
)
def test_draws(law, name):
    mapped = MappedMixture(LAWS[law], [MAPS[name]])
    draws = mapped.sample(1500, generator(0)).numpy()[..., 0]
    assert within_standard_errors(draws, mapped.moments()[:, 0, 0].numpy(), axis=1)
    levels = mapped.cdf(tensor(draws).unsqueeze(-1)).numpy()[..., 0]
    for power in (1, 2, 3):
        assert within_standard_errors(levels**power, 1 / (1 + power), axis=1)


@pytest.mark.parametrize("name", MAPS)
def test_modes_are_the_highest_points(name):
    mapped = MappedMixture(NORMALS, [MAPS[name]])
    ends = mapped.ppf(tensor([1e-4, 1 - 1e-4]))[0, :, 0]
    grid = torch.linspace(*ends.tolist(), 50_001, dtype=torch.float64)
    highest = mapped.log_prob(grid[None, :, None]).max()
    mode = mapped.outputs[0].mode()
    found = mapped.log_prob(mode[None, :, None])
    assert float(found) > float(highest) - 1e-6


# Straight maps of a normal law give a normal law.


def test_a_line_moves_and_stretches_a_normal_law():
    mapped = MappedMixture(
        normal_mixture([[1.0]], [[2.0]], [[0.1]]), [line(20.0, 30.0)]
    )
    law = stats.norm(4.0, 3.0)
    y = np.array([-30.0, -1.0, 4.0, 5.0, 40.0])
    points = tensor(y)[None, :, None]
    np.testing.assert_allclose(mapped.log_prob(points)[0], law.logpdf(y), rtol=1e-11)
    np.testing.assert_allclose(mapped.cdf(points)[0, :, 0], law.cdf(y), rtol=1e-11)
    np.testing.assert_allclose(mapped.sf(points)[0, :, 0], law.sf(y), rtol=1e-11)
    levels = np.array([1e-12, 0.2, 0.9])
    np.testing.assert_allclose(
        mapped.ppf(tensor(levels))[0, :, 0], law.ppf(levels), rtol=1e-11
    )
    np.testing.assert_allclose(
        mapped.interval(0.8)[0, :, 0], law.interval(0.8), rtol=1e-11
    )
    np.testing.assert_allclose(mapped.moments()[0, :, 0], [4.0, 9.0], rtol=1e-11)
    np.testing.assert_allclose(mapped.outputs[0].entropy(), law.entropy(), rtol=1e-11)
    np.testing.assert_allclose(mapped.outputs[0].mode(), 4.0, atol=1e-6)
    same = normal_mixture([[[1.0]]], [[[4.0]]], [[[3.0]]])
    np.testing.assert_allclose(mapped.crps(points), same.crps(points), rtol=1e-10)


def test_a_line_for_each_output_keeps_their_correlation():
    mean, covariance = [1.0, -1.0], np.array([[1.0, 0.6], [0.6, 2.0]])
    mixture = full_mixture([[1.0]], [[mean]], [[covariance]])
    mapped = MappedMixture(mixture, [line(0.5, 2.0), line(-1.0, 0.3)])
    scales = np.sqrt(np.diag(covariance))
    law = stats.multivariate_normal(
        mean + scales * [0.5, -1.0], covariance * np.outer([2.0, 0.3], [2.0, 0.3])
    )
    y = np.random.RandomState(0).normal(size=(1, 20, 2))
    found = mapped.log_prob(tensor(y))
    np.testing.assert_allclose(found[0], law.logpdf(y[0]), rtol=1e-9)
    draws = mapped.sample(20_000, generator(0))[0].numpy() - law.mean
    products = (draws[:, :, None] * draws[:, None, :]).reshape(-1, 4)
    assert within_standard_errors(products, law.cov.ravel(), axis=0)


def test_a_joint_density_of_curved_maps_integrates_to_one():
    covariance = np.array([[1.0, -0.7], [-0.7, 1.0]])
    mixture = full_mixture(
        [[0.5, 0.5]], [[[-1.0, 0.0], [1.5, 1.0]]], [[covariance, np.eye(2) * 0.3]]
    )
    mapped = MappedMixture(mixture, [MAPS["skew"], MAPS["narrow"]])
    # Importance sampling, by the mapped law's own marginals.
    n = 20_000
    levels = torch.rand((1, n, 2), generator=generator(0), dtype=torch.float64)
    y = torch.cat([mapped.marginal([d]).ppf(levels[0, :, d]) for d in range(2)], -1)
    each = sum(mapped.marginal([d]).log_prob(y[..., [d]]) for d in range(2))
    ratio = (mapped.log_prob(y) - each).exp().numpy()
    assert within_standard_errors(ratio, 1.0, axis=1)


def test_points_outside_the_support_have_no_density():
    mapped = MappedMixture(LAWS["gamma"], [MAPS["ranks"]])
    y = tensor([[[-1.0], [0.0]]])
    assert mapped.log_prob(y).tolist() == [[-math.inf, -math.inf]]
    assert mapped.cdf(y).tolist() == [[[0.0], [0.0]]]
    joint = MappedMixture(
        one_row(
            [1.0],
            Block(
                Gamma(),
                {
                    name: torch.ones(1, 1, 2, dtype=torch.float64)
                    for name in ("concentration", "rate")
                },
                1,
            ),
        ),
        [MAPS["narrow"]] * 2,
    )
    y = tensor([[[1.0, -1.0], [1.0, 1.0]]])
    found = joint.log_prob(y)[0]
    assert found[0] == -math.inf
    assert bool(found[1].isfinite())


def test_densities_far_out_are_finite():
    for name, law in LAWS.items():
        mapped = MappedMixture(law, [MAPS["ranks"]])
        found = mapped.log_prob(tensor([[[1e3], [1e5]]]))
        assert bool(found.isfinite().all()), name


def test_moments_that_do_not_exist_are_infinite():
    heavy = one_row([1.0], block(StudentT(), loc=[0.0], scale=[1.0], df=[3.0]))
    moments = MappedMixture(heavy, [line(0.0, 1.6)]).moments()[0, :, 0]
    # The tail has 3 / 1.6^2 degrees of freedom.
    assert abs(float(moments[0])) < 1e-6
    assert moments[1] == math.inf
    one_sided = ScoreMap(tensor([-1.0, 1.0]), tensor([-1.0, 1.0]), tensor([2.0, 0.4]))
    moments = MappedMixture(heavy, [one_sided]).moments()[0, :, 0]
    assert moments.tolist() == [math.inf, math.inf]


# Discrete laws.


def test_masses_are_differences_of_the_distribution_function():
    mapped = MappedMixture(
        one_row([1.0], block(Poisson(), rate=[4.0])), [MAPS["narrow"]]
    )
    k = torch.arange(-1.0, 60.0, dtype=torch.float64)[None, :, None]
    mass = mapped.log_prob(k).exp()[0].numpy()
    np.testing.assert_allclose(mass.sum(), 1.0, rtol=1e-12)
    np.testing.assert_allclose(mass[1:], np.diff(mapped.cdf(k)[0, :, 0]), atol=1e-14)
    assert mapped.log_prob(tensor([[[1.5]]])) == -math.inf
    count = k[0, :, 0].numpy()
    mean = mass @ count
    variance = mass @ (count - mean) ** 2
    np.testing.assert_allclose(mapped.moments()[0, :, 0], [mean, variance], rtol=1e-9)
    y = tensor([[[3.0]]])
    spread = np.abs(count[:, None] - count) @ mass @ mass
    expected = np.abs(count - 3.0) @ mass - 0.5 * spread
    np.testing.assert_allclose(mapped.crps(y), [[[expected]]], rtol=1e-8)
    levels = tensor([0.1, 0.5, 0.99])
    quantiles = mapped.ppf(levels)
    assert bool((mapped.cdf(quantiles)[0, :, 0] >= levels).all())
    assert bool((mapped.cdf(quantiles - 1.0)[0, :, 0] < levels).all())
    draws = mapped.sample(20_000, generator(0))[..., 0].numpy()
    assert within_standard_errors(draws, mean, axis=1)


def test_a_law_with_a_mass_keeps_one():
    zeros = one_row(
        [0.3, 0.7],
        block(PointMass(0.0), value=[0.0]),
        block(Normal(), mean=[0.5], scale=[1.0]),
    )
    mapped = MappedMixture(zeros, [MAPS["skew"]])
    oracle = Oracle(mapped, fixed)
    mass = np.exp(oracle("log_prob", 0.0))
    jump = oracle("cdf", 0.0) - oracle("cdf", np.nextafter(0.0, -1.0))
    np.testing.assert_allclose(mass, jump, rtol=1e-12)
    rest = oracle.integral(lambda y: np.exp(oracle("log_prob", y)))
    np.testing.assert_allclose(rest + mass, 1.0, rtol=1e-8)
    mean = oracle.integral(lambda y: y * np.exp(oracle("log_prob", y)))
    np.testing.assert_allclose(mapped.moments()[0, 0, 0], mean, rtol=1e-8)
