"""What all transforms of named variables have in common."""

import numpy as np
import torch
from sklearn.base import BaseEstimator

from skmdn.bridge import to_numpy, to_tensor

__all__ = ["Transform", "by_torch", "checked", "listed"]


def checked(variables):
    """Return variables as a new dict of arrays and tensors with one number of rows."""
    if not hasattr(variables, "items"):
        raise TypeError(
            f"Variables come as a dict of arrays by name, got {variables!r:.80}."
        )
    arrays, sizes = {}, {}
    for name, value in variables.items():
        if not isinstance(value, torch.Tensor):
            value = np.asarray(value)
            if value.dtype.kind not in "biuf":
                raise TypeError(f"{name!r} must be an array of numbers.")
        if not value.ndim:
            raise ValueError(f"{name!r} has no axis for the rows.")
        arrays[name], sizes[name] = value, len(value)
    if len(set(sizes.values())) > 1:
        raise ValueError(f"The variables differ in their numbers of rows: {sizes}.")
    return arrays


def listed(names):
    """Return one name or several as a list."""
    return [names] if isinstance(names, str) else list(names)


def by_torch(function, value):
    """Apply a function of tensors to a tensor or, in float64, to an array."""
    if isinstance(value, torch.Tensor):
        return function(value)
    return to_numpy(function(to_tensor(value)))


class Transform(BaseEstimator):
    """Base of the transforms: dicts of named variables in and out.

    A subclass maps dicts whose arrays have rows on their first axis. None of its
    methods but ``fit`` changes it, and none changes the arrays it is given.
    """

    def fit(self, variables, y=None):
        """Learn what the transform needs to know of the variables.

        Parameters
        ----------
        variables : dict of str to array-like of shape (n_samples, ...)
            The variables.
        y : None
            Ignored.

        Returns
        -------
        self : object
            The fitted transform.
        """
        self._fit(checked(variables))
        # For scikit-learn, which looks for an attribute with an underscore.
        self.is_fitted_ = True
        return self

    def transform(self, variables):
        """Return the transformed variables.

        Parameters
        ----------
        variables : dict of str to array-like or Tensor of shape (n_samples, ...)
            The variables.

        Returns
        -------
        transformed : dict of str to ndarray or Tensor
            Tensors where tensors were given.
        """
        return self._forward(checked(variables))

    def inverse_transform(self, variables):
        """Return the variables that are transformed to these.

        Parameters
        ----------
        variables : dict of str to array-like or Tensor of shape (n_samples, ...)
            Transformed variables.

        Returns
        -------
        original : dict of str to ndarray or Tensor
            The variables as they were.
        """
        return self._inverse(checked(variables))

    def log_det_jacobian(self, variables):
        """Return the log determinant of the transform's Jacobian.

        Parameters
        ----------
        variables : dict of str to array-like or Tensor of shape (n_samples, ...)
            The variables before the transform.

        Returns
        -------
        log_det : ndarray or Tensor of shape (n_samples,)
            The log density of the variables is that of the transformed ones plus
            this.
        """
        variables = checked(variables)
        return _per_row(self._log_det(variables), variables)

    def inverse_log_det_jacobian(self, variables):
        """Return the log determinant of the Jacobian of the way back.

        Parameters
        ----------
        variables : dict of str to array-like or Tensor of shape (n_samples, ...)
            Transformed variables.

        Returns
        -------
        log_det : ndarray or Tensor of shape (n_samples,)
            The negative of :meth:`log_det_jacobian` where they come from, but exact
            also where that place cannot be told from a bound.
        """
        variables = checked(variables)
        return _per_row(self._inverse_log_det(variables), variables)

    def _fit(self, variables):
        """Learn from checked variables."""

    def _forward(self, variables):
        raise NotImplementedError

    def _inverse(self, variables):
        raise NotImplementedError

    def _log_det(self, variables):
        return 0.0

    def _inverse_log_det(self, variables):
        return 0.0

    def _pick(self, variables, names):
        """Return the names, or say which of them is missing."""
        for name in names:
            if name not in variables:
                raise ValueError(
                    f"{type(self).__name__} needs {name!r}; there are "
                    f"{sorted(variables)}."
                )
        return names


def _per_row(value, variables):
    """Return one number for each row, also where all of them are 0."""
    if isinstance(value, torch.Tensor) or np.ndim(value):
        return value
    like = next(iter(variables.values()))
    if isinstance(like, torch.Tensor):
        return torch.zeros(len(like), dtype=torch.float64, device=like.device)
    return np.zeros(len(like))
