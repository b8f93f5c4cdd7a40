"""Components on the positive numbers."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from skmdn.numerics.basic import log_of, ndtr
from skmdn.numerics.far_tails import log_gamma_tails
from skmdn.numerics.special import gammainc, gammaincc, gammaincinv
from skmdn.numerics.tails import stirling

from .base import IndependentFamily, Params, bounded_exp, inverse_softplus

__all__ = ["Exponential", "Gamma", "LogNormal", "Weibull"]

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
# zeta(2) and 2 zeta(3), of the series of a Weibull variable's relative variance.
_ZETA_2, _TWICE_ZETA_3 = math.pi**2 / 6.0, 2.40411380631918857

# A Weibull variable's deviation is then half a million means; float32 ends at 30.
_WIDEST = 20.0


@dataclass(frozen=True)
class Positive(IndependentFamily):
    """Base of the families on the positive numbers; a subclass describes y > 0.

    The network makes the mean, through softplus, and a width relative to it, through
    softplus above the floor: both stay near 1 where the target does.
    """

    units: ClassVar[str] = "scale"
    mirrors: ClassVar[bool] = False
    raw_names: ClassVar[tuple[str, ...]] = ("mean", "width")

    def _log_density(self, params: Params, y: Tensor) -> Tensor:
        raise NotImplementedError

    def _cdf(self, params: Params, y: Tensor) -> Tensor:
        raise NotImplementedError

    def _sf(self, params: Params, y: Tensor) -> Tensor:
        raise NotImplementedError

    def _log_cdf(self, params: Params, y: Tensor) -> Tensor:
        return log_of(self._cdf(params, y))

    def _log_sf(self, params: Params, y: Tensor) -> Tensor:
        return log_of(self._sf(params, y))

    def _log_tails(self, params: Params, y: Tensor) -> tuple[Tensor, Tensor]:
        return self._log_cdf(params, y), self._log_sf(params, y)

    def _draw(self, params: Params, generator: torch.Generator | None) -> Tensor:
        raise NotImplementedError

    def contains(self, y: Tensor) -> Tensor:
        """Tell for each number whether it is positive."""
        return (y > 0.0) & y.isfinite()

    def overlaps(self, low: Tensor, high: Tensor) -> Tensor:
        """Tell for each closed interval whether it has positive numbers."""
        return (low <= high) & (high > 0.0)

    def support(self) -> str:
        """Return the support in words, for messages."""
        return "the positive numbers"

    def log_density(self, params: Params, y: Tensor) -> Tensor:
        """Return the log density, -inf at 0 and below."""
        inside = self.contains(y)
        value = self._log_density(params, torch.where(inside, y, 1.0))
        return torch.where(inside, value, -torch.inf)

    def cdf(self, params: Params, y: Tensor) -> Tensor:
        """Return P(Y <= y) per component and output, 0 at 0 and below."""
        inside = self.contains(y)
        value = self._cdf(params, torch.where(inside, y, 1.0))
        return torch.where(inside, value, (y > 0.0).to(value.dtype))

    def sf(self, params: Params, y: Tensor) -> Tensor:
        """Return P(Y > y) per component and output, 1 at 0 and below."""
        inside = self.contains(y)
        value = self._sf(params, torch.where(inside, y, 1.0))
        return torch.where(inside, value, (y <= 0.0).to(value.dtype))

    def log_tails(self, params: Params, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return both tails' logarithms; at 0 and below -inf and 0."""
        inside = self.contains(y)
        lower, upper = self._log_tails(params, torch.where(inside, y, 1.0))
        above = y > 0.0
        return (
            torch.where(inside, lower, torch.where(above, 0.0, -torch.inf).to(lower)),
            torch.where(inside, upper, torch.where(above, -torch.inf, 0.0).to(upper)),
        )

    def ends(self, params: Params) -> Tensor:
        """Return 0."""
        return torch.zeros_like(next(iter(params.values()))[..., :1, :])

    def kinks(self, params: Params) -> Tensor:
        """Return no points."""
        return self.ends(params)[..., :0, :]

    def draw(self, params: Params, generator: torch.Generator | None) -> Tensor:
        """Draw; what underflows is the smallest normal number."""
        draws = self._draw(params, generator)
        return draws.clamp_min(torch.finfo(draws.dtype).tiny)


def _positive(raw: Tensor) -> Tensor:
    """Return softplus, kept off 0 so far that slopes do not overflow."""
    return torch.nn.functional.softplus(raw) + torch.finfo(raw.dtype).tiny ** 0.25


