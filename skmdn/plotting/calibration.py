"""Whether the spread of predictive distributions can be believed."""

import numpy as np
from scipy import stats

from skmdn.metrics import predict_distribution

from .common import pyplot

__all__ = ["PredictiveCalibrationDisplay"]


class PredictiveCalibrationDisplay:
    """Histogram of the probability integral transform, and coverage of intervals.

    A calibrated model has a flat histogram, and its central intervals cover what
    they promise: the curve lies on the diagonal. The grey bands hold 95 % of what
    a calibrated model would show on as many rows, bin by bin and level by level.

    Parameters
    ----------
    pit : ndarray of shape (n_samples,)
        F(y) for each row.
    n_bins : int, default=20
        Number of bins of the histogram.

    Attributes
    ----------
    axes_ : ndarray of two matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of the axes.

    See Also
    --------
    PredictiveDensityDisplay : The distribution itself.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.plotting import PredictiveCalibrationDisplay
    >>> display = PredictiveCalibrationDisplay(np.linspace(0.01, 0.99, 99))
    >>> nominal, observed = display.coverage_curve()
    >>> bool(np.abs(nominal - observed).max() < 0.05)
    True
    """

    def __init__(self, pit, *, n_bins=20):
        self.pit = pit
        self.n_bins = n_bins

    @classmethod
    def from_estimator(cls, estimator, X, y, *, n_bins=20, axes=None):
        """Compute and draw for a fitted estimator and held-out data.

        Parameters
        ----------
        estimator : estimator
            A fitted estimator, pipeline or search that predicts distributions.
        X : array-like of shape (n_samples, n_features)
            Features of rows that were not trained on.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets; several outputs are pooled.
        n_bins : int, default=20
            Number of bins of the histogram.
        axes : sequence of two matplotlib Axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        display : PredictiveCalibrationDisplay
            The display, drawn.
        """
        if axes is None:
            pyplot(cls)
        dist = predict_distribution(estimator, X)
        return cls.from_predictions(dist, y, n_bins=n_bins, axes=axes)

    @classmethod
    def from_predictions(cls, dist, y, *, n_bins=20, axes=None):
        """Compute and draw for predictive distributions.

        Parameters
        ----------
        dist : PredictiveDistribution
            The predictions.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            What was observed.
        n_bins : int, default=20
            Number of bins of the histogram.
        axes : sequence of two matplotlib Axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        display : PredictiveCalibrationDisplay
            The display, drawn.
        """
        pit = np.ravel(dist.pit(np.asarray(y, dtype=float)))
        return cls(pit, n_bins=n_bins).plot(axes)

    def coverage_curve(self):
        """Return nominal and observed coverage of the central intervals.

        Returns
        -------
        nominal, observed : ndarray of shape (n_levels,)
            Levels and the share of rows inside.
        """
        nominal = np.linspace(0.0, 1.0, 101)
        needed = np.sort(2.0 * np.abs(self.pit - 0.5))
        return nominal, np.searchsorted(needed, nominal, side="right") / len(needed)

    def plot(self, axes=None):
        """Draw both panels.

        Parameters
        ----------
        axes : sequence of two matplotlib Axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        display : PredictiveCalibrationDisplay
            The display.
        """
        if axes is None:
            _, axes = pyplot(type(self)).subplots(
                1, 2, figsize=(8, 3.6), layout="constrained"
            )
        histogram, curve = axes
        self.axes_ = np.asarray(axes)
        self.figure_ = histogram.figure
        n = len(self.pit)
        low, high = stats.binom.interval(0.95, n, 1.0 / self.n_bins)
        scale = self.n_bins / n
        band = {"color": "0.85", "linewidth": 0}
        histogram.axhspan(low * scale, high * scale, **band)
        edges = np.linspace(0.0, 1.0, self.n_bins + 1)
        bars = {"facecolor": "#c6dcef", "edgecolor": "C0"}
        histogram.hist(self.pit, edges, density=True, **bars)
        for end in (low, high):
            histogram.axhline(end * scale, color="0.5", linewidth=0.8, linestyle=":")
        histogram.axhline(1.0, color="black", linewidth=0.8)
        histogram.set(xlabel="PIT  F(y)", ylabel="density", xlim=(0, 1))
        nominal, observed = self.coverage_curve()
        low, high = stats.binom.interval(0.95, n, nominal)
        curve.fill_between(nominal, low / n, high / n, **band)
        curve.plot([0, 1], [0, 1], color="black", linewidth=0.8)
        curve.plot(nominal, observed, color="C0")
        curve.set(
            xlabel="nominal coverage",
            ylabel="observed coverage",
            xlim=(0, 1),
            ylim=(0, 1),
        )
        return self
