r"""Means, deviations and covariances of what maps onto intervals make of variables.

On half-lines they are exponential moments of Z. On an interval they are integrals of
the logistic function, less its value at the median, so that little cancels however
narrow Z is or however close to an end; or, of the normal distribution function, closed
forms and an integral over a correlation.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from skmdn.numerics.basic import gauss_legendre, ndtr, nodes_between

from .base import Family, Params
from .gaussian import Normal

__all__ = ["Margin", "covariance_between", "moments_between"]

# Edges of the panels: in widths around the median, and around 0, where the logistic
# function bends; and far out, for tails that are powers.
_AROUND_MEDIAN = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.5, 7.5, 10.0, 15.0, 25.0, 40.0)
_FAR_OUT = (200.0, 1_000.0, 5_000.0, 25_000.0)
_AROUND_ZERO = (1.5, 3.0, 5.0, 7.5, 10.0, 14.0, 20.0, 28.0, 40.0)
_N_NODES = 10
_N_ANGLES = 40
# The level of one standard deviation of a normal variable.
_ONE_DEVIATION = 0.8413447460685429

# Normal variables up to these deviations are integrated by plain sums, each as fine as
# its widest needs.
_WIDTHS = (1.5, 3.0, 6.0)
_INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)

# Numbers at work at a time.
_CHUNK = 2**20


def moments_between(
    family: Family, params: Params, low: float, high: float, link: str = "logit"
) -> tuple[Tensor, Tensor]:
    """Return means and standard deviations of the image of each variable.

    Parameters
    ----------
    family : Family
        Of Z, with independent outputs.
    params : dict of Tensor
        Its parameters, all of which broadcast to one shape.
    low, high : float
        The ends, which may be infinite.
    link : {"logit", "probit"}, default="logit"
        The map onto an interval; "probit" of normal variables.
    """
    if math.isinf(low) and math.isinf(high):
        return family.mean(params), family.std(params)
    if math.isinf(low) or math.isinf(high):
        sign, end = (1.0, low) if math.isinf(high) else (-1.0, high)
        first, second = (family.cumulant(params, n * sign) for n in (1.0, 2.0))
        size = (sign * family.mean(params) + first).exp()
        excess = torch.where(second.isinf(), 0.0, second - 2.0 * first)
        std = torch.where(second.isinf(), torch.inf, size * excess.expm1().sqrt())
        return end + sign * size, std
    if link == "probit":
        below, above, variance, _ = _probit_moments(params)
    else:
        below, above, variance, _ = _logistic_moments(family, params)
    width = high - low
    mean = torch.where(below < above, low + width * below, high - width * above)
    return mean, width * variance.sqrt()


# The logistic function of one variable.


def _logistic_moments(family: Family, params: Params) -> tuple[Tensor, ...]:
    r"""Return the mean of the logistic function and what it lacks to 1.

    And its variance, and its mean slope.
    """
    values = torch.broadcast_tensors(*params.values())
    shape = values[0].shape
    flat = [value.reshape(-1) for value in values]
    parts = []
    for piece in zip(*(v.split(_CHUNK // 512) for v in flat), strict=True):
        some = dict(zip(params, piece, strict=True))
        result = piece[0].new_empty((3, len(piece[0])))
        left = torch.ones_like(piece[0], dtype=torch.bool)
        for width in _WIDTHS if family.gaussian else ():
            chosen = left & (some["scale"] <= width)
            left = left & ~chosen
            if bool(chosen.any()):
                part = {name: value[chosen] for name, value in some.items()}
                result[:, chosen] = _by_sum(part, width)
        if bool(left.any()):
            part = {name: value[left] for name, value in some.items()}
            result[:, left] = _by_panels(family, part)
        parts.append(result)
    center, first, second = torch.cat(parts, -1).reshape(3, *shape)
    at, rest = center.sigmoid(), (-center).sigmoid()
    variance = (second - first.square()).clamp_min(0.0)
    slope = at * rest + (rest - at) * first - second
    return at + first, rest - first, variance, slope


def _by_sum(params: Params, widest: float) -> Tensor:
    """Return centres and two moments around them, of normal variables."""
    center, scale = params["mean"], params["scale"]
    x, weights = _bell(center, widest)
    distance = _rise(center, center + scale * x.unsqueeze(-1))
    return torch.stack([center, weights @ distance, weights @ distance.square()])


def _bell(like: Tensor, widest: float) -> tuple[Tensor, Tensor]:
    """Return equidistant points of a normal variable, and weights of a sum over them.

    The sum converges exponentially, since the poles of the logistic function are far
    away in deviations; they come closer, and the points too, as ``widest`` grows. It
    reaches as far as the exponential can move the bell.
    """
    step = 0.75 / max(widest, _WIDTHS[0])
    n = math.ceil((8.5 + min(2.0 * widest, 10.0)) / step)
    x = step * torch.arange(-n, n + 1, dtype=like.dtype, device=like.device)
    return x, _INV_SQRT_2PI * step * torch.exp(-0.5 * x.square())


def _by_panels(family: Family, params: Params) -> Tensor:
    """Return medians and two moments around them, by quadrature of the density."""
    one = next(iter(params.values()))
    with torch.no_grad():
        center = family.ppf(params, one.new_tensor(0.5))
        width = family.ppf(params, one.new_tensor(_ONE_DEVIATION)) - center
        near, far = map(one.new_tensor, (_AROUND_MEDIAN + _FAR_OUT, _AROUND_ZERO))
        sided = [torch.cat([-m.flip(0), m.new_zeros(1), m]) for m in (near, far)]
        own = center.unsqueeze(-1) + width.unsqueeze(-1) * sided[0]
        edges = torch.cat([own, sided[1].expand(len(own), -1)], -1).sort(-1).values
        panels = nodes_between(edges[:, :-1], edges[:, 1:], _N_NODES)
        z, weights = (part.flatten(1).T for part in panels)
    column = {name: value.unsqueeze(-1) for name, value in params.items()}
    mass = weights * family.log_prob(column, z.unsqueeze(-1)).exp()
    distance = _rise(center, z)
    first, second = (mass * distance).sum(0), (mass * distance.square()).sum(0)
    # Beyond the panels the logistic function no longer changes.
    for end, tail in ((edges[:, 0], family.cdf), (edges[:, -1], family.sf)):
        beyond, distance = tail(params, end), _rise(center, end)
        first = first + beyond * distance
        second = second + beyond * distance.square()
    return torch.stack([center, first, second])


def _rise(a: Tensor, b: Tensor) -> Tensor:
    """Return by how much the logistic function rises from a to b.

    Measured where it is below one half at a, so that ends do not cost digits.
    """
    side = torch.where(a > 0.0, -1.0, 1.0).to(a.dtype)
    return side * ((side * b).sigmoid() - (side * a).sigmoid())


# The normal distribution function of a normal variable.


def _probit_moments(params: Params) -> tuple[Tensor, ...]:
    r"""Return the same four numbers of :math:`\Phi(Z)`.

    .. math:: E \Phi(Z) = \Phi(a), \quad E \Phi'(Z) = \phi(a) / \sqrt{1 + \sigma^2},
        \quad a = \mu / \sqrt{1 + \sigma^2}
    """
    mean, scale = torch.broadcast_tensors(params["mean"], params["scale"])
    size = (1.0 + scale.square()).sqrt()
    a = mean / size
    variance = _orthant_excess(a, a, (scale / size).square())
    slope = _INV_SQRT_2PI * torch.exp(-0.5 * a.square()) / size
    return ndtr(a), ndtr(-a), variance, slope


def _orthant_excess(a: Tensor, b: Tensor, correlation: Tensor) -> Tensor:
    r"""Return by how much :math:`\Phi_2(a, b; \rho)` exceeds the independent case.

    .. math:: \frac{1}{2 \pi} \int_0^{\arcsin \rho} \exp\Bigl(-\frac{a^2 + b^2 -
        2 a b \sin t}{2 \cos^2 t}\Bigr) dt

    The integral loses no digits where the probabilities themselves would cancel [1]_.

    References
    ----------
    .. [1] Z. Drezner and G. O. Wesolowsky, "On the computation of the bivariate normal
       integral", Journal of Statistical Computation and Simulation 35, 1990.
    """
    nodes, weights = (part.to(a) for part in gauss_legendre(_N_ANGLES))
    end = torch.asin(correlation).unsqueeze(-1)
    angle = 0.5 * end * (1.0 + nodes)
    a, b = a.unsqueeze(-1), b.unsqueeze(-1)
    # (a^2 + b^2 - 2 a b sin t) / (2 cos^2 t), of terms that do not cancel.
    sine = angle.sin()
    sums, gaps = (a + b).square() / (1.0 + sine), (a - b).square() / (1.0 - sine)
    values = torch.exp(-0.25 * (sums + gaps))
    return (values @ weights) * end[..., 0] / (4.0 * math.pi)


def _both_probit(one: "Margin", other: "Margin", inner: Tensor) -> Tensor:
    """Return the covariance of two outputs with probit maps."""
    sizes = [(1.0 + m.std.square()).sqrt() for m in (one, other)]
    a, b = one.mean / sizes[0], other.mean / sizes[1]
    width = (one.high - one.low) * (other.high - other.low)
    return width * _orthant_excess(a, b, inner / (sizes[0] * sizes[1]))


# Two outputs of a normal variable.


@dataclass(frozen=True)
class Margin:
    """One output of normal variables, and the ends that it is mapped between.

    Parameters
    ----------
    mean, std : Tensor of shape (...)
        Of Z.
    low, high : float
        The ends, which may be infinite.
    link : {"logit", "probit"}, default="logit"
        The map onto an interval.
    """

    mean: Tensor
    std: Tensor
    low: float
    high: float
    link: str = "logit"

    @property
    def n_ends(self) -> int:
        """The number of ends: of a straight, exponential or logistic map."""
        return math.isfinite(self.low) + math.isfinite(self.high)

    @property
    def sign(self) -> float:
        """The sign in the exponent of an exponential map, and before it."""
        return 1.0 if math.isfinite(self.low) else -1.0

    def size(self) -> Tensor:
        """Return the mean distance from the end of a half-line."""
        return (self.sign * self.mean + 0.5 * self.std.square()).exp()

    def average(self, shift: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        """Return the mean and mean slope of the map of Z + shift onto an interval."""
        params = {"mean": self.mean + shift, "scale": self.std}
        if self.link == "probit":
            below, above, _, slope = _probit_moments(params)
        else:
            below, above, _, slope = _logistic_moments(Normal(), params)
        return (self.high - self.low) * torch.where(
            below < above, below, 1.0 - above
        ), (self.high - self.low) * slope


def covariance_between(one: Margin, other: Margin, inner: Tensor) -> Tensor:
    r"""Return the covariance of two mapped outputs.

    With :math:`\Sigma_{12}` of the normal variables: by Stein's lemma
    :math:`\Sigma_{12}\, E g_2'(Z_2)` if the first map is straight; if it is
    exponential, it shifts the mean of the other variable; two logistic maps are left
    to a sum over both variables, two probit maps to an integral over a correlation.

    Parameters
    ----------
    one, other : Margin
        The outputs.
    inner : Tensor of shape (...)
        The covariance of Z.
    """
    if one.n_ends > other.n_ends:
        one, other = other, one
    if one.n_ends == 2:
        both = _both_probit if one.link == "probit" else _both_logistic
        return both(one, other, inner)
    if one.n_ends == 0:
        if other.n_ends == 0:
            return inner
        return inner * (other.size() if other.n_ends == 1 else other.average()[1])
    if other.n_ends == 1:
        signs = one.sign * other.sign
        return signs * one.size() * other.size() * torch.expm1(signs * inner)
    moved = other.average(one.sign * inner)[0] - other.average()[0]
    return one.sign * one.size() * moved


def _both_logistic(one: Margin, other: Margin, inner: Tensor) -> Tensor:
    """Sum over a grid of both normal variables."""
    values = torch.broadcast_tensors(one.mean, one.std, other.mean, other.std, inner)
    widest = max(float(one.std.max()), float(other.std.max()))
    x, weights = _bell(inner, widest)
    n_together = max(1, _CHUNK // len(x) ** 2)
    pieces_of = [value.reshape(-1).split(n_together) for value in values]
    parts = []
    for pieces in zip(*pieces_of, strict=True):
        mean, std, other_mean, other_std, shared = (p.unsqueeze(-1) for p in pieces)
        slope = shared / std
        rest = (other_std.square() - slope.square()).clamp_min(0.0).sqrt()
        first = _rise(mean, mean + std * x)
        at = (other_mean + slope * x).unsqueeze(-1) + rest.unsqueeze(-1) * x
        second = _rise(other_mean.unsqueeze(-1), at) @ weights
        products = (first * second) @ weights
        parts.append(products - (first @ weights) * (second @ weights))
    sizes = (one.high - one.low) * (other.high - other.low)
    return sizes * torch.cat(parts).reshape(inner.shape)
