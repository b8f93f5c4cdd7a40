r"""Features that are what a regression says of bounded parameters, through the links.

.. math::
    f(x) = u\bigl(s(\hat\theta(x))\bigr), \qquad \hat\theta(x) = a + B z(x), \qquad
    s(\theta) = l + \epsilon \log\bigl(1 + e^{(\theta - l) / \epsilon}\bigr)

with a ridge regression of the parameters themselves on standardised data z, coordinates
u of the prior and, at an upper end h, the mirror image of s. Where data are a noisy
copy of a parameter with an interval as its prior, the posterior's place in coordinates
runs away towards the ends: a line in x cannot follow, this one does.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from skmdn.base import Standardizer
from skmdn.bridge import to_numpy, to_tensor
from skmdn.coordinates import Coordinates
from skmdn.predictive import row_chunks

from .simulated import DataScaler

__all__ = ["LinkedFeatures", "LinkedLine", "ridge", "scale_regression"]

# Rows that speak for slopes of 0.
_RIDGE = 1.0

# The line bends over this share of its residuals before an end of the support, and of
# an interval's length at most.
_SOFT = 0.2
_MOST_SOFT = 0.1

# It is worth its place if a regression of the coordinates leaves so much less over.
_GAIN = 0.995

# Of a regression of scales: steps of Fisher's method, each at most so long.
_MOST_STEPS = 30
_LONGEST_STEP = 1.0
_TOLERANCE = 1e-8
_LEAST_SPREAD = 1e-9

# Coordinates beyond are as far out as any.
_FARTHEST = 5.0


@dataclass(frozen=True)
class LinkedLine:
    """What a line says of some bounded parameters, in their coordinates.

    Parameters
    ----------
    intercept : ndarray of shape (n_parameters,)
        Of the line.
    slopes : ndarray of shape (n_features, n_parameters)
        Its coefficients.
    softness : ndarray of shape (n_parameters,)
        Over which distance from an end it bends.
    coordinates : Coordinates
        Of the prior.
    shown : ndarray of shape (n_shown,)
        Which parameters it is asked about.
    """

    intercept: np.ndarray
    slopes: np.ndarray
    softness: np.ndarray
    coordinates: Coordinates
    shown: np.ndarray

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """Return coordinates for rows of standardised data."""
        theta = self.intercept + z @ self.slopes
        low, high = to_numpy(self.coordinates.low), to_numpy(self.coordinates.high)
        below, above = np.isfinite(low), np.isfinite(high)
        theta[:, below] = low[below] + self._bent(theta - low, below)
        theta[:, above] = high[above] - self._bent(high - theta, above)
        inner = np.clip(theta, np.nextafter(low, high), np.nextafter(high, low))
        u = to_numpy(self.coordinates.inverse(to_tensor(inner)))
        return np.clip(u[:, self.shown], -_FARTHEST, _FARTHEST)

    def _bent(self, distance: np.ndarray, where: np.ndarray) -> np.ndarray:
        """Return distances from an end that are positive."""
        soft = self.softness[where]
        return soft * np.logaddexp(0.0, distance[:, where] / soft)


@dataclass(frozen=True)
class LinkedFeatures:
    """Standardised data, and beside them what a linked line says where that helps.

    Parameters
    ----------
    data : DataScaler
        Standardises the data.
    line : LinkedLine or None
        The line, if it tells more than the data do.
    moments : Standardizer or None
        Of what it says.
    """

    data: DataScaler
    line: LinkedLine | None = None
    moments: Standardizer | None = None

    @classmethod
    def fit(
        cls,
        values: Any,
        theta: np.ndarray,
        u: np.ndarray,
        weights: np.ndarray,
        coordinates: Coordinates,
    ) -> "LinkedFeatures":
        """Measure data, and judge a line by how well coordinates u regress on it."""
        plain = cls(DataScaler.fit(values, weights))
        bounded = np.flatnonzero(to_numpy(coordinates.bounded))
        if not len(bounded):
            return plain
        intercept, slopes, residual = ridge(plain.transform, values, theta, weights)
        length = to_numpy(coordinates.high - coordinates.low)
        softness = np.minimum(_SOFT * residual, _MOST_SOFT * length)
        line = LinkedLine(intercept, slopes, softness, coordinates, bounded)
        linked = plain._beside(line, values, weights)
        gains = linked._spread(values, u, weights) < _GAIN * plain._spread(
            values, u, weights
        )
        shown = bounded[gains[bounded]]
        if not len(shown):
            return plain
        return plain._beside(replace(line, shown=shown), values, weights)

    def _beside(
        self, line: LinkedLine, values: Any, weights: np.ndarray
    ) -> "LinkedFeatures":
        """Return the same data with a line beside them."""
        parts = row_chunks(len(weights))
        said = [line(self.data.transform(values[part])) for part in parts]
        moments = Standardizer.fit(np.concatenate(said), weights)
        return replace(self, line=line, moments=moments)

    def _spread(self, values: Any, u: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return what a regression on these features leaves over, per free row."""
        _, _, residual = ridge(self.transform, values, u, weights)
        n_free = max(1, len(u) - 1 - self.n_features)
        return np.asarray(residual / math.sqrt(n_free))

    @property
    def plain(self) -> "LinkedFeatures":
        """The same without a line; these features come first."""
        return LinkedFeatures(self.data)

    @property
    def n_features(self) -> int:
        """How many there are."""
        more = 0 if self.line is None else len(self.line.shown)
        return len(self.data.units) + more

    def transform(self, values: np.ndarray) -> np.ndarray:
        """Return the features of rows of data."""
        z = self.data.transform(values)
        if self.line is None or self.moments is None:
            return z
        return np.concatenate([z, self.moments.transform(self.line(z))], axis=1)


