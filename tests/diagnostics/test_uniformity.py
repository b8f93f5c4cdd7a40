"""The band around an ECDF: exact, by counting outcomes and by simulation."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from skmdn.diagnostics import ecdf_band, uniformity_test
from skmdn.diagnostics.uniformity import _bounds, _inside


def counted(n, points, low, high):
    """The probability that all counts are inside, summed over every outcome."""
    shares = np.diff(points, prepend=0.0, append=1.0)
    total = 0.0
    for cells in product(range(n + 1), repeat=len(shares)):
        if sum(cells) == n:
            counts = np.cumsum(cells)[:-1]
            if ((counts >= low) & (counts <= high)).all():
                total += stats.multinomial.pmf(cells, n, shares)
    return total


@pytest.mark.parametrize(("n", "n_points"), [(3, 1), (5, 2), (6, 3)])
@pytest.mark.parametrize("gamma", [0.9, 0.4, 0.05])
def test_the_recursion_counts_every_outcome(n, n_points, gamma):
    points = np.arange(1, n_points + 1) / (n_points + 1)
    low, high = _bounds(n, points, gamma)
    expected = counted(n, points, low, high)
    assert _inside(n, points, low, high) == pytest.approx(expected, abs=1e-12)


def test_bounds_are_those_of_the_definition():
    n, points = 23, np.array([0.1, 0.5, 0.8])
    k = np.arange(n + 1)[:, None]
    tails = np.minimum(stats.binom.cdf(k, n, points), stats.binom.sf(k - 1, n, points))
    for gamma in (0.001, 0.05, 0.3, 1.0):
        low, high = _bounds(n, points, gamma)
        inside = tails >= gamma / 2
        np.testing.assert_array_equal(low, inside.argmax(0))
        np.testing.assert_array_equal(high, n - inside[::-1].argmax(0))


@pytest.mark.parametrize(("n", "n_points"), [(20, 10), (200, 60)])
def test_uniform_numbers_stay_inside_as_often_as_promised(n, n_points):
    points, low, high = ecdf_band(n, coverage=0.9, n_points=n_points)
    u = np.random.default_rng(0).uniform(size=(20_000, n))
    share = np.stack([(u < point).mean(1) for point in points], axis=1)
    inside = ((share >= low - 1e-9) & (share <= high + 1e-9)).all(1)
    error = np.sqrt(0.09 / len(u))
    low, high = (np.rint(end * n).astype(int) for end in (low, high))
    exact = _inside(n, points, low, high)
    assert abs(inside.mean() - exact) < 4 * error
    assert 0.9 <= exact < 0.925


def test_p_values_are_those_of_the_statistic():
    rng = np.random.default_rng(0)
    pairs = np.array([uniformity_test(rng.uniform(size=40)) for _ in range(800)])
    log_gamma, p_value = pairs.T
    for level in (0.05, 0.3, 0.7):
        error = np.sqrt(level * (1 - level) / len(pairs))
        assert (p_value <= level).mean() < level + 4 * error
        assert (p_value <= level).mean() > level - 4 * error - 0.03
    np.testing.assert_array_equal(log_gamma < 0, p_value <= 0.05)


def test_columns_are_tested_by_themselves():
    u = np.random.default_rng(0).uniform(size=(50, 2))
    u[:, 1] **= 3
    log_gamma, p_value = uniformity_test(u)
    assert log_gamma.shape == p_value.shape == (2,)
    assert log_gamma[0] == uniformity_test(u[:, 0])[0] > 0 > log_gamma[1]


def test_departures_are_seen_however_far():
    log_gamma, p_value = uniformity_test(np.full(2000, 0.3))
    assert log_gamma < -100
    assert p_value < 1e-10


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="between 0 and 1"):
        uniformity_test([0.5, 1.5])
    with pytest.raises(ValueError, match="between 0 and 1"):
        uniformity_test([0.5, np.nan])
    with pytest.raises(ValueError, match="coverage"):
        ecdf_band(10, coverage=1.0)
    with pytest.raises(ValueError, match="n_points"):
        ecdf_band(10, n_points=0)