def _raw_positive(value: Tensor) -> Tensor:
    """Invert the link of a mean."""
    return inverse_softplus(value.clamp_min(torch.finfo(value.dtype).tiny ** 0.25))


def _width(raw: Tensor, min_scale: float) -> Tensor:
    """Apply the link of a width."""
    return min_scale + torch.nn.functional.softplus(raw)


def _above(width: Tensor, min_scale: float) -> Tensor:
    """Return how far a width is above the floor, or as close to it as we start."""
    return (width - min_scale).clamp_min(0.1 * min_scale)


@dataclass(frozen=True)
class LogNormal(Positive):
    r"""Lognormal components: the logarithm is normal.

    .. math:: f(y) = \frac{1}{y s \sqrt{2 \pi}}
        \exp\Bigl(-\frac{(\log y - m)^2}{2 s^2}\Bigr)

    The network makes m, the logarithm of the median, and s, the scale of log y.
    """

    raw_names: ClassVar[tuple[str, ...]] = ("loc", "scale")
    event_ranks: ClassVar[dict[str, int]] = {"loc": 1, "scale": 1}

    def from_raw(self, raw: Params, min_scale: float) -> Params:
        """Apply the links: identity, and softplus above a floor."""
        return {"loc": raw["loc"], "scale": _width(raw["scale"], min_scale)}

    def start(self, centers: Tensor, spreads: Tensor, min_scale: float) -> Params:
        """Match means and standard deviations."""
        centers = centers.clamp_min(torch.finfo(centers.dtype).tiny)
        scale = (spreads / centers).square().log1p().sqrt()
        above = _above(scale, min_scale)
        loc = centers.log() - 0.5 * (min_scale + above).square()
        return {"loc": loc, "scale": inverse_softplus(above)}

    def scales(self, params: Params) -> Tensor:
        """Return the scales of log y."""
        return params["scale"]

    def _log_density(self, params: Params, y: Tensor) -> Tensor:
        log_y, scale = y.log(), params["scale"]
        z = (log_y - params["loc"]) / scale
        return -0.5 * z.square() - scale.log() - log_y - _LOG_SQRT_2PI

    def _cdf(self, params: Params, y: Tensor) -> Tensor:
        return ndtr(y.log() - params["loc"], params["scale"])

    def _sf(self, params: Params, y: Tensor) -> Tensor:
        return ndtr(params["loc"] - y.log(), params["scale"])

    def _log_cdf(self, params: Params, y: Tensor) -> Tensor:
        return torch.special.log_ndtr((y.log() - params["loc"]) / params["scale"])

    def _log_sf(self, params: Params, y: Tensor) -> Tensor:
        return torch.special.log_ndtr((params["loc"] - y.log()) / params["scale"])

    def ppf(self, params: Params, q: Tensor) -> Tensor:
        """Return the exponential of a normal quantile."""
        return (params["loc"] + params["scale"] * torch.special.ndtri(q)).exp()

    def _draw(self, params: Params, generator: torch.Generator | None) -> Tensor:
        noise = torch.empty_like(params["loc"]).normal_(generator=generator)
        return (params["loc"] + params["scale"] * noise).exp()

    def affine(self, params: Params, scale: Tensor, shift: Tensor) -> Params:
        """Move the logarithm; the scale has to be positive, the shift is taken as 0."""
        return {"loc": params["loc"] + scale.log(), "scale": params["scale"]}

    def widen(self, params: Params, factor: Tensor) -> Params:
        """Multiply the standard deviations at the same means, exactly."""
        square = params["scale"].square()
        rest = (1.0 - factor.square()) * torch.expm1(-square)
        wide = square + torch.log1p(rest)
        return {"loc": params["loc"] + 0.5 * (square - wide), "scale": wide.sqrt()}

    def mean(self, params: Params) -> Tensor:
        """Return the means."""
        return (params["loc"] + 0.5 * params["scale"].square()).exp()

    def std(self, params: Params) -> Tensor:
        """Return the standard deviations."""
        return self.mean(params) * params["scale"].square().expm1().sqrt()


