"""Logarithms of both tails of the beta, gamma and Student laws, however far out.

The smaller tail is a density times a mass (:mod:`skmdn.numerics.tails`), so that its
logarithm is a sum, which does not underflow; the other tail is its complement.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .basic import log_complement
from .special import beta_place, gamma_place, student_place
from .tails import TINY, Place, by_rows, smaller_tail

__all__ = ["log_beta_tails", "log_gamma_tails", "log_student_tails"]

Law = Callable[..., tuple[Tensor, Tensor, Place]]


class _SmallerTail(torch.autograd.Function):
    """The logarithm of the smaller tail of a law, and whether it is the upper one."""

    @staticmethod
    def forward(ctx: Any, law: Law, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        """Add the logarithms of density and mass."""
        ctx.law = law
        ctx.save_for_backward(*arguments)
        tail, upper = by_rows(_tail_rows, *arguments, law)
        ctx.mark_non_differentiable(upper)
        return tail, upper

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Differentiate them, some rows at a time."""
        slopes = by_rows(_slope_rows, *ctx.saved_tensors, ctx.law)
        return None, *(grad * slope for slope in slopes)


def _tail_rows(*arguments: Any) -> tuple[Tensor, Tensor]:
    *values, law = arguments
    log_density, mass, upper = smaller_tail(*law(*values))
    return log_density + mass.log(), upper


def _slope_rows(*arguments: Any) -> tuple[Tensor, ...]:
    *values, law = arguments
    with torch.enable_grad():
        leaves = [value.detach().requires_grad_() for value in values]
        tail, _ = _tail_rows(*leaves, law)
        return torch.autograd.grad(tail.sum(), leaves)


def _both(law: Law, *arguments: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithms of the lower and the upper tail."""
    tail, is_upper = _SmallerTail.apply(law, *arguments)
    rest = log_complement(tail.clamp_max(-TINY))
    return torch.where(is_upper, rest, tail), torch.where(is_upper, tail, rest)


def _at_ends(
    tails: tuple[Tensor, Tensor], begin: Tensor, end: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Put in what is impossible and what is sure."""
    lower, upper = tails
    lower = lower.masked_fill(begin, -torch.inf).masked_fill(end, 0.0)
    upper = upper.masked_fill(begin, 0.0).masked_fill(end, -torch.inf)
    return lower.to(dtype), upper.to(dtype)


def log_beta_tails(a: Tensor, b: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithms of both tails of a beta law.

    Parameters
    ----------
    a, b : Tensor of shape (...)
        Positive shapes, which broadcast.
    x : Tensor of shape (...)
        Points in [0, 1].

    Returns
    -------
    lower, upper : Tensor of shape (...)
        Logarithms of :func:`skmdn.numerics.special.betainc` and of its complement.
    """
    wide = torch.broadcast_tensors(*(v.double() for v in (a, b, x)))
    begin, end = wide[2] <= 0.0, wide[2] >= 1.0
    inner = torch.where(begin | end, 0.5, wide[2])
    return _at_ends(_both(_beta, *wide[:2], inner), begin, end, x.dtype)


def log_gamma_tails(a: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithms of both tails of a gamma law of rate 1.

    Parameters
    ----------
    a : Tensor of shape (...)
        Positive shapes, which broadcast.
    x : Tensor of shape (...)
        Points in [0, inf].

    Returns
    -------
    lower, upper : Tensor of shape (...)
        Logarithms of :func:`skmdn.numerics.special.gammainc` and of its complement.
    """
    a_wide, x_wide = torch.broadcast_tensors(a.double(), x.double())
    begin, end = x_wide <= 0.0, x_wide == torch.inf
    inner = torch.where(begin | end, 1.0, x_wide)
    return _at_ends(_both(_gamma, a_wide, inner), begin, end, x.dtype)


def log_student_tails(df: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithms of both tails of a Student law.

    Parameters
    ----------
    df : Tensor of shape (...)
        Positive degrees of freedom, which broadcast.
    t : Tensor of shape (...)
        Points.

    Returns
    -------
    lower, upper : Tensor of shape (...)
        Logarithms of :func:`skmdn.numerics.special.stdtr` at t and at -t.
    """
    df_wide, t_wide = torch.broadcast_tensors(df.double(), t.double())
    begin, end = t_wide == -torch.inf, t_wide == torch.inf
    # At 0 the law has no place, but there is one beside it.
    inner = torch.where(begin | end, 1.0, t_wide + 1e-30 * (t_wide == 0.0))
    tail = _both(student_place, df_wide, inner)[0] - math.log(2.0)
    rest = log_complement(tail)
    below = inner < 0.0
    tails = torch.where(below, tail, rest), torch.where(below, rest, tail)
    return _at_ends(tails, begin, end, t.dtype)


def _beta(a: Tensor, b: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Place]:
    return a, b, beta_place(a, b, x)


def _gamma(a: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Place]:
    return a, *gamma_place(a, x)
