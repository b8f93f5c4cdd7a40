"""What a prior is: parameters by name, a log density and draws."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from skmdn.configurable import Configurable, plain

__all__ = ["Prior", "empty_tensor"]


class Prior(Configurable, ABC):
    """Base of the priors: an object with named parameters.

    A search can set them, as in ``weights_prior__concentration``.
    """

    @abstractmethod
    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density, normalised."""

    @abstractmethod
    def sample(
        self, shape: Sequence[int], generator: torch.Generator | None = None
    ) -> Tensor:
        """Return draws of what :meth:`log_prob` takes, in double precision."""

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
        listed = plain(value)
        try:
            many = isinstance(listed, list)
            numbers = [float(one) for one in (listed if many else [listed])]
        except (TypeError, ValueError):
            numbers = [math.nan]
        if not numbers or not all(0.0 < one < math.inf for one in numbers):
            raise ValueError(
                f"{name} of {type(self).__name__} must be positive and finite, got "
                f"{value!r}."
            )
        return numbers if many else numbers[0]


def empty_tensor(shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    """Return memory for draws, where the generator lives."""
    device = "cpu" if generator is None else generator.device
    return torch.empty(tuple(shape), dtype=torch.float64, device=device)
