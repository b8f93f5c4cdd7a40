"""Pictures of a calibration report."""

import numpy as np
from scipy import stats

from skmdn.base import import_extra

from .uniformity import ecdf_band

__all__ = [
    "ContractionDisplay",
    "CoverageDisplay",
    "MisspecificationDisplay",
    "PredictiveCheckDisplay",
    "RankEcdfDisplay",
    "RankHistogramDisplay",
    "RecoveryDisplay",
    "draw_report",
]

_BAND = {"color": "0.85", "linewidth": 0}


class _PanelDisplay:
    """A picture of some panels in a row."""

    def plot(self, axes=None):
        """Draw.

        Parameters
        ----------
        axes : sequence of matplotlib Axes, default=None
            Where to draw, one for each panel; a new figure by default.

        Returns
        -------
        display : Display
            The display.
        """
        titles = self._titles()
        n_panels = len(titles)
        if axes is None:
            _, axes = _pyplot(type(self).__name__).subplots(
                1,
                n_panels,
                figsize=(3.2 * n_panels, 3.0),
                squeeze=False,
                layout="constrained",
            )
        self.axes_ = np.ravel(axes)
        if len(self.axes_) != n_panels:
            raise ValueError(f"{len(self.axes_)} axes for {n_panels} panels.")
        self.figure_ = self.axes_[0].figure
        for j, ax in enumerate(self.axes_):
            self._draw(ax, j)
            ax.set_title(titles[j], fontsize="medium")
        return self


class _ReportDisplay(_PanelDisplay):
    """A picture of each parameter of a report.

    Parameters
    ----------
    report : CalibrationReport
        What is shown.
    """

    def __init__(self, report):
        self.report = report

    @classmethod
    def from_estimator(cls, estimator, simulator, *, axes=None, **settings):
        """Compute by :func:`sbc` and draw.

        Parameters
        ----------
        estimator : object
            As :func:`sbc` takes it.
        simulator : Simulator or tuple of arrays
            As :func:`sbc` takes it.
        axes : sequence of matplotlib Axes, default=None
            Where to draw, one for each parameter; a new figure by default.
        **settings : dict
            Further arguments of :func:`sbc`.

        Returns
        -------
        display : Display
            The display, drawn.
        """
        # The report draws itself by the displays, so it is imported late.
        from .report import sbc

        return cls(sbc(estimator, simulator, **settings)).plot(axes)

    def _titles(self):
        return self.report.names


class RankHistogramDisplay(_ReportDisplay):
    """Histogram of the ranks, with what 99 % of uniform ranks would show in a bin.

    A hill means posteriors that are too wide, a valley too narrow ones, a slope a
    bias.

    Parameters
    ----------
    report : CalibrationReport
        What is shown.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of the axes.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.diagnostics import RankHistogramDisplay, calibration_report
    >>> rng = np.random.default_rng(0)
    >>> report = calibration_report(rng.normal(size=(99, 50)), rng.normal(size=99))
    >>> len(RankHistogramDisplay(report).plot().axes_)
    1
    """

    def _draw(self, ax, j):
        n, n_bins = len(self.report.pit), 20
        low, high = stats.binom.interval(0.99, n, 1.0 / n_bins)
        ax.axhspan(low, high, **_BAND)
        edges = np.linspace(0.0, 1.0, n_bins + 1)
        ax.hist(self.report.pit[:, j], edges, facecolor="#c6dcef", edgecolor="C0")
        ax.axhline(n / n_bins, color="black", linewidth=0.8)
        ax.set(xlabel="rank / number of draws", ylabel="simulations", xlim=(0, 1))


class RankEcdfDisplay(_ReportDisplay):
    """ECDF of the ranks less the diagonal, inside its simultaneous 95 % band.

    Parameters
    ----------
    report : CalibrationReport
        What is shown.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of the axes.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.diagnostics import RankEcdfDisplay, calibration_report
    >>> rng = np.random.default_rng(0)
    >>> report = calibration_report(rng.normal(size=(99, 50)), rng.normal(size=99))
    >>> len(RankEcdfDisplay(report).plot().axes_)
    1
    """

    def _draw(self, ax, j):
        _draw_ecdf(ax, self.report.pit[:, j])
        ax.set(xlabel="rank / number of draws", ylabel="ECDF - diagonal")


class CoverageDisplay(_ReportDisplay):
    """Observed less nominal coverage of central intervals, with its 95 % band.

    Above zero the intervals cover too much: the posterior is too wide.

    Parameters
    ----------
    report : CalibrationReport
        What is shown.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of the axes.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.diagnostics import CoverageDisplay, calibration_report
    >>> rng = np.random.default_rng(0)
    >>> report = calibration_report(rng.normal(size=(99, 50)), rng.normal(size=99))
    >>> len(CoverageDisplay(report).plot().axes_)
    1
    """

    def _draw(self, ax, j):
        _draw_ecdf(ax, self.report.coverage_values[:, j])
        ax.set(xlabel="nominal coverage", ylabel="observed - nominal")


