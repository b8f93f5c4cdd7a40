"""The most probable codes of rows, with the decoder frozen: Newton from several starts.

Rows are independent: each has its own damping and its own end, so that a row's code
does not depend on the rows beside it. The Hessian is exact; so the last steps converge
quadratically and take away what the path has left of rounding.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .objective import Joint
from .prior import Local
from .table import Table

__all__ = ["Placed", "Search", "best_of", "descend", "place", "row_chunks"]

# Numbers of the Jacobians at work at a time, which are to stay near the processor.
_NUMBERS = 2**20
# The least damping, and the factor by which it grows and falls, in units of the bound.
_LEAST_DAMPING = 1e-3
_MOST_DAMPING = 1e10
_GROW, _FALL = 8.0, 0.1
# Differences of the objective, relative to it, that rounding may hide.
_DOUBTFUL = 1e-11
# Longest step of a feature of the code.
_LONGEST = 2.0


@dataclass(frozen=True)
class Search:
    """How codes are looked for.

    Parameters
    ----------
    n_starts : int, default=3
        How many of the best candidates are followed.
    max_iter : int, default=100
        The most steps of each.
    tol : float, default=1e-8
        A code has been found when an undamped step moves no feature by more.
    """

    n_starts: int = 3
    max_iter: int = 100
    tol: float = 1e-8


@dataclass
class Placed:
    """Codes of rows.

    Attributes
    ----------
    codes : Tensor of shape (n_rows, n_latent)
        The best ones.
    values : Tensor of shape (n_rows,)
        Minus the log of the joint density there, without what depends on the row alone.
    found : Tensor of shape (n_rows,)
        Whether the search has ended by itself.
    """

    codes: Tensor
    values: Tensor
    found: Tensor


def row_chunks(joint: Joint, n_rows: int, n_latent: int) -> Iterator[Tensor]:
    """Yield the numbers of rows that are worked on together."""
    widest = max(sum(joint.blocks.sizes), *joint.network.widths())
    size = max(16, _NUMBERS // (n_latent * widest))
    yield from torch.arange(n_rows).split(size)


def descend(
    joint: Joint,
    codes: Tensor,
    table: Table,
    labels: Tensor | None,
    search: Search,
) -> Placed:
    """Follow every row's code downhill.

    Parameters
    ----------
    joint : Joint
        What is minimised.
    codes : Tensor of shape (n_rows, n_latent)
        Where to begin.
    table : Table
        The rows.
    labels : Tensor of shape (n_rows, n_blocks) or None
        Their classes.
    search : Search
        When to stop.

    Returns
    -------
    placed : Placed
        The value of a row is never above that of its beginning.
    """
    codes = codes.clone()
    found = torch.zeros(len(codes), dtype=torch.bool, device=codes.device)
    values = codes.new_empty(len(codes))
    going = torch.arange(len(codes), device=codes.device)
    here = joint.local(codes, table, labels)
    values[:] = here.value
    damping = torch.zeros_like(values)
    for _ in range(search.max_iter):
        step, sure = _newton_step(here, damping[going])
        trial = codes[going] - step
        there = joint.local(trial, table, labels)
        ended = sure & (step.abs().amax(1) <= search.tol)
        better = ended | _improves(here, there, step, sure)
        here = _chosen(better, there, here)
        codes[going] = torch.where(better.unsqueeze(1), trial, codes[going])
        values[going] = here.value
        damping[going] = _damped(here, damping[going], better)
        found[going] = ended
        lost = damping[going] >= _MOST_DAMPING * _size(here)
        keep = (~ended & ~lost).nonzero().view(-1)
        if not len(keep):
            break
        if len(keep) < len(going):
            going, here = going[keep], _of(here, keep)
            table = table.of(keep)
            labels = None if labels is None else labels[keep]
    return Placed(codes, values, found)


def _improves(here: Local, there: Local, step: Tensor, sure: Tensor) -> Tensor:
    """Tell which rows' steps are for the better.

    Where Newton's step promises less than rounding can tell, the gradient decides.
    """
    promised = 0.5 * (here.gradient * step).sum(1)
    doubtful = sure & (promised <= _DOUBTFUL * (1.0 + here.value.abs()))
    calmer = there.gradient.abs().amax(1) < here.gradient.abs().amax(1)
    return (there.value <= here.value) | (doubtful & calmer)


def _size(local: Local) -> Tensor:
    """Return the mean curvature of the bound, which damping is measured by."""
    return local.bound.diagonal(dim1=1, dim2=2).mean(1)


def _damped(local: Local, damping: Tensor, better: Tensor) -> Tensor:
    """Return the damping of the next step."""
    least = _LEAST_DAMPING * _size(local)
    lower = damping * _FALL
    lower = torch.where(lower < least, 0.0, lower)
    return torch.where(better, lower, torch.maximum(damping * _GROW, least))


def _newton_step(local: Local, damping: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's step, and whether it is Newton's own."""
    eye = torch.eye(local.hessian.shape[-1], dtype=damping.dtype, device=damping.device)
    shift = damping[:, None, None] * eye
    root, info = torch.linalg.cholesky_ex(local.hessian + shift)
    positive = info == 0
    if not bool(positive.all()):
        # The bound is positive definite, as the components' precisions are.
        other, _ = torch.linalg.cholesky_ex(local.bound + shift)
        root = torch.where(positive[:, None, None], root, other)
    step = torch.cholesky_solve(local.gradient.unsqueeze(-1), root).squeeze(-1)
    longest = step.abs().amax(1, keepdim=True)
    step = step * (_LONGEST / longest).clamp_max(1.0)
    return step.nan_to_num(nan=0.0), positive & (damping == 0.0)


