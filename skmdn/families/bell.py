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

from skmdn.numerics.basic import gauss_legendre

__all__ = ["SQRT_2PI", "log_mass", "log_probability", "moments", "nearest"]

SQRT_2PI = math.sqrt(2.0 * math.pi)
_ROOT_HALF = math.sqrt(0.5)
# exp(-_DEPTH) does not count beside 1, and this many nodes are enough down to there.
_DEPTH, _N_NODES = 38.0, 40
# Over so short an interval, relative to what the bell changes on, a few nodes suffice.
_SHORT, _N_SHORT = 0.5, 5
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


class _LogProbability(torch.autograd.Function):
    """The log probability that a normal variable lies between two ends.

    The interval is mirrored so that z runs upwards from its end nearer to the middle
    of the bell. If that is on the other side of the middle, probabilities are added,
    otherwise tails are subtracted, and short intervals are integrated: no way cancels.
    """

    @staticmethod
    def forward(
        ctx: Any, loc: Tensor, scale: Tensor, low: Tensor, high: Tensor
    ) -> Tensor:
        """Choose the way for each interval."""
        z_low, z_high = (low - loc) / scale, (high - loc) / scale
        right = z_low + z_high > 0.0
        near = torch.where(right, z_low, -z_high)
        far = torch.where(right, z_high, -z_low)
        width = (high - low) / scale
        middle = near + 0.5 * width
        short = width * (1.0 + middle.abs()) < _SHORT
        mass, mean, square = _short_interval(middle, width)
        start = near.clamp_min(0.0)
        around = torch.erf(far * _ROOT_HALF) - torch.erf(near * _ROOT_HALF)
        # With the tail at its start taken out: exp(-width middle) of it at the end.
        rest = torch.exp(-width * middle) * torch.special.erfcx(far * _ROOT_HALF)
        beyond = torch.special.erfcx(start * _ROOT_HALF) - rest
        value = torch.log(0.5 * torch.where(near > 0.0, beyond, around))
        value = torch.where(short, mass, value - 0.5 * start.square())
        sign = torch.where(right, 1.0, -1.0).to(mean)
        ctx.save_for_backward(scale, z_low, z_high, value, short, sign * mean, square)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        """Return the slopes, those of short intervals by their moments."""
        scale, z_low, z_high, value, short, mean, square = ctx.saved_tensors
        at_low, at_high = (
            torch.exp(-0.5 * z.square() - value) / SQRT_2PI for z in (z_low, z_high)
        )
        pull = torch.where(short, mean, at_low - at_high)
        stretch = _times(z_low, at_low) - _times(z_high, at_high)
        stretch = torch.where(short, square - 1.0, stretch)
        grad = grad / scale
        return grad * pull, grad * stretch, -grad * at_low, grad * at_high


def _times(z: Tensor, density: Tensor) -> Tensor:
    """Return the product, 0 at infinity."""
    return torch.where(z.isinf(), 0.0, z) * density


def _short_interval(middle: Tensor, width: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log probability and the means of z and z^2 in short intervals."""
    rule = zip(*(part.tolist() for part in gauss_legendre(_N_SHORT)), strict=True)
    half = 0.5 * width
    total, first, second = (torch.zeros_like(middle) for _ in range(3))
    for node, weight in rule:
        u = half * node
        share = torch.exp(-u * (middle + 0.5 * u)).mul_(0.5 * weight)
        total, first, second = total + share, first + share * u, second + share * u * u
    first, second = first / total, second / total
    value = (width / SQRT_2PI * total).log() - 0.5 * middle.square()
    mean = middle + first
    return value, mean, middle.square() + 2.0 * middle * first + second


def log_probability(loc: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    r"""Return the log probability of an interval under a normal law.

    .. math:: \log\bigl(\Phi(z_h) - \Phi(z_l)\bigr), \quad
        z_l, z_h = \frac{l - m}{s}, \frac{h - m}{s}

    Parameters
    ----------
    loc, scale, low, high : Tensor
        Broadcast against each other; ends may be infinite.

    Returns
    -------
    log_probability : Tensor
        Differentiable once, in all arguments; -inf if ``low`` is ``high``.
    """
    return _LogProbability.apply(*torch.broadcast_tensors(loc, scale, low, high))
