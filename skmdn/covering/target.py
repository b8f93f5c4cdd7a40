"""The unnormalised density in the coordinates of the prior, with its calls counted."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from skmdn.coordinates import Coordinates

from .normals import log_normal

__all__ = ["Density", "Differences", "Target"]


class Density(Protocol):
    """What the algorithm asks of a density on R^d."""

    n_features: int
    differentiable: bool

    @property
    def n_evals(self) -> int:
        """How many points have been asked for."""

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
    heights : bool, default=False
        Whether points are compared by the density of the parameters, without the
        Jacobian, as the maximum a posteriori is.
    n_evals : int, default=0
        How many points have been asked for before.

    Attributes
    ----------
    n_gradients : int
        How many points have been asked for with a gradient.
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
        heights: bool = False,
        n_evals: int = 0,
    ) -> None:
        self.potential = potential
        self.coordinates = coordinates
        self.max_evals = max_evals
        self.differentiable = differentiable
        self.base = base
        self.heights = heights
        self.n_features = coordinates.n_features
        self._n_evals = n_evals
        self.n_gradients = self.n_nan = 0

    @property
    def n_evals(self) -> int:
        """The number of points asked for so far."""
        return self._n_evals

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
        self._n_evals += len(u)
        values = self.potential(self.coordinates.forward(u))
        if self.base == "prior":
            values = values + log_normal(u)
        if (self.base == "prior") != self.heights:
            return values
        sign = -1.0 if self.heights else 1.0
        return values + sign * self.coordinates.log_jacobian(u)

    def _cleaned(self, values: Tensor) -> Tensor:
        wrong = values.isnan() | (values == torch.inf)
        self.n_nan += int(wrong.sum())
        return values.masked_fill(wrong, -torch.inf)


class Differences:
    """A density with gradients by central differences.

    Parameters
    ----------
    density : Density
        Without gradients.
    step : float, default=1e-5
        Half of the distance.
    """

    differentiable = True

    def __init__(self, density: Density, step: float = 1e-5) -> None:
        self.density = density
        self.step = step
        self.n_features = density.n_features

    @property
    def n_evals(self) -> int:
        """The number of points asked for so far."""
        return self.density.n_evals

    @property
    def left(self) -> int:
        """How many more gradients may be asked for."""
        return self.density.left // (2 * self.n_features + 1)

    def log_prob(self, u: Tensor) -> Tensor:
        """Return log p."""
        return self.density.log_prob(u)

    def log_prob_and_gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return also its gradient; 0 beside points where p = 0."""
        n_points, n_features = u.shape
        offset = self.step * torch.eye(n_features, dtype=u.dtype)
        around = u[:, None, None] + torch.stack([offset, -offset])
        points = torch.cat([u, around.reshape(-1, n_features)])
        values = self.density.log_prob(points)
        sides = values[n_points:].reshape(n_points, 2, n_features)
        slope = (sides[:, 0] - sides[:, 1]) / (2.0 * self.step)
        usable = slope.isfinite().all(1, keepdim=True)
        return values[:n_points], slope.where(usable, torch.zeros_like(slope))