def _chosen(better: Tensor, new: Local, old: Local) -> Local:
    row, matrix = better.unsqueeze(1), better[:, None, None]
    return Local(
        torch.where(better, new.value, old.value),
        torch.where(row, new.gradient, old.gradient),
        torch.where(matrix, new.hessian, old.hessian),
        torch.where(matrix, new.bound, old.bound),
    )


def _of(local: Local, rows: Tensor) -> Local:
    return Local(
        local.value[rows], local.gradient[rows], local.hessian[rows], local.bound[rows]
    )


def place(
    joint: Joint,
    candidates: Tensor,
    table: Table,
    labels: Tensor | None,
    search: Search,
) -> Placed:
    """Follow the best candidates of every row and return the best end.

    Parameters
    ----------
    joint : Joint
        What is minimised.
    candidates : Tensor of shape (n_rows, n_candidates, n_latent)
        Where a search may begin.
    table : Table
        The rows.
    labels : Tensor of shape (n_rows, n_blocks) or None
        Their classes.
    search : Search
        How many are followed, and when to stop.
    """
    starts = best_of(joint, candidates, table, labels, search.n_starts)
    n_rows, n_starts, _ = starts.shape
    rows = torch.arange(n_rows, device=starts.device).repeat_interleave(n_starts)
    placed = descend(
        joint,
        starts.flatten(0, 1),
        table.of(rows),
        None if labels is None else labels[rows],
        search,
    )
    ends = placed.values.view(n_rows, n_starts)
    best = ends.argmin(1) + n_starts * torch.arange(n_rows, device=ends.device)
    return Placed(placed.codes[best], placed.values[best], placed.found[best])


def best_of(
    joint: Joint,
    candidates: Tensor,
    table: Table,
    labels: Tensor | None,
    n_best: int,
) -> Tensor:
    """Return the best candidates of every row, in order.

    Parameters
    ----------
    joint, candidates, table, labels
        As in :func:`place`.
    n_best : int
        How many.

    Returns
    -------
    codes : Tensor of shape (n_rows, n_best, n_latent)
        With fewer where there are no more candidates.
    """
    values = torch.stack(
        [joint.value(c, table, labels) for c in candidates.unbind(1)], 1
    ).nan_to_num(nan=torch.inf)
    # Of equals the first candidate, whatever rows there are beside.
    order = values.argsort(dim=1, stable=True)[:, :n_best]
    places = order.unsqueeze(-1).expand(-1, -1, candidates.shape[2])
    return candidates.gather(1, places)
