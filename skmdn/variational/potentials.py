"""The user's potential, whichever way it wants its points."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from skmdn.bridge import to_numpy, to_tensor

from .side_by_side import asker

__all__ = [
    "OnDevice",
    "Potential",
    "answer_together",
    "takes_many_observations",
    "takes_observation",
]

# As many as are asked for in a call that answers several rows.
_MOST_POINTS = 50_000


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

    What the user's function takes is found out by asking it: tensors in double
    precision, arrays, or tensors in single precision; the observation as a row or as a
    table of one row.

    Parameters
    ----------
    function : callable
        The user's, of points and perhaps of an observation.
    observation : ndarray of shape (n_observed,) or None
        What follows the points.
    probe : Tensor of shape (n_points, n_features)
        Points to ask it about.
    max_points : int, optional
        The most points that it is given at a time.

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
        max_points: int | None = None,
    ) -> None:
        self.function = function
        self.max_points = max_points
        self.observation = observation
        self.differentiable = False
        self.n_probed = 0
        errors: list[str] = []
        for self.way in _WAYS:
            for view in (observation, np.atleast_2d(observation)):
                self.observation = view
                if self._answers(probe, errors):
                    return
                if view is None:
                    break
        wrong = [error for error in errors if "returned shape" in error]
        raise ValueError(
            wrong[0].partition("ValueError: ")[2]
            if wrong
            else f"potential failed on points of shape {tuple(probe.shape)}; "
            + "; ".join(errors)
        )

    def _answers(self, probe: Tensor, errors: list[str]) -> bool:
        """Tell whether this way works, and find out whether it has gradients."""
        self.n_probed += len(probe)
        try:
            with torch.enable_grad():
                answer = self._ask(probe.clone().requires_grad_(), self.observation)
            self._checked(answer, len(probe))
        except Exception as error:
            errors.append(f"{_WAYS[self.way]}: {type(error).__name__}: {error}")
            return False
        if self.way == "double" and not isinstance(answer, Tensor):
            errors.append(f"{_WAYS[self.way]}: returns {type(answer).__name__}")
            return False
        self.differentiable = isinstance(answer, Tensor) and answer.requires_grad
        return True

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the log densities of points, asked for with those of other rows."""
        ask = asker()
        if ask is None:
            parts = [self._answer(part, self.observation) for part in self._cut(theta)]
            return torch.cat(parts)
        wanted = theta.requires_grad and torch.is_grad_enabled()
        values, slopes = ask(_Question(self, theta.detach(), wanted))
        return values if slopes is None else _Known.apply(theta, values, slopes)

    def _cut(self, rows: Any) -> list[Any]:
        """Return the rows in parts that it may be given."""
        size = self.max_points or max(len(rows), 1)
        return [rows[i : i + size] for i in range(0, max(len(rows), 1), size)]

    def _answer(self, theta: Tensor, x: np.ndarray | None) -> Tensor:
        return self._checked(self._ask(theta, x), len(theta))

    def _ask(self, theta: Tensor, x: np.ndarray | None) -> Any:
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

    def of_rows(self, theta: Tensor, x: np.ndarray) -> Tensor:
        """Return the log densities of points, each under an observation of its own."""
        pairs = zip(self._cut(theta), self._cut(x), strict=True)
        return torch.cat([self._answer(*pair) for pair in pairs])


_WAYS = {
    "double": "with a tensor of double precision",
    "array": "with an array",
    "single": "with a tensor of single precision",
}


class _Question(NamedTuple):
    """Points that a row asks about, and whether it wants gradients."""

    potential: Potential
    theta: Tensor
    gradient: bool


class _Known(torch.autograd.Function):
    """Values whose gradients are known."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, values: Tensor, slopes: Tensor) -> Tensor:
        """Keep the gradients."""
        ctx.save_for_backward(slopes)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None, None]:
        """Multiply by them."""
        (slopes,) = ctx.saved_tensors
        return above[0].unsqueeze(1) * slopes, None, None


def answer_together(
    questions: Sequence[_Question],
) -> list[tuple[Tensor, Tensor | None]]:
    """Ask the user's function once for the points of several rows.

    Those that want gradients are asked about apart, and no more than a certain number
    of points at a time.
    """
    answers: dict[int, tuple[Tensor, Tensor | None]] = {}
    for gradient in (False, True):
        group: list[int] = []
        chosen = [i for i, q in enumerate(questions) if q.gradient == gradient]
        for i in chosen:
            group.append(i)
            n_points = sum(len(questions[j].theta) for j in group)
            if n_points >= _MOST_POINTS or i == chosen[-1]:
                parts = _answer([questions[j] for j in group], gradient)
                answers.update(zip(group, parts, strict=True))
                group = []
    return [answers[i] for i in range(len(questions))]


def _answer(
    questions: list[_Question], gradient: bool
) -> list[tuple[Tensor, Tensor | None]]:
    sizes = [len(q.theta) for q in questions]
    theta = torch.cat([q.theta for q in questions])
    rows = [np.repeat(_row(q), len(q.theta), axis=0) for q in questions]
    with torch.set_grad_enabled(gradient):
        theta.requires_grad_(gradient)
        values = questions[0].potential.of_rows(theta, np.concatenate(rows))
    known = values.detach().split(sizes)
    if not gradient:
        return [(part, None) for part in known]
    finite = values.detach().isfinite()
    (slopes,) = torch.autograd.grad(values.masked_fill(~finite, 0.0).sum(), theta)
    return list(zip(known, slopes.split(sizes), strict=True))


def _row(question: _Question) -> np.ndarray:
    return np.atleast_2d(np.asarray(question.potential.observation))


def takes_many_observations(
    function: Callable[..., Any], rows: np.ndarray, probe: Tensor
) -> tuple[bool, int]:
    """Tell whether a potential can be asked about several observations at once.

    That is, with as many rows of ``x`` as points. It has to give the answers it gives
    to each observation alone, which must be finite somewhere and differ.

    Parameters
    ----------
    function : callable
        The user's, of points and of an observation.
    rows : ndarray of shape (2, n_observed)
        Two observations.
    probe : Tensor of shape (n_points, n_features)
        Points to ask it about.

    Returns
    -------
    able : bool
        Whether it can.
    n_evals : int
        How many points it took to find out.
    """
    potentials = [Potential(function, row, probe[:2]) for row in rows]
    n_evals = sum(p.n_probed for p in potentials) + 4 * len(probe)
    with torch.no_grad():
        alone = torch.cat([potential(probe) for potential in potentials])
        try:
            points = torch.cat([probe, probe])
            x = np.repeat(rows, len(probe), axis=0)
            together = potentials[0].of_rows(points, x)
        except Exception:
            # Whatever it is: one observation at a time has just worked.
            return False, n_evals
    first, second = alone.chunk(2)
    known = bool(first.isfinite().any() & second.isfinite().any())
    rtol = 1e-4 if potentials[0].way == "single" else 1e-9
    same = torch.allclose(alone, together, rtol=rtol, atol=rtol, equal_nan=True)
    return known and same and not torch.equal(first, second), n_evals