@dataclass(frozen=True)
class Gamma(Positive):
    r"""Gamma components: sums of waiting times.

    .. math:: f(y) = \frac{r^a}{\Gamma(a)} y^{a - 1} e^{-r y}

    with the concentration a and the rate r. The network makes the mean a / r and the
    coefficient of variation :math:`1 / \sqrt a`.
    """

    event_ranks: ClassVar[dict[str, int]] = {"concentration": 1, "rate": 1}

    def from_raw(self, raw: Params, min_scale: float) -> Params:
        """Apply the links: softplus, and softplus above a floor."""
        concentration = _width(raw["width"], min_scale).square().reciprocal()
        rate = concentration / _positive(raw["mean"])
        return {"concentration": concentration, "rate": rate}

    def start(self, centers: Tensor, spreads: Tensor, min_scale: float) -> Params:
        """Match means and standard deviations."""
        above = _above(spreads / centers, min_scale)
        return {"mean": _raw_positive(centers), "width": inverse_softplus(above)}

    def scales(self, params: Params) -> Tensor:
        """Return the coefficients of variation."""
        return params["concentration"].rsqrt()

    def _log_density(self, params: Params, y: Tensor) -> Tensor:
        # Written with y over the mean, so that nothing large cancels where the
        # concentration is large.
        concentration, log_y = params["concentration"], y.log()
        mean = self.mean(params)
        excess = y / mean - 1.0
        near = excess.abs() < 0.5
        ratio = torch.where(near, excess, 0.0).log1p()
        ratio = torch.where(near, ratio, log_y - mean.log())
        peak = concentration.log() - stirling(concentration)
        return concentration * (ratio - excess) + peak - log_y

    def _cdf(self, params: Params, y: Tensor) -> Tensor:
        return gammainc(params["concentration"], params["rate"] * y)

    def _sf(self, params: Params, y: Tensor) -> Tensor:
        return gammaincc(params["concentration"], params["rate"] * y)

    def _log_tails(self, params: Params, y: Tensor) -> tuple[Tensor, Tensor]:
        return log_gamma_tails(params["concentration"], params["rate"] * y)

    def ppf(self, params: Params, q: Tensor) -> Tensor:
        """Return the quantile of the concentration over the rate.

        The quantile of a gamma variable has no gradient.
        """
        return gammaincinv(params["concentration"], q) / params["rate"]

    def _draw(self, params: Params, generator: torch.Generator | None) -> Tensor:
        concentration = params["concentration"]
        return torch._standard_gamma(concentration, generator) / params["rate"]

    def affine(self, params: Params, scale: Tensor, shift: Tensor) -> Params:
        """Divide the rate; the scale has to be positive, the shift is taken as 0."""
        return {
            "concentration": params["concentration"],
            "rate": params["rate"] / scale,
        }

    def widen(self, params: Params, factor: Tensor) -> Params:
        """Multiply the standard deviations at the same means, exactly."""
        square = factor.square()
        return {name: value / square for name, value in params.items()}

    def mean(self, params: Params) -> Tensor:
        """Return the means."""
        return params["concentration"] / params["rate"]

    def std(self, params: Params) -> Tensor:
        """Return the standard deviations."""
        return params["concentration"].sqrt() / params["rate"]


@dataclass(frozen=True)
class Weibull(Positive):
    r"""Weibull components: waiting times whose hazard is a power of time.

    .. math:: f(y) = \frac{k}{y} t\, e^{-t}, \quad t = (y / l)^k

    with the concentration k and the scale l. The network makes the mean
    :math:`l\, \Gamma(1 + 1/k)` and 1 / k, the width of log y.
    """

    event_ranks: ClassVar[dict[str, int]] = {"concentration": 1, "scale": 1}

    def from_raw(self, raw: Params, min_scale: float) -> Params:
        """Apply the links: softplus, and softplus above a floor."""
        width = _width(raw["width"], min_scale)
        return _weibull(_positive(raw["mean"]), width)

    def start(self, centers: Tensor, spreads: Tensor, min_scale: float) -> Params:
        """Match means and standard deviations."""
        wanted = (spreads / centers).square().log1p()
        low, high = torch.full_like(wanted, 1e-9), torch.full_like(wanted, _WIDEST)
        for _ in range(100):
            middle = (low * high).sqrt()
            narrow = _log_second_moment(middle) < wanted
            low = torch.where(narrow, middle, low)
            high = torch.where(narrow, high, middle)
        above = _above(high, min_scale)
        return {"mean": _raw_positive(centers), "width": inverse_softplus(above)}

    def scales(self, params: Params) -> Tensor:
        """Return the reciprocal concentrations."""
        return params["concentration"].reciprocal()

    def _log_density(self, params: Params, y: Tensor) -> Tensor:
        concentration, log_y = params["concentration"], y.log()
        log_t = concentration * (log_y - params["scale"].log())
        return concentration.log() - log_y + log_t - bounded_exp(log_t)

    def _t(self, params: Params, y: Tensor) -> Tensor:
        log_t = params["concentration"] * (y.log() - params["scale"].log())
        return bounded_exp(log_t)

    def _cdf(self, params: Params, y: Tensor) -> Tensor:
        return -torch.expm1(-self._t(params, y))

    def _sf(self, params: Params, y: Tensor) -> Tensor:
        return torch.exp(-self._t(params, y))

    def _log_sf(self, params: Params, y: Tensor) -> Tensor:
        return -self._t(params, y)

    def ppf(self, params: Params, q: Tensor) -> Tensor:
        """Invert the distribution function."""
        return self._at(params, -torch.log1p(-q))

    def _draw(self, params: Params, generator: torch.Generator | None) -> Tensor:
        noise = torch.empty_like(params["scale"]).exponential_(generator=generator)
        return self._at(params, noise)

    def _at(self, params: Params, t: Tensor) -> Tensor:
        """Return the y of this t."""
        return params["scale"] * t.pow(params["concentration"].reciprocal())

    def affine(self, params: Params, scale: Tensor, shift: Tensor) -> Params:
        """Multiply; the scale has to be positive, the shift is taken as 0."""
        return {
            "concentration": params["concentration"],
            "scale": params["scale"] * scale,
        }

    def widen(self, params: Params, factor: Tensor) -> Params:
        """Divide the concentrations and keep the means.

        The standard deviations are multiplied by ``factor`` as far as the components
        are narrow; in general there is no closed form.
        """
        return _weibull(self.mean(params), factor / params["concentration"])

    def mean(self, params: Params) -> Tensor:
        """Return the means."""
        width = params["concentration"].reciprocal()
        return params["scale"] * torch.lgamma(1.0 + width).exp()

    def std(self, params: Params) -> Tensor:
        """Return the standard deviations."""
        width = params["concentration"].reciprocal()
        return self.mean(params) * _log_second_moment(width).expm1().sqrt()


