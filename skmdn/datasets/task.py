"""What inference tasks have in common."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from sklearn.utils import check_random_state

from skmdn.bridge import to_tensor
from skmdn.simulation import make_simulator, vectorized

__all__ = ["ExactPosterior", "InferenceTask", "library"]


def library(values):
    """Return the module, numpy or torch, whose functions fit some values."""
    return torch if isinstance(values, torch.Tensor) else np


class InferenceTask(ABC):
    """Base of the inference problems; :func:`inference_task` makes them.

    A task is a simulator itself: its ``sample`` returns ``theta`` and ``x``.

    Parameters
    ----------
    prior : Prior
        Of ``theta``.

    Attributes
    ----------
    simulator : Simulator
        Draws ``theta`` and simulates ``x``.
    n_parameters, n_features : int
        Sizes of ``theta`` and ``x``.

    See Also
    --------
    inference_task : All tasks.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.datasets import inference_task
    >>> task = inference_task("gaussian_linear")
    >>> task
    InferenceTask('gaussian_linear', n_parameters=10, n_features=10)
    >>> task.log_likelihood(np.zeros((1, 10)), np.zeros((1, 10))).round(3)
    array([2.324])
    """

    name = ""
    n_parameters = 0
    n_features = 0

    def __init__(self, prior):
        self.prior = prior
        self.simulator = make_simulator([prior, {"x": vectorized(self._simulate)}])

    def __repr__(self):
        return (
            f"InferenceTask({self.name!r}, n_parameters={self.n_parameters}, "
            f"n_features={self.n_features})"
        )

    def sample(self, n_samples=None, **settings):
        """Draw parameters and simulate data.

        Parameters
        ----------
        n_samples : int, default=None
            Number of simulations.
        **settings : dict
            As in :meth:`skmdn.simulation.Simulator.sample`: ``random_state``,
            ``given`` and others.

        Returns
        -------
        data : Simulations
            With the arrays ``theta`` and ``x``.
        """
        return self.simulator.sample(n_samples, **settings)

    def log_likelihood(self, X, theta):
        """Return the log density of data given parameters.

        Parameters
        ----------
        X : array-like of shape (..., n_features)
            Data.
        theta : array-like or Tensor of shape (..., n_parameters)
            Parameters; the leading axes of both are broadcast.

        Returns
        -------
        log_likelihood : ndarray or Tensor of shape (...)
            In nats. A tensor if ``theta`` is one; gradients flow through it.
        """
        X, theta = self._matched(X, theta)
        return self._log_likelihood(X, theta)

    def log_joint(self, X, theta):
        """Return the log density of parameters and data: the posterior's potential.

        Parameters
        ----------
        X : array-like of shape (..., n_features)
            Data.
        theta : array-like or Tensor of shape (..., n_parameters)
            Parameters; the leading axes of both are broadcast.

        Returns
        -------
        log_joint : ndarray or Tensor of shape (...)
            Minus infinity outside the prior's support.
        """
        X, theta = self._matched(X, theta)
        xp = library(theta)
        inside = self._inside(theta)
        # Nothing is evaluated outside, where gradients could become NaN.
        safe = xp.where(inside[..., None], theta, self._inner(theta))
        value = self._log_prior(safe) + self._log_likelihood(X, safe)
        return xp.where(inside, value, -np.inf)

    @property
    def posterior(self):
        """The exact posterior, or None where it is not known."""
        if not hasattr(self, "_draw_posterior"):
            return None
        return ExactPosterior(self)

    def _matched(self, X, theta):
        """Return both in the library of theta, after a look at their shapes."""
        if isinstance(theta, torch.Tensor):
            if not isinstance(X, torch.Tensor):
                X = to_tensor(X, dtype=theta.dtype, device=str(theta.device))
        else:
            X, theta = np.asarray(X, dtype=float), np.asarray(theta, dtype=float)
        for name, value, size in (
            ("X", X, self.n_features),
            ("theta", theta, self.n_parameters),
        ):
            if value.ndim < 1 or value.shape[-1] != size:
                raise ValueError(
                    f"{name} must have the shape (..., {size}), got "
                    f"{tuple(value.shape)}."
                )
        return X, theta

    @abstractmethod
    def _simulate(self, theta, rng):
        """Return data of the parameters."""

    @abstractmethod
    def _log_likelihood(self, X, theta):
        """Return the log density of data, given parameters inside the support."""

    @abstractmethod
    def _log_prior(self, theta):
        """Return the log density of the prior inside its support."""

    def _inside(self, theta):
        """Tell where the prior's density is positive."""
        return theta[..., 0] == theta[..., 0]

    def _inner(self, theta):
        """Return a point inside the support."""
        return library(theta).ones_like(theta)


class ExactPosterior:
    """The posterior of a task, with the interface of an estimator.

    Parameters
    ----------
    task : InferenceTask
        The task.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.datasets import inference_task
    >>> posterior = inference_task("gaussian_linear").posterior
    >>> posterior.log_prob(np.zeros((1, 10)), np.zeros((1, 10))).round(3)
    array([5.789])
    """

    def __init__(self, task):
        self.task = task

    def sample(self, X, n_samples=1, random_state=None):
        """Draw, independently and exactly.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Data, a row for each posterior.
        n_samples : int, default=1
            Number of draws from each.
        random_state : int, RandomState instance or None, default=None
            Determines the draws.

        Returns
        -------
        draws : ndarray of shape (n, n_samples, n_parameters)
            The draws.
        """
        rng = check_random_state(random_state)
        return np.stack([self.task._draw_posterior(x, n_samples, rng) for x in X])

    def log_prob(self, X, theta):
        """Return the log density.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Data.
        theta : array-like of shape (n, n_parameters)
            Parameters.

        Returns
        -------
        log_prob : ndarray of shape (n,)
            In nats.
        """
        X, theta = self.task._matched(X, theta)
        # Often many parameters are asked about for the same data.
        rows, place = np.unique(X, axis=0, return_inverse=True)
        evidence = np.array([self.task._log_evidence(x) for x in rows])
        return self.task.log_joint(X, theta) - evidence[place.reshape(-1)]
