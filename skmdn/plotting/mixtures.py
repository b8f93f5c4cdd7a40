"""Components of Gaussian mixtures, and whose rows are whose."""

import numpy as np
from scipy import stats

from skmdn.gaussian_mixture import MAPGaussianMixture

from .common import axes_for, plain_label, pyplot

__all__ = ["GaussianMixtureDisplay", "ResponsibilityDisplay"]


class GaussianMixtureDisplay:
    """Components of a Gaussian mixture over two features, as ellipses.

    Make one with :meth:`from_estimator`. The ellipses are those of the marginal
    distribution of the two features: the others are integrated out.

    Parameters
    ----------
    weights : ndarray of shape (n_components,)
        Weights; components with the weight 0 are not drawn.
    means : ndarray of shape (n_components, 2)
        Means.
    covariances : ndarray of shape (n_components, 2, 2)
        Covariance matrices.
    points : ndarray of shape (n_samples, 2), default=None
        Rows to draw beneath.
    responsibilities : ndarray of shape (n_samples, n_components), default=None
        Their share of every component.
    feature_names : tuple of str, default=("x0", "x1")
        Labels of the axes.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of the axes.

    See Also
    --------
    ResponsibilityDisplay : How sharply the rows are divided.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skmdn import MAPGaussianMixture
    >>> from skmdn.plotting import GaussianMixtureDisplay
    >>> X = load_iris(as_frame=True).data
    >>> model = MAPGaussianMixture(3, random_state=0).fit(X)
    >>> display = GaussianMixtureDisplay.from_estimator(model, X, features=(2, 3))
    >>> display.feature_names
    ('petal length (cm)', 'petal width (cm)')
    """

    def __init__(
        self,
        *,
        weights,
        means,
        covariances,
        points=None,
        responsibilities=None,
        feature_names=("x0", "x1"),
    ):
        self.weights = weights
        self.means = means
        self.covariances = covariances
        self.points = points
        self.responsibilities = responsibilities
        self.feature_names = feature_names

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X=None,
        *,
        features=(0, 1),
        levels=(0.5, 0.9),
        kind="responsibility",
        ax=None,
    ):
        """Take a fitted mixture's components and draw.

        Parameters
        ----------
        estimator : estimator
            Whatever has ``weights_``, ``means_``, ``covariances_`` and
            ``covariance_type``, of scikit-learn or of skmdn.
        X : {array-like, DataFrame} of shape (n_samples, n_features), default=None
            Rows to draw beneath; those that lack one of the two features are left out.
        features : tuple of int or str, default=(0, 1)
            The features along the axes.
        levels : sequence of float, default=(0.5, 0.9)
            Probabilities of the ellipses within their component.
        kind : {"responsibility", "component"}, default="responsibility"
            Whether rows have the mixed colours of all components that may have made
            them, or the colour of the most probable one.
        ax : matplotlib Axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        display : GaussianMixtureDisplay
            The display, drawn.
        """
        if ax is None:
            pyplot(cls)
        mixture, names = _mixture(estimator), _names(estimator, X)
        places = [_place(feature, names) for feature in features]
        if len(places) != 2 or places[0] == places[1]:
            raise ValueError(f"features={features!r} must be two different features.")
        points = shares = None
        if X is not None:
            values = np.asarray(X, dtype=float)
            seen = ~np.isnan(values[:, places]).any(axis=1)
            points = values[seen][:, places]
            shares = mixture.predict_proba(values[seen])
        display = cls(
            weights=mixture.weights_,
            means=mixture.means_[:, places],
            covariances=_matrices(mixture)[:, places][:, :, places],
            points=points,
            responsibilities=shares,
            feature_names=tuple(names[place] for place in places),
        )
        return display.plot(ax, levels=levels, kind=kind)

    def plot(self, ax=None, *, levels=(0.5, 0.9), kind="responsibility"):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; a new figure by default.
        levels : sequence of float, default=(0.5, 0.9)
            Probabilities of the ellipses within their component.
        kind : {"responsibility", "component"}, default="responsibility"
            Colours of the rows.

        Returns
        -------
        display : GaussianMixtureDisplay
            The display.
        """
        if kind not in ("responsibility", "component"):
            raise ValueError(
                f'kind must be "responsibility" or "component", got {kind!r}.'
            )
        plt = pyplot(type(self))
        ax = axes_for(self, ax)
        colors = _colors(plt, len(self.weights))
        if self.points is not None:
            ax.scatter(
                *self.points.T,
                s=12 if len(self.points) < 1000 else 4,
                color=self._point_colors(colors, kind),
                alpha=float(np.clip(500 / len(self.points), 0.25, 0.8)),
                linewidths=0,
            )
        for k in np.flatnonzero(self.weights > 0):
            self._draw_component(ax, k, colors[k], levels)
        ax.autoscale_view()
        ax.set_xlabel(plain_label(self.feature_names[0]))
        ax.set_ylabel(plain_label(self.feature_names[1]))
        return self

    def _point_colors(self, colors, kind):
        shares = self.responsibilities
        if kind == "component":
            return colors[shares.argmax(axis=1)]
        return np.clip(shares @ colors, 0.0, 1.0)

    def _draw_component(self, ax, k, color, levels):
        """Draw the ellipses and the centre of a component."""
        circle = np.linspace(0.0, 2.0 * np.pi, 121)
        root = np.linalg.cholesky(self.covariances[k])
        outline = root @ np.stack([np.cos(circle), np.sin(circle)])
        for level in levels:
            radius = np.sqrt(stats.chi2.ppf(level, 2))
            x, y = self.means[k][:, np.newaxis] + radius * outline
            ax.fill(x, y, color=color, alpha=0.12, linewidth=0)
            ax.plot(x, y, color=color, linewidth=1.2)
        ax.plot(*self.means[k], "+", color=color, markeredgewidth=2.0)


class ResponsibilityDisplay:
    """Whose rows are whose: a line for every row, a column for every component.

    Rows are ordered by their most probable component, and within it by how sure that
    is. Clear-cut groups are dark blocks; shades beside them are rows that could be of
    either.

    Parameters
    ----------
    responsibilities : ndarray of shape (n_samples, n_components)
        Posterior probabilities of the components; rows sum to 1.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of the axes.

    See Also
    --------
    GaussianMixtureDisplay : Where the components are.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.plotting import ResponsibilityDisplay
    >>> display = ResponsibilityDisplay(np.array([[0.2, 0.8], [0.6, 0.4], [0.9, 0.1]]))
    >>> display.order()
    array([2, 1, 0])
    """

    def __init__(self, responsibilities):
        self.responsibilities = responsibilities

    @classmethod
    def from_estimator(cls, estimator, X, *, ax=None):
        """Compute and draw for a fitted mixture.

        Parameters
        ----------
        estimator : estimator
            Whatever has ``weights_``, ``means_``, ``covariances_`` and
            ``covariance_type``, of scikit-learn or of skmdn.
        X : array-like of shape (n_samples, n_features)
            Rows.
        ax : matplotlib Axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        display : ResponsibilityDisplay
            The display, drawn.
        """
        if ax is None:
            pyplot(cls)
        values = np.asarray(X, dtype=float)
        return cls(_mixture(estimator).predict_proba(values)).plot(ax)

    def order(self):
        """Return the rows' numbers in the order of the picture.

        Returns
        -------
        order : ndarray of shape (n_samples,)
            Numbers of rows.
        """
        best = self.responsibilities.argmax(axis=1)
        return np.lexsort((-self.responsibilities.max(axis=1), best))

    def plot(self, ax=None):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        display : ResponsibilityDisplay
            The display.
        """
        ax = axes_for(self, ax)
        n_components = self.responsibilities.shape[1]
        image = ax.imshow(
            self.responsibilities[self.order()],
            aspect="auto",
            cmap="Blues",
            vmin=0.0,
            vmax=1.0,
            interpolation="nearest",
        )
        for k in range(1, n_components):
            ax.axvline(k - 0.5, color="0.8", linewidth=0.8)
        ax.set(xlabel="component", ylabel="rows, ordered")
        if n_components <= 20:
            ax.set_xticks(range(n_components))
        self.figure_.colorbar(image, ax=ax, label="posterior probability")
        return self


