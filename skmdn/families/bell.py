r"""Integrals of the bell :math:`e^{-z^2 / 2}`, z = (y - loc) / scale, over intervals.

They are taken relative to the largest value of the bell in the interval, by a
Gauss-Legendre rule over the part of it that counts: there is nothing that cancels or
underflows, wherever the interval is and however short.
"""

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from skmdn.numerics import gauss_legendre

__all__ = ["SQRT_2PI", "log_mass", "moments", "nearest"]

SQRT_2PI = math.sqrt(2.0 * math.pi)
# exp(-_DEPTH) does not count beside 1, and this many nodes are enough down to there.
_DEPTH, _N_NODES = 38.0, 40
# So many integrals are worked on at once: on a CPU, in its cache.
_ROWS, _DEVICE_ROWS = 2048, 2**17


@cache
def _rule(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return nodes x of the Gauss-Legendre rule of [0, 1], and weights of 1, x, x^2."""
    # Kept for good: not to be made of tensors that training cannot use.
    with torch.inference_mode(False):
        nodes, weights = gauss_legendre(_N_NODES)
        nodes = 0.5 + 0.5 * nodes
        powers = torch.stack([nodes**0, nodes, nodes**2], -1)
        weights = 0.5 * weights.unsqueeze(-1) * powers
        return nodes.to(device, dtype), weights.to(device, dtype)


def nearest(loc: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the point of the interval that is nearest to the location."""
    return torch.minimum(torch.maximum(loc, low), high)


def _distance(difference: Tensor, scale: Tensor, reach: Tensor) -> Tensor:
    """Return a distance in scales, at most ``reach``, also if it is infinite."""
    infinite = difference.isinf()
    finite = torch.where(infinite, 0.0, difference) / scale
    return torch.where(infinite, reach, torch.minimum(finite, reach))


def moments(
    loc: Tensor, scale: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Integrate over the interval, from its point c nearest to the location.

    Returns
    -------
    mass : Tensor
        The integral M of :math:`e^{(c^2 - z^2)/2}` over z.
    mean, variance : Tensor
        Of z - c with the density :math:`e^{(c^2 - z^2)/2} / M`.
    """
    anchor = nearest(loc, low, high)
    c = (anchor - loc) / scale
    reach = 2.0 * _DEPTH / (c.abs() + (c.square() + 2.0 * _DEPTH).sqrt())
    left = _distance(anchor - low, scale, reach)
    right = _distance(high - anchor, scale, reach)
    sums = _integrals(c, left, right)
    mass, mean = (left + right) * sums[..., 0], sums[..., 1] / sums[..., 0]
    spread = sums[..., 2] / sums[..., 0] - mean.square()
    width = left + right
    return mass, width * mean - left, width.square() * spread


def _integrals(c: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return integrals over x in [0, 1] of the bell times 1, x and x^2.

    The bell is exp(-z (c + z / 2)) with z running from -left to right.
    """
    nodes, powers = _rule(c.dtype, c.device)
    rows = _ROWS if c.device.type == "cpu" else _DEVICE_ROWS
    parts = zip(*(v.reshape(-1, 1).split(rows) for v in (c, left, right)), strict=True)
    sums = []
    for offset, down, up in parts:
        z = torch.addcmul(-down, down + up, nodes)
        sums.append(torch.exp(-z * (offset + 0.5 * z)) @ powers)
    return torch.cat(sums).reshape(*c.shape, 3)


class _LogMass(torch.autograd.Function):
    r"""The log integral of :math:`e^{-z^2 / 2}` over y from ``low`` to ``high``.

    Its slopes are moments, which come with the integral.
    """

    @staticmethod
    def forward(
        ctx: Any, loc: Tensor, scale: Tensor, low: Tensor, high: Tensor
    ) -> Tensor:
        """Integrate."""
        mass, mean, variance = moments(loc, scale, low, high)
        c = (nearest(loc, low, high) - loc) / scale
        value = mass.log() - 0.5 * c.square() + scale.log()
        square = c.square() + 2.0 * c * mean + mean.square() + variance
        ctx.save_for_backward(loc, scale, low, high, value, c + mean, square)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        """Return the slopes."""
        loc, scale, low, high, value, mean, square = ctx.saved_tensors
        at_ends = [
            grad * torch.exp(-0.5 * ((end - loc) / scale).square() - value)
            for end in (low, high)
        ]
        return grad * mean / scale, grad * square / scale, -at_ends[0], at_ends[1]


def log_mass(loc: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    r"""Return the logarithm of the integral of :math:`e^{-z^2 / 2}` over y.

    Parameters
    ----------
    loc, scale, low, high : Tensor
        Broadcast against each other; ends may be infinite.

    Returns
    -------
    log_mass : Tensor
        Differentiable once, in all arguments; -inf if ``low`` is ``high``.
    """
    return _LogMass.apply(*torch.broadcast_tensors(loc, scale, low, high))
