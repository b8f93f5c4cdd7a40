"""What a component family is: the protocol, and what most families share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from skmdn.numerics.basic import gauss_legendre, log_complement, log_of
from skmdn.supports import Support

__all__ = [
    "Family",
    "IndependentFamily",
    "Params",
    "bounded_exp",
    "inverse_softplus",
    "others",
]

Params = dict[str, Tensor]

# An interval with a smaller share of its tail is integrated: a difference of two
# tails would lose its digits. Over so short a piece a smooth density is a polynomial.
_NARROW = 1e-3
_N_NODES = 3
# Unless the density changes by more than this factor, in logarithms; from there on
# nothing is left of the difference.
_SMOOTH, _LOST = 0.1, 1e-9


def inverse_softplus(x: Tensor) -> Tensor:
    """Return ``z`` with ``softplus(z) = x``, without overflow for large ``x``."""
    return x + torch.log(-torch.expm1(-x))


def bounded_exp(x: Tensor) -> Tensor:
    """Return exp(x), continued as a straight line before it overflows."""
    last = 0.85 * math.log(torch.finfo(x.dtype).max)
    return x.clamp_max(last).exp() * (1.0 + (x - last).clamp_min(0.0))


def _log_difference(larger: Tensor, smaller: Tensor) -> Tensor:
    """Return log(exp(larger) - exp(smaller)), -inf where that is not positive."""
    possible = smaller < larger
    gap = torch.where(possible, smaller - larger, -1.0)
    return (larger + log_complement(gap)).masked_fill(~possible, -torch.inf)


def _finite_ends(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return ends of which an infinite one is replaced by the other, or by 0."""
    inside = torch.where(high.isinf(), 0.0, high)
    low = torch.where(low.isinf(), inside, low)
    return low, torch.where(high.isinf(), low, high)


def others(values: Tensor, outputs: list[int]) -> list[int]:
    """Return the outputs that are not among these."""
    return [d for d in range(values.shape[-1]) if d not in outputs]


