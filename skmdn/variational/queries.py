"""What a fitted posterior is asked that draws nothing: densities, moments, modes."""

import numpy as np
import torch
from sklearn.base import DensityMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from skmdn.base import TorchEstimator
from skmdn.bridge import to_numpy, to_tensor
from skmdn.exports import to_arviz

from .fit import of_each

__all__ = ["PosteriorQueries"]


class PosteriorQueries(DensityMixin, TorchEstimator):
    """Base of estimators with one fit, in ``_fits``, for each observation.

    ``_together`` says whether the potential takes several observations at once.
    """

    def score_samples(self, theta, X=None):
        """Return the log density of parameters under the mixture.

        Parameters
        ----------
        theta : array-like of shape (n_points, n_parameters)
            Points.
        X : array-like of shape (n_rows, n_features), default=None
            Rows that fit was given; by default all of them.

        Returns
        -------
        log_prob : ndarray of shape (n_points,) or (n_rows, n_points)
            In nats; -inf outside of the prior's support.
        """
        check_is_fitted(self)
        theta = self._checked_theta(theta)
        return self._joined([f.density.log_prob(theta) for f in self._chosen(X)], X)

    def score(self, theta, y=None):
        """Return the mean log density of parameters under the mixture.

        Parameters
        ----------
        theta : array-like of shape (n_points, n_parameters)
            Points.
        y : None
            Ignored.

        Returns
        -------
        score : float
            In nats per point; higher is better.
        """
        check_is_fitted(self)
        # For tools of scikit-learn theta is X, and their checks want its message.
        theta = self._checked_theta(theta, "theta as X")
        return float(np.mean(self.score_samples(theta)))

    def to_arviz(
        self, n_samples=1000, X=None, *, names=None, method="q", random_state=None
    ):
        """Return draws and their log densities as ArviZ has them.

        Parameters
        ----------
        n_samples : int, default=1000
            How many, of each posterior.
        X : array-like of shape (n_rows, n_features), default=None
            Rows that fit was given; by default all of them.
        names : sequence of str, default=None
            Names of the parameters.
        method : {"q", "sir", "psir"}, default="q"
            As in ``sample``.
        random_state : int, RandomState instance or None, default=None
            The seed of the draws; None uses the estimator's ``random_state``.

        Returns
        -------
        tree : xarray.DataTree
            See :func:`skmdn.diagnostics.to_arviz`.
        """
        draws = self.sample(n_samples, X, method=method, random_state=random_state)
        every = draws if draws.ndim == 3 else draws[None]
        pairs = zip(self._chosen(X), every, strict=True)
        log_prob = np.stack([fit.density.log_prob(own) for fit, own in pairs])
        log_prob = log_prob.reshape(draws.shape[:-1])
        return to_arviz(draws, names=names, log_prob=log_prob, observed=X)

    def predict(self, X=None, return_std=False):
        """Return the posterior mean.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features), default=None
            Rows that fit was given; by default all of them.
        return_std : bool, default=False
            Whether to return standard deviations as well.

        Returns
        -------
        mean : ndarray of shape (n_parameters,) or (n_rows, n_parameters)
            Under the mixture.
        std : ndarray, shaped like mean
            Only if ``return_std``.
        """
        check_is_fitted(self)
        chosen = self._chosen(X)
        mean = self._joined([fit.density.mean() for fit in chosen], X)
        if not return_std:
            return mean
        stds = [np.sqrt(np.diag(fit.density.cov())) for fit in chosen]
        return mean, self._joined(stds, X)

    def log_potential(self, theta, X=None):
        """Return the log density that is approximated, up to its constant.

        Parameters
        ----------
        theta : array-like or Tensor of shape (n_points, n_parameters)
            Points. From a tensor comes a tensor, through which gradients flow if they
            do through the potential.
        X : array-like of shape (n_rows, n_features), default=None
            Rows that fit was given; by default all of them.

        Returns
        -------
        log_density : ndarray or Tensor of shape (n_points,) or (n_rows, n_points)
            The potential, with the prior if ``add_prior``; -inf outside of the
            prior's support.
        """
        check_is_fitted(self)
        tracked = isinstance(theta, torch.Tensor)
        if not tracked:
            theta = to_tensor(self._checked_theta(theta))
        elif theta.ndim != 2 or theta.shape[1] != self.posterior_.n_features:
            raise ValueError(
                f"theta has shape {tuple(theta.shape)}; expected (n_points, "
                f"{self.posterior_.n_features})."
            )
        rows = [fit.problem.log_potential(theta) for fit in self._chosen(X)]
        if not tracked:
            return self._joined([to_numpy(row) for row in rows], X)
        return rows[0] if X is None and len(rows) == 1 else torch.stack(rows)

    # What is below.

    def map(self, X=None, return_all=False):
        """Return where the target itself is highest.

        Climbs begin at draws and components of the mixture; they follow the density of
        the parameters, without the Jacobian of the links. The answer is kept.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features), default=None
            Rows that fit was given; by default all of them.
        return_all : bool, default=False
            Whether to return all modes that were found, with their heights.

        Returns
        -------
        modes : ndarray of shape (n_parameters,), or (n_modes, n_parameters)
            The highest first; with several rows a list of these if ``return_all``.
        log_density : ndarray of shape (n_modes,)
            What the target is there; only if ``return_all``.
        """
        check_is_fitted(self)
        tasks = [fit.modes for fit in self._chosen(X)]
        found = of_each(tasks, self._together)
        if not return_all:
            return self._joined([modes[0] for modes, _ in found], X)
        if len(found) == 1:
            return found[0]
        return [modes for modes, _ in found], [heights for _, heights in found]

    def _chosen(self, X):
        """Return the fits of rows that fit was given."""
        if X is None:
            return self._fits
        X = validate_data(self, X, dtype=np.float64, reset=False)
        if self._fits[0].problem.observation is None:
            return self._fits * len(X)
        chosen = []
        for row in X:
            same = [f for f in self._fits if np.array_equal(f.problem.observation, row)]
            if not same:
                raise ValueError(
                    f"This {type(self).__name__} was not fitted to the observation "
                    f"{row.tolist()}; fit answers for the rows of its X only."
                )
            chosen.append(same[0])
        return chosen

    def _joined(self, parts, X):
        return parts[0] if X is None and len(self._fits) == 1 else np.stack(parts)

    def _checked_theta(self, theta, name="theta"):
        theta = check_array(theta, dtype=np.float64, input_name="theta")
        wanted = self.posterior_.n_features
        if theta.shape[1] != wanted:
            raise ValueError(
                f"{name} has {theta.shape[1]} features, but {type(self).__name__} is "
                f"expecting {wanted} features as input, one for each parameter."
            )
        return theta
