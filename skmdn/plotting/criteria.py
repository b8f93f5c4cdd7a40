"""How many components: criteria over their number."""

import numpy as np
from sklearn.base import clone

from .common import axes_for, pyplot

__all__ = ["InformationCriterionDisplay"]

_LABELS = {
    "bic": "BIC",
    "icl": "ICL",
    "aic": "AIC",
    "log_posterior": "$-2$ log posterior",
}


class InformationCriterionDisplay:
    """Criteria for the number of components; the lowest point of each is marked.

    Parameters
    ----------
    n_components : sequence of int
        Numbers of components.
    values : dict of str to sequence of float
        For each criterion its values, of which the lowest is the best.

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
    >>> from sklearn.datasets import load_iris
    >>> from skmdn import MAPGaussianMixture
    >>> from skmdn.plotting import InformationCriterionDisplay
    >>> X, model = load_iris().data, MAPGaussianMixture(random_state=0)
    >>> display = InformationCriterionDisplay.from_estimator(
    ...     model, X, n_components=range(1, 5)
    ... )
    >>> display.best("bic")
    2
    """

    def __init__(self, n_components, values):
        self.n_components = n_components
        self.values = values

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        *,
        n_components=range(1, 11),
        criteria=("bic", "icl"),
        ax=None,
    ):
        """Fit copies of an estimator with several numbers of components and draw.

        Parameters
        ----------
        estimator : estimator
            A Gaussian mixture, fitted or not; it is not changed.
        X : array-like of shape (n_samples, n_features)
            Rows to fit.
        n_components : sequence of int, default=range(1, 11)
            Numbers of components.
        criteria : sequence of str, default=("bic", "icl")
            Of "bic", "icl", "aic" and "log_posterior".
        ax : matplotlib Axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        display : InformationCriterionDisplay
            The display, drawn.
        """
        if ax is None:
            pyplot(cls)
        fitted = [
            clone(estimator).set_params(n_components=n).fit(X) for n in n_components
        ]
        return cls.from_estimators(fitted, X, criteria=criteria, ax=ax)

    @classmethod
    def from_estimators(cls, estimators, X, *, criteria=("bic", "icl"), ax=None):
        """Compute and draw for fitted estimators.

        Parameters
        ----------
        estimators : sequence of estimators
            Fitted mixtures, ordered by their number of components.
        X : array-like of shape (n_samples, n_features)
            The rows that they were fitted to.
        criteria : sequence of str, default=("bic", "icl")
            Of "bic", "icl", "aic" and "log_posterior".
        ax : matplotlib Axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        display : InformationCriterionDisplay
            The display, drawn.
        """
        if ax is None:
            pyplot(cls)
        unknown = [name for name in criteria if name not in _LABELS]
        if unknown:
            raise ValueError(f"criterion {unknown[0]!r} is not one of {list(_LABELS)}.")
        values = {
            name: np.array([_value(model, name, X) for model in estimators])
            for name in criteria
        }
        return cls([len(model.weights_) for model in estimators], values).plot(ax)

    def best(self, criterion):
        """Return the number of components that a criterion chooses.

        Parameters
        ----------
        criterion : str
            One of those computed.

        Returns
        -------
        n_components : int
            The one with the lowest value.
        """
        return self.n_components[int(np.argmin(self.values[criterion]))]

    def plot(self, ax=None):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; a new figure by default.

        Returns
        -------
        display : InformationCriterionDisplay
            The display.
        """
        ax = axes_for(self, ax)
        for i, (name, values) in enumerate(self.values.items()):
            label = f"{_LABELS.get(name, name)}: {self.best(name)}"
            ax.plot(self.n_components, values, ".-", color=f"C{i}", label=label)
            ax.plot(self.best(name), np.min(values), "o", color=f"C{i}", markersize=9)
        ax.set(xlabel="number of components", ylabel="lower is better")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(frameon=False)
        return self


def _value(model, name, X):
    """Return a criterion, on the scale of deviances."""
    if name == "log_posterior":
        return -2.0 * model.log_posterior_
    return getattr(model, name)(X)
