"""Predictive densities and quantile bands."""

import numbers

import numpy as np

from skmdn.metrics import predict_distribution

from .common import axes_for, plain_label, pyplot

__all__ = ["PredictiveDensityDisplay"]

_BANDS = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)


class PredictiveDensityDisplay:
    """Predictive density, or quantile bands, over one feature.

    Make one with :meth:`from_estimator`. All other features are held at their
    median (numbers) or most frequent value (categories).

    Parameters
    ----------
    feature_values : ndarray of shape (n_grid,)
        Where the distribution was evaluated.
    target_values : ndarray of shape (n_target_grid,)
        The grid of the target, for densities.
    density : ndarray of shape (n_grid, n_target_grid)
        The density.
    levels : tuple of float
        Levels of the quantiles, symmetric around one half.
    quantiles : ndarray of shape (n_grid, n_levels)
        The quantiles.
    observations : tuple of ndarray or None
        The feature and the target of the data.
    feature_name, target_name : str
        Labels of the axes.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of the axes.

    See Also
    --------
    PredictiveCalibrationDisplay : Whether the spread can be believed.

    Examples
    --------
    >>> from skmdn import MixtureDensityRegressor
    >>> from skmdn.datasets import make_branches
    >>> from skmdn.plotting import PredictiveDensityDisplay
    >>> X, y = make_branches(300, random_state=0)
    >>> model = MixtureDensityRegressor(2, max_iter=50, random_state=0).fit(X, y)
    >>> display = PredictiveDensityDisplay.from_estimator(model, X, y)
    >>> display.density.shape
    (200, 300)
    """

    def __init__(
        self,
        *,
        feature_values,
        target_values,
        density,
        levels,
        quantiles,
        observations=None,
        feature_name="x",
        target_name="y",
    ):
        self.feature_values = feature_values
        self.target_values = target_values
        self.density = density
        self.levels = levels
        self.quantiles = quantiles
        self.observations = observations
        self.feature_name = feature_name
        self.target_name = target_name

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y=None,
        *,
        feature=0,
        output=0,
        kind="density",
        levels=_BANDS,
        target_name=None,
        ax=None,
    ):
        """Evaluate a fitted estimator along a feature and draw.

        Parameters
        ----------
        estimator : estimator
            A fitted estimator, pipeline or search that predicts distributions.
        X : {array-like, DataFrame} of shape (n_samples, n_features)
            Gives the feature's range and the other features' typical values.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Observations to draw on top.
        feature : int or str, default=0
            The numeric feature along the horizontal axis.
        output : int, default=0
            The output shown, if there are several.
        kind : {"density", "quantiles"}, default="density"
            What to draw.
        levels : sequence of float, default=(0.025, 0.1, 0.25, 0.5, ...)
            Levels of the quantiles.
        target_name : str, default=None
            Label of the vertical axis; the name of y if it has one.
        ax : matplotlib Axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        display : PredictiveDensityDisplay
            The display, drawn.
        """
        if ax is None:
            pyplot(cls)
        grid, feature_values, observed, feature_name = _slice(X, feature)
        dist = predict_distribution(estimator, grid)
        if not dist.univariate:
            dist = dist.marginal(output)
        ends = dist.ppf([0.001, 0.999])
        low, high = ends[:, 0].min(), ends[:, 1].max()
        target_name = target_name or str(getattr(y, "name", None) or "y")
        if y is not None:
            y = np.asarray(y, dtype=float)
            y = y[:, output] if y.ndim == 2 else y
            low, high = min(low, np.nanmin(y)), max(high, np.nanmax(y))
        target_values = np.linspace(low, high, 300)
        levels = tuple(levels)
        display = cls(
            feature_values=feature_values,
            target_values=target_values,
            density=dist.pdf(target_values[None]),
            levels=levels,
            quantiles=dist.ppf(levels),
            observations=None if y is None else (observed, y),
            feature_name=feature_name,
            target_name=target_name,
        )
        return display.plot(ax, kind=kind)

    def plot(self, ax=None, *, kind="density"):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; a new figure by default.
        kind : {"density", "quantiles"}, default="density"
            The density as shades, or nested central intervals around the median.

        Returns
        -------
        display : PredictiveDensityDisplay
            The display.
        """
        ax = axes_for(self, ax)
        if kind == "density":
            # Shades by the root: a faint second mode stays visible beside a peak.
            shade = np.sqrt(self.density / self.density.max(axis=1, keepdims=True))
            ax.pcolormesh(
                self.feature_values,
                self.target_values,
                shade.T,
                cmap="Blues",
                vmin=0.0,
                vmax=1.15,
                shading="gouraud",
                rasterized=True,
            )
        elif kind == "quantiles":
            self._plot_bands(ax)
        else:
            raise ValueError(f'kind must be "density" or "quantiles", got {kind!r}.')
        if self.observations is not None:
            n_points = len(self.observations[0])
            ax.scatter(
                *self.observations,
                s=10 if n_points < 1000 else 3,
                color="black",
                alpha=float(np.clip(300 / n_points, 0.2, 0.6)),
                linewidths=0,
                label="observed",
            )
        if kind == "quantiles":
            ax.legend(fontsize="small", frameon=False)
        ax.set_ylim(self.target_values[0], self.target_values[-1])
        ax.set_xlabel(plain_label(self.feature_name))
        ax.set_ylabel(plain_label(self.target_name))
        ax.set_xlim(self.feature_values[0], self.feature_values[-1])
        return self

    def _plot_bands(self, ax):
        order = np.argsort(self.levels)
        levels = np.asarray(self.levels)[order]
        quantiles = self.quantiles[:, order]
        n_bands = len(levels) // 2
        for i in range(n_bands):
            share = levels[-1 - i] - levels[i]
            paleness = 0.85 - 0.45 * i / max(1, n_bands - 1)
            ax.fill_between(
                self.feature_values,
                quantiles[:, i],
                quantiles[:, -1 - i],
                color=(0.9 * paleness, 0.55 + 0.4 * paleness, 1.0),
                linewidth=0,
                label=f"{100 * share:.4g} % interval",
            )
        if len(levels) % 2:
            middle = quantiles[:, n_bands]
            ax.plot(self.feature_values, middle, color="navy", label="median")


def _slice(X, feature, n_grid=200):
    """Return rows along a feature, its values there and in X, and its name."""
    if hasattr(X, "iloc"):
        return _slice_frame(X, feature, n_grid)
    X = np.asarray(X, dtype=float)
    if not -X.shape[1] <= feature < X.shape[1]:
        raise ValueError(f"feature={feature!r} is not one of {X.shape[1]} features.")
    values = _grid(X[:, feature], feature, n_grid)
    grid = np.repeat(np.nanmedian(X, axis=0)[None], n_grid, axis=0)
    grid[:, feature] = values
    name = f"feature {feature}" if X.shape[1] > 1 else "x"
    return grid, values, X[:, feature], name


def _slice_frame(X, feature, n_grid):
    """Do the same for a DataFrame, whose columns keep their types."""
    place = feature if isinstance(feature, numbers.Integral) else None
    if place is None and feature in X.columns:
        place = X.columns.get_loc(feature)
    if place is None or not -X.shape[1] <= place < X.shape[1]:
        raise ValueError(f"feature={feature!r} is not one of {list(X.columns)}.")
    name = X.columns[place]
    if X[name].dtype.kind not in "iufb":
        raise ValueError(f"feature={feature!r} is not numeric: choose another.")
    observed = X[name].to_numpy(dtype=float)
    values = _grid(observed, feature, n_grid)
    grid = X.iloc[np.zeros(n_grid, dtype=int)].reset_index(drop=True)
    for column in X.columns:
        if X[column].dtype.kind in "iuf":
            grid[column] = X[column].median()
        elif X[column].notna().any():
            grid[column] = X[column].mode().iloc[0]
    grid[name] = values
    return grid, values, observed, str(name)


def _grid(observed, feature, n_grid):
    """Return evenly spaced values over the range of a feature."""
    if np.isnan(observed).all():
        raise ValueError(f"feature={feature!r} has no value.")
    low, high = np.nanmin(observed), np.nanmax(observed)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, n_grid)
