import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from skmdn.score_maps import ScoreMap, conformal_map, isotonic_map
from tests.helpers import algebra, tensor

FITS = [isotonic_map, conformal_map]
every_fit = pytest.mark.parametrize("fit", FITS)

TRUTHS = {
    "wide": stats.norm(10, 30),
    "skew": stats.gamma(2, loc=-2, scale=0.7),
    "heavy": stats.t(3),
    "short": stats.uniform(-2, 4),
}


def fitted(fit, scores, weights=None):
    scores = tensor(scores)
    weights = torch.ones_like(scores) if weights is None else tensor(weights)
    return fit(scores, weights)


def mean_log_density(score_map, scores):
    """Of the law that the map makes of standard normal scores."""
    values, log_slopes = score_map(tensor(scores))
    return float((log_slopes - 0.5 * values.square()).mean()) - 0.5 * np.log(2 * np.pi)


@st.composite
def maps(draw):
    n = draw(st.integers(1, 6))
    steps = st.lists(st.floats(1e-3, 1e3), min_size=n, max_size=n)
    knots, values = (np.cumsum(draw(steps)) - 3.0 for _ in range(2))
    ends = [tensor(draw(st.floats(1e-2, 1e2))) for _ in range(2)]
    return ScoreMap.through(tensor(knots), tensor(values), *ends)


@algebra
@given(maps())
def test_maps_pass_through_their_knots_and_rise(score_map):
    values, _ = score_map(score_map.knots)
    np.testing.assert_allclose(values, score_map.values, rtol=1e-12, atol=1e-12)
    low, high = float(score_map.knots[0]) - 5.0, float(score_map.knots[-1]) + 5.0
    points = torch.linspace(low, high, 500, dtype=torch.float64)
    assert bool((score_map(points)[0].diff() > 0).all())


@algebra
@given(maps())
def test_slopes_are_derivatives(score_map):
    low, high = float(score_map.knots[0]) - 5.0, float(score_map.knots[-1]) + 5.0
    points = torch.linspace(low, high, 301, dtype=torch.float64).requires_grad_()
    values, log_slopes = score_map(points)
    (expected,) = torch.autograd.grad(values.sum(), points)
    np.testing.assert_allclose(log_slopes.detach().exp(), expected, rtol=1e-8)


@algebra
@given(maps())
def test_inverses(score_map):
    low, high = float(score_map.values[0]) - 5.0, float(score_map.values[-1]) + 5.0
    values = torch.linspace(low, high, 300, dtype=torch.float64)
    found = score_map(score_map.inverse(values))[0]
    np.testing.assert_allclose(found, values, rtol=1e-9, atol=1e-9)


def test_maps_are_straight_outside_and_keep_infinity():
    score_map = fitted(conformal_map, [-1.0, 0.0, 2.0, 5.0])
    far = tensor([7.0, 10.0, 1e6])
    values, log_slopes = score_map(far)
    slope = score_map.slopes[-1]
    np.testing.assert_allclose(values, score_map.values[-1] + slope * (far - 5.0))
    np.testing.assert_allclose(log_slopes.exp(), slope.expand(3))
    ends = tensor([-math.inf, math.inf])
    assert torch.equal(score_map(ends)[0], ends)
    assert torch.equal(score_map.inverse(ends), ends)


@every_fit
@pytest.mark.parametrize(
    "scores",
    [
        [0.3],
        [0.3, 0.3],
        [0.3, 1.0],
        [2.0] * 50,
        [0.0] * 30 + [1.0] * 30,
        [-math.inf, 0.0, math.inf],
        [math.inf] * 3,
        [0.0, 1e-300, 1e300],
        np.linspace(-1000, 1000, 77),
    ],
    ids=str,
)
def test_maps_of_odd_scores_are_increasing_and_finite(fit, scores):
    score_map = fitted(fit, scores)
    for values in (score_map.knots, score_map.values):
        assert bool(values.isfinite().all())
        assert bool((values.diff() > 0).all())
    assert bool((score_map.slopes > 0).all() & score_map.slopes.isfinite().all())


