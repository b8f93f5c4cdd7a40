r"""The tails of a beta law.

With the odds :math:`x / (1 - x) = e^\lambda` the density of a beta variable is
log-concave, for every shape,

.. math:: h(\lambda) = \frac{x^a (1 - x)^b}{B(a, b)}, \qquad
    I_x(a, b) = h(\lambda)\, T, \qquad
    T = \int_0^\infty \frac{h(\lambda - s)}{h(\lambda)}\, ds,

and the smaller of the two tails is always computed as such a product, the larger as its
complement. T is a continued fraction where few levels are enough, else a
Gauss-Legendre rule. All tensors are flat, of one length and of float64.
"""

import math
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .basic import gauss_legendre

__all__ = [
    "POWER_LAW",
    "TINY",
    "Place",
    "by_rows",
    "less_log",
    "log_peak",
    "odds_place",
    "probability",
    "slopes",
    "smaller_tail",
    "stirling",
]

TINY = torch.finfo(torch.float64).tiny
# Below this, x^a is the whole of a lower tail in which the other factor is 1.
POWER_LAW = 1e-20
# So many rows are worked on at once: on a CPU, in its cache; on others, in memory.
_ROWS, _QUADRATURE_ROWS, _DEVICE_ROWS = 65536, 1024, 2**18
_FEW_ROWS = 4096
_LEVELS = (12, 16, 20, 26, 32, 40, 50, 64)
_N_NODES = 24
# exp(-_DEPTH) does not count beside 1.
_DEPTH = 38.0
_STIRLING = (
    1 / 12,
    -1 / 360,
    1 / 1260,
    -1 / 1680,
    1 / 1188,
    -691 / 360360,
    1 / 156,
    -3617 / 122400,
)


class Place(NamedTuple):
    """A point of a beta law; below the range of power laws, ``rest`` leads on.

    The odds are those of ``x`` and ``y = 1 - x`` times exp(rest).
    """

    x: Tensor
    y: Tensor
    rest: Tensor


def stirling(a: Tensor) -> Tensor:
    """Return log Gamma(a + 1) - a log a + a."""
    inverse = 1.0 / a.clamp(min=8.0)
    square = inverse.square()
    series = torch.full_like(a, _STIRLING[-1])
    for coefficient in reversed(_STIRLING[:-1]):
        series = series * square + coefficient
    series = series * inverse + 0.5 * (2.0 * math.pi * a).log()
    few = a.clamp(max=8.0)
    return torch.where(a < 8.0, torch.lgamma(few + 1.0) - few * few.log() + few, series)


def log_peak(a: Tensor, b: Tensor) -> Tensor:
    """Return log of h / n, n = a b / (a + b), at the mean of x.

    Without n it is near 0 for small shapes, which keeps more digits: beside a power law
    that is almost 1 the complement is small.
    """
    return stirling(a + b) - stirling(a) - stirling(b)


def less_log(u: Tensor, ratio: Tensor) -> Tensor:
    """Return u - log(1 + u), given also ``ratio = 1 + u`` without cancellation."""
    near = u.abs() < 0.5
    return u - torch.where(near, u.clamp(-0.5, 0.5).log1p(), ratio.log())


def _log_density(a: Tensor, b: Tensor, place: Place) -> Tensor:
    """Return log(h / n), whose exponent has no terms that cancel."""
    x, y, rest = place
    total, d = a + b, b * x - a * y
    first = a * less_log(d / a, total * (x / a))
    second = b * less_log(-d / b, total * (y / b))
    return log_peak(a, b) - first - second + a * rest


def _fraction(a: Tensor, b: Tensor, x: Tensor, levels: int) -> Tensor:
    """Return T by the continued fraction, from its last level upwards.

    It is that of [1]_, 8.17.22, with the denominators a, a + 1, ...

    References
    ----------
    .. [1] NIST Digital Library of Mathematical Functions.
    """
    bx, mid, top = b * x, (2.0 * a + b) * x, a * (a + b) * x
    value = a + levels
    for level in range(levels, 0, -1):
        m = level // 2
        if level % 2:
            # (a + m) (a + b + m) x, in powers of m
            numerator = torch.add(top, mid, alpha=m).add(x, alpha=m * m)
            value = torch.addcdiv(a + (level - 1), numerator, value, value=-1.0)
        else:
            numerator = torch.add(bx, x, alpha=-m)
            value = torch.addcdiv(a + (level - 1), numerator, value, value=m)
    return 1.0 / value


