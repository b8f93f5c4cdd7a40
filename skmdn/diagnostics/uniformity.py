"""Whether numbers are uniform, by an exact simultaneous band around their ECDF."""

from functools import lru_cache

import numpy as np
from scipy import stats

__all__ = ["ecdf_band", "uniformity_test"]

# More points show nothing new, and each costs time.
_MAX_POINTS = 200


def ecdf_band(n_values, *, coverage=0.95, n_points=100):
    r"""Return a band that holds the whole ECDF of uniform numbers.

    .. math:: P\bigl(l_i \le \hat F(z_i) \le u_i \text{ for all } i\bigr)
        \ge \text{coverage}

    All points share one level, at which each is inside its own binomial interval.
    It is computed exactly, by a recursion over the points: given the number of
    values below one point, those up to the next are those of a Poisson process.

    Parameters
    ----------
    n_values : int
        How many numbers the ECDF is made of.
    coverage : float, default=0.95
        Probability that uniform numbers stay inside everywhere.
    n_points : int, default=100
        The points are i / (n_points + 1).

    Returns
    -------
    points : ndarray of shape (n_points,)
        The points.
    low, high : ndarray of shape (n_points,)
        The band.

    See Also
    --------
    uniformity_test : The test that belongs to it.

    References
    ----------
    .. [1] T. Säilynoja, P.-C. Bürkner and A. Vehtari, "Graphical test for discrete
       uniformity and its applications in goodness-of-fit evaluation and multiple
       sample comparison", Statistics and Computing 32, 2022.

    Examples
    --------
    >>> from skmdn.diagnostics import ecdf_band
    >>> points, low, high = ecdf_band(100, n_points=3)
    >>> points, low, high
    (array([0.25, 0.5 , 0.75]), array([0.15, 0.39, 0.65]), array([0.35, 0.61, 0.85]))
    """
    if not 0.0 < coverage < 1.0:
        raise ValueError(f"coverage must lie between 0 and 1, got {coverage!r}.")
    level = _level(n_values, n_points, round(1.0 - coverage, 12))
    points = _points(n_points)
    low, high = _bounds(n_values, points, level)
    return points, low / n_values, high / n_values


def uniformity_test(values, *, n_points=None):
    r"""Test whether numbers between 0 and 1 are uniform.

    .. math:: \gamma = 2 \min_i \min\bigl\{P(B_i \le R_i), P(B_i \ge R_i)\bigr\},
        \quad B_i \sim \mathrm{Binomial}(n, z_i)

    where :math:`R_i` counts the values below :math:`z_i = i / (\text{n\_points} + 1)`.

    Parameters
    ----------
    values : array-like of shape (n_values,) or (n_values, n_columns)
        Each column is tested by itself.
    n_points : int, default=None
        Number of points; None means as many as values, at most 200.

    Returns
    -------
    log_gamma : float or ndarray of shape (n_columns,)
        The logarithm of gamma over its 5 % quantile under uniformity: negative
        where the ECDF leaves the simultaneous 95 % band.
    p_value : float or ndarray of shape (n_columns,)
        Exact probability that uniform numbers have as small a gamma.

    See Also
    --------
    ecdf_band : The band.

    References
    ----------
    .. [1] M. Modrák et al., "Simulation-based calibration checking for Bayesian
       computation: the choice of test quantities shapes sensitivity", Bayesian
       Analysis 20(2), 2025.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.diagnostics import uniformity_test
    >>> u = (np.arange(100) + 0.5) / 100
    >>> log_gamma, p_value = uniformity_test(u)
    >>> log_gamma > 0, p_value > 0.9
    (True, True)
    >>> uniformity_test(u**2)[1] < 1e-3
    True
    """
    values = np.asarray(values, dtype=float)
    if values.ndim == 2:
        pairs = [uniformity_test(column, n_points=n_points) for column in values.T]
        return tuple(np.array(each) for each in zip(*pairs, strict=True))
    if not ((values >= 0.0) & (values <= 1.0)).all():
        raise ValueError("values must lie between 0 and 1.")
    n = len(values)
    n_points = min(n, _MAX_POINTS) if n_points is None else n_points
    points = _points(n_points)
    below = np.searchsorted(np.sort(values), points, side="left")
    tails = np.minimum(stats.binom.cdf(below, n, points), _upper(below, n, points))
    gamma = min(1.0, 2.0 * tails.min())
    # A share below keeps outcomes as unlikely as this one inside, rounding or not.
    p_value = 1.0 - _inside(n, points, *_bounds(n, points, gamma * (1 + 1e-9)))
    log_gamma = np.log(max(gamma, 1e-300)) - np.log(_level(n, n_points, 0.05))
    return float(log_gamma), float(np.clip(p_value, 0.0, 1.0))


def _points(n_points):
    if n_points < 1:
        raise ValueError(f"n_points must be at least 1, got {n_points!r}.")
    return np.arange(1, n_points + 1) / (n_points + 1)


def _upper(count, n, points):
    """Return P(B >= count)."""
    return stats.binom.sf(count - 1, n, points)


def _bounds(n, points, gamma):
    """Return the smallest and the largest count whose tail is at least gamma / 2."""
    low = stats.binom.ppf(0.5 * gamma, n, points).astype(int)
    low += stats.binom.cdf(low, n, points) < 0.5 * gamma
    high = stats.binom.isf(0.5 * gamma, n, points).astype(int)
    high += _upper(high + 1, n, points) >= 0.5 * gamma
    high -= _upper(high, n, points) < 0.5 * gamma
    # Where gamma underflows, so do the quantiles.
    return np.clip(low, 0, n), np.clip(high, 0, n)


def _inside(n, points, low, high):
    """Return the probability that the counts stay between bounds at all points."""
    if (low > high).any():
        return 0.0
    low, high = np.append(low, n), np.append(high, n)
    # The points are equally far apart: so many values come between two of them.
    more = stats.poisson.pmf(np.arange(n + 1), n * points[0])
    first, chances = 0, np.ones(1)
    for a, b in zip(low, high, strict=True):
        # Counts that were `first...` become a...b; both bounds never fall.
        reached = np.convolve(chances, more[: b - first + 1])
        first, chances = a, reached[a - first : b - first + 1]
    return float(chances[0] / stats.poisson.pmf(n, n))


@lru_cache(maxsize=64)
def _level(n, n_points, share):
    """Return the largest gamma whose band uniform numbers leave with this chance."""
    points = _points(n_points)
    low, high = share / n_points, share
    low = min(low, high / 2)
    while 1.0 - _inside(n, points, *_bounds(n, points, low)) > share:
        low /= 2.0
    for _ in range(30):
        middle = np.sqrt(low * high)
        outside = 1.0 - _inside(n, points, *_bounds(n, points, middle))
        low, high = (middle, high) if outside <= share else (low, middle)
    return low
