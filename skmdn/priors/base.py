"""What a prior is: parameters by name, a log density and draws."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Prior", "empty_tensor"]


class Prior(ABC):
    """Base of the priors: an object with named parameters.

    The parameters are those of the constructor, which stores them unchanged. They are
    looked at when the prior is used, so that scikit-learn can clone it and a search
    can set them, as in ``weights_prior__concentration``.
    """

    @abstractmethod
    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density, normalised."""

    @abstractmethod
    def sample(
        self, shape: Sequence[int], generator: torch.Generator | None = None
    ) -> Tensor:
        """Return draws of what :meth:`log_prob` takes, in double precision."""

    # Parameters by name.

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name.

        Parameters
        ----------
        deep : bool, default=True
            For scikit-learn; parameters have no parameters here.

        Returns
        -------
        params : dict of str
            As they were given.
        """
        return {
            name: getattr(self, name)
            for name in inspect.signature(type(self)).parameters
        }

    def set_params(self, **params: Any) -> "Prior":
        """Set parameters.

        Parameters
        ----------
        **params : dict
            New values by name.

        Returns
        -------
        self : Prior
            The prior itself.

        Raises
        ------
        ValueError
            If it has no parameter of that name.
        """
        known = self.get_params()
        unknown = [name for name in params if name not in known]
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no parameter {unknown[0]!r}, only "
                f"{', '.join(known)}."
            )
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        params = (f"{name}={value!r}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({', '.join(params)})"

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        assert isinstance(other, Prior)
        return _plain(self.get_params()) == _plain(other.get_params())

    # Parameters can change.
    __hash__ = None  # type: ignore[assignment]

    def _positive(self, name: str) -> float:
        """Return a parameter that has to be one positive number."""
        numbers = self._all_positive(name)
        if isinstance(numbers, list):
            raise ValueError(
                f"{name} of {type(self).__name__} must be a single positive number, "
                f"got {getattr(self, name)!r}."
            )
        return numbers

    def _all_positive(self, name: str) -> float | list[float]:
        """Return a parameter that has to be a positive number or several of them."""
        value = getattr(self, name)
        plain = _plain(value)
        try:
            many = isinstance(plain, list)
            numbers = [float(one) for one in (plain if many else [plain])]
        except (TypeError, ValueError):
            numbers = [math.nan]
        if not numbers or not all(0.0 < one < math.inf for one in numbers):
            raise ValueError(
                f"{name} of {type(self).__name__} must be positive and finite, got "
                f"{value!r}."
            )
        return numbers if many else numbers[0]


def _plain(value: Any) -> Any:
    """Return arrays, tensors and tuples as lists, which can be compared."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return value


def empty_tensor(shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    """Return memory for draws, where the generator lives."""
    device = "cpu" if generator is None else generator.device
    return torch.empty(tuple(shape), dtype=torch.float64, device=device)