def _levels(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """Return how many levels of the fraction are enough; the constants are a fit."""
    share = x * (a + b + 2.0) / (a + 1.0)
    root = a.sqrt()
    slow = (3.6 + 8.0 / (1.0 + b.sqrt())) * root
    return 6.5 + 11.0 * share + slow / (1.0 + 0.2 * root * (1.0 - share))


@cache
def _rule(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of the Gauss-Legendre rule of [0, 1]."""
    with torch.inference_mode(False):
        nodes, weights = gauss_legendre(_N_NODES)
        return (0.5 + 0.5 * nodes).to(device), (0.5 * weights).to(device)


def _reach(power: Tensor, total: Tensor, w: Tensor, sign: Tensor, g: Tensor) -> Tensor:
    """Return about the s where the integrand of T has fallen to exp(-_DEPTH)."""
    s = 2.0 * _DEPTH / (g + (g.square() + 2.0 * _DEPTH * total * w * (1.0 - w)).sqrt())
    for _ in range(2):
        # With a small b the tail ends like exp(-exp(s)); solved for that exp(s).
        steep = (((_DEPTH - power * s) / total).expm1() / w).log1p()
        s = torch.where(sign < 0, torch.minimum(s, steep), s)
    for _ in range(2):
        fall = w * (-sign * s).expm1()
        slope = power - sign * total * (w + fall) / (1.0 + fall)
        excess = power * s + total * fall.log1p() - _DEPTH
        s = torch.clamp(s - excess / slope, 0.5 * s, 3.0 * s)
    return s


def _quadrature(a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return T by quadrature in s."""
    # The exponent is written with the smaller of x and y, which is known to more
    # digits after the decimal point.
    lower = x <= y
    power, w = torch.where(lower, a, -b), torch.where(lower, x, y)
    sign, total = lower.to(x.dtype) * 2.0 - 1.0, a + b
    with torch.no_grad():
        reach = _reach(power, total, w, sign, a * y - b * x)
    nodes, weights = _rule(x.device)
    s = reach.unsqueeze(-1) * nodes
    fall = w.unsqueeze(-1) * (-sign.unsqueeze(-1) * s).expm1()
    exponent = power.unsqueeze(-1) * s + total.unsqueeze(-1) * fall.log1p()
    return reach * ((-exponent).exp() @ weights)


def _mass(a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return T, each element by the cheaper way; x is not beyond the mean by much."""
    levels = _levels(a, b, x)
    result = torch.full_like(x, torch.nan)
    least = -torch.inf
    # With few rows, a piece costs more than its levels.
    for most in _LEVELS if len(x) > _FEW_ROWS else _LEVELS[3::4]:
        index = ((levels > least) & (levels <= most)).nonzero().squeeze(-1)
        if len(index):
            result[index] = _fraction(a[index], b[index], x[index], most)
        least = most
    index = (levels > least).nonzero().squeeze(-1)
    rows = _QUADRATURE_ROWS if x.device.type == "cpu" else _DEVICE_ROWS // _N_NODES
    for part in index.split(rows) if len(index) else ():
        result[part] = _quadrature(a[part], b[part], x[part], y[part])
    return result


def smaller_tail(a: Tensor, b: Tensor, place: Place) -> tuple[Tensor, Tensor, Tensor]:
    """Return log(h / n), n T and whether it is that of the upper tail."""
    x, y, _ = place
    # x > (a + 1) / (a + b + 2), also for an enormous shape
    upper = x * (b + 1.0) > y * (a + 1.0)
    mass = _mass(
        torch.where(upper, b, a),
        torch.where(upper, a, b),
        torch.where(upper, y, x),
        torch.where(upper, x, y),
    )
    return _log_density(a, b, place), a * (b / (a + b)) * mass, upper


def probability(a: Tensor, b: Tensor, place: Place, upper: bool) -> Tensor:
    """Return the probability of one side of a place."""
    log_density, mass, is_upper = smaller_tail(a, b, place)
    tail = (log_density.exp() * mass).clamp(max=1.0)
    return torch.where(is_upper == upper, tail, 1.0 - tail)


def slopes(a: Tensor, b: Tensor, place: Place) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return log h and the slopes of the lower probability in a, b and the log-odds."""
    with torch.enable_grad():
        a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
        log_density, mass, upper = smaller_tail(a, b, place)
        log_tail = log_density + mass.log()
        in_a, in_b = torch.autograd.grad(log_tail.sum(), (a, b))
    log_density = (log_density + (a * (b / (a + b))).log()).detach()
    tail = log_tail.detach().exp() * (1.0 - 2.0 * upper.to(in_a.dtype))
    return log_density, tail * in_a, tail * in_b, log_density.exp()


def odds_place(a: Tensor, b: Tensor, log_odds: Tensor) -> Place:
    """Return the place whose odds are exp(log_odds) times those of the mean."""
    least = (POWER_LAW / (a + b) * (b / a)).log()
    inner = torch.maximum(log_odds, least).clamp(max=700.0)
    odds = inner.exp() * a
    y = b / (b + odds)
    return Place(odds / (b + odds), y.clamp(min=TINY), (log_odds - inner).clamp(max=0))


def by_rows(function: Any, *arguments: Any) -> tuple[Tensor, ...]:
    """Apply a function to flat pieces of tensors of one shape; others pass through."""
    shape, device = arguments[0].shape, arguments[0].device
    rows = _ROWS if device.type == "cpu" else _DEVICE_ROWS
    flat = [v.reshape(-1) if isinstance(v, Tensor) else v for v in arguments]
    n = shape.numel()
    pieces = [
        function(*(v[i : i + rows] if isinstance(v, Tensor) else v for v in flat))
        for i in range(0, max(n, 1), rows)
    ]
    return tuple(torch.cat(piece).reshape(shape) for piece in zip(*pieces, strict=True))
