"""The predictive distribution a user holds: numpy in, numpy out, exact queries."""

import operator
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .bridge import gaussian_mixture, generator_from, to_tensor
from .mixture import Mixture
from .queries.entropy import sampled_entropy
from .rowwise import (
    PER_COMPONENT,
    RowwiseMixture,
    checked_coverage,
    checked_levels,
    explained,
    frozen,
)

__all__ = ["PredictiveDistribution"]


class PredictiveDistribution(RowwiseMixture):
    r"""A mixture for every row, in the units of the target.

    .. math:: p(y \mid x_i) = \sum_{k=1}^K w_{ik} \, f_k(y \mid \theta_{ik})

    This is what ``predict_distribution`` returns: an immutable sequence of
    distributions. ``len(dist)`` is the number of rows, ``dist[i]`` the distribution
    of one row and ``dist[a:b]`` or ``dist[mask]`` those of some.

    Parameters
    ----------
    mixture : Mixture
        Batch shape ``(n_samples,)``, float64, on the CPU.
    univariate : bool
        Whether the target was one-dimensional; then no array has an axis for the
        outputs.
    single : bool, default=False
        Whether the only row stands for itself; then no array has an axis for rows.
    layout : Composition, optional
        The order and the names of the components of each network.

    Notes
    -----
    *Points* have the shape of the target: one per row, ``(n_samples,)`` or
    ``(n_samples, n_outputs)``; or several per row, ``(n_samples, n_draws)`` or
    ``(n_samples, n_draws, n_outputs)``, as :meth:`sample` returns them, where a
    leading axis of length 1 stands for all rows. A scalar (with several outputs a
    single point ``(n_outputs,)``) is used for every row. The distribution of a
    single row takes points in any arrangement.

    With several outputs :meth:`log_prob`, :meth:`pdf`, :meth:`responsibilities`,
    :meth:`mode`, :meth:`entropy`, :meth:`cov` and :meth:`sample` describe the joint
    distribution; :meth:`cdf`, :meth:`sf`, :meth:`ppf`, :meth:`interval`,
    :meth:`crps` and :meth:`pit` describe each output by itself.

    Examples
    --------
    >>> from skmdn.distribution import PredictiveDistribution
    >>> dist = PredictiveDistribution.from_params(
    ...     weights=[[0.5, 0.5]], means=[[-2.0, 2.0]], stds=[[1.0, 1.0]])
    >>> dist.mean(), dist.std().round(3)
    (array([0.]), array([2.236]))
    >>> dist.ppf([0.1, 0.9]).round(3)
    array([[-2.842,  2.842]])
    """

    @classmethod
    def from_params(
        cls,
        weights: ArrayLike,
        means: ArrayLike,
        stds: ArrayLike | None = None,
        covariances: ArrayLike | None = None,
    ) -> "PredictiveDistribution":
        """Make Gaussian mixtures from arrays.

        Parameters
        ----------
        weights : array-like of shape (n_samples, n_components)
            Rows sum to 1.
        means : array-like of shape (n_samples, n_components[, n_outputs])
            Without the last axis the target is one-dimensional.
        stds : array-like, shaped like means, optional
            Standard deviations of independent outputs.
        covariances : array-like of shape \
                (n_samples, n_components, n_outputs, n_outputs), optional
            Instead of ``stds``.

        Returns
        -------
        dist : PredictiveDistribution
            The distributions.
        """
        mixture = gaussian_mixture(weights, means, stds, covariances)
        return cls(mixture, univariate=np.ndim(means) == 2)

    def __getitem__(self, index: Any) -> "PredictiveDistribution":
        """Return the distribution of a row, or those of a slice, list or mask."""
        if self.single:
            raise TypeError("The distribution of a single row cannot be indexed.")
        rows = np.arange(len(self))[index]
        if rows.ndim > 1:
            raise IndexError("Only rows can be indexed; see marginal for outputs.")
        chosen = self.mixture[to_tensor(np.atleast_1d(rows), dtype=torch.long)]
        return PredictiveDistribution(
            chosen, self.univariate, rows.ndim == 0, self.layout
        )

    def __repr__(self) -> str:
        size = "" if self.single else f"n_samples={len(self)}, "
        names = f", names={list(self.names)}" if self.names else ""
        return (
            f"{type(self).__name__}({size}n_outputs={self.n_outputs}, "
            f"n_components={self.n_components}{names})"
        )

    # Parameters.

    @property
    def weights(self) -> np.ndarray:
        """Mixture weights, ``(n_samples, n_components)``."""
        return frozen(self._rows(self._components(self.mixture.weights)))

    @property
    def means(self) -> np.ndarray:
        """Component means, ``(n_samples, n_components[, n_outputs])``."""
        return frozen(self._rows(self._components(self.mixture.component_means()), 1))

    @property
    def stds(self) -> np.ndarray:
        """Component standard deviations, shaped like the means."""
        return frozen(self._rows(self._components(self.mixture.component_stds()), 1))

    @property
    def covariances(self) -> np.ndarray:
        """Component covariances, ``(n_samples, n_components[, d, d])``, d outputs."""
        covariances = self._components(self.mixture.component_covariances())
        return frozen(self._rows(covariances, 2))

    # Moments.

    def mean(self) -> np.ndarray:
        """Return the mean.

        Returns
        -------
        mean : ndarray of shape (n_samples[, n_outputs])
            In the units of the target.
        """
        return self._rows(self.mixture.mean(), 1)

    def var(self) -> np.ndarray:
        """Return the variance of every output.

        Returns
        -------
        var : ndarray of shape (n_samples[, n_outputs])
            In squared units of the target.
        """
        return self._rows(self.mixture.variance(), 1)

    def std(self) -> np.ndarray:
        """Return the standard deviation of every output.

        Returns
        -------
        std : ndarray of shape (n_samples[, n_outputs])
            In the units of the target.
        """
        return self._rows(self.mixture.variance().sqrt(), 1)

    def cov(self) -> np.ndarray:
        """Return the covariance of the outputs.

        Returns
        -------
        cov : ndarray of shape (n_samples[, n_outputs, n_outputs])
            The variance, if the target is one-dimensional.
        """
        return self._rows(self.mixture.covariance(), 2)

    def mode(self) -> np.ndarray:
        """Return the point of highest density, or the likeliest of discrete points.

        Returns
        -------
        mode : ndarray of shape (n_samples[, n_outputs])
            Found by :func:`skmdn.queries.modes.highest_mode`; an end of the support
            where the density grows without bound.

        Raises
        ------
        ValueError
            If there are points with a probability beside a density.
        """
        each = self.n_components if self.mixture.gaussian else PER_COMPONENT
        cost = self.n_components * each * self.n_outputs
        return self._rows(self._by_rows(lambda part: part.mode(), cost), 1)

    # Densities.

    def log_prob(self, y: ArrayLike) -> np.ndarray:
        """Return the log density at points, in nats.

        It is finite as far out as the square of the distance is.

        Parameters
        ----------
        y : array-like
            Points; see the class's notes for their shapes.

        Returns
        -------
        log_prob : ndarray
            One number per point.
        """

        def log_prob(mixture: Mixture, points: Tensor) -> Tensor:
            infinite = points.isinf()
            finite = mixture.log_prob(points.masked_fill(infinite, 0.0))
            return finite.masked_fill(infinite.any(-1), -torch.inf)

        return self._at_points(log_prob, y, 0)

    def pdf(self, y: ArrayLike) -> np.ndarray:
        """Return the density at points.

        Parameters
        ----------
        y : array-like
            Points; see the class's notes for their shapes.

        Returns
        -------
        pdf : ndarray
            One number per point, 0 where it underflows.
        """
        return np.exp(self.log_prob(y))

    def responsibilities(self, y: ArrayLike) -> np.ndarray:
        """Return p(component | y).

        Parameters
        ----------
        y : array-like
            Points; see the class's notes for their shapes.

        Returns
        -------
        responsibilities : ndarray of shape (..., n_components)
            One row per point, which sums to 1.

        Raises
        ------
        ValueError
            If a point is so far out that the density of every component is 0.
        """

        def in_order(mixture: Mixture, points: Tensor) -> Tensor:
            return self._components(explained(mixture, points), -1)

        return self._at_points(in_order, y, 0)

    # Distribution functions, each output by itself.

    def cdf(self, y: ArrayLike) -> np.ndarray:
        """Return P(Y <= y) for every output by itself.

        Parameters
        ----------
        y : array-like
            Points; see the class's notes for their shapes.

        Returns
        -------
        cdf : ndarray
            Shaped like the points; small values keep their digits.
        """
        return self._at_points(Mixture.cdf, y, 1)

    def sf(self, y: ArrayLike) -> np.ndarray:
        """Return P(Y > y) for every output by itself.

        Parameters
        ----------
        y : array-like
            Points; see the class's notes for their shapes.

        Returns
        -------
        sf : ndarray
            Shaped like the points; small values keep their digits.
        """
        return self._at_points(Mixture.sf, y, 1)

    def pit(self, y: ArrayLike) -> np.ndarray:
        """Return the probability integral transform F(y).

        Parameters
        ----------
        y : array-like
            Points; see the class's notes for their shapes.

        Returns
        -------
        pit : ndarray
            Shaped like the points; uniform if the model is calibrated.
        """
        return self.cdf(y)

    def ppf(self, q: ArrayLike) -> np.ndarray:
        """Return exact quantiles.

        Parameters
        ----------
        q : float or array-like of shape (n_quantiles,)
            Levels in (0, 1).

        Returns
        -------
        quantiles : ndarray of shape (n_samples[, n_quantiles][, n_outputs])
            The axis of levels is there if ``q`` has one.

        Raises
        ------
        ValueError
            If a level lies outside (0, 1).
        """
        levels = checked_levels(q)
        level = to_tensor(levels.reshape(-1))
        per_level = 1 if self.mixture.gaussian else self.n_components
        cost = self.n_outputs * max(1, len(level)) * per_level
        quantiles = self._by_rows(lambda part: part.ppf(level), cost)
        return self._rows(quantiles if levels.ndim else quantiles[:, 0], 1)

    def interval(self, coverage: float = 0.9) -> np.ndarray:
        """Return the central interval of a coverage.

        Parameters
        ----------
        coverage : float, default=0.9
            Probability inside, in (0, 1); the rest is split evenly.

        Returns
        -------
        interval : ndarray of shape (n_samples, 2[, n_outputs])
            Lower and upper ends.
        """
        coverage = checked_coverage(coverage)
        return self.ppf([0.5 - 0.5 * coverage, 0.5 + 0.5 * coverage])

    def crps(self, y: ArrayLike) -> np.ndarray:
        """Return the continuous ranked probability score of every output.

        Parameters
        ----------
        y : array-like
            Points; see the class's notes for their shapes.

        Returns
        -------
        crps : ndarray
            Shaped like the points, in the units of the target; lower is better.
        """
        per_point = 1 if self.mixture.gaussian else PER_COMPONENT
        return self._at_points(Mixture.crps, y, 1, per_point)

    # The whole distribution.

    def sample(
        self,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = None,
    ) -> np.ndarray:
        """Draw from every row's distribution.

        Parameters
        ----------
        n_samples : int, default=1
            Number of draws per row.
        random_state : int, RandomState instance or None, default=None
            A seed gives the same draws every time, None fresh ones.

        Returns
        -------
        draws : ndarray of shape (n_samples of X, n_samples[, n_outputs])
            Row by row.
        """
        if operator.index(n_samples) < 1:
            raise ValueError(f"n_samples must be at least 1, got {n_samples}.")
        generator = generator_from(random_state)
        # Draws of plain mixtures take care of their memory themselves.
        cost = 0 if self.mixture.is_plain() else n_samples * self.n_outputs
        draws = self._by_rows(lambda part: part.sample(n_samples, generator), cost)
        return self._rows(draws, 1)

    def entropy(
        self,
        n_samples: int = 10_000,
        random_state: int | np.random.RandomState | None = 0,
    ) -> np.ndarray:
        """Return the entropy in nats: how much is left open.

        For one output it comes from quadrature and sums and is exact: the differential
        entropy of a density, the entropy of probabilities, and the sum of both where
        there are points with a probability beside a density. With several outputs it is
        the average of ``-log_prob`` over draws; its standard error is their standard
        deviation over the root of their number. Where a density is infinite at an end
        other than 0, the spacing of numbers there limits it.

        Parameters
        ----------
        n_samples : int, default=10000
            Number of draws per row, with several outputs.
        random_state : int, RandomState instance or None, default=0
            The seed of those draws.

        Returns
        -------
        entropy : ndarray of shape (n_samples of X,)
            One number per row.
        """
        if self.n_outputs == 1:
            cost = PER_COMPONENT * self.n_components
            return self._rows(self._by_rows(Mixture.entropy, cost))
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1, got {n_samples}.")
        query = partial(
            sampled_entropy, n_draws=n_samples, generator=generator_from(random_state)
        )
        cost = n_samples * self.n_components * self.n_outputs
        return self._rows(self._by_rows(query, cost))

    def marginal(self, outputs: int | Sequence[int]) -> "PredictiveDistribution":
        """Return the distribution of some outputs; of one if given as an integer.

        Parameters
        ----------
        outputs : int or sequence of int
            Which outputs, in the order wanted.

        Returns
        -------
        dist : PredictiveDistribution
            An integer gives a one-dimensional target.
        """
        chosen = self._outputs(outputs)
        univariate = isinstance(outputs, int | np.integer)
        return PredictiveDistribution(
            self.mixture.marginal(chosen), univariate, self.single, self.layout
        )

    def condition(
        self, outputs: int | Sequence[int], values: ArrayLike
    ) -> "PredictiveDistribution":
        """Return the distribution of the other outputs once some are known.

        Parameters
        ----------
        outputs : int or sequence of int
            The outputs that are known.
        values : array-like of shape (n_samples,) or (n_samples, len(outputs))
            What they are, per row; a scalar or a single row stands for all.

        Returns
        -------
        dist : PredictiveDistribution
            Of the remaining outputs, with the weights updated. It keeps an axis
            for the outputs even if one is left; ``marginal(0)`` drops it.

        Raises
        ------
        ValueError
            If outputs or values do not fit, or the values are so far out that no
            component explains them.
        """
        chosen = self._outputs(outputs)
        if len(chosen) == self.n_outputs:
            raise ValueError("At least one output must stay unknown.")
        fixed = self._known(values, len(chosen))
        explained(self.mixture.marginal(chosen), fixed)
        return PredictiveDistribution(
            self.mixture.condition(chosen, fixed), False, self.single, self.layout
        )
