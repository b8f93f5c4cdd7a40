"""Distribution functions of the beta, gamma and Student laws, and their inverses.

All of them are one function, the tail of a beta law (:mod:`skmdn.numerics.tails`): a
gamma variable is b times a beta variable of an enormous b, and the square of a Student
variable has beta odds. The work is done in float64, whatever the type of the arguments.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .tails import (
    POWER_LAW,
    TINY,
    Place,
    by_rows,
    log_peak,
    odds_place,
    probability,
    slopes,
    smaller_tail,
)

__all__ = [
    "betainc",
    "betaincc",
    "betaincinv",
    "gammainc",
    "gammaincc",
    "gammainccinv",
    "gammaincinv",
    "stdtr",
    "stdtrit",
]

# A power of two: with a b this large a beta variable times b is a gamma variable.
_GAMMA = 2.0**80
_FAR = 2.0**50
_MAX_ITER = 60


def beta_place(a: Tensor, b: Tensor, x: Tensor) -> Place:
    """Return the place of x in [0, 1]; its ends are not places."""
    inner = torch.maximum(x, POWER_LAW / (a + b))
    rest = (x.clamp(min=TINY) / inner).log()
    return Place(inner, (1.0 - x).clamp(min=TINY), rest)


def gamma_place(a: Tensor, x: Tensor) -> tuple[Tensor, Place]:
    """Return b and the place of x > 0 in the beta law that stands for a gamma law."""
    inner = x.clamp(POWER_LAW, _FAR)
    rest = (x.clamp(min=TINY) / inner).log().clamp(max=0.0)
    place = Place(inner / _GAMMA, torch.ones_like(x), rest)
    return torch.full_like(a, _GAMMA), place


def _valid(ok: Tensor, value: Tensor) -> Tensor:
    """Return ``value``, NaN where not ``ok``."""
    return torch.where(ok, value, torch.nan)


def _beta_rows(a: Tensor, b: Tensor, x: Tensor, upper: bool) -> tuple[Tensor]:
    """Return the probability below x, or above."""
    value = probability(a, b, beta_place(a, b, x), upper)
    value = torch.where(x <= 0.0, float(upper), value)
    value = torch.where(x >= 1.0, 1.0 - float(upper), value)
    return (_valid((a > 0) & (b > 0) & (x >= 0) & (x <= 1), value),)


def _beta_slopes(a: Tensor, b: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """Return the slopes of the probability below x in a, b and x."""
    place = beta_place(a, b, x)
    log_density, in_a, in_b, _ = slopes(a, b, place)
    in_x = (log_density - x.clamp(min=TINY).log() - place.y.log()).exp()
    inside = (x > 0) & (x < 1)
    return torch.where(inside, in_a, 0.0), torch.where(inside, in_b, 0.0), in_x


def _gamma_rows(a: Tensor, x: Tensor, upper: bool) -> tuple[Tensor]:
    """Return the probability below x, or above."""
    b, place = gamma_place(a, x)
    value = probability(a, b, place, upper)
    value = torch.where(x <= 0.0, float(upper), value)
    value = torch.where(x >= _FAR, 1.0 - float(upper), value)
    return (_valid((a > 0) & (x >= 0), value),)


def _gamma_slopes(a: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the slopes of the probability below x in a and x."""
    log_density, in_a, _, _ = slopes(a, *gamma_place(a, x))
    inside = (x > 0) & (x < _FAR)
    in_x = (log_density - x.clamp(min=TINY).log()).exp()
    return torch.where(inside, in_a, 0.0), torch.where(x < _FAR, in_x, 0.0)


def student_place(df: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Place]:
    """Return a, b and the place whose lower probability both tails beyond t have."""
    a, b = 0.5 * df, torch.full_like(df, 0.5)
    # Relative to those of the mean, the odds of df / (df + t^2) are 1 / t^2.
    far = ((a + b) * (a / b) / POWER_LAW).sqrt()
    inner = torch.minimum(t.abs(), far)
    square = b * inner.square()
    rest = 2.0 * (inner / t.abs()).log().nan_to_num(nan=0.0)
    place = Place(a / (a + square), (square / (a + square)).clamp(min=TINY), rest)
    return a, b, place


def _student_rows(df: Tensor, t: Tensor, _: bool) -> tuple[Tensor]:
    """Return the probability below t."""
    a, b, place = student_place(df, t)
    log_density, mass, upper = smaller_tail(a, b, place)
    tail = log_density.exp() * mass
    lower = 0.5 * torch.where(upper, 1.0 - tail, tail)
    lower = torch.where(t == 0, 0.5, torch.where(t.isinf(), 0.0, lower))
    return (_valid((df > 0) & (t == t), torch.where(t > 0, 1.0 - lower, lower)),)


