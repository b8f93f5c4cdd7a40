"""Components on the whole real line that are not normal."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from skmdn.numerics.basic import log_complement, log_of
from skmdn.numerics.far_tails import log_student_tails
from skmdn.numerics.special import stdtr, stdtrit
from skmdn.numerics.tails import stirling

from .base import IndependentFamily, Params, bounded_exp, inverse_softplus

__all__ = ["Gumbel", "Laplace", "Logistic", "StudentT"]

_EULER = 0.57721566490153286
_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)

# Learned degrees of freedom stay above this, where the variance is finite, and begin
# at that.
_LEAST_DF = 2.001
_START_DF = 5.0
# Fixed degrees below this start with the scale of this many: the variance, infinite
# from 2 down, says too little there.
_HEAVIEST_START = 3.0

# From here on log(1 - exp(-exp(-z))) is -z in every digit.
_FAR_GUMBEL = 40.0

# The series of log Gamma is used up to here, by so many terms.
_NEAR_ONE, _N_TERMS = 0.1, 17


def _excess(u: Tensor) -> Tensor:
    r"""Return :math:`\log \Gamma(1 - u) - \gamma u`, infinite from 1 on.

    Near 0 by its series, which keeps the digits.
    """
    near = u.abs() < _NEAR_ONE
    small, power = torch.where(near, u, 0.0), torch.arange(2.0, _N_TERMS)
    zeta = torch.special.zeta(power.double(), torch.ones(())).to(u) / power.to(u)
    series = torch.zeros_like(u)
    for coefficient in zeta.flip(0):
        series = series * small + coefficient
    inside = u < 1.0
    exact = torch.lgamma(1.0 - torch.where(inside, u, 0.0)) - _EULER * u
    value = torch.where(near, series * small.square(), exact)
    return torch.where(inside, value, torch.inf)


@dataclass(frozen=True)
class LocationScale(IndependentFamily):
    r"""Base of families that are a standard variable times a scale plus a location.

    .. math:: Y = m + s Z, \qquad \log f(y) = \log f_Z(z) - \log s,
        \quad z = (y - m) / s

    A subclass describes Z.
    """

    raw_names: ClassVar[tuple[str, ...]] = ("loc", "scale")
    event_ranks: ClassVar[dict[str, int]] = {"loc": 1, "scale": 1}

    # Mean and standard deviation of Z.
    _mean: ClassVar[float] = 0.0
    _std: ClassVar[float] = 1.0

    def _log_density(self, z: Tensor) -> Tensor:
        raise NotImplementedError

    def _cdf(self, z: Tensor) -> Tensor:
        raise NotImplementedError

    def _sf(self, z: Tensor) -> Tensor:
        return self._cdf(-z)

    def _log_cdf(self, z: Tensor) -> Tensor:
        return log_of(self._cdf(z))

    def _log_sf(self, z: Tensor) -> Tensor:
        return self._log_cdf(-z)

    def _ppf(self, q: Tensor) -> Tensor:
        raise NotImplementedError

    def _cumulant(self, u: Tensor) -> Tensor:
        raise NotImplementedError

    def from_raw(self, raw: Params, min_scale: float) -> Params:
        """Apply the links: identity, and softplus above a floor."""
        scale = min_scale + torch.nn.functional.softplus(raw["scale"])
        return {"loc": raw["loc"], "scale": scale}

    def start(self, centers: Tensor, spreads: Tensor, min_scale: float) -> Params:
        """Match means and standard deviations."""
        scale = spreads / self._std
        above = (scale - min_scale).clamp_min(0.1 * min_scale)
        loc = centers - scale * self._mean
        return {"loc": loc, "scale": inverse_softplus(above)}

    def scales(self, params: Params) -> Tensor:
        """Return the scales."""
        return params["scale"]

    def log_density(self, params: Params, y: Tensor) -> Tensor:
        """Return the log density of Z less the log of the scale."""
        scale = params["scale"]
        return self._log_density((y - params["loc"]) / scale) - scale.log()

    def affine(self, params: Params, scale: Tensor, shift: Tensor) -> Params:
        """Scale and shift; the scale stays positive."""
        return {
            **params,
            "loc": params["loc"] * scale + shift,
            "scale": params["scale"] * scale.abs(),
        }

    def mean(self, params: Params) -> Tensor:
        """Return the means."""
        return params["loc"] + self._mean * params["scale"]

    def std(self, params: Params) -> Tensor:
        """Return the standard deviations."""
        return self._std * params["scale"]

    def cdf(self, params: Params, y: Tensor) -> Tensor:
        """Return the distribution function of Z at the standardised points."""
        return self._cdf((y - params["loc"]) / params["scale"])

    def sf(self, params: Params, y: Tensor) -> Tensor:
        """Return one minus the distribution function, without the cancellation."""
        return self._sf((y - params["loc"]) / params["scale"])

    def log_tails(self, params: Params, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logarithms of both tails, however far out."""
        z = (y - params["loc"]) / params["scale"]
        return self._log_cdf(z), self._log_sf(z)

    def ppf(self, params: Params, q: Tensor) -> Tensor:
        """Return location + scale * quantile of Z."""
        return params["loc"] + params["scale"] * self._ppf(q)

    def cumulant(self, params: Params, t: float) -> Tensor:
        """Return that of Z - E Z at t times the scale."""
        return self._cumulant(t * params["scale"])

    def kinks(self, params: Params) -> Tensor:
        """Return no points."""
        return params["loc"][..., :0, :]