def ridge(
    transform: Callable[[np.ndarray], np.ndarray],
    values: Any,
    targets: np.ndarray,
    weights: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return intercept, slopes and residual deviations of a ridge regression.

    Parameters
    ----------
    transform : callable
        From data to centred features.
    values : ndarray of shape (n_samples, ...)
        The data, taken in parts.
    targets : ndarray of shape (n_samples, n_targets)
        What is regressed on the features.
    weights : ndarray of shape (n_samples,)
        Weights of the rows.

    Returns
    -------
    intercept : ndarray of shape (n_targets,)
    slopes : ndarray of shape (n_features, n_targets)
    residual : ndarray of shape (n_targets,)
    """
    share = weights / weights.sum()
    mean = share @ targets
    gram, cross = 0.0, 0.0
    for part in row_chunks(len(targets)):
        x = transform(values[part])
        weighted = x.T * share[part]
        gram = gram + weighted @ x
        cross = cross + weighted @ (targets[part] - mean)
    count = max(float(weights.sum()), float(len(weights)))
    gram = gram + _RIDGE / count * np.eye(len(gram))
    slopes = np.linalg.solve(gram, cross)
    square = np.zeros(targets.shape[1])
    for part in row_chunks(len(targets)):
        rest = targets[part] - mean - transform(values[part]) @ slopes
        square += share[part] @ rest**2
    return mean, slopes, np.sqrt(np.maximum(square, 1e-12))


def scale_regression(
    feature: np.ndarray, residuals: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    r"""Return how the standard deviations of residuals change with a feature.

    .. math:: r_{ij} \sim \mathcal{N}\bigl(0, e^{2 (a_j + b_j f_i)}\bigr)

    Parameters
    ----------
    feature : ndarray of shape (n_samples,)
        The numbers f.
    residuals : ndarray of shape (n_samples, n_targets)
        The numbers r.
    weights : ndarray of shape (n_samples,)
        Weights of the rows.

    Returns
    -------
    level, change : ndarray of shape (n_targets,)
        The most likely a and b.
    """
    share = weights / weights.sum()
    middle = share @ feature
    spread = math.sqrt(share @ (feature - middle) ** 2)
    # A feature that is constant but for rounding tells nothing.
    spread = spread if spread > _LEAST_SPREAD else math.inf
    design = np.stack([np.ones(len(feature)), (feature - middle) / spread])
    squares = residuals**2
    start = 0.5 * np.log(np.maximum(share @ squares, 1e-24))
    found = np.stack([start, np.zeros_like(start)])
    for _ in range(_MOST_STEPS):
        excess = squares * np.exp(-2.0 * design.T @ found) - 1.0
        # The information of both numbers is twice the number of rows.
        step = 0.5 * (design * share) @ excess
        found += np.clip(step, -_LONGEST_STEP, _LONGEST_STEP)
        if np.abs(step).max() < _TOLERANCE:
            break
    change = found[1] / spread
    return found[0] - middle * change, change
