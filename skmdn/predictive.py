"""What all regressors with a predictive distribution answer in the same way."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state

from ._sklearn import _check_sample_weight
from .distribution import PredictiveDistribution

__all__ = ["PredictiveQueries", "row_chunks"]

# Rows that a query answers together.
_CHUNK_ROWS = 2**14


class PredictiveQueries:
    """Queries of an estimator that knows the distribution of every row.

    A subclass has a parameter ``random_state`` and the methods below that are not
    written out.
    """

    random_state: Any

    def _checked_X(self, X: ArrayLike) -> np.ndarray:
        """Return features that the fitted estimator can use."""
        raise NotImplementedError

    def _distribution(self, X: np.ndarray) -> PredictiveDistribution:
        """Return the distribution of every row."""
        raise NotImplementedError

    def log_prob(self, X: ArrayLike, y: ArrayLike, **ends: ArrayLike) -> np.ndarray:
        """Return the log-likelihood of every row."""
        raise NotImplementedError

    def predict(self, X, return_std=False):
        """Return the conditional mean.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        return_std : bool, default=False
            Whether to return the conditional standard deviation as well.

        Returns
        -------
        mean : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            In the form of the y of fit.
        std : ndarray, shaped like mean
            Only if ``return_std``.
        """
        if return_std:
            both = self._query(X, lambda dist: np.stack([dist.mean(), dist.std()], 1))
            return both[:, 0], both[:, 1]
        return self._query(X, lambda dist: dist.mean())

    def predict_quantiles(self, X, quantiles=(0.05, 0.5, 0.95)):
        """Return exact conditional quantiles, which never cross.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        quantiles : array-like of shape (n_quantiles,), default=(0.05, 0.5, 0.95)
            Levels in (0, 1).

        Returns
        -------
        quantiles : ndarray of shape (n_samples, n_quantiles[, n_outputs])
            With several outputs, of each by itself.
        """
        levels = np.atleast_1d(quantiles)
        return self._query(X, lambda dist: dist.ppf(levels))

    def predict_interval(self, X, coverage=0.9):
        """Return the central prediction interval.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        coverage : float, default=0.9
            Probability inside.

        Returns
        -------
        interval : ndarray of shape (n_samples, 2[, n_outputs])
            Lower and upper ends.
        """
        return self._query(X, lambda dist: dist.interval(coverage))

    def sample(self, X, n_samples=1, random_state=None):
        """Draw targets from the conditional distribution.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        n_samples : int, default=1
            Number of draws per row.
        random_state : int, RandomState instance or None, default=None
            The seed of the draws; None uses the estimator's ``random_state``.

        Returns
        -------
        draws : ndarray of shape (n_samples of X, n_samples[, n_outputs])
            Row by row.
        """
        rng = self._draws_from(random_state)
        return self._query(X, lambda dist: dist.sample(n_samples, rng))

    def score(self, X, y, sample_weight=None, *, y_upper=None):
        """Return the mean of ``log_prob`` in nats per row; higher is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights.
        y_upper : array-like, shaped like y, default=None
            Upper ends, where targets are intervals.

        Returns
        -------
        score : float
            For the coefficient of determination use ``scoring="r2"``.
        """
        ends = {} if y_upper is None else {"y_upper": y_upper}
        log_prob = self.log_prob(X, y, **ends)
        weights = _check_sample_weight(
            sample_weight, log_prob, dtype=np.float64, ensure_non_negative=True
        )
        return float(np.average(log_prob, weights=weights))

    def _query(
        self, X: ArrayLike, query: Callable[[PredictiveDistribution], np.ndarray]
    ) -> np.ndarray:
        """Query the distribution of some rows at a time: memory stays bounded."""
        X = self._checked_X(X)
        parts = [query(self._distribution(X[rows])) for rows in row_chunks(len(X))]
        return np.concatenate(parts)

    def _draws_from(self, random_state: Any) -> np.random.RandomState:
        """Return the generator of a query: its own seed, or the estimator's."""
        if random_state is None:
            random_state = self.random_state
        return check_random_state(random_state)


def row_chunks(n_rows: int, n_together: int | None = None) -> list[slice]:
    """Return slices of rows that are answered together."""
    n_together = n_together or _CHUNK_ROWS
    return [slice(a, a + n_together) for a in range(0, n_rows, n_together)]
