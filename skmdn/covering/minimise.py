"""A stochastic descent on any parameters that stops by itself and survives NaN."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

__all__ = ["Record", "Steps", "minimise"]

_BETAS = (0.9, 0.99)
# The share of the schedule, at the end, whose parameters are averaged.
_AVERAGED = 0.25
_CHECKPOINT = 20
_MAX_RECOVERIES = 10


@dataclass(frozen=True)
class Steps:
    """How a descent goes.

    Parameters
    ----------
    max_iter : int
        Steps at most.
    learning_rate : float
        The first rate of Adam; it falls to 0 by half a cosine.
    clip_norm : float, default=10.0
        Longer gradients are shortened to this.
    tol : float, default=0.0
        The loss falls as long as the mean of ``n_iter_no_change`` steps is below that
        of those before by more than this and by more than its own standard error. When
        it no longer does, the rate falls to 0 within as many steps. 0 takes all steps.
    n_iter_no_change : int, default=50
        See ``tol``.
    report : callable, optional
        Called with the number of the step, from 1, and the loss.
    """

    max_iter: int
    learning_rate: float
    clip_norm: float = 10.0
    tol: float = 0.0
    n_iter_no_change: int = 50
    report: Callable[[int, float], None] | None = None

    def within(self, max_iter: int) -> "Steps":
        """Return the same with no more steps than these."""
        return replace(self, max_iter=min(self.max_iter, max_iter))


@dataclass
class Record:
    """What a descent has done.

    Attributes
    ----------
    losses : list of float
        One for every step; NaN where it was not finite.
    n_recoveries : int
        How often the last good state was restored.
    gave_up : bool
        Whether that was too often.
    converged : bool
        Whether the loss had stopped falling.
    """

    losses: list[float] = field(default_factory=list)
    n_recoveries: int = 0
    gave_up: bool = False
    converged: bool = False


def minimise(
    loss: Callable[[], Tensor], parameters: Sequence[Tensor], steps: Steps
) -> Record:
    """Move parameters, in place, to where a noisy loss is small.

    Adam with shortened gradients; the parameters of the last steps are averaged. After
    a loss or a gradient that is not finite the last good state is restored and the
    rate halved.

    Parameters
    ----------
    loss : callable
        Returns a fresh estimate.
    parameters : sequence of Tensor
        Leaves that require gradients.
    steps : Steps
        How many, and how long.
    """
    record, rate, phase = Record(), steps.learning_rate, 0.0
    pace = 1.0 / max(1, steps.max_iter)
    optimizer = torch.optim.Adam(parameters, lr=rate, betas=_BETAS, fused=True)
    good = _copied(parameters)
    total, n_averaged = [torch.zeros_like(value) for value in parameters], 0
    for step in range(1, steps.max_iter + 1):
        if phase >= 1.0 - 1e-9:
            break
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        if not _backward(value, parameters, steps.clip_norm):
            record.losses.append(math.nan)
            record.n_recoveries += 1
            record.gave_up = record.n_recoveries > _MAX_RECOVERIES
            _restore(parameters, good)
            if record.gave_up:
                return record
            rate *= 0.5
            optimizer = torch.optim.Adam(parameters, lr=rate, betas=_BETAS, fused=True)
            continue
        if step % _CHECKPOINT == 0:
            good = _copied(parameters)
        for group in optimizer.param_groups:
            group["lr"] = 0.5 * rate * (1.0 + math.cos(math.pi * phase))
        optimizer.step()
        record.losses.append(float(value.detach()))
        if steps.report is not None:
            steps.report(step, record.losses[-1])
        phase += pace
        if phase >= 1.0 - _AVERAGED:
            for sum_, value in zip(total, parameters, strict=True):
                sum_.add_(value.detach())
            n_averaged += 1
        elif not record.converged and _is_flat(record.losses, steps):
            record.converged = True
            pace = (1.0 - phase) / steps.n_iter_no_change
    if n_averaged:
        _restore(parameters, [sum_ / n_averaged for sum_ in total])
    return record


def _backward(loss: Tensor, parameters: Sequence[Tensor], clip_norm: float) -> bool:
    """Fill the gradients; tell whether they are numbers."""
    if not bool(loss.detach().isfinite()):
        return False
    loss.backward()
    used = [value for value in parameters if value.grad is not None]
    return bool(torch.nn.utils.clip_grad_norm_(used, clip_norm).isfinite())


def _is_flat(losses: list[float], steps: Steps) -> bool:
    size = steps.n_iter_no_change
    if not steps.tol or len(losses) < 2 * size or len(losses) % (size // 2 or 1):
        return False
    table = torch.tensor(losses[-2 * size :], dtype=torch.float64).reshape(2, size)
    gain = float(table[0].mean() - table[1].mean())
    se = float((table.var(1, correction=0).sum() / size).sqrt())
    return not gain > max(steps.tol, se)


def _copied(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [value.detach().clone() for value in parameters]


def _restore(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)