def _weibull(mean: Tensor, width: Tensor) -> Params:
    """Return the parameters of means and reciprocal concentrations."""
    width = width.clamp_max(_WIDEST)
    scale = mean * torch.exp(-torch.lgamma(1.0 + width))
    return {"concentration": width.reciprocal(), "scale": scale}


def _log_second_moment(width: Tensor) -> Tensor:
    """Return log(E Y^2 / (E Y)^2) of Weibull variables, which float32 would lose."""
    wide = width.double()
    exact = torch.lgamma(1.0 + 2.0 * wide) - 2.0 * torch.lgamma(1.0 + wide)
    series = wide.square() * (_ZETA_2 - _TWICE_ZETA_3 * wide)
    return torch.where(wide < 1e-4, series, exact).to(width.dtype)


@dataclass(frozen=True)
class Exponential(Positive):
    r"""Exponential components: waiting times without memory.

    .. math:: f(y) = r e^{-r y}

    The network makes the mean 1 / r.
    """

    raw_names: ClassVar[tuple[str, ...]] = ("mean",)
    event_ranks: ClassVar[dict[str, int]] = {"rate": 1}

    def from_raw(self, raw: Params, min_scale: float) -> Params:
        """Apply the link: softplus, without a floor."""
        return {"rate": _positive(raw["mean"]).reciprocal()}

    def start(self, centers: Tensor, spreads: Tensor, min_scale: float) -> Params:
        """Match means; the standard deviations are the same numbers."""
        return {"mean": _raw_positive(centers)}

    def _log_density(self, params: Params, y: Tensor) -> Tensor:
        return params["rate"].log() - params["rate"] * y

    def _cdf(self, params: Params, y: Tensor) -> Tensor:
        return -torch.expm1(-params["rate"] * y)

    def _sf(self, params: Params, y: Tensor) -> Tensor:
        return torch.exp(-params["rate"] * y)

    def _log_sf(self, params: Params, y: Tensor) -> Tensor:
        return -params["rate"] * y

    def ppf(self, params: Params, q: Tensor) -> Tensor:
        """Invert the distribution function."""
        return -torch.log1p(-q) / params["rate"]

    def _draw(self, params: Params, generator: torch.Generator | None) -> Tensor:
        noise = torch.empty_like(params["rate"]).exponential_(generator=generator)
        return noise / params["rate"]

    def affine(self, params: Params, scale: Tensor, shift: Tensor) -> Params:
        """Divide the rate; the scale has to be positive, the shift is taken as 0."""
        return {"rate": params["rate"] / scale}

    def mean(self, params: Params) -> Tensor:
        """Return the means."""
        return params["rate"].reciprocal()

    def std(self, params: Params) -> Tensor:
        """Return the standard deviations, which are the means."""
        return params["rate"].reciprocal()