@dataclass(frozen=True)
class Laplace(LocationScale):
    r"""Laplace components: a peak and exponential tails.

    .. math:: f(y) = \frac{1}{2 s} \exp(-|y - m| / s)
    """

    _std: ClassVar[float] = math.sqrt(2.0)

    def _log_density(self, z: Tensor) -> Tensor:
        return -z.abs() - math.log(2.0)

    def _cdf(self, z: Tensor) -> Tensor:
        low = 0.5 * torch.exp(z.clamp_max(0.0))
        return torch.where(z < 0.0, low, 1.0 - 0.5 * torch.exp(-z.clamp_min(0.0)))

    def _log_cdf(self, z: Tensor) -> Tensor:
        upper = torch.log1p(-0.5 * torch.exp(-z.clamp_min(0.0)))
        return torch.where(z < 0.0, z - math.log(2.0), upper)

    def log_interval(self, params: Params, low: Tensor, high: Tensor) -> Tensor:
        """Return log P(low <= Y <= high), the sum of the parts beside the peak."""
        loc, scale = params["loc"], params["scale"]
        before = torch.minimum(high, loc) - low
        after = high - torch.maximum(low, loc)
        return torch.logaddexp(
            _laplace_side((loc - high).clamp_min(0.0), before, scale),
            _laplace_side((low - loc).clamp_min(0.0), after, scale),
        )

    def _ppf(self, q: Tensor) -> Tensor:
        low = torch.log(2.0 * q.clamp_max(0.5))
        return torch.where(q < 0.5, low, -torch.log(2.0 * (1.0 - q.clamp_min(0.5))))

    def _cumulant(self, u: Tensor) -> Tensor:
        inside = u.abs() < 1.0
        value = -torch.log1p(-torch.where(inside, u, 0.0).square())
        return torch.where(inside, value, torch.inf)

    def kinks(self, params: Params) -> Tensor:
        """Return the peaks."""
        return params["loc"]


def _laplace_side(distance: Tensor, width: Tensor, scale: Tensor) -> Tensor:
    """Return the log probability of a piece on one side of the peak."""
    possible, endless = width > 0.0, width == torch.inf
    gap = torch.where(possible & ~endless, width, 1.0) / scale
    share = log_complement(-gap).masked_fill(endless, 0.0)
    value = share - torch.where(possible, distance, 0.0) / scale - math.log(2.0)
    return value.masked_fill(~possible, -torch.inf)


