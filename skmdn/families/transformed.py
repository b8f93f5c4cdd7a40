"""Components of the real line, taken onto an interval by an increasing map."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from skmdn.supports import Support

from .base import Family, IndependentFamily, Params
from .gaussian import Normal
from .image_moments import Margin, covariance_between, moments_between

__all__ = ["Transformed"]


@dataclass(frozen=True)
class Transformed(Family):
    r"""Components of a family on the real line, taken onto intervals.

    .. math:: \log f(y) = \log f_Z(z) - \sum_d \log \frac{dy_d}{dz_d}, \quad y = g(z)

    with the maps g of :class:`skmdn.supports.Support`: lognormal components are normal
    ones on (0, inf), logit-normal ones normal ones on (0, 1). The parameters are those
    of Z. Probabilities and quantiles are those of Z at other places; means and
    deviations have a closed form on half-lines and come from quadrature on intervals.

    Parameters
    ----------
    base : Family
        The family of Z: normal, or with independent outputs, on all real numbers.
    low, high : float, None, or tuple of these, default=None
        The ends, of all outputs or of each; None for no end.
    link : {"logit", "probit"}, default="logit"
        The map onto intervals with two ends; "probit" is for normal components.

    Raises
    ------
    ValueError
        If the family has a support of its own, or the ends are no intervals.

    Notes
    -----
    On a half-line the mean is infinite where the tail of Z falls no faster than the
    exponential grows: for Laplace, logistic and (towards an infinite upper end) Gumbel
    components from scale 1 on, the variance from 1/2 on, and for Student components
    always.

    A change of units would move the ends, which belong to the family: :meth:`affine`
    refuses, and :meth:`widen` widens Z.

    Examples
    --------
    >>> import torch
    >>> from skmdn.families import Normal, Transformed
    >>> rate = Transformed(Normal(), 0.0, 1.0)
    >>> params = {"mean": torch.tensor([[2.0]]), "scale": torch.tensor([[0.5]])}
    >>> rate.ppf(params, torch.tensor([0.05, 0.5, 0.95]))
    tensor([[0.7645, 0.8808, 0.9439]])
    """

    base: Family
    low: Any = None
    high: Any = None
    link: str = "logit"

    units: ClassVar[str] = "none"
    mirrors: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the family and write the ends as numbers."""
        known = self.base.gaussian or isinstance(self.base, IndependentFamily)
        if self.base.discrete or not known or self.base.support() != "all real numbers":
            raise ValueError(
                f"{self.base!r} cannot be taken onto an interval (support=): normal "
                "components can, and families with independent outputs on all "
                "real numbers."
            )
        ends = Support(self.low, self.high, self.link)
        object.__setattr__(self, "low", ends.low)
        object.__setattr__(self, "high", ends.high)
        object.__setattr__(self, "link", ends.link)
        if ends.link == "probit" and not self.base.gaussian:
            raise ValueError(f"link='probit' is for normal components: {self.base!r}.")

    @cached_property
    def onto(self) -> Support:  # type: ignore[override]
        """The intervals and the maps onto them."""
        return Support(self.low, self.high, self.link)

    @property
    def event_ranks(self) -> dict[str, int]:  # type: ignore[override]
        """The ranks of the parameters of Z."""
        return self.base.event_ranks

    @property
    def correlated(self) -> bool:  # type: ignore[override]
        """Whether the outputs of Z may depend on each other."""
        return self.base.correlated

    # Where the target may lie.

    def overlaps(self, low: Tensor, high: Tensor) -> Tensor:
        """Tell for each closed interval whether it has numbers between the ends."""
        first, last = low.new_tensor(self.low), low.new_tensor(self.high)
        return (low <= high) & (low < last) & (high > first)

    def contains(self, y: Tensor) -> Tensor:
        """Tell for each number whether it lies strictly between the ends."""
        return self.onto.contains(y) & y.isfinite()

    def support(self) -> str:
        """Return the support in words, for messages."""
        return str(self.onto)

    def for_outputs(self, outputs: Sequence[int]) -> "Transformed":
        """Return the family of some of the outputs."""
        onto = self.onto.for_outputs(outputs)
        base = self.base.for_outputs(outputs)
        return Transformed(base, onto.low, onto.high, onto.link)

    def n_outputs(self, params: Params) -> int:
        """Return the number of outputs."""
        return self.base.n_outputs(params)

    def ends(self, params: Params) -> Tensor:
        """Return the ends."""
        like = self.base.ends(params)
        ends = like.new_tensor([self.low, self.high]).reshape(2, -1)
        return ends.expand(*like.shape[:-2], 2, like.shape[-1])

    def kinks(self, params: Params) -> Tensor:
        """Return the places of those of Z."""
        return self.onto.forward(self.base.kinks(params))

    # The network's side: that of Z.

    def raw_shapes(
        self, n_components: int, n_outputs: int
    ) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the raw numbers of Z."""
        return self.base.raw_shapes(n_components, n_outputs)

    def from_raw(self, raw: Params, min_scale: float) -> Params:
        """Apply the links of Z; the floor is one on its scale."""
        return self.base.from_raw(raw, min_scale)

    def start(self, centers: Tensor, spreads: Tensor, min_scale: float) -> Params:
        """Match medians, and deviations as far as the map is straight."""
        z = self.onto.inverse(centers)
        return self.base.start(
            z, spreads * torch.exp(-self.onto.log_jacobian(z)), min_scale
        )

    def scales(self, params: Params) -> Tensor:
        """Return the scales of Z."""
        return self.base.scales(params)

    def pinned(self, params: Params) -> Params:
        """Return the parameters as the family of Z pins them."""
        return self.base.pinned(params)

    # Joint queries.

    def log_prob(self, params: Params, y: Tensor) -> Tensor:
        """Return the log density, -inf on the ends and outside."""
        z, inside = self._inner(y)
        value = self.base.log_prob(params, z) - self.onto.log_jacobian(z).sum(-1)
        return torch.where(inside.all(-1), value, -torch.inf)

    def log_density(self, params: Params, y: Tensor) -> Tensor:
        """Return the log density of every output by itself."""
        z, inside = self._inner(y)
        value = self.base.log_density(params, z) - self.onto.log_jacobian(z)
        return torch.where(inside, value, -torch.inf)

    def log_likelihood(self, params: Params, low: Tensor, high: Tensor) -> Tensor:
        """Return that of Z, with the Jacobian of the numbers that are known."""
        known = low == high
        ends = self._inner_ends(low, high)
        value = self.base.log_likelihood(params, *ends)
        slopes = self.onto.log_jacobian(torch.where(known, ends[0], 0.0))
        possible = (self.overlaps(low, high) | low.isnan()).all(-1)
        value = value - torch.where(known, slopes, 0.0).sum(-1)
        return torch.where(possible, value, -torch.inf)

    def log_interval(self, params: Params, low: Tensor, high: Tensor) -> Tensor:
        """Return the probability of the interval's inner ends."""
        value = self.base.log_interval(params, *self._inner_ends(low, high))
        return torch.where(self.overlaps(low, high), value, -torch.inf)

    def _inner_ends(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return the ends as Z has them; those of intervals may be infinite.

        Missing ends stay missing, and numbers that are known are one number.
        """
        first, below = self._inner(low)
        last, above = self._inner(high)
        known, missing = low == high, low.isnan() | high.isnan()
        first = torch.where(below | known, first, -torch.inf)
        last = torch.where(above | known, last, torch.inf)
        nan = torch.nan
        return first.masked_fill(missing, nan), last.masked_fill(missing, nan)

    def _inner(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return z, finite also for points outside, and which are inside."""
        inside = self.contains(y)
        middle = self.onto.forward(torch.zeros_like(y))
        return self.onto.inverse(torch.where(inside, y, middle)), inside

    def draw(self, params: Params, generator: torch.Generator | None) -> Tensor:
        """Map draws of Z; none is on an end."""
        return self.onto.forward(self.base.draw(params, generator))

    def affine(self, params: Params, scale: Tensor, shift: Tensor) -> Params:
        """Refuse: the ends would move."""
        raise TypeError(
            "Components on an interval have no other units: change those of the "
            "target and of the ends."
        )

    def widen(self, params: Params, factor: Tensor) -> Params:
        """Widen Z around its mean."""
        return self.base.widen(params, factor)

    def marginal(self, params: Params, outputs: list[int]) -> Params:
        """Return the parameters of Z for the chosen outputs; see for_outputs."""
        return self.base.marginal(params, outputs)

    def condition(
        self, params: Params, outputs: list[int], values: Tensor
    ) -> tuple[Params, Tensor]:
        """Condition Z on the places of the values."""
        known = self.for_outputs(outputs)
        z, inside = known._inner(values)
        rest, log_prob = self.base.condition(params, outputs, z)
        log_prob = log_prob - known.onto.log_jacobian(z).sum(-1)
        return rest, torch.where(inside.all(-1), log_prob, -torch.inf)

    # Marginal queries.

    def mean(self, params: Params) -> Tensor:
        """Return the means, infinite where there is none."""
        return self._moments(params)[0]

    def std(self, params: Params) -> Tensor:
        """Return the standard deviations, infinite where there is none."""
        return self._moments(params)[1]

    def _moments(self, params: Params) -> tuple[Tensor, Tensor]:
        """Return means and standard deviations."""
        family, params = self._marginals(params)
        if not isinstance(self.low, tuple):
            return moments_between(family, params, self.low, self.high, self.link)
        both = []
        for d, ends in enumerate(self._ends(len(self.low))):
            of_output = {name: value[..., d] for name, value in params.items()}
            both.append(moments_between(family, of_output, *ends, self.link))
        means, stds = zip(*both, strict=True)
        return torch.stack(means, -1), torch.stack(stds, -1)

    def _marginals(self, params: Params) -> tuple[Family, Params]:
        """Return a family without dependence that has the same marginals."""
        if not self.base.gaussian:
            return self.base, params
        mean, std = self.base.mean(params), self.base.std(params)
        return Normal(), {"mean": mean, "scale": std}

    def covariance(self, params: Params) -> Tensor:
        """Return the covariances; of two logistic outputs by quadrature."""
        result = torch.diag_embed(self.std(params).square())
        if isinstance(self.base, IndependentFamily | Normal):
            return result
        center, inner = self.base.mean(params), self.base.covariance(params)
        margins = [
            Margin(center[..., d], inner[..., d, d].sqrt(), *ends, self.link)
            for d, ends in enumerate(self._ends(center.shape[-1]))
        ]
        for i, one in enumerate(margins):
            for j, other in enumerate(margins[:i]):
                value = covariance_between(one, other, inner[..., i, j])
                result[..., i, j] = result[..., j, i] = value
        return result

    def _ends(self, n: int) -> list[tuple[float, float]]:
        """Return the ends of each of the outputs."""
        if isinstance(self.low, tuple):
            return list(zip(self.low, self.high, strict=True))
        return [(self.low, self.high)] * n

    def precision(self, params: Params) -> Tensor:
        """Return the inverse of the covariance."""
        return torch.linalg.inv(self.covariance(params))

    def cdf(self, params: Params, y: Tensor) -> Tensor:
        """Return that of Z at the place of y."""
        z, inside = self._inner(y)
        return self._around(self.base.cdf(params, z), inside, y, 0.0, 1.0)

    def sf(self, params: Params, y: Tensor) -> Tensor:
        """Return that of Z at the place of y."""
        z, inside = self._inner(y)
        return self._around(self.base.sf(params, z), inside, y, 1.0, 0.0)

    def log_tails(self, params: Params, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return those of Z at the place of y."""
        z, inside = self._inner(y)
        lower, upper = self.base.log_tails(params, z)
        return (
            self._around(lower, inside, y, -torch.inf, 0.0),
            self._around(upper, inside, y, 0.0, -torch.inf),
        )

    def _around(
        self, value: Tensor, inside: Tensor, y: Tensor, below: float, above: float
    ) -> Tensor:
        """Put numbers where y is not inside."""
        beyond = torch.where(y > y.new_tensor(self.low), above, below).to(value.dtype)
        return torch.where(inside, value, beyond)

    def ppf(self, params: Params, q: Tensor) -> Tensor:
        """Return the places of the quantiles of Z."""
        return self.onto.forward(self.base.ppf(params, q))