class RecoveryDisplay(_ReportDisplay):
    """Posterior mean and standard deviation against the truth.

    Parameters
    ----------
    report : CalibrationReport
        What is shown.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of the axes.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.diagnostics import RecoveryDisplay, calibration_report
    >>> rng = np.random.default_rng(0)
    >>> report = calibration_report(rng.normal(size=(99, 50)), rng.normal(size=99))
    >>> len(RecoveryDisplay(report).plot().axes_)
    1
    """

    def _draw(self, ax, j):
        truth = self.report.theta[:, j]
        mean, std = self.report.posterior_mean[:, j], self.report.posterior_std[:, j]
        ax.errorbar(truth, mean, std, fmt=".", markersize=4, elinewidth=0.5, alpha=0.6)
        ends = [truth.min(), truth.max()]
        ax.plot(ends, ends, color="black", linewidth=0.8)
        ax.set(xlabel="truth", ylabel="posterior mean")
        correlation = self.report.recovery[j]
        ax.annotate(f"r = {correlation:.2f}", (0.05, 0.9), xycoords="axes fraction")


class ContractionDisplay(_ReportDisplay):
    """Posterior z-score against contraction, a point for each simulation.

    Good posteriors lie on the right, around zero. Quantities that are no parameters
    have no contraction and stay empty.

    Parameters
    ----------
    report : CalibrationReport
        What is shown.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of the axes.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.diagnostics import ContractionDisplay, calibration_report
    >>> rng = np.random.default_rng(0)
    >>> report = calibration_report(rng.normal(size=(99, 50)), rng.normal(size=99))
    >>> len(ContractionDisplay(report).plot().axes_)
    1
    """

    def _draw(self, ax, j):
        x, y = self.report.contraction[:, j], self.report.z_scores[:, j]
        if np.isnan(x).all():
            ax.set_axis_off()
        ax.scatter(x, y, s=8, alpha=0.6, linewidths=0)
        ax.axhline(0.0, color="black", linewidth=0.8)
        ax.set(xlabel="contraction", ylabel="z-score")


class _NullDisplay(_PanelDisplay):
    """Histograms of what was expected, and lines where it was observed.

    Parameters
    ----------
    result : object
        What is shown.
    """

    def __init__(self, result):
        self.result = result

    def _titles(self):
        return [f"p = {p_value:.3f}" for *_, p_value in self._panels()]

    def _draw(self, ax, j):
        label, observed, expected, _ = self._panels()[j]
        ax.hist(expected, 30, facecolor="#c6dcef", edgecolor="C0")
        ax.axvline(observed, color="black")
        ax.set(xlabel=label, ylabel="simulations")


class PredictiveCheckDisplay(_NullDisplay):
    """Statistics of data simulated from a posterior, and those of the observed data.

    Parameters
    ----------
    result : PredictiveCheck
        What :func:`predictive_check` returns.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
        Where it was drawn, one for each statistic.
    figure_ : matplotlib Figure
        The figure of the axes.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.diagnostics import PredictiveCheckDisplay, predictive_check
    >>> replicated = np.random.default_rng(0).normal(size=(500, 20))
    >>> check = predictive_check(np.full(20, 3.0), replicated, random_state=0)
    >>> len(PredictiveCheckDisplay(check).plot().axes_)
    4
    """

    def _panels(self):
        check = self.result
        return [
            (name, value, check.replicated[name], check.p_values[name])
            for name, value in check.observed.items()
        ]


class MisspecificationDisplay(_NullDisplay):
    """Discrepancy of the observed summaries among those of simulations.

    Parameters
    ----------
    result : MisspecificationTest
        What :func:`misspecification_test` returns.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of the axes.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.diagnostics import MisspecificationDisplay, misspecification_test
    >>> simulated = np.random.default_rng(0).normal(size=(500, 2))
    >>> result = misspecification_test([[6.0, 0.0]], simulated, random_state=0)
    >>> len(MisspecificationDisplay(result).plot().axes_)
    1
    """

    def _panels(self):
        result = self.result
        return [("squared MMD", result.statistic, result.null, result.p_value)]


def draw_report(report):
    """Draw all displays of a report, a row for each parameter."""
    displays = [
        RankHistogramDisplay,
        RankEcdfDisplay,
        CoverageDisplay,
        RecoveryDisplay,
        ContractionDisplay,
    ]
    n_rows = len(report.names)
    figure, axes = _pyplot("CalibrationReport.plot").subplots(
        n_rows,
        len(displays),
        figsize=(3.0 * len(displays), 2.7 * n_rows),
        squeeze=False,
        layout="constrained",
    )
    for column, display in zip(axes.T, displays, strict=True):
        display(report).plot(column)
    return figure


def _draw_ecdf(ax, values):
    """Draw an ECDF less the diagonal, and its band."""
    n = len(values)
    points, low, high = ecdf_band(n, n_points=min(n, 100))
    ax.fill_between(points, low - points, high - points, **_BAND)
    ordered = np.concatenate([[0.0], np.sort(values), [1.0]])
    places = np.concatenate([np.arange(n + 1) / n, [1.0]])
    ax.step(ordered, places - ordered, where="post", color="C0")
    ax.axhline(0.0, color="black", linewidth=0.8)
    ax.set_xlim(0, 1)


def _pyplot(user):
    """Import matplotlib only when something is drawn."""
    return import_extra("matplotlib.pyplot", "plot", user)
