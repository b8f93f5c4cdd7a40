"""Components on an interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from skmdn.numerics.basic import ndtr
from skmdn.numerics.far_tails import log_beta_tails
from skmdn.numerics.special import betainc, betaincc, betaincinv
from skmdn.numerics.tails import stirling
from skmdn.queries.draws import log_gamma_draws

from .base import IndependentFamily, Params, inverse_softplus
from .bell import SQRT_2PI, log_mass, moments, nearest

__all__ = ["Beta", "TruncatedNormal"]

# From this many scales outside the interval, quantiles start from the exponential.
_OUTSIDE = 8.0
_START_STEPS = 200

Ends = float | tuple[float, ...]


@dataclass(frozen=True)
class Bounded(IndependentFamily):
    """Base of the families between ``low`` and ``high``, which are fixed numbers.

    They travel with the parameters, so that these follow a change of units; the
    fields, a number or one per output, are what :meth:`pinned` puts back.
    """

    low: Ends = -math.inf
    high: Ends = math.inf

    def __post_init__(self) -> None:
        """Check the ends."""
        ends = list(zip(*self._ends(self._n_ends()), strict=True))
        if not all(low < high for low, high in ends):
            raise ValueError(f"low={self.low!r} has to be below high={self.high!r}.")

    def _n_ends(self) -> int:
        """Return the number of intervals that are written down."""
        both = [end for end in (self.low, self.high) if isinstance(end, tuple)]
        return len(both[0]) if both else 1

    def _ends(self, n: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the ends, n of each."""
        low = self.low if isinstance(self.low, tuple) else (self.low,) * n
        high = self.high if isinstance(self.high, tuple) else (self.high,) * n
        return low, high

    def _fixed(self, like: Tensor) -> Params:
        """Return the ends as parameters of this shape."""
        low, high = like.new_tensor(self.low), like.new_tensor(self.high)
        return {"low": low.expand_as(like), "high": high.expand_as(like)}

    def in_units(self, scale: Sequence[float], shift: Sequence[float]) -> "Bounded":
        """Return the family of ``(y - shift) / scale``, one number per output."""
        moved = [
            sorted(((low - by) / unit, (high - by) / unit))
            for low, high, by, unit in zip(
                *self._ends(len(scale)), shift, scale, strict=True
            )
        ]
        low, high = zip(*moved, strict=True)
        return type(self)(low=low, high=high)

    def pinned(self, params: Params) -> Params:
        """Return the parameters with exactly the ends of this family."""
        return params | self._fixed(params["low"])

    def for_outputs(self, outputs: Sequence[int]) -> "Bounded":
        """Return the family with the ends of some of the outputs."""
        if not isinstance(self.low, tuple) and not isinstance(self.high, tuple):
            return self
        low, high = self._ends(self._n_ends())
        chosen = [(low[o], high[o]) for o in outputs]
        return type(self)(*zip(*chosen, strict=True))

    def ends(self, params: Params) -> Tensor:
        """Return the ends, of one component: all have the same."""
        return torch.cat([params["low"][..., :1, :], params["high"][..., :1, :]], -2)

    def kinks(self, params: Params) -> Tensor:
        """Return no points."""
        return params["low"][..., :0, :]

    def _moved_ends(self, params: Params, scale: Tensor, shift: Tensor) -> Params:
        """Return the ends in other units; a negative scale swaps them."""
        first = params["low"] * scale + shift
        second = params["high"] * scale + shift
        return {
            "low": torch.minimum(first, second),
            "high": torch.maximum(first, second),
        }

    def overlaps(self, low: Tensor, high: Tensor) -> Tensor:
        """Tell for each closed interval whether it has numbers between the ends."""
        first, last = low.new_tensor(self.low), low.new_tensor(self.high)
        return (low <= high) & (low < last) & (high > first)

    def _intervals(self, brackets: str) -> str:
        """Return the intervals in words; an infinite end is open."""
        written = []
        for low, high in zip(*self._ends(self._n_ends()), strict=True):
            left = "(" if math.isinf(low) else brackets[0]
            right = ")" if math.isinf(high) else brackets[1]
            written.append(f"{left}{low:g}, {high:g}{right}")
        return f"interval{'s' if len(written) > 1 else ''} {', '.join(written)}"