def _student_slopes(df: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the slopes of the probability below t in df and t."""
    a, b, place = student_place(df, t)
    _, in_a, _, in_odds = slopes(a, b, place)
    in_df = 0.5 * (0.5 * in_a + in_odds / df)
    inside = (t != 0) & t.isfinite()
    in_df = torch.where(inside, torch.where(t > 0, -in_df, in_df), 0.0)
    # The density at 0, from that at t = 1, which has the odds of the mean
    peak = (a * (b / (a + b))).log() + log_peak(a, b)
    peak = peak + (a + b) * df.reciprocal().log1p()
    ratio = (t.abs() / df.sqrt()).clamp(max=1e150)
    return in_df, (peak - (a + b) * ratio.square().log1p()).exp()


class _Probability(torch.autograd.Function):
    """A distribution function, with its partial derivatives."""

    @staticmethod
    def forward(
        ctx: Any, rows: Any, partials: Any, upper: bool, *arguments: Tensor
    ) -> Tensor:
        """Return the probability of one side."""
        ctx.save_for_backward(*arguments)
        ctx.partials, ctx.sign = partials, -1.0 if upper else 1.0
        return by_rows(rows, *arguments, upper)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the arguments."""
        partials = by_rows(ctx.partials, *ctx.saved_tensors)
        return None, None, None, *(ctx.sign * grad * partial for partial in partials)


def _together(*arguments: Tensor) -> tuple[torch.dtype, tuple[Tensor, ...]]:
    """Return the common type, and the arguments in float64 and of one shape."""
    dtype = arguments[0].dtype
    for argument in arguments[1:]:
        dtype = torch.promote_types(dtype, argument.dtype)
    if not dtype.is_floating_point:
        dtype = torch.get_default_dtype()
    wide = (argument.to(torch.float64) for argument in arguments)
    return dtype, torch.broadcast_tensors(*wide)


def _answer(rows: Any, partials: Any, upper: bool, *arguments: Tensor) -> Tensor:
    """Return the probability of one side in the common type of the arguments."""
    dtype, wide = _together(*arguments)
    return _Probability.apply(rows, partials, upper, *wide).to(dtype)


# The inverses: log-odds, relative to the mean's, of a lower probability not near 1.


def _start(a: Tensor, b: Tensor, q: Tensor) -> Tensor:
    """Return log-odds, relative to the mean's, mostly below those of ``q``.

    The larger of two bounds: the power law that the lower tail ends in, and a
    sub-gamma bound [1]_ of -log x, a sum of exponential variables of rates a, a + 1,
    ... for a whole b. Its worst-case deviation gives way to the normal one.

    References
    ----------
    .. [1] S. Boucheron, G. Lugosi and P. Massart, "Concentration Inequalities",
       2013, section 2.4.
    """
    shift, log_q = (a / b).log1p(), q.log()
    power = (log_q + (1.0 - a - b) * shift - log_peak(a, b)) / a
    deviation = -torch.special.ndtri(q) * (b / (a * (a + b))).sqrt()
    minus_log = (b / a).log1p() + deviation - log_q / a
    minus_log = torch.where(b <= 1.0, -log_q / a, torch.maximum(minus_log, -log_q / a))
    bound = -minus_log - (-(-minus_log).expm1()).log() - (a / b).log()
    return torch.maximum(power, bound)


def _step(a: Tensor, b: Tensor, log_q: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Return Halley's step of the log-odds, and the residual of the logarithm.

    The logarithm of the lower probability is concave, so that Newton's steps converge
    from everywhere; Halley's are at most twice as long.
    """
    place = odds_place(a, b, at)
    log_density, mass, upper = smaller_tail(a, b, place)
    below = 1.0 - log_density.exp() * mass
    residual = torch.where(upper, below.log(), log_density + mass.log()) - log_q
    density = log_density.exp() / below
    slope = a * (b / (a + b)) * torch.where(upper, density, 1.0 / mass)
    bend = a * place.y - b * place.x - slope
    newton = -residual / slope
    return newton / (1.0 + 0.5 * newton * bend).clamp(0.5, 2.0), residual


def _relative_log_odds(a: Tensor, b: Tensor, q: Tensor) -> Tensor:
    """Return mu with odds a / b exp(mu) where the lower probability is q."""
    result = _start(a, b, q)
    unsolved = ((q > 0) & result.isfinite()).nonzero().squeeze(-1)
    for _ in range(_MAX_ITER):
        if not len(unsolved):
            break
        at = result[unsolved]
        step, residual = _step(a[unsolved], b[unsolved], q[unsolved].log(), at)
        step = step.nan_to_num(nan=0.0)
        result[unsolved] = at + step
        # The step after a residual this small is the last: its error is the cube.
        small = (residual.abs() < 1e-5) | (step.abs() <= 1e-15 * at.abs())
        unsolved = unsolved[~small]
    return torch.where(q == 0, -torch.inf, result)


def _two_sided(a: Tensor, b: Tensor, q: Tensor, upper: bool) -> tuple[Tensor, Tensor]:
    """Return mu and the side it is on: odds of x are a / b exp(side mu)."""
    q = _valid((a > 0) & (b > 0) & (q >= 0) & (q <= 1), q)
    below, above = (1.0 - q, q) if upper else (q, 1.0 - q)
    # Small shapes leave about this share at the lower end, where the variable goes by
    # powers and soon underflows; from there also quantiles beyond the median are near.
    swap = below > (b / (a + b)).clamp(0.1, 0.9)
    first, second = torch.where(swap, b, a), torch.where(swap, a, b)
    mu = _relative_log_odds(first, second, torch.where(swap, above, below))
    return mu, torch.where(swap, -1.0, 1.0)


def _beta_inverse_rows(a: Tensor, b: Tensor, q: Tensor) -> tuple[Tensor]:
    """Return x, from the smaller of x and 1 - x."""
    mu, side = _two_sided(a, b, q, upper=False)
    log_odds = side * mu + (a / b).log()
    return (torch.where(mu == -torch.inf, (side < 0).to(mu), log_odds.sigmoid()),)


def _gamma_inverse_rows(a: Tensor, q: Tensor, upper: bool) -> tuple[Tensor]:
    """Return x; relative to the mean, odds are x / a."""
    mu, side = _two_sided(a, torch.full_like(a, _GAMMA), q, upper)
    return (a * (side * mu).exp(),)


def _student_inverse_rows(df: Tensor, q: Tensor) -> tuple[Tensor]:
    """Return t, whose square is the relative odds."""
    share = torch.where(q > 0.5, 1.0 - q, q)
    a, b = 0.5 * df, torch.full_like(df, 0.5)
    outer = share <= 0.25
    first, second = torch.where(outer, a, b), torch.where(outer, b, a)
    ok = (df > 0) & (q >= 0) & (q <= 1)
    mass = _valid(ok, torch.where(outer, 2.0 * share, 1.0 - 2.0 * share))
    mu = _relative_log_odds(first, second, mass)
    size = (torch.where(outer, -0.5, 0.5) * mu).exp()
    return (torch.where(q > 0.5, size, -size),)


def _invert(rows: Any, *arguments: Tensor | bool) -> Tensor:
    """Return an inverse in the common type of the arguments, without a gradient."""
    dtype, wide = _together(*(v for v in arguments if isinstance(v, Tensor)))
    flags = [v for v in arguments if not isinstance(v, Tensor)]
    with torch.no_grad():
        return by_rows(rows, *wide, *flags)[0].to(dtype)


def betainc(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    r"""Return the regularised incomplete beta function [1]_.

    .. math:: I_x(a, b) = \frac{1}{B(a, b)} \int_0^x t^{a - 1} (1 - t)^{b - 1} dt

    Small values are accurate relative to themselves. All arguments have gradients.

    Parameters
    ----------
    a, b : Tensor of shape (...)
        Positive shapes, which broadcast.
    x : Tensor of shape (...)
        Points in [0, 1].

    Returns
    -------
    p : Tensor of shape (...)

    References
    ----------
    .. [1] NIST Digital Library of Mathematical Functions, 8.17.2.
    """
    return _answer(_beta_rows, _beta_slopes, False, a, b, x)


def betaincc(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    r"""Return the complement of :func:`betainc` [1]_.

    .. math:: 1 - I_x(a, b) = I_{1 - x}(b, a)

    Small values are accurate relative to themselves. All arguments have gradients.

    Parameters
    ----------
    a, b : Tensor of shape (...)
        Positive shapes, which broadcast.
    x : Tensor of shape (...)
        Points in [0, 1].

    Returns
    -------
    p : Tensor of shape (...)

    References
    ----------
    .. [1] NIST Digital Library of Mathematical Functions, 8.17.4.
    """
    return _answer(_beta_rows, _beta_slopes, True, a, b, x)


def gammainc(a: Tensor, x: Tensor) -> Tensor:
    r"""Return the regularised lower incomplete gamma function [1]_.

    .. math:: P(a, x) = \frac{1}{\Gamma(a)} \int_0^x t^{a - 1} e^{-t} dt

    Small values are accurate relative to themselves. All arguments have gradients.

    Parameters
    ----------
    a : Tensor of shape (...)
        Positive shapes, which broadcast.
    x : Tensor of shape (...)
        Points in [0, inf].

    Returns
    -------
    p : Tensor of shape (...)

    References
    ----------
    .. [1] NIST Digital Library of Mathematical Functions, 8.2.4.
    """
    return _answer(_gamma_rows, _gamma_slopes, False, a, x)


def gammaincc(a: Tensor, x: Tensor) -> Tensor:
    r"""Return the regularised upper incomplete gamma function [1]_.

    .. math:: Q(a, x) = \frac{1}{\Gamma(a)} \int_x^\infty t^{a - 1} e^{-t} dt

    Small values are accurate relative to themselves. All arguments have gradients.

    Parameters
    ----------
    a : Tensor of shape (...)
        Positive shapes, which broadcast.
    x : Tensor of shape (...)
        Points in [0, inf].

    Returns
    -------
    p : Tensor of shape (...)

    References
    ----------
    .. [1] NIST Digital Library of Mathematical Functions, 8.2.4.
    """
    return _answer(_gamma_rows, _gamma_slopes, True, a, x)


def stdtr(df: Tensor, t: Tensor) -> Tensor:
    r"""Return Student's distribution function, with :math:`\nu` degrees of freedom.

    .. math:: F(t) = \tfrac{1}{2} I_{\nu / (\nu + t^2)}(\nu / 2, 1 / 2) \quad (t \le 0)

    Small values are accurate relative to themselves. All arguments have gradients.

    Parameters
    ----------
    df : Tensor of shape (...)
        Positive degrees of freedom, which broadcast.
    t : Tensor of shape (...)
        Points.

    Returns
    -------
    p : Tensor of shape (...)
    """
    return _answer(_student_rows, _student_slopes, False, df, t)


def betaincinv(a: Tensor, b: Tensor, q: Tensor) -> Tensor:
    r"""Return the x at which :func:`betainc` is q.

    .. math:: I_x(a, b) = q

    The smaller of q and 1 - q decides, to its own digits. There is no gradient.

    Parameters
    ----------
    a, b : Tensor of shape (...)
        Positive shapes, which broadcast.
    q : Tensor of shape (...)
        Probabilities in [0, 1].

    Returns
    -------
    x : Tensor of shape (...)
    """
    return _invert(_beta_inverse_rows, a, b, q)


def gammaincinv(a: Tensor, q: Tensor) -> Tensor:
    r"""Return the x at which :func:`gammainc` is q.

    .. math:: P(a, x) = q

    The smaller of q and 1 - q decides, to its own digits. There is no gradient.

    Parameters
    ----------
    a : Tensor of shape (...)
        Positive shapes, which broadcast.
    q : Tensor of shape (...)
        Probabilities in [0, 1].

    Returns
    -------
    x : Tensor of shape (...)
    """
    return _invert(_gamma_inverse_rows, a, q, False)


def gammainccinv(a: Tensor, q: Tensor) -> Tensor:
    r"""Return the x at which :func:`gammaincc` is q.

    .. math:: Q(a, x) = q

    The smaller of q and 1 - q decides, to its own digits. There is no gradient.

    Parameters
    ----------
    a : Tensor of shape (...)
        Positive shapes, which broadcast.
    q : Tensor of shape (...)
        Probabilities in [0, 1].

    Returns
    -------
    x : Tensor of shape (...)
    """
    return _invert(_gamma_inverse_rows, a, q, True)


def stdtrit(df: Tensor, q: Tensor) -> Tensor:
    r"""Return the t at which :func:`stdtr` is q.

    .. math:: F(t) = q

    The smaller of q and 1 - q decides, to its own digits. There is no gradient.

    Parameters
    ----------
    df : Tensor of shape (...)
        Positive degrees of freedom, which broadcast.
    q : Tensor of shape (...)
        Probabilities in [0, 1].

    Returns
    -------
    t : Tensor of shape (...)
    """
    return _invert(_student_inverse_rows, df, q)