def _mixture(estimator):
    """Return the components of any estimator that has them, as an estimator of ours."""
    missing = [
        name
        for name in ("weights_", "means_", "covariances_", "covariance_type")
        if not hasattr(estimator, name)
    ]
    if missing:
        raise ValueError(
            f"{type(estimator).__name__} has no {missing[0]}: a fitted Gaussian "
            "mixture is needed."
        )
    return MAPGaussianMixture.from_params(
        estimator.weights_,
        estimator.means_,
        estimator.covariances_,
        covariance_type=estimator.covariance_type,
    )


def _matrices(mixture):
    """Return a covariance matrix for each component."""
    n_components, n_features = mixture.means_.shape
    covariances, kind = mixture.covariances_, mixture.covariance_type
    if kind == "full":
        return covariances
    if kind == "tied":
        return np.repeat(covariances[np.newaxis], n_components, axis=0)
    variances = covariances if kind == "diag" else covariances[:, np.newaxis]
    return np.eye(n_features) * np.broadcast_to(
        variances[:, np.newaxis], (n_components, 1, variances.shape[-1])
    )


def _names(estimator, X):
    """Return names of all features."""
    if hasattr(X, "columns"):
        return [str(name) for name in X.columns]
    names = getattr(estimator, "feature_names_in_", None)
    if names is not None:
        return [str(name) for name in names]
    return [f"feature {j}" for j in range(estimator.means_.shape[1])]


def _place(feature, names):
    """Return the number of a feature."""
    if isinstance(feature, str):
        if feature not in names:
            raise ValueError(f"feature {feature!r} is not one of {names}.")
        return names.index(feature)
    if not -len(names) <= feature < len(names):
        raise ValueError(f"feature {feature!r} is not one of {len(names)} features.")
    return int(feature) % len(names)


def _colors(plt, n_components):
    """Return a colour for each component."""
    if n_components <= 10:
        return plt.get_cmap("tab10")(range(n_components))[:, :3]
    return plt.get_cmap("turbo")(np.linspace(0.05, 0.95, n_components))[:, :3]
