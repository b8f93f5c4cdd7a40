"""The unnormalised density in the coordinates of the prior, with its calls counted."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ..coordinates import Coordinates
from .normals import log_normal

__all__ = ["Density", "Target"]


class Density(Protocol):
    """What the algorithm asks of a density on R^d."""

    n_features: int
    differentiable: bool

    @property
    def left(self) -> int:
        """How many more points may be asked for."""

    def log_prob(self, u: Tensor) -> Tensor:
        """Return log p, -inf where it is not finite."""

    def log_prob_and_gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return also its gradient, 0 where p is."""


class Target:
    r"""An unnormalised density of parameters, pulled back to the coordinates.

    .. math:: \log p(u) = \log p(\theta(u)) + \log |\partial \theta / \partial u|

    Parameters
    ----------
    potential : callable
        Maps points ``(n_points, n_features)`` to log densities ``(n_points,)``.
    coordinates : Coordinates
        Where the prior is about standard normal.
    max_evals : int
        How many points may be asked for, those with a gradient included.
    differentiable : bool, default=True
        Whether gradients flow through the potential.
    base : {"parameters", "prior"}, default="parameters"
        What the density is relative to: a length in parameter space, or the law that
        is N(0, I) in the coordinates, as for a likelihood.

    Attributes
    ----------
    n_evals : int
        The number of points asked for so far.
    n_gradients : int
        How many of them with a gradient.
    n_nan : int
        Where the answer was NaN or plus infinity.
    """

    def __init__(
        self,
        potential: Callable[[Tensor], Tensor],
        coordinates: Coordinates,
        *,
        max_evals: int,
        differentiable: bool = True,
        base: str = "parameters",
    ) -> None:
        self.potential = potential
        self.coordinates = coordinates
        self.max_evals = max_evals
        self.differentiable = differentiable
        self.base = base
        self.n_features = coordinates.n_features
        self.n_evals = self.n_gradients = self.n_nan = 0

    @property
    def left(self) -> int:
        """How many more points may be asked for."""
        return self.max_evals - self.n_evals

    def log_prob(self, u: Tensor) -> Tensor:
        """Return log p at points, -inf where it is not finite."""
        with torch.no_grad():
            return self._cleaned(self._raw(u))

    def log_prob_and_gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p and its gradient; 0 where p = 0."""
        self.n_gradients += len(u)
        with torch.enable_grad():
            leaf = u.detach().requires_grad_()
            raw = self._raw(leaf)
            finite = raw.detach().isfinite()
            total = raw.masked_fill(~finite, 0.0).sum()
            (gradient,) = torch.autograd.grad(total, leaf)
        usable = finite & gradient.isfinite().all(1)
        return self._cleaned(raw.detach()), gradient.masked_fill(~usable[:, None], 0.0)

    def _raw(self, u: Tensor) -> Tensor:
        if len(u) > self.left:
            raise RuntimeError(f"{len(u)} evaluations asked for, {self.left} are left.")
        self.n_evals += len(u)
        values = self.potential(self.coordinates.forward(u))
        if self.base == "prior":
            return values + log_normal(u)
        return values + self.coordinates.log_jacobian(u)

    def _cleaned(self, values: Tensor) -> Tensor:
        wrong = values.isnan() | (values == torch.inf)
        self.n_nan += int(wrong.sum())
        return values.masked_fill(wrong, -torch.inf)