@dataclass(frozen=True)
class Beta(Bounded):
    r"""Beta components on an open interval.

    .. math:: f(y) = \frac{u^{a - 1} (1 - u)^{b - 1}}{(h - l)\, B(a, b)},
        \quad u = \frac{y - l}{h - l}

    The network makes the logit of the mean of u, and a width w, in units of y, with
    :math:`a + b = (h - l)^2 / w^2`: the standard deviation is at most w / 2, and w
    times the root of :math:`m (1 - m)` if it is small.

    Parameters
    ----------
    low, high : float or tuple of float, default=0.0 and 1.0
        The ends l and h of the interval, for all outputs or for each.
    """

    low: Ends = 0.0
    high: Ends = 1.0

    raw_names: ClassVar[tuple[str, ...]] = ("mean", "width")
    event_ranks: ClassVar[dict[str, int]] = {"a": 1, "b": 1, "low": 1, "high": 1}

    def __post_init__(self) -> None:
        """Check the ends."""
        super().__post_init__()
        if not all(math.isfinite(end) for end in sum(self._ends(self._n_ends()), ())):
            raise ValueError(f"low={self.low!r} and high={self.high!r} are not finite.")

    def contains(self, y: Tensor) -> Tensor:
        """Tell for each number whether it lies between the ends."""
        return (y > y.new_tensor(self.low)) & (y < y.new_tensor(self.high))

    def support(self) -> str:
        """Return the support in words, for messages."""
        return f"the open {self._intervals('()')}"

    def in_units(self, scale: Sequence[float], shift: Sequence[float]) -> "Bounded":
        """Return the family of ``(y - shift) / scale``, one number per output.

        Each end is one step further out: a target very near to it may round onto it.
        """
        low, high = super().in_units(scale, shift)._ends(len(scale))
        return Beta(
            low=tuple(math.nextafter(end, -math.inf) for end in low),
            high=tuple(math.nextafter(end, math.inf) for end in high),
        )

    def from_raw(self, raw: Params, min_scale: float) -> Params:
        """Apply the links: logistic, and softplus above a floor."""
        fixed = self._fixed(raw["mean"])
        width = min_scale + torch.nn.functional.softplus(raw["width"])
        total = ((fixed["high"] - fixed["low"]) / width).square()
        # Off 0 so far that slopes do not overflow
        least = torch.finfo(width.dtype).tiny ** 0.25
        a = total * torch.sigmoid(raw["mean"]) + least
        b = total * torch.sigmoid(-raw["mean"]) + least
        return {"a": a, "b": b, **fixed}

    def start(self, centers: Tensor, spreads: Tensor, min_scale: float) -> Params:
        """Match means and standard deviations, where they can be had together."""
        fixed = self._fixed(centers)
        size = fixed["high"] - fixed["low"]
        mean = ((centers - fixed["low"]) / size).clamp(1e-6, 1.0 - 1e-6)
        most = (mean * (1.0 - mean)).sqrt()
        spread = torch.minimum(spreads / size, 0.99 * most)
        width = size * ((most / spread).square() - 1.0).rsqrt()
        above = (width - min_scale).clamp_min(0.1 * min_scale)
        return {"mean": mean.logit(), "width": inverse_softplus(above)}

    def scales(self, params: Params) -> Tensor:
        """Return the widths."""
        size = params["high"] - params["low"]
        return size * (params["a"] + params["b"]).rsqrt()

    def log_density(self, params: Params, y: Tensor) -> Tensor:
        """Return the log density, -inf at the ends and outside."""
        low, high, a, b = params["low"], params["high"], params["a"], params["b"]
        inside = (y > low) & (y < high)
        size, total = high - low, a + b
        safe = torch.where(inside, y, 0.5 * (low + high))
        below, above = (safe - low) / size, (high - safe) / size
        # Written with the place relative to the mean, so that nothing large cancels
        # where a + b is large: the linear parts of the two logarithms add up to 0.
        ratios = a * _log_less(below, total / a) + b * _log_less(above, total / b)
        peak = a.log() + b.log() - total.log()
        peak = peak + stirling(total) - stirling(a) - stirling(b)
        value = ratios + peak - (below * above * size).log()
        return torch.where(inside, value, -torch.inf)

    def _share(self, params: Params, y: Tensor) -> tuple[Tensor, ...]:
        """Return shapes and place, from the end nearer to y, and if that is the low."""
        low, high, a, b = params["low"], params["high"], params["a"], params["b"]
        y = nearest(y, low, high)
        below, above = (y - low) / (high - low), (high - y) / (high - low)
        left = below <= above
        near, far = torch.where(left, a, b), torch.where(left, b, a)
        return near, far, torch.where(left, below, above), left

    def cdf(self, params: Params, y: Tensor) -> Tensor:
        """Return the incomplete beta function of the place in the interval."""
        *place, left = self._share(params, y)
        return torch.where(left, betainc(*place), betaincc(*place))

    def sf(self, params: Params, y: Tensor) -> Tensor:
        """Return one minus the distribution function, without the cancellation."""
        *place, left = self._share(params, y)
        return torch.where(left, betaincc(*place), betainc(*place))

    def log_tails(self, params: Params, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logarithms of both tails, however small."""
        *place, left = self._share(params, y)
        inner, outer = log_beta_tails(*place)
        return torch.where(left, inner, outer), torch.where(left, outer, inner)

    def ppf(self, params: Params, q: Tensor) -> Tensor:
        """Return the quantiles; those of a beta variable have no gradient."""
        low, high = params["low"], params["high"]
        return low + (high - low) * betaincinv(params["a"], params["b"], q)

    def draw(self, params: Params, generator: torch.Generator | None) -> Tensor:
        """Draw the odds as a ratio of two gamma variables, by their logarithms."""
        low, high = params["low"], params["high"]
        log_odds = log_gamma_draws(params["a"], generator)
        log_odds = log_odds - log_gamma_draws(params["b"], generator)
        draws = low + (high - low) * torch.sigmoid(log_odds)
        least, most = torch.nextafter(low, high), torch.nextafter(high, low)
        return torch.minimum(torch.maximum(draws, least), most)

    def affine(self, params: Params, scale: Tensor, shift: Tensor) -> Params:
        """Move the ends; a negative scale swaps them, and a and b."""
        a, b = params["a"], params["b"]
        mirrored = scale < 0.0
        return {
            "a": torch.where(mirrored, b, a),
            "b": torch.where(mirrored, a, b),
            **self._moved_ends(params, scale, shift),
        }

    def widen(self, params: Params, factor: Tensor) -> Params:
        """Multiply the widths and keep the means.

        The standard deviations are multiplied by ``factor`` as far as the components
        are narrow: no component on an interval can be widened without end.
        """
        square = factor.square()
        return params | {"a": params["a"] / square, "b": params["b"] / square}

    def mean(self, params: Params) -> Tensor:
        """Return the means."""
        low, high = params["low"], params["high"]
        return low + (high - low) * (params["a"] / (params["a"] + params["b"]))

    def std(self, params: Params) -> Tensor:
        """Return the standard deviations."""
        a, b = params["a"], params["b"]
        total = a + b
        share = (a / total) * (b / total) / (1.0 + total)
        return (params["high"] - params["low"]) * share.sqrt()


def _log_less(share: Tensor, factor: Tensor) -> Tensor:
    """Return log(1 + u) - u with 1 + u = share * factor."""
    # By the two logarithms, since the product may underflow at the ends.
    u = share * factor - 1.0
    near = u.abs() < 0.5
    log = torch.where(near, u, 0.0).log1p()
    return torch.where(near, log, share.log() + factor.log()) - u


@dataclass(frozen=True)
class TruncatedNormal(Bounded):
    r"""Normal components, given that they lie in a closed interval.

    .. math:: f(y) = \frac{\varphi(z)}{s\, (\Phi(\beta) - \Phi(\alpha))},
        \quad z, \alpha, \beta = \frac{y - m}{s}, \frac{l - m}{s}, \frac{h - m}{s}

    The network makes the location m and the scale s of the normal variable. The
    normaliser and the moments are integrals of :math:`e^{-z^2/2}` over the interval,
    relative to its largest value there, by a Gauss-Legendre rule: nothing cancels or
    underflows, wherever m is.

    Parameters
    ----------
    low, high : float or tuple of float, default=-inf and inf
        The ends l and h of the interval, for all outputs or for each.
    """

    raw_names: ClassVar[tuple[str, ...]] = ("loc", "scale")
    event_ranks: ClassVar[dict[str, int]] = {"loc": 1, "scale": 1, "low": 1, "high": 1}

    def contains(self, y: Tensor) -> Tensor:
        """Tell for each number whether it lies between the ends or on one."""
        inside = (y >= y.new_tensor(self.low)) & (y <= y.new_tensor(self.high))
        return inside & y.isfinite()

    def support(self) -> str:
        """Return the support in words, for messages."""
        return f"the closed {self._intervals('[]')}"

    def from_raw(self, raw: Params, min_scale: float) -> Params:
        """Apply the links: identity, and softplus above a floor."""
        scale = min_scale + torch.nn.functional.softplus(raw["scale"])
        return {"loc": raw["loc"], "scale": scale, **self._fixed(raw["loc"])}

    def start(self, centers: Tensor, spreads: Tensor, min_scale: float) -> Params:
        """Match means and standard deviations, as far as that does not lead outside.

        Locations stay within three spreads of the interval, and scales below three
        spreads.
        """
        fixed = self._fixed(centers)
        centers = torch.minimum(torch.maximum(centers, fixed["low"]), fixed["high"])
        floor, most = spreads.new_tensor(1.1 * min_scale), 3.0 * spreads
        least = spreads.clamp_min(floor)
        loc, scale = centers, least
        for _ in range(_START_STEPS):
            params = {"loc": loc, "scale": scale, **fixed}
            moved = loc + centers - self.mean(params)
            loc = nearest(moved, fixed["low"] - most, fixed["high"] + most)
            wider = scale * spreads / self.std(params)
            scale = torch.maximum(torch.minimum(wider, most), floor)
        return {"loc": loc, "scale": inverse_softplus(scale - min_scale)}

    def scales(self, params: Params) -> Tensor:
        """Return the scales of the normal variables."""
        return params["scale"]

    def _log_mass(self, params: Params, low: Tensor, high: Tensor) -> Tensor:
        """Return the log integral of exp(-z^2 / 2) over y from low to high."""
        return log_mass(params["loc"], params["scale"], low, high)

    def log_density(self, params: Params, y: Tensor) -> Tensor:
        """Return the log density, -inf outside the interval."""
        low, high, loc = params["low"], params["high"], params["loc"]
        inside = (y >= low) & (y <= high) & y.isfinite()
        safe = torch.where(inside, y, nearest(loc, low, high))
        z = (safe - loc) / params["scale"]
        value = -0.5 * z.square() - self._log_mass(params, low, high)
        return torch.where(inside, value, -torch.inf)

    def cdf(self, params: Params, y: Tensor) -> Tensor:
        """Return the share of the mass below y."""
        low, high = params["low"], params["high"]
        above = y > low
        safe = torch.minimum(torch.where(above, y, high), high)
        share = self._log_mass(params, low, safe) - self._log_mass(params, low, high)
        return torch.where(above, share.exp(), 0.0)

    def sf(self, params: Params, y: Tensor) -> Tensor:
        """Return the share of the mass above y."""
        low, high = params["low"], params["high"]
        below = y < high
        safe = torch.maximum(torch.where(below, y, low), low)
        share = self._log_mass(params, safe, high) - self._log_mass(params, low, high)
        return torch.where(below, share.exp(), 0.0)

    def log_tails(self, params: Params, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logarithms of the shares on both sides, however small."""
        endless = torch.full_like(y, torch.inf)
        lower = self.log_interval(params, -endless, y)
        return lower, self.log_interval(params, y, endless)

    def log_interval(self, params: Params, low: Tensor, high: Tensor) -> Tensor:
        """Return the share of the mass between, however far out or short."""
        first, last = params["low"], params["high"]
        inside = (low < last) & (high > first)
        start = torch.where(inside, torch.maximum(low, first), first)
        end = torch.where(inside, torch.minimum(high, last), last)
        share = self._log_mass(params, start, end) - self._log_mass(params, first, last)
        return share.masked_fill(~inside, -torch.inf)

    @torch.no_grad()
    def ppf(self, params: Params, q: Tensor) -> Tensor:
        """Return the quantiles, without a gradient.

        Newton's steps on the logarithm of the smaller tail refine the quantile of the
        normal variable or, far outside, of an exponential tail.
        """
        low, high = params["low"], params["high"]
        upper = q > 0.5
        level = torch.where(upper, 1.0 - q, q)
        sign = torch.where(upper, -1.0, 1.0).to(level.dtype)
        total = self._log_mass(params, low, high)
        y = self._first_quantile(params, q)
        for _ in range(4):
            start, end = torch.where(upper, y, low), torch.where(upper, high, y)
            log_tail = self._log_mass(params, start, end)
            z = (y - params["loc"]) / params["scale"]
            slope = sign * torch.exp(-0.5 * z.square() - log_tail)
            step = (level.log() - log_tail + total) / slope
            step = torch.where(step.isfinite(), step, 0.0)
            y = torch.minimum(torch.maximum(y + step, low), high)
        y = torch.where(q <= 0.0, low, y)
        return torch.where(q >= 1.0, high, y)

    def _first_quantile(self, params: Params, q: Tensor) -> Tensor:
        """Return quantiles that are close already."""
        loc, scale, low, high = (params[n] for n in ("loc", "scale", "low", "high"))
        anchor = nearest(loc, low, high)
        offset = ((anchor - loc) / scale).abs()
        mass = self._log_mass(params, low, high).exp() / (scale * SQRT_2PI)
        below = ndtr(low - loc, scale) + q * mass
        above = ndtr(loc - high, scale) + (1.0 - q) * mass
        z = torch.where(
            below < above, torch.special.ndtri(below), -torch.special.ndtri(above)
        )
        # Of an exponential tail that ends on the other side of the interval
        right = loc < low
        inner = torch.where(right, q, 1.0 - q)
        outer = torch.where(right, 1.0 - q, q)
        width = (high - low) / scale
        fall = -width * (offset + 0.5 * width)
        depth = torch.where(
            inner < 0.5,
            -torch.log1p(inner * torch.expm1(fall)),
            -torch.log(outer + inner * torch.exp(fall)),
        )
        distance = 2.0 * depth / (offset + (offset.square() + 2.0 * depth).sqrt())
        far = anchor + scale * torch.where(right, distance, -distance)
        y = torch.where(offset < _OUTSIDE, loc + scale * z, far)
        return torch.minimum(torch.maximum(y, low), high)

    def draw(self, params: Params, generator: torch.Generator | None) -> Tensor:
        """Invert the distribution function."""
        uniform = torch.empty_like(params["loc"]).uniform_(generator=generator)
        return self.ppf(params, uniform.clamp_min_(torch.finfo(uniform.dtype).tiny))

    def affine(self, params: Params, scale: Tensor, shift: Tensor) -> Params:
        """Scale and shift; a negative scale swaps the ends."""
        return {
            "loc": params["loc"] * scale + shift,
            "scale": params["scale"] * scale.abs(),
            **self._moved_ends(params, scale, shift),
        }

    def widen(self, params: Params, factor: Tensor) -> Params:
        """Multiply the scales of the normal variables.

        The deviations are multiplied by ``factor`` and the means stay as far as the
        ends do not matter; no component on an interval can be widened without end.
        """
        return params | {"scale": params["scale"] * factor}

    def mean(self, params: Params) -> Tensor:
        """Return the means."""
        loc, scale, low, high = (params[n] for n in ("loc", "scale", "low", "high"))
        _, mean, _ = moments(loc, scale, low, high)
        return nearest(loc, low, high) + scale * mean

    def std(self, params: Params) -> Tensor:
        """Return the standard deviations."""
        loc, scale, low, high = (params[n] for n in ("loc", "scale", "low", "high"))
        return scale * moments(loc, scale, low, high)[2].sqrt()
