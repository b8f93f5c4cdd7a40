r"""Quantiles of one-dimensional Gaussian mixtures: many rows, many levels.

Both methods solve :math:`F(x) = q` to a bound on the error of the probability,
never of x: what a level promises is a probability. Where the density is almost 0,
between two modes, x is free to lie anywhere that keeps the promise.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skmdn.numerics.basic import find_root, least_exponent, own_units

__all__ = ["at_masses", "bracketed_quantiles", "normal_quantiles"]

# Numbers at work at a time: few enough for the processor's cache.
_BLOCK = 2**14
# Levels nearer to 0 or 1 than this need a tail probability with all of its digits.
_TAIL = 1e-5
# The largest error of an answer, as a share of min(q, 1 - q), in float64.
_CELL_TOLERANCE = 1e-10
_STEP_TOLERANCE = 1e-12
_MAX_STEPS = 200
# Nodes in every component, in standard deviations from its mean, for more and more
# levels per component. 0 and 1 must be there: see _Cells.
_OFFSETS = (
    (2.0, (0.0, 1.0)),
    (10.0, (0.0, 0.5, 1.0, 2.0)),
    (math.inf, (0.0, 0.4, 0.7, 1.0, 1.5, 2.1, 2.8, 3.6, 4.6)),
)
# Fewer levels than this, and than half the components, are solved one by one.
_FEW = 16
_MANY = 64
_INVERSE_STEPS = 3

_SQRT_2 = math.sqrt(2.0)
_INV_SQRT_PI = 1.0 / math.sqrt(math.pi)
_INV_SQRT_2PI = _INV_SQRT_PI / _SQRT_2


def normal_quantiles(
    weights: Tensor, means: Tensor, stds: Tensor, levels: Tensor
) -> Tensor:
    r"""Return x with :math:`\sum_k w_k \Phi((x - \mu_k) / \sigma_k) = q`.

    Many levels share the work of a row: the distribution function is evaluated at
    nodes in every component, interpolated to fifth order between them, and a step
    of Newton's method from there is accepted if a bound on the curvature of F in
    the cell proves it (:class:`_Cells`). A few levels, those in the far tails and
    the answers without a proof are found by safeguarded steps (:func:`_solve`).

    Parameters
    ----------
    weights, means, stds : Tensor of shape (n_rows, n_components)
        Weights are normalised; components of weight 0 are ignored.
    levels : Tensor of shape (n_levels,)
        Levels q in (0, 1), in any order.

    Returns
    -------
    quantiles : Tensor of shape (n_rows, n_levels)
        Never decreasing in the level. The probability at them is wrong by at most
        1e-9 min(q, 1 - q) or the spacing of floating-point numbers.
    """
    if means.shape[-1] == 1:
        return means + stds * torch.special.ndtri(levels)
    ascending, order = levels.sort(stable=True)
    quantiles = means.new_empty((len(means), len(levels)))
    n_levels = min(_BLOCK, max(1, len(levels)))
    n_rows = max(1, _BLOCK // n_levels)
    for row in range(0, len(means), n_rows):
        rows = slice(row, row + n_rows)
        mixtures = _Mixtures.make(
            weights[rows].detach(), means[rows].detach(), stds[rows].detach()
        )
        for first in range(0, len(levels), n_levels):
            some = slice(first, first + n_levels)
            quantiles[rows, order[some]] = _ascending(mixtures, ascending[some])
    return quantiles


def _ascending(mixtures: "_Mixtures", levels: Tensor) -> Tensor:
    """Solve some sorted levels, the far tails apart from the rest."""
    tail = (torch.minimum(levels, 1.0 - levels) < _TAIL).tolist()
    n_levels = len(tail)
    first = next((i for i in range(n_levels) if not tail[i]), n_levels)
    last = next((i for i in range(first, n_levels) if tail[i]), n_levels)
    parts = [levels[:first], levels[first:last], levels[last:]]
    found = [_by_steps(mixtures, parts[i], tail=True) for i in (0, 2)]
    few = len(parts[1]) < max(_FEW, mixtures.means.shape[-1] // 2)
    middle = (
        _by_steps(mixtures, parts[1], tail=False)
        if few
        else _by_cells(mixtures, parts[1])
    )
    quantiles = torch.cat([found[0], middle, found[1]], -1)
    # Rounding apart this changes nothing, and quantiles must not cross.
    return quantiles.cummax(-1).values * mixtures.unit


@dataclass(frozen=True)
class _Mixtures:
    """Parameters ready for use: tensors ``(n_rows, n_components)``.

    Parameters
    ----------
    weights, means, stds : Tensor
        Of the mixtures in their own units.
    rate : Tensor
        1 / (sqrt(2) std).
    unit : Tensor of shape (n_rows, 1)
        Powers of two.
    """

    weights: Tensor
    means: Tensor
    stds: Tensor
    rate: Tensor
    unit: Tensor

    @classmethod
    def make(cls, weights: Tensor, means: Tensor, stds: Tensor) -> "_Mixtures":
        """Normalise the weights and choose units."""
        means, stds, unit = own_units(weights, means, stds, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        return cls(weights, means, stds, 1.0 / (_SQRT_2 * stds), unit)

    def bracket(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the smallest and largest quantile of the components at each level."""
        low, high = [], []
        for z in torch.special.ndtri(levels):
            quantiles = self.means + self.stds * z
            low.append(quantiles.amin(-1))
            high.append(quantiles.amax(-1))
        return torch.stack(low, -1), torch.stack(high, -1)

    def on_grid(self, x: Tensor, curvature: bool) -> list[Tensor]:
        """Return F and f at points ``(n_rows, n)``; with curvature f' and its bound.

        The bound is the sum of the components' absolute slopes. F has an error of
        a few units in the last place of 1.
        """
        results = [torch.empty_like(x) for _ in range(4 if curvature else 2)]
        weights, rate = self.weights.unsqueeze(1), self.rate.unsqueeze(-1)
        density = weights * self.rate.unsqueeze(1) * _INV_SQRT_PI
        slope = 2.0 * density * self.rate.unsqueeze(1)
        step = max(1, _BLOCK // self.means.numel())
        # Fresh memory for every block would cost more than the arithmetic.
        work = x.new_empty((2, self.means.numel() * step))
        for first in range(0, x.shape[-1], step):
            some = slice(first, first + step)
            points = x[:, None, some]
            shape = (*self.means.shape, points.shape[-1])
            z, bell = work[:, : math.prod(shape)].view(2, *shape)
            torch.sub(points, self.means.unsqueeze(-1), out=z).mul_(rate)
            _bell(z, bell)
            results[1][:, some] = torch.bmm(density, bell).squeeze(1)
            if curvature:
                bell.mul_(z)
                results[2][:, some] = torch.bmm(slope, bell).squeeze(1)
                results[3][:, some] = torch.bmm(slope, bell.abs_()).squeeze(1)
            results[0][:, some] = torch.bmm(weights, z.erf_()).squeeze(1)
        results[0].add_(1.0).mul_(0.5)
        if curvature:
            results[2].neg_()
        return results

    def at_pairs(
        self, row: Tensor, x: Tensor, side: Tensor, tail: bool
    ) -> tuple[Tensor, Tensor]:
        """Return a probability and the density of pairs (row, x).

        Where side is 1 it is P(Y <= x), where it is -1 P(Y > x); in the far tails
        with all of its digits.
        """
        probability, density = torch.empty_like(x), torch.empty_like(x)
        n_components = self.means.shape[-1]
        step = max(1, _BLOCK // n_components)
        work = x.new_empty((4, step * n_components))
        for first in range(0, len(x), step):
            some = slice(first, first + step)
            here = row[some]
            weights, z, rate, bell = work[:, : len(here) * n_components].view(
                4, len(here), n_components
            )
            torch.index_select(self.weights, 0, here, out=weights)
            torch.index_select(self.rate, 0, here, out=rate)
            torch.index_select(self.means, 0, here, out=z)
            z.sub_(x[some].unsqueeze(-1)).mul_(rate)
            _bell(z, bell).mul_(rate).mul_(weights)
            torch.sum(bell, -1, out=density[some])
            z.mul_(side[some].unsqueeze(-1))
            share = z.erfc_() if tail else z.erf_().neg_()
            torch.sum(share.mul_(weights), -1, out=probability[some])
        if not tail:
            probability.add_(1.0)
        return probability.mul_(0.5), density.mul_(_INV_SQRT_PI)


def _bell(z: Tensor, out: Tensor) -> Tensor:
    """Write exp(-z^2), without the slow exponentials of underflowing arguments."""
    torch.mul(z, z, out=out)
    return out.clamp_(max=-least_exponent(z.dtype)).neg_().exp_()


class _Cells:
    r"""Polynomials of degree five that interpolate F, f and f' between nodes.

    Every component has nodes at its mean and one standard deviation on either
    side. Hence :math:`|z e^{-z^2/2}|` is monotone in every cell for every
    component, is largest at one of the cell's ends, and the sum of both ends'
    bounds holds for :math:`|f'|` in between.

    Parameters
    ----------
    mixtures : _Mixtures
        The rows.
    ends : Tensor of shape (2,)
        The smallest and the largest level to be found in a cell.
    offsets : tuple of float
        Nodes of each component, on one side.
    """

    def __init__(
        self, mixtures: _Mixtures, ends: Tensor, offsets: tuple[float, ...]
    ) -> None:
        sided = [-offset for offset in offsets[:0:-1]] + list(offsets)
        low, high = mixtures.bracket(ends)
        inner = [mixtures.means + mixtures.stds * offset for offset in sided]
        nodes = torch.cat([low[:, :1], *inner, high[:, 1:]], -1).sort(-1).values
        self.nodes = nodes
        self.cdf, density, slope, bound = mixtures.on_grid(nodes, curvature=True)
        self.width = nodes.diff(dim=-1)
        self.bound = bound[:, 1:] + bound[:, :-1]
        first = self.width * density[:, :-1]
        second = 0.5 * self.width.square() * slope[:, :-1]
        rise = self.cdf.diff(dim=-1)
        gap = rise - first - second
        tilt = self.width * density[:, 1:] - first - 2.0 * second
        bend = self.width.square() * slope[:, 1:] - 2.0 * second
        self.rise = rise
        self.coefficients = (
            first,
            second,
            10.0 * gap - 4.0 * tilt + 0.5 * bend,
            -15.0 * gap + 7.0 * tilt - bend,
            6.0 * gap - 3.0 * tilt + 0.5 * bend,
        )

    def invert(self, levels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return approximate quantiles, both ends of their cells and slope bounds."""
        wanted = levels.expand(len(self.nodes), -1).contiguous()
        cell = torch.searchsorted(self.cdf, wanted).sub_(1)
        cell.clamp_(0, self.width.shape[-1] - 1)
        low, width = self.nodes.gather(-1, cell), self.width.gather(-1, cell)
        wanted = wanted - self.cdf.gather(-1, cell)
        share = (wanted / self.rise.gather(-1, cell)).nan_to_num_(0.5).clamp_(0, 1)
        coefficients = [c.gather(-1, cell) for c in reversed(self.coefficients)]
        for _ in range(_INVERSE_STEPS):
            value = slope = coefficients[0]
            for coefficient in coefficients[1:]:
                value = torch.addcmul(coefficient, value, share)
                slope = torch.addcmul(value, slope, share)
            missing = wanted - value * share
            share = (share + missing / slope).nan_to_num_(0.5).clamp_(0, 1)
        return low + share * width, low, low + width, self.bound.gather(-1, cell)


def _by_cells(mixtures: _Mixtures, levels: Tensor) -> Tensor:
    """Return quantiles of many sorted levels."""
    n_components = mixtures.means.shape[-1]
    per_component = len(levels) / n_components
    offsets = next(nodes for limit, nodes in _OFFSETS if per_component < limit)
    cells = _Cells(mixtures, levels[[0, -1]], offsets)
    x, low, high, bound = cells.invert(levels)
    cdf, density = mixtures.on_grid(x, curvature=False)
    step = (levels - cdf) / density
    x = x + step
    tolerance = _relative(_CELL_TOLERANCE, levels) * torch.minimum(levels, 1.0 - levels)
    proven = (0.5 * bound * step.square() <= tolerance) & (x >= low) & (x <= high)
    open_ = (~proven).nonzero()
    if len(open_):
        row, column = open_.unbind(-1)
        level = levels[column]
        low, high = low[row, column], high[row, column]
        start = x[row, column]
        x[row, column] = _solve(mixtures, row, level, low, high, start, tail=False)
    return x


def _by_steps(mixtures: _Mixtures, levels: Tensor, tail: bool) -> Tensor:
    """Return quantiles of a few sorted levels, or of any number in the tails."""
    n_rows, n_levels = len(mixtures.means), len(levels)
    if not n_levels:
        return mixtures.means.new_empty((n_rows, 0))
    low, high = mixtures.bracket(levels)
    start = _start(mixtures, levels, tail)
    row = torch.arange(n_rows, device=start.device).repeat_interleave(n_levels)
    level = levels.repeat(n_rows)
    low, high, start = low.reshape(-1), high.reshape(-1), start.reshape(-1)
    found = _solve(mixtures, row, level, low, high, start, tail)
    return found.reshape(n_rows, n_levels)


def _start(mixtures: _Mixtures, levels: Tensor, tail: bool) -> Tensor:
    """Guess from the moments; many levels from the quantiles of every eighth."""
    z = torch.special.ndtri(levels)
    if len(levels) < _MANY:
        mean = (mixtures.weights * mixtures.means).sum(-1, keepdim=True)
        square = mixtures.stds.square() + (mixtures.means - mean).square()
        std = (mixtures.weights * square).sum(-1, keepdim=True).sqrt()
        return mean + std * z
    every = torch.arange(len(levels), device=z.device)
    anchors = torch.cat([every[:-1:8], every[-1:]])
    known = _by_steps(mixtures, levels[anchors], tail)
    left = every.div(8, rounding_mode="floor").clamp_(max=len(anchors) - 2)
    share = (z - z[anchors[left]]) / (z[anchors[left + 1]] - z[anchors[left]])
    return torch.lerp(known[:, left], known[:, left + 1], share)


def _solve(
    mixtures: _Mixtures,
    row: Tensor,
    level: Tensor,
    low: Tensor,
    high: Tensor,
    x: Tensor,
    tail: bool,
) -> Tensor:
    r"""Solve pairs of rows and levels by Newton's steps inside brackets.

    The steps are those for :math:`\Phi^{-1}(F(x)) = \Phi^{-1}(q)`, a straight line
    for a single component and nearly one in the tails of all. The bracket is
    halved where a step leaves it or the one before did not halve the error.
    """
    eps = torch.finfo(x.dtype).eps
    side = torch.where(level > 0.5, -1.0, 1.0).to(x)
    level = torch.minimum(level, 1.0 - level)
    z = torch.special.ndtri(level)
    tolerance = _relative(_STEP_TOLERANCE, x) * level
    if not tail:
        tolerance = tolerance + 4.0 * eps
    x = torch.where((x > low) & (x < high), x, 0.5 * (low + high))
    last = torch.full_like(x, math.inf)
    found, index = x.clone(), torch.arange(len(x), device=x.device)
    for _ in range(_MAX_STEPS):
        probability, density = mixtures.at_pairs(row, x, side, tail)
        found[index] = x
        error = probability - level
        beyond = error * side > 0
        high, low = torch.where(beyond, x, high), torch.where(beyond, low, x)
        spacing = eps * x.abs()
        error = error.abs()
        exact = error <= tolerance + spacing * density
        settled = exact | (high - low <= 2.0 * spacing)
        keep = (~settled).nonzero().squeeze(-1)
        if not len(keep):
            break
        now = torch.special.ndtri(probability)
        bell = torch.exp(-0.5 * now.square()) * _INV_SQRT_2PI
        moved = x + side * (z - now) * bell / density
        safe = (moved > low) & (moved < high) & (error <= 0.5 * last)
        x = torch.where(safe, moved, 0.5 * (low + high))
        last = torch.where(safe, error, math.inf)
        state = (index, row, x, level, z, side, low, high, last, tolerance)
        index, row, x, level, z, side, low, high, last, tolerance = (
            values.index_select(0, keep) for values in state
        )
    return found


def _relative(tolerance: float, like: Tensor) -> float:
    """Return a tolerance for float64, or what single precision can hold of it."""
    return tolerance if like.dtype == torch.float64 else 1e-5


# A root this near to a point with a probability, relative to both, is that point.
_SNAP = 1e-9


def bracketed_quantiles(mixture: Any, q: Tensor) -> Tensor:
    r"""Return quantiles of mixtures of any families.

    The root of :math:`F(x) = q` lies between the smallest and the largest quantile of
    the components, where :func:`skmdn.numerics.basic.find_root` finds it to the spacing
    of floating-point numbers. Levels above one half are solved on the survival
    function, which keeps the digits of :math:`1 - q`. Where F jumps across the level,
    the quantile is the point of the jump.

    Parameters
    ----------
    mixture : Mixture
        Of batch shape (...).
    q : Tensor of shape (n_levels,)
        Levels in (0, 1).

    Returns
    -------
    quantiles : Tensor of shape (..., n_levels, n_outputs)
    """
    expanded = mixture.unsqueeze()
    level = q[:, None]
    upper = level > 0.5

    def residual(x: Tensor) -> Tensor:
        lower_tail = expanded.cdf(x) - level
        upper_tail = (1.0 - level) - expanded.sf(x)
        return torch.where(upper, upper_tail, lower_tail)

    of_components = expanded.per_point(
        lambda block: block.family.ppf(block.params, level.unsqueeze(-2))
    )
    off = (expanded.log_weights == -math.inf).unsqueeze(-1)
    low = of_components.masked_fill(off, math.inf).amin(-2)
    high = of_components.masked_fill(off, -math.inf).amax(-2)
    stds = expanded.component_stds()
    stds = stds.masked_fill((stds == 0.0) | ~stds.isfinite(), math.inf).amin(-2)
    xtol = torch.finfo(q.dtype).eps * stds.masked_fill(stds.isinf(), 1.0)
    return at_masses(expanded, find_root(residual, low, high, xtol))


def at_masses(mixture: Any, points: Tensor) -> Tensor:
    """Move points that are next to one with a probability onto it."""
    tolerance = _SNAP * (1.0 + points.abs())
    for block in mixture.blocks:
        if block.family.discrete:
            wide = points.unsqueeze(-2)
            masses = block.family.nearest_mass(block.params, wide)
            nearest = (masses - wide).abs().argmin(-2, keepdim=True)
            mass = masses.gather(-2, nearest).squeeze(-2)
            points = torch.where((mass - points).abs() <= tolerance, mass, points)
    return points