@every_fit
def test_weights_are_repetitions(fit):
    rng = np.random.RandomState(0)
    scores, weights = rng.standard_t(2, size=60), rng.randint(1, 4, size=60)
    weighted = fitted(fit, scores, weights)
    repeated = fitted(fit, np.repeat(scores, weights))
    points = torch.linspace(-6, 6, 50, dtype=torch.float64)
    np.testing.assert_allclose(weighted(points)[0], repeated(points)[0], atol=1e-9)
    for coverage in (0.5, 0.9):
        assert torch.equal(weighted.ends(coverage), repeated.ends(coverage))


# Conformal maps.


def test_a_few_order_statistics_all_have_the_levels_of_their_ranks():
    scores = np.sort(np.random.RandomState(0).normal(size=30))
    values, _ = fitted(conformal_map, scores)(tensor(scores))
    np.testing.assert_allclose(stats.norm.cdf(values), np.arange(1, 31) / 31)


def test_among_many_those_at_fortieths_do():
    scores = np.sort(np.random.RandomState(0).normal(size=999))
    ranks = np.concatenate([[1, 999], np.arange(25, 1000, 25)])
    values, _ = fitted(conformal_map, scores)(tensor(scores[ranks - 1]))
    np.testing.assert_allclose(stats.norm.cdf(values), ranks / 1000)


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("n", [1, 8, 19, 39, 40, 99, 100, 500])
def test_ends_are_the_innermost_order_statistics_that_promise_enough(n, coverage):
    scores = np.sort(np.random.RandomState(n).normal(size=n))
    padded = np.concatenate([[-np.inf], scores, [np.inf]])
    # Below the k-th lie at most k of n + 1 exchangeable scores.
    k = int(np.floor((1 - coverage) / 2 * (n + 1) + 1e-9))
    expected = padded[[k, n + 1 - k]]
    found = fitted(conformal_map, scores).ends(coverage)
    np.testing.assert_array_equal(found, expected)
    assert fitted(conformal_map, scores).reaches(coverage) == (k > 0)


def test_ends_among_equal_scores():
    scores = [0.0] * 10 + [1.0] * 80 + [2.0] * 9
    score_map = fitted(conformal_map, scores)
    # At most 5 of 100 may lie below, and above.
    assert score_map.ends(0.9).tolist() == [0.0, 2.0]
    assert score_map.ends(0.5).tolist() == [1.0, 1.0]


# Isotonic maps.


def test_calibrated_scores_stay_what_they_are():
    changed = 0
    for seed in range(20):
        scores = np.random.RandomState(seed).normal(size=300)
        score_map = fitted(isotonic_map, scores)
        changed += bool((score_map.knots != score_map.values).any())
        loss = stats.norm.logpdf(scores).mean() - mean_log_density(score_map, scores)
        assert loss < 0.02
    assert changed <= 8


def test_a_wrong_location_and_scale_is_a_straight_line():
    rng = np.random.RandomState(0)
    score_map = fitted(isotonic_map, 10 + 30 * rng.normal(size=2000))
    points = np.linspace(-60, 80, 40)
    expected = (points - 10) / 30
    np.testing.assert_allclose(score_map(tensor(points))[0], expected, atol=0.15)


@pytest.mark.parametrize("truth", TRUTHS)
def test_densities_come_close_to_the_truth(truth):
    rng, law = np.random.RandomState(1), TRUTHS[truth]
    new = law.rvs(20_000, random_state=rng)
    before = stats.norm.logpdf(new).mean()
    best = law.logpdf(new).mean()
    score_map = fitted(isotonic_map, law.rvs(1000, random_state=rng))
    after = mean_log_density(score_map, new)
    assert best - after < 0.06
    assert best - after < 0.25 * (best - before)
