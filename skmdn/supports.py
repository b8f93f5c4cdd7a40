"""Intervals as images of the real line: maps there and back, with their Jacobians."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .numerics.basic import log_of, ndtr

__all__ = ["Support"]

Ends = float | tuple[float, ...]

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
_CDFS: dict[str, Callable[[Tensor], Tensor]] = {"logit": torch.sigmoid, "probit": ndtr}


@dataclass(frozen=True)
class Support:
    r"""Open intervals, one per output, and the increasing maps of the line onto them.

    .. math:: y = l + e^z, \quad y = h - e^{-z}, \quad
        y = l + \frac{h - l}{1 + e^{-z}} \quad \text{or} \quad y = z

    for a lower end l, an upper end h, both or none. With ``link="probit"`` the map onto
    an interval is :math:`l + (h - l)\, \Phi(z)` instead: a uniform law there is a
    standard normal one on the line.

    Parameters
    ----------
    low, high : float, None, or tuple of these, default=None
        The ends, of all outputs or of each; None or an infinite number for no end.
    link : {"logit", "probit"}, default="logit"
        The map onto intervals with two ends.

    Raises
    ------
    ValueError
        If a lower end is not below the upper one, or there is no number for it.

    Examples
    --------
    >>> import torch
    >>> from skmdn.supports import Support
    >>> positive = Support(low=0.0)
    >>> z = positive.inverse(torch.tensor([1.0, 1000.0]))
    >>> z
    tensor([0.0000, 6.9078])
    >>> positive.forward(z), positive.log_jacobian(z)
    (tensor([1.0000e+00, 1.0000e+03]), tensor([0.0000, 6.9078]))
    """

    low: Any = None
    high: Any = None
    link: str = "logit"

    def __post_init__(self) -> None:
        """Write the ends as numbers: one each, or one each per output."""
        if self.link not in ("logit", "probit"):
            raise ValueError(f"link={self.link!r} must be 'logit' or 'probit'.")
        both = [end for end in (self.low, self.high) if isinstance(end, tuple)]
        n = len(both[0]) if both else 1
        given = [end if isinstance(end, tuple) else (end,) * n for end in self._given()]
        lows, highs = given
        if len(lows) != len(highs):
            raise ValueError(f"low={self.low!r} and high={self.high!r} differ in size.")
        pairs = [
            (_number(low, -math.inf), _number(high, math.inf))
            for low, high in zip(lows, highs, strict=True)
        ]
        for low, high in pairs:
            finite = math.isinf(low) or math.isinf(high) or math.isfinite(high - low)
            if not (low < high and low < math.inf and high > -math.inf and finite):
                raise ValueError(f"low={low!r} has to be below high={high!r}.")
        ends: list[Any] = list(zip(*pairs, strict=True))
        if len(set(pairs)) == 1:
            ends = list(pairs[0])
        object.__setattr__(self, "low", ends[0])
        object.__setattr__(self, "high", ends[1])
        if not any(math.isfinite(high - low) for low, high in pairs):
            object.__setattr__(self, "link", "logit")

    def _given(self) -> tuple[Any, Any]:
        return self.low, self.high

    @classmethod
    def parse(cls, support: Any, n_outputs: int) -> "Support":
        """Understand None, a pair for all outputs, or a sequence of a pair for each.

        Parameters
        ----------
        support : None, pair, or sequence of pairs
            What a user writes.
        n_outputs : int
            The number of outputs.

        Raises
        ------
        ValueError
            If it is none of these, or a pair is no interval.
        """
        if support is None:
            return cls()
        pairs = list(support)
        if len(pairs) == 2 and not any(isinstance(p, Sequence) for p in pairs):
            pairs = [tuple(pairs)] * n_outputs
        fits = all(isinstance(p, Sequence) and len(p) == 2 for p in pairs)
        if not fits or len(pairs) != n_outputs:
            raise ValueError(
                f"support={support!r} must be None, a pair (low, high) or a list of "
                f"one pair for each of the {n_outputs} output(s); None in a pair "
                "stands for no end."
            )
        lows, highs = zip(*pairs, strict=True)
        return cls(lows, highs)

    @property
    def bounded(self) -> bool:
        """Whether there is an end at all."""
        return self != Support()

    def for_outputs(self, outputs: Sequence[int]) -> "Support":
        """Return the intervals of some of the outputs, in that order."""
        if not isinstance(self.low, tuple):
            return self
        low, high = self.low, self.high
        return Support(
            tuple(low[o] for o in outputs), tuple(high[o] for o in outputs), self.link
        )

    def __str__(self) -> str:
        """Say it in words, for messages."""
        if not self.bounded:
            return "all real numbers"
        several = isinstance(self.low, tuple)
        ends = zip(self.low, self.high, strict=True) if several else [self._given()]
        written = [f"({low:g}, {high:g})" for low, high in ends]
        return f"the open interval{'s' if several else ''} {', '.join(written)}"

    # The maps; values have the outputs on their last axis.

    def contains(self, y: Tensor) -> Tensor:
        """Tell for each number whether it lies strictly between its ends."""
        return (y > y.new_tensor(self.low)) & (y < y.new_tensor(self.high))

    def forward(self, z: Tensor) -> Tensor:
        """Return y.

        Finite numbers stay strictly inside, by as little as floating-point numbers
        allow; infinite ones are taken to the ends.
        """
        return self._each(_forward, z)

    def inverse(self, y: Tensor) -> Tensor:
        """Return z, infinite where y lies on an end or beyond."""
        return self._each(_inverse, y)

    def log_jacobian(self, z: Tensor) -> Tensor:
        """Return log dy/dz of every output at z."""
        return self._each(_log_jacobian, z)

    def _each(
        self, function: Callable[[Tensor, float, float, str], Tensor], values: Tensor
    ) -> Tensor:
        """Apply a function to every output with its ends."""
        if not isinstance(self.low, tuple):
            return function(values, self.low, self.high, self.link)
        ends = zip(self.low, self.high, strict=True)
        parts = [
            function(values[..., d], *pair, self.link) for d, pair in enumerate(ends)
        ]
        return torch.stack(parts, -1)


def _number(end: Any, missing: float) -> float:
    return missing if end is None else float(end)


def _exp(z: Tensor) -> Tensor:
    """Return the exponential, or the largest number there is."""
    return z.clamp(max=math.log(torch.finfo(z.dtype).max)).exp()


def _forward(z: Tensor, low: float, high: float, link: str) -> Tensor:
    if math.isinf(low) and math.isinf(high):
        return z
    if math.isinf(high):
        y = low + _exp(z)
    elif math.isinf(low):
        y = high - _exp(-z)
    else:
        # From the nearer end, whose distance keeps its digits
        size, cdf = high - low, _CDFS[link]
        below, above = low + size * cdf(z), high - size * cdf(-z)
        y = torch.where(z < 0.0, below, above)
    y = y.clamp(*_innermost(z, low, high))
    return torch.where(z.isinf(), torch.where(z < 0.0, low, high).to(y), y)


def _innermost(like: Tensor, low: float, high: float) -> tuple[float, float]:
    """Return the first and the last number inside; next to 0, the first normal one."""
    tiny = torch.finfo(like.dtype).tiny
    ends = like.new_tensor([low, high])
    first, last = torch.nextafter(ends, ends.flip(0)).tolist()
    return (tiny if low == 0.0 else first), (-tiny if high == 0.0 else last)


def _inverse(y: Tensor, low: float, high: float, link: str) -> Tensor:
    if math.isinf(low) and math.isinf(high):
        return y
    if math.isinf(high):
        return log_of(y - low)
    if math.isinf(low):
        return -log_of(high - y)
    size = high - low
    below, above = (y - low) / size, (high - y) / size
    if link == "probit":
        nearer = torch.special.ndtri(torch.minimum(below, above).clamp(0.0, 1.0))
        return torch.where(below < above, nearer, -nearer)
    return log_of(below) - log_of(above)


def _log_jacobian(z: Tensor, low: float, high: float, link: str) -> Tensor:
    if math.isinf(low) and math.isinf(high):
        return torch.zeros_like(z)
    if math.isinf(high):
        return z
    if math.isinf(low):
        return -z
    if link == "probit":
        return math.log(high - low) - _LOG_SQRT_2PI - 0.5 * z.square()
    log_sigmoid = torch.nn.functional.logsigmoid
    return math.log(high - low) + log_sigmoid(z) + log_sigmoid(-z)
