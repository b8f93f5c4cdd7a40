"""The approximate posterior a user holds."""

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from .bridge import generator_from, to_numpy, to_tensor
from .covering.linked import LinkedFlow, LinkedNormals

__all__ = ["PosteriorDensity"]


class PosteriorDensity:
    r"""A mixture of normals behind links: a density of bounded parameters.

    .. math:: q(\theta) = \sum_k w_k \, \mathcal{N}(u(\theta) \mid \mu_k, \Sigma_k)
        \left| \frac{\partial u}{\partial \theta} \right|

    or a flow in the place of the mixture. A flow has no components, marginals and
    conditionals, and its moments are those of 20 000 draws, always the same: their
    standard errors are 0.7 % of the standard deviations.

    This is the attribute ``posterior_`` of a fitted
    :class:`skmdn.VariationalPosterior`.

    Parameters
    ----------
    linked : LinkedNormals or LinkedFlow
        The same in torch.
    """

    def __init__(self, linked: LinkedNormals | LinkedFlow) -> None:
        self._linked = linked

    @property
    def n_features(self) -> int:
        """The number of parameters."""
        return self._linked.n_features

    @property
    def n_components(self) -> int:
        """The number of components."""
        return self._mixture.normals.n_components

    @property
    def weights(self) -> np.ndarray:
        """Weights of the components, ``(n_components,)``."""
        return to_numpy(self._mixture.normals.log_weights.exp())

    @property
    def means(self) -> np.ndarray:
        """Means of the components, ``(n_components, n_features)``."""
        return to_numpy(self._mixture.component_means())

    def log_prob(self, theta: ArrayLike | Tensor) -> np.ndarray | Tensor:
        """Return the log density, -inf outside of the support.

        Parameters
        ----------
        theta : array-like or Tensor of shape (n_points, n_features)
            Points. From a tensor comes a tensor, through which gradients flow.

        Returns
        -------
        log_prob : ndarray or Tensor of shape (n_points,)
            In nats.
        """
        points = self._points(theta)
        if isinstance(theta, Tensor):
            return self._linked.log_prob(points)
        return to_numpy(self._linked.log_prob(points))

    def sample(
        self,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = None,
    ) -> np.ndarray:
        """Draw points.

        Parameters
        ----------
        n_samples : int, default=1
            How many.
        random_state : int, RandomState instance or None, default=None
            The seed.

        Returns
        -------
        draws : ndarray of shape (n_samples, n_features)
            In random order.
        """
        return to_numpy(self._linked.draw(n_samples, generator_from(random_state)))

    def mean(self) -> np.ndarray:
        """Return the mean.

        Returns
        -------
        mean : ndarray of shape (n_features,)
            Of the parameters themselves.
        """
        return to_numpy(self._linked.mean())

    def cov(self) -> np.ndarray:
        """Return the covariance matrix.

        Returns
        -------
        cov : ndarray of shape (n_features, n_features)
            Of the parameters themselves.
        """
        return to_numpy(self._linked.covariance())

    def marginal(self, features: int | list[int]) -> "PosteriorDensity":
        """Return the joint distribution of some of the parameters.

        Parameters
        ----------
        features : int or list of int
            Their numbers.

        Returns
        -------
        marginal : PosteriorDensity
            Exact.
        """
        return PosteriorDensity(self._mixture.marginal(self._places(features)))

    def condition(
        self, features: int | list[int], values: ArrayLike
    ) -> "PosteriorDensity":
        """Return the distribution of the other parameters given values of these.

        Parameters
        ----------
        features : int or list of int
            The parameters that are known.
        values : float or array-like
            What they are.

        Returns
        -------
        conditional : PosteriorDensity
            Exact.
        """
        places = self._places(features)
        if len(places) == self.n_features:
            raise ValueError("features names all parameters: nothing is left.")
        given = to_tensor(np.atleast_1d(values))
        if given.shape != (len(places),):
            raise ValueError(
                f"values has shape {tuple(given.shape)}; expected ({len(places)},)."
            )
        return PosteriorDensity(self._mixture.condition(places, given))

    @property
    def _mixture(self) -> LinkedNormals:
        if isinstance(self._linked, LinkedFlow):
            raise AttributeError(
                "A flow has no components, marginals or conditionals in closed form; "
                "q='mixture' has them, and columns of sample() are draws of a marginal."
            )
        return self._linked

    def _places(self, features: int | list[int]) -> list[int]:
        places = [int(f) for f in np.atleast_1d(features)]
        known = range(-self.n_features, self.n_features)
        if len(set(places)) < len(places) or not all(f in known for f in places):
            raise ValueError(
                f"features={features!r} has to name different ones of "
                f"{self.n_features} parameters."
            )
        return [f % self.n_features for f in places]

    def _points(self, theta: ArrayLike | Tensor) -> Tensor:
        tracked = isinstance(theta, Tensor)
        points = theta.double() if tracked else to_tensor(np.asarray(theta, float))
        if points.ndim != 2 or points.shape[1] != self.n_features:
            raise ValueError(
                f"theta has shape {tuple(points.shape)}; expected (n_points, "
                f"{self.n_features})."
            )
        return points