@dataclass(frozen=True)
class Logistic(LocationScale):
    r"""Logistic components: like normal ones, with exponential tails.

    .. math:: f(y) = \frac{e^{-z}}{s (1 + e^{-z})^2}
    """

    _std: ClassVar[float] = math.pi / math.sqrt(3.0)

    def _log_density(self, z: Tensor) -> Tensor:
        distance = z.abs()
        return -distance - 2.0 * torch.log1p(torch.exp(-distance))

    def _cdf(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z)

    def _log_cdf(self, z: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(z)

    def _ppf(self, q: Tensor) -> Tensor:
        return torch.logit(q)

    def _cumulant(self, u: Tensor) -> Tensor:
        return _excess(u) + _excess(-u)


@dataclass(frozen=True)
class Gumbel(LocationScale):
    r"""Gumbel components: the largest of many, with a tail to the right.

    .. math:: F(y) = \exp(-e^{-z}), \qquad f(y) = \frac1s e^{-z - e^{-z}}
    """

    mirrors: ClassVar[bool] = False

    _mean: ClassVar[float] = _EULER
    _std: ClassVar[float] = math.pi / math.sqrt(6.0)

    def _log_density(self, z: Tensor) -> Tensor:
        return -z - bounded_exp(-z)

    def _cdf(self, z: Tensor) -> Tensor:
        return torch.exp(-bounded_exp(-z))

    def _sf(self, z: Tensor) -> Tensor:
        return -torch.expm1(-bounded_exp(-z))

    def _log_cdf(self, z: Tensor) -> Tensor:
        return -bounded_exp(-z)

    def _log_sf(self, z: Tensor) -> Tensor:
        # Far out the tail is that of an exponential variable, without rounding.
        near = torch.log(-torch.expm1(-bounded_exp(-z.clamp_max(_FAR_GUMBEL))))
        return torch.where(z < _FAR_GUMBEL, near, -z)

    def _ppf(self, q: Tensor) -> Tensor:
        return -torch.log(-torch.log(q))

    def _cumulant(self, u: Tensor) -> Tensor:
        return _excess(u)


@dataclass(frozen=True)
class StudentT(LocationScale):
    r"""Student components: like normal ones, with tails as heavy as the data's.

    .. math::
        f(y) = \frac{\Gamma((\nu + 1) / 2)}{\Gamma(\nu / 2) \sqrt{\pi \nu}\, s}
        \left(1 + \frac{z^2}{\nu}\right)^{-(\nu + 1) / 2}

    The normal density is the limit of many degrees of freedom and is reached without
    loss of digits.

    Parameters
    ----------
    df : float, optional
        The degrees of freedom :math:`\nu`; learned by default, and then more than 2,
        so that there is a variance. They travel as a parameter in both cases.
    """

    df: float | None = None

    raw_names: ClassVar[tuple[str, ...]] = ("loc", "scale", "df")
    event_ranks: ClassVar[dict[str, int]] = {"loc": 1, "scale": 1, "df": 1}

    def __post_init__(self) -> None:
        """Refuse what is no number of degrees of freedom."""
        if self.df is not None and not 0.0 < self.df < math.inf:
            raise ValueError(f"df={self.df!r} has to be a positive number, or None.")

    def raw_shapes(
        self, n_components: int, n_outputs: int
    ) -> dict[str, tuple[int, ...]]:
        """Return two numbers per component and output; three if df is learned."""
        names = self.raw_names if self.df is None else self.raw_names[:2]
        return dict.fromkeys(names, (n_components, n_outputs))

    def from_raw(self, raw: Params, min_scale: float) -> Params:
        """Apply the links: identity, and softplus above two floors."""
        params = super().from_raw(raw, min_scale)
        if self.df is None:
            df = _LEAST_DF + torch.nn.functional.softplus(raw["df"])
        else:
            df = raw["loc"].new_tensor(self.df).expand_as(raw["loc"])
        return {**params, "df": df}

    def start(self, centers: Tensor, spreads: Tensor, min_scale: float) -> Params:
        """Match means and, from df = 3 on, standard deviations."""
        df = _START_DF if self.df is None else max(self.df, _HEAVIEST_START)
        raw = super().start(centers, spreads * math.sqrt((df - 2.0) / df), min_scale)
        if self.df is None:
            raw["df"] = inverse_softplus(torch.full_like(centers, df - _LEAST_DF))
        return raw

    def log_density(self, params: Params, y: Tensor) -> Tensor:
        """Return the log density; in its constant no large terms cancel."""
        scale, df = params["scale"], params["df"]
        z = (y - params["loc"]) / scale
        half = 0.5 * df
        peak = stirling(half + 0.5) - stirling(half)
        peak = peak + (half - 0.5) * (1.0 / df).log1p() - (0.5 + _LOG_SQRT_2PI)
        return peak - (half + 0.5) * (z.square() / df).log1p() - scale.log()

    def draw(self, params: Params, generator: torch.Generator | None) -> Tensor:
        """Return normal noise in scales that are drawn as well."""
        half = 0.5 * params["df"]
        noise = torch.empty_like(params["loc"]).normal_(generator=generator)
        precision = torch._standard_gamma(half, generator=generator) / half
        return params["loc"] + params["scale"] * noise * precision.rsqrt()

    def mean(self, params: Params) -> Tensor:
        """Return the locations, the centres of symmetry even where df <= 1.

        There the mean does not exist.
        """
        return params["loc"]

    def std(self, params: Params) -> Tensor:
        """Return the standard deviations, infinite where df <= 2."""
        df = params["df"]
        finite = df > 2.0
        safe = torch.where(finite, df, 3.0)
        factor = torch.where(finite, (safe / (safe - 2.0)).sqrt(), torch.inf)
        return params["scale"] * factor

    def cdf(self, params: Params, y: Tensor) -> Tensor:
        """Return the distribution function of the standardised points."""
        z = (y - params["loc"]) / params["scale"]
        return stdtr(params["df"], z)

    def sf(self, params: Params, y: Tensor) -> Tensor:
        """Return the distribution function of the mirrored points."""
        z = (params["loc"] - y) / params["scale"]
        return stdtr(params["df"], z)

    def log_tails(self, params: Params, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logarithms of both tails, however far out."""
        z = (y - params["loc"]) / params["scale"]
        return log_student_tails(params["df"], z)

    def ppf(self, params: Params, q: Tensor) -> Tensor:
        """Return location + scale * quantile of Z."""
        return params["loc"] + params["scale"] * stdtrit(params["df"], q)

    def grades(self, params: Params) -> tuple[Tensor, Tensor]:
        """Return the locations, and where the tails begin."""
        return params["loc"], params["scale"] * params["df"].sqrt()

    def cumulant(self, params: Params, t: float) -> Tensor:
        """Return infinity: the tails are too heavy, however many degrees."""
        return torch.full_like(params["loc"], torch.inf)