@dataclass(frozen=True)
class Family(ABC):
    """Base of the component families: the protocol and what all of them share.

    Attributes
    ----------
    event_ranks : dict of str to int
        The parameters' names, each with the number of its axes that follow the
        component axis.
    gaussian : bool
        Whether the components are normal, which closed forms ask for.
    discrete : bool
        Whether the components are masses at single points: their "density" is a
        probability.
    units : {"location-scale", "scale", "none"}
        Which changes of units keep the family: those of origin and scale, of scale
        only, or none.
    mirrors : bool
        Whether -y has components of the same family.
    correlated : bool
        Whether outputs may depend on each other within a component.
    onto : Support or None
        The map that makes the components of those of a family on the real line, which
        is then called ``base``.
    """

    event_ranks: ClassVar[dict[str, int]]
    gaussian: ClassVar[bool] = False
    discrete: ClassVar[bool] = False
    units: ClassVar[str] = "location-scale"
    mirrors: ClassVar[bool] = True
    correlated: ClassVar[bool] = False
    onto: ClassVar[Support | None] = None

    # Where the target may lie, and in which units.

    def contains(self, y: Tensor) -> Tensor:
        """Tell for each number whether it lies in the support."""
        return y.isfinite()

    def overlaps(self, low: Tensor, high: Tensor) -> Tensor:
        """Tell for each closed interval whether it has numbers of the support."""
        return low <= high

    def support(self) -> str:
        """Return the support in words, for messages."""
        return "all real numbers"

    def in_units(self, scale: Sequence[float], shift: Sequence[float]) -> "Family":
        """Return the family of ``(y - shift) / scale``, one number per output.

        It differs if the family has numbers that are fixed in the units of y.
        """
        return self

    def pinned(self, params: Params) -> Params:
        """Return parameters whose fixed numbers are exactly those of this family.

        A change of units there and back leaves rounding errors in them.
        """
        return params

    def for_outputs(self, outputs: Sequence[int]) -> "Family":
        """Return the family of some of the outputs, in that order.

        It differs if the family has a number for each output.
        """
        return self

    def n_outputs(self, params: Params) -> int:
        """Return the number of outputs that parameters describe."""
        return self.mean(params).shape[-1]

    # The network's side: unconstrained numbers become valid parameters.

    @abstractmethod
    def raw_shapes(
        self, n_components: int, n_outputs: int
    ) -> dict[str, tuple[int, ...]]:
        """Return the shape of each unconstrained parameter a network has to make."""

    @abstractmethod
    def from_raw(self, raw: Params, min_scale: float) -> Params:
        """Map unconstrained tensors ``(..., *raw_shape)`` to valid parameters."""

    @abstractmethod
    def start(self, centers: Tensor, spreads: Tensor, min_scale: float) -> Params:
        """Return raw values of components at ``centers`` with ``spreads``.

        Parameters
        ----------
        centers : Tensor of shape (n_components, n_outputs)
            Means.
        spreads : Tensor of shape (n_components, n_outputs)
            Standard deviations.
        min_scale : float
            The floor that :meth:`from_raw` adds.
        """

    @abstractmethod
    def scales(self, params: Params) -> Tensor:
        """Return the positive numbers, per component, whose collapse a prior stops."""

    # Joint queries.

    @abstractmethod
    def log_prob(self, params: Params, y: Tensor) -> Tensor:
        """Return log f_k(y) in nats, shape ``(..., n_components)``."""

    @abstractmethod
    def log_density(self, params: Params, y: Tensor) -> Tensor:
        """Return the log density of every output by itself.

        It is -inf outside the support, never NaN, and differentiable there as well.

        Returns
        -------
        log_density : Tensor of shape (..., n_components, n_outputs)
        """

    def log_likelihood(self, params: Params, low: Tensor, high: Tensor) -> Tensor:
        r"""Return the log-likelihood of targets that are known in part.

        .. math:: \sum_{d: l_d = h_d} \log f_d(l_d)
            + \sum_{d: l_d < h_d} \log P(l_d \le Y_d \le h_d)

        Parameters
        ----------
        params : dict of Tensor
            Parameters.
        low, high : Tensor of shape (..., 1, n_outputs)
            Ends, which broadcast: equal ones of a number that is known, NaN of one
            that is missing.

        Returns
        -------
        log_likelihood : Tensor of shape (..., n_components)
        """
        known, between = low == high, low < high
        parts = []
        if bool(known.any()) or not bool(between.any()):
            density = self.log_density(params, torch.where(known, low, 0.0))
            parts.append(torch.where(known, density, 0.0))
        if bool(between.any()):
            ends = torch.where(between, low, 0.0), torch.where(between, high, 1.0)
            inside = self.log_interval(params, *ends)
            parts.append(torch.where(between, inside, 0.0))
        total = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return total.sum(-1)

    @abstractmethod
    def draw(self, params: Params, generator: torch.Generator | None) -> Tensor:
        """Draw one value for every leading index of ``params`` (no component axis)."""

    @abstractmethod
    def covariance(self, params: Params) -> Tensor:
        """Return ``(..., n_components, n_outputs, n_outputs)``."""

    @abstractmethod
    def precision(self, params: Params) -> Tensor:
        """Return the inverse of :meth:`covariance`, computed without inverting it."""

    @abstractmethod
    def affine(self, params: Params, scale: Tensor, shift: Tensor) -> Params:
        """Return the parameters of ``scale * y + shift`` (one number per output)."""

    @abstractmethod
    def widen(self, params: Params, factor: Tensor) -> Params:
        """Return components whose deviations from the mean are ``factor`` times larger.

        ``factor`` broadcasts to ``(..., n_components, n_outputs)``.
        """

    @abstractmethod
    def marginal(self, params: Params, outputs: list[int]) -> Params:
        """Return the parameters of the chosen outputs."""

    @abstractmethod
    def condition(
        self, params: Params, outputs: list[int], values: Tensor
    ) -> tuple[Params, Tensor]:
        """Fix ``outputs`` at ``values (..., 1, len(outputs))``.

        Returns
        -------
        params : dict of Tensor
            Parameters of the remaining outputs, in their order.
        log_prob : Tensor of shape (..., n_components)
            Log density of ``values`` under each component.
        """

    # Marginal queries: everything is (..., n_components, n_outputs).

    @abstractmethod
    def mean(self, params: Params) -> Tensor:
        """Return the components' means."""

    @abstractmethod
    def std(self, params: Params) -> Tensor:
        """Return the components' standard deviations."""

    @abstractmethod
    def cdf(self, params: Params, y: Tensor) -> Tensor:
        """Return P(Y <= y) per component and output, accurate in the lower tail."""

    @abstractmethod
    def sf(self, params: Params, y: Tensor) -> Tensor:
        """Return P(Y > y) per component and output, accurate in the upper tail."""

    def log_cdf(self, params: Params, y: Tensor) -> Tensor:
        """Return log P(Y <= y)."""
        return self.log_tails(params, y)[0]

    def log_sf(self, params: Params, y: Tensor) -> Tensor:
        """Return log P(Y > y)."""
        return self.log_tails(params, y)[1]

    def log_tails(self, params: Params, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return log P(Y <= y) and log P(Y > y).

        A family that writes them by itself goes beyond 1e-308.
        """
        return log_of(self.cdf(params, y)), log_of(self.sf(params, y))

    def log_interval(self, params: Params, low: Tensor, high: Tensor) -> Tensor:
        """Return log P(low <= Y <= high) per component and output.

        Both ends belong to the interval, so that one from a point with a probability
        to itself has that probability. Ends may be infinite.
        """
        return self._log_interval(params, low, high)[0]

    def _log_interval(
        self, params: Params, low: Tensor, high: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return log P(low < Y <= high), and the log tail that it is a part of.

        The tail is the one with less beyond the interval.
        """
        no_low, no_high = low == -torch.inf, high == torch.inf
        n_axes = max(value.ndim for value in params.values())
        ends = torch.broadcast_tensors(*_finite_ends(low, high))
        # Both ends in one call: its cost hardly depends on their number.
        both = torch.stack([end[(None,) * (n_axes - end.ndim)] for end in ends])
        (below, lower), (upper, above) = self.log_tails(params, both)
        lower = lower.masked_fill(no_high, 0.0)
        upper = upper.masked_fill(no_low, 0.0)
        below = below.masked_fill(no_low, -torch.inf)
        above = above.masked_fill(no_high, -torch.inf)
        is_lower = lower < upper
        tail = torch.where(is_lower, lower, upper)
        return _log_difference(tail, torch.where(is_lower, below, above)), tail

    @abstractmethod
    def ppf(self, params: Params, q: Tensor) -> Tensor:
        """Return the quantile of each component and output at levels ``q``."""

    def cumulant(self, params: Params, t: float) -> Tensor:
        """Return log E exp(t (Y - E Y)), infinite where there is none.

        Families on the real line have to say it, for the moments of
        :class:`skmdn.families.Transformed` components on half-lines.
        """
        raise NotImplementedError(f"{self!r} does not say its exponential moments.")

    def ends(self, params: Params) -> Tensor:
        """Return the ends of the support, ``(..., n, n_outputs)``, infinite or not."""
        return self.mean(params)[..., :0, :]

    def grades(self, params: Params) -> tuple[Tensor, Tensor]:
        """Return centres and widths, each ``(..., n, n_outputs)``.

        Away from a centre c of width w the density changes over lengths that grow like
        the root of w^2 + (y - c)^2: near the ends, and in tails that are powers.
        """
        ends = self.ends(params)
        return ends, torch.zeros_like(ends)

    def kinks(self, params: Params) -> Tensor:
        """Return other points where it is not smooth, ``(..., n, n_outputs)``.

        Quadrature and climbs put an edge there. Families that do not say it are
        taken to have some far out and in the middle.
        """
        middle = self.mean(params)
        levels = (1e-15, 0.5, 1.0 - 1e-15)
        return torch.cat([self.ppf(params, middle.new_tensor(q)) for q in levels], -2)

    def masses_between(
        self, params: Params, low: Tensor, high: Tensor, most: int
    ) -> Tensor | None:
        """Return the points with a probability in an interval, ``(..., n, n_outputs)``.

        Discrete families have to say it; None if there are more than ``most``.
        """
        raise NotImplementedError

    def nearest_mass(self, params: Params, y: Tensor) -> Tensor:
        """Return the point with a probability that is nearest to ``y``.

        Discrete families have to say it.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class IndependentFamily(Family):
    r"""Base of families whose outputs are independent of each other.

    .. math:: f(y) = \prod_d f_d(y_d \mid \theta_d)

    Every parameter has a number per output, ``(..., n_components, n_outputs)``. A
    subclass names its unconstrained numbers in ``raw_names`` and its parameters in
    ``event_ranks``, and writes the links, the log density of one output and its
    distribution function, quantile, mean and standard deviation.

    Attributes
    ----------
    raw_names : tuple of str
        The numbers that a network makes, one of each for a component and output.
    """

    raw_names: ClassVar[tuple[str, ...]]

    def raw_shapes(
        self, n_components: int, n_outputs: int
    ) -> dict[str, tuple[int, ...]]:
        """Return one number per component and output under each name."""
        return dict.fromkeys(self.raw_names, (n_components, n_outputs))

    def scales(self, params: Params) -> Tensor:
        """Return the standard deviations."""
        return self.std(params)

    def draw(self, params: Params, generator: torch.Generator | None) -> Tensor:
        """Draw the quantiles of uniform numbers."""
        uniform = torch.empty_like(params[next(iter(self.event_ranks))])
        uniform.uniform_(generator=generator)
        return self.ppf(params, uniform.clamp_min_(torch.finfo(uniform.dtype).tiny))

    def widen(self, params: Params, factor: Tensor) -> Params:
        """Stretch around the means where any origin and scale will do.

        Components of other families stay as they are, unless they say how.
        """
        if self.units == "location-scale":
            return self.affine(params, factor, (1.0 - factor) * self.mean(params))
        return {
            name: torch.broadcast_tensors(value, factor)[0]
            for name, value in params.items()
        }

    def log_prob(self, params: Params, y: Tensor) -> Tensor:
        """Return the sum of the outputs' log densities."""
        return self.log_density(params, y).sum(-1)

    def log_interval(self, params: Params, low: Tensor, high: Tensor) -> Tensor:
        """Return log P(low <= Y <= high) per component and output.

        Narrow intervals are integrated, where no digits are lost. A density that has
        a kink needs a way of its own, and so do points with a probability.
        """
        value, tail = self._log_interval(params, low, high)
        share = value.detach() - tail.detach()
        bounded = low.isfinite() & high.isfinite()
        low, high = _finite_ends(low, high)
        nodes, weights = gauss_legendre(_N_NODES)
        half = 0.5 * (high - low)
        logs = torch.stack(
            [
                self.log_density(params, low + half * (1.0 + node)) + math.log(weight)
                for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True)
            ]
        )
        smooth = (logs[0] - logs[-1]).abs() < _SMOOTH
        narrow = (share < math.log(_NARROW)) & smooth | (share < math.log(_LOST))
        narrow = narrow & bounded & logs.isfinite().all(0)
        rule = torch.where(narrow, logs, 0.0).logsumexp(0) + log_of(half)
        return torch.where(narrow, rule, value)

    def covariance(self, params: Params) -> Tensor:
        """Return diagonal matrices."""
        return torch.diag_embed(self.std(params).square())

    def precision(self, params: Params) -> Tensor:
        """Return diagonal matrices."""
        return torch.diag_embed(self.std(params).square().reciprocal())

    def marginal(self, params: Params, outputs: list[int]) -> Params:
        """Select: the outputs are independent given the component."""
        return {name: value[..., outputs] for name, value in params.items()}

    def condition(
        self, params: Params, outputs: list[int], values: Tensor
    ) -> tuple[Params, Tensor]:
        """Keep the other outputs as they are: only the weights learn from values."""
        log_prob = self.log_prob(self.marginal(params, outputs), values)
        rest = others(self.mean(params), outputs)
        return self.marginal(params, rest), log_prob
