"""The user's potential, whichever way it wants its points."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .bridge import to_numpy, to_tensor

__all__ = ["OnDevice", "Potential", "takes_observation"]


def takes_observation(potential: Callable[..., Any]) -> bool:
    """Tell whether a potential has a second argument, the observation.

    One that has a default is meant for something else, unless its name is x.
    """
    try:
        parameters = inspect.signature(potential).parameters.values()
    except (TypeError, ValueError):
        return False
    kinds = inspect.Parameter
    positional = (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    second = [p for p in parameters if p.kind in positional][1:2]
    return any(p.default is kinds.empty or p.name == "x" for p in second)


class OnDevice:
    """A function that gets its tensors on a device; its answer comes back to the CPU.

    Parameters
    ----------
    function : callable
        The user's.
    device : str
        Where its tensors are.
    """

    def __init__(self, function: Callable[..., Any], device: str) -> None:
        self.function = function
        self.device = device

    def __call__(self, *args: Any) -> Any:
        """Return the answer of the function."""
        moved = [a.to(self.device) if isinstance(a, Tensor) else a for a in args]
        answer = self.function(*moved)
        return answer.cpu() if isinstance(answer, Tensor) else answer


class Potential:
    """A log density of points, as a function of tensors.

    Which numbers the user's function takes is found out by asking it: tensors in double
    precision, arrays, or tensors in single precision.

    Parameters
    ----------
    function : callable
        The user's, of points and perhaps of an observation.
    observation : ndarray of shape (n_observed,) or None
        What follows the points.
    probe : Tensor of shape (n_points, n_features)
        Points to ask it about.

    Attributes
    ----------
    differentiable : bool
        Whether gradients flow through.
    n_probed : int
        How many points it took to find out.

    Raises
    ------
    ValueError
        If every way fails or the answer has the wrong shape.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        observation: np.ndarray | None,
        probe: Tensor,
    ) -> None:
        self.function = function
        self.observation = observation
        self.differentiable = False
        self.n_probed = 0
        errors = []
        for way in ("double", "array", "single"):
            self.way = way
            self.n_probed += len(probe)
            try:
                with torch.enable_grad():
                    answer = self._ask(probe.clone().requires_grad_())
            except Exception as error:
                errors.append(f"{_WAYS[way]}: {type(error).__name__}: {error}")
                continue
            if way != "double" or isinstance(answer, Tensor):
                self.differentiable = isinstance(answer, Tensor) and (
                    answer.requires_grad
                )
                self._checked(answer, len(probe))
                return
            errors.append(f"{_WAYS[way]}: returns {type(answer).__name__}")
        raise ValueError(
            f"potential failed on points of shape {tuple(probe.shape)}; "
            + "; ".join(errors)
        )

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the log densities of points."""
        return self._checked(self._ask(theta), len(theta))

    def _ask(self, theta: Tensor) -> Any:
        x = self.observation
        if self.way == "array":
            points = to_numpy(theta)
            return self.function(points) if x is None else self.function(points, x)
        dtype = torch.float64 if self.way == "double" else torch.float32
        points = theta.to(dtype)
        if x is None:
            return self.function(points)
        return self.function(points, to_tensor(x, dtype=dtype))

    def _checked(self, answer: Any, n_points: int) -> Tensor:
        """Return the answer as a vector in double precision."""
        shape = tuple(
            np.shape(answer.detach() if hasattr(answer, "detach") else answer)
        )
        if shape != (n_points,):
            raise ValueError(
                f"potential returned shape {shape} for {n_points} points; it has to "
                f"return one log density for each, shape ({n_points},)."
            )
        if isinstance(answer, Tensor):
            return answer.double()
        return to_tensor(answer)


_WAYS = {
    "double": "with a tensor of double precision",
    "array": "with an array",
    "single": "with a tensor of single precision",
}
