r"""Panels for quadrature over one-dimensional mixtures of any families.

A component is smooth between its quantiles one deviate apart. A mixture of many similar
components, as an ensemble is one, would have far too many of these edges side by side:
they are thinned until a panel is as long as the shortest step of any component there.
"""

import math
from typing import Any

import torch
from torch import Tensor

from skmdn.numerics.basic import gauss_legendre

__all__ = [
    "Panels",
    "component_quantiles",
    "integration_matrix",
    "log_density",
    "masses",
]

# Quantile levels as deviates: the first, the last, and how many.
_DEVIATES = (-8.0, 8.0, 17)
# Components of less weight than this are not looked for.
_LEAST_WEIGHT = 1e-17
# Integers that a component may spread over.
_MOST_INTEGERS = 100_000
# Numbers at work at a time, for the processor's cache.
_CHUNK = 2**16
# A panel over which lengths grow by more than this is graded.
_GRADED = 2.0
# How many steps of the quantiles a panel is long.
_STEP = 1.5


def component_quantiles(mixture: Any, n_levels: int = _DEVIATES[2]) -> Tensor:
    """Return quantiles of every component, ``(..., n_components, n_levels)``.

    From the lowest level that counts to the highest. Components without weight are
    replaced by the heaviest.
    """
    weights = mixture.log_weights.detach()
    z = torch.linspace(*_DEVIATES[:2], n_levels, dtype=weights.dtype)
    levels = 0.5 * torch.special.erfc(z.to(weights.device) / -math.sqrt(2.0))
    levels = levels.clamp(max=1.0 - torch.finfo(levels.dtype).eps)
    column = levels.view(-1, 1, 1)
    with torch.no_grad():
        quantiles = mixture.unsqueeze().per_point(
            lambda block: block.family.ppf(block.params, column)
        )
    quantiles = quantiles.squeeze(-1).mT
    heaviest = weights.argmax(-1, keepdim=True).unsqueeze(-1)
    off = (weights < math.log(_LEAST_WEIGHT)).unsqueeze(-1)
    chosen = quantiles.gather(-2, heaviest.expand(*heaviest.shape[:-1], n_levels))
    largest = torch.finfo(quantiles.dtype).max / 4.0
    quantiles = torch.where(off, chosen, quantiles).clamp(-largest, largest)
    return quantiles.cummax(-1).values


class Panels:
    """Panels over which a quadrature rule sees every component of a mixture.

    Parameters
    ----------
    mixture : Mixture
        Of one output, without discrete components, with batch shape (...).

    Attributes
    ----------
    edges : Tensor of shape (..., n_edges)
        Ascending.
    ends : Tensor of shape (..., n_ends)
        The ends of the components' supports; at least one number, perhaps infinite.
    """

    def __init__(self, mixture: Any) -> None:
        blocks, batch = mixture.blocks, mixture.batch_shape
        quantiles = component_quantiles(mixture)
        none = torch.full_like(quantiles[..., :1, 0], math.inf)

        def together(points: list[Tensor]) -> Tensor:
            parts = [p.detach().squeeze(-1) for p in points]
            parts = [p.expand(*batch, p.shape[-1]) for p in parts]
            return torch.cat([*parts, none], -1).nan_to_num(math.inf, None, -math.inf)

        self.ends = together([b.family.ends(b.params) for b in blocks])
        centers, widths = zip(*(b.family.grades(b.params) for b in blocks), strict=True)
        self._centers, self._widths = together(list(centers)), together(list(widths))
        kinks = together([b.family.kinks(b.params) for b in blocks])
        edges = _thinned(_inside(quantiles, self.ends))
        first, last = edges[..., :1], edges[..., -1:]
        inner = torch.cat([self.ends, kinks], -1)
        inner = torch.minimum(torch.maximum(inner, first), last)
        self.edges = self._split(torch.cat([edges, inner], -1).sort(-1).values)

    def _split(self, edges: Tensor) -> Tensor:
        """Split panels over which lengths grow towards both sides, in the middle."""
        center, _, log_ratio = self._growth(edges[..., :-1, None], edges[..., 1:, None])
        rise, left = log_ratio.max(-1)
        fall, right = log_ratio.min(-1)
        least = math.log(_GRADED)
        both = (rise > least) & (fall < -least)
        if not bool(both.any()):
            return edges
        points = center.expand(log_ratio.shape)
        middle = torch.lerp(
            points.gather(-1, left.unsqueeze(-1)),
            points.gather(-1, right.unsqueeze(-1)),
            0.5,
        ).squeeze(-1)
        first = edges[..., :1]
        ordered = torch.cat([edges, torch.where(both, middle, first)], -1).sort(-1)
        return ordered.values[..., both.shape[-1] - int(both.sum(-1).max()) :]

    def points(
        self, nodes: Tensor, edges: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""Return the points of a rule in every panel, and what their weights take.

        A panel over which the lengths grow much, away from a centre c of width w, is
        graded:

        .. math:: y = c \pm \tfrac12 (r - w^2 / r), \quad
            r = r_0 \, (r_1 / r_0)^u, \quad r(y) = |y - c| + \sqrt{w^2 + (y - c)^2}

        so that powers of the distance become exponentials of the node u.

        Parameters
        ----------
        nodes : Tensor of shape (n_nodes,)
            Of a rule on [0, 1].
        edges : Tensor of shape (..., n_edges), optional
            Instead of those of the panels.

        Returns
        -------
        points, slopes : Tensor of shape (..., n_edges - 1, n_nodes)
            The slope multiplies the weight.
        """
        edges = self.edges if edges is None else edges
        a, b = edges[..., :-1, None], edges[..., 1:, None]
        center, width, log_ratio = self._grade(a, b)
        graded = log_ratio.abs() > math.log(_GRADED)
        log_ratio = torch.where(graded, log_ratio, 0.0)
        side = torch.where(log_ratio < 0.0, -1.0, 1.0).to(a)
        start = torch.where(graded, side * (a - center), 1.0)
        width = torch.where(graded, width, 0.0)
        r = _reach(start, width) * (log_ratio * nodes).exp()
        rest = width.square() / r
        points = torch.where(
            graded, center + side * 0.5 * (r - rest), a + (b - a) * nodes
        )
        return points, torch.where(graded, 0.5 * (r + rest) * log_ratio.abs(), b - a)

    def _grade(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the centre each panel grows most from, its width, log(r1 / r0)."""
        center, width, log_ratio = self._growth(a, b)
        best = log_ratio.abs().argmax(-1, keepdim=True)
        center, width = (v.expand(log_ratio.shape) for v in (center, width))
        return (
            center.gather(-1, best),
            width.gather(-1, best),
            log_ratio.gather(-1, best),
        )

    def _growth(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return all centres, their widths, and log(r1 / r0) of each panel.

        The logarithm is negative on the left of the centre.
        """
        center, width = self._centers.unsqueeze(-2), self._widths.unsqueeze(-2)
        side = torch.where(a + b < 2.0 * center, -1.0, 1.0).to(a)
        growth = _reach(side * (b - center), width) / _reach(side * (a - center), width)
        return center, width, growth.log().nan_to_num(0.0, 0.0, 0.0)


def _reach(distance: Tensor, width: Tensor) -> Tensor:
    """Return a distance plus the root of the sum of its square and that of a width."""
    return distance + torch.hypot(distance, width)


def masses(mixture: Any) -> tuple[Tensor, Tensor]:
    """Return the points with a probability and what they have.

    Parameters
    ----------
    mixture : Mixture
        Of one output and of discrete components only, whose weights need not sum to 1.

    Returns
    -------
    points, probabilities : Tensor of shape (..., n_points)
        Ascending; a point that comes again has nothing left.

    Raises
    ------
    ValueError
        If a component spreads over too many integers to add them up.
    """
    reach = component_quantiles(mixture, 2).flatten(-2)
    low, high = reach.amin(-1, keepdim=True), reach.amax(-1, keepdim=True)
    parts = []
    for block in mixture.blocks:
        found = block.family.masses_between(block.params, low, high, _MOST_INTEGERS)
        if found is None:
            raise ValueError(
                f"A component of {block.family!r} spreads over more than "
                f"{_MOST_INTEGERS} integers, too many to add them up."
            )
        parts.append(found.squeeze(-1))
    points = torch.cat(parts, -1).sort(-1).values
    probability = log_density(mixture, points).exp()
    again = points.diff(dim=-1, prepend=points[..., :1] - 1.0) == 0.0
    return points, probability.masked_fill(again, 0.0)


def log_density(mixture: Any, points: Tensor) -> Tensor:
    """Return the log density at points ``(..., n_points)``, some at a time."""
    expanded = mixture.unsqueeze()
    n_rows = max(1, points[..., 0].numel())
    step = max(1, _CHUNK // (n_rows * mixture.n_components))
    parts = points.unsqueeze(-1).split(step, -2)
    return torch.cat([expanded.log_prob(part) for part in parts], -1)


def _inside(quantiles: Tensor, ends: Tensor) -> Tensor:
    """Move quantiles that rounding has put on an end to the next number inside."""
    at_end = (quantiles.unsqueeze(-1) == ends[..., None, None, :]).any(-1)
    upper = torch.arange(quantiles.shape[-1]) > quantiles.shape[-1] // 2
    side = torch.where(upper, -math.inf, math.inf).to(quantiles)
    inside = torch.nextafter(quantiles, side.expand_as(quantiles))
    tiny = torch.finfo(quantiles.dtype).tiny
    inside = torch.where(quantiles == 0.0, side.sign() * tiny, inside)
    return torch.where(at_end, inside, quantiles)


def _thinned(quantiles: Tensor) -> Tensor:
    """Return edges such that no panel is longer than the steps of a component there.

    Between the quantiles of all components in order, the finest steps are counted, and
    edges are put at equal counts.
    """
    flat = quantiles.flatten(-2)
    edges, order = flat.sort(dim=-1, stable=True)
    places = torch.arange(flat.shape[-1], device=flat.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(-1, order, places).view_as(quantiles)
    step = quantiles.diff(dim=-1)
    rate = torch.where(step > 0.0, step.reciprocal(), 0.0)
    cover = _largest_above(rank[..., :-1], rank[..., 1:], rate, flat.shape[-1])
    cover, lengths = cover[..., :-1], edges.diff(dim=-1)
    gap = (cover == 0.0) & (lengths > 0.0)
    # So much that at least two edges fall into a gap: both of its sides become edges.
    steps = torch.where(gap, 2.0 * _STEP, cover * lengths)
    count = torch.nn.functional.pad(steps.cumsum(-1), (1, 0))
    most = float(count[..., -1].max()) / _STEP
    n_panels = max(1, math.ceil(most - 1e-6))
    share = torch.linspace(0.0, 1.0, n_panels + 1, dtype=flat.dtype, device=flat.device)
    wanted = count[..., -1:] * share
    above = torch.searchsorted(count, wanted, right=True)
    above = above.clamp(1, count.shape[-1] - 1)
    start, end = count.gather(-1, above - 1), count.gather(-1, above)
    place = ((wanted - start) / (end - start)).nan_to_num(1.0).clamp(0.0, 1.0)
    place = torch.where(gap.gather(-1, above - 1), place.round(), place)
    low, high = edges.gather(-1, above - 1), edges.gather(-1, above)
    result = low + place * (high - low)
    result[..., 0], result[..., -1] = edges[..., 0], edges[..., -1]
    return result


def _largest_above(left: Tensor, right: Tensor, values: Tensor, n: int) -> Tensor:
    """Return for each of n cells the largest value of the ranges that hold it.

    A range is covered by two, of the same power of two in length; the values of each
    length are then handed down to the halves.
    """
    left, right, values = (part.flatten(-2) for part in (left, right, values))
    level = (right - left).to(values.dtype).frexp().exponent.long() - 1
    n_levels = int(level.max()) + 1
    table = values.new_zeros((*values.shape[:-1], n_levels * n))
    for first in (left, right - 2**level):
        table.scatter_reduce_(-1, level * n + first, values, "amax")
    cover = table.unflatten(-1, (n_levels, n)).unbind(-2)
    largest = cover[-1]
    for power in range(n_levels - 2, -1, -1):
        half = 2**power
        shifted = torch.nn.functional.pad(largest[..., :-half], (half, 0))
        largest = torch.maximum(cover[power], torch.maximum(largest, shifted))
    return largest


def integration_matrix(n_nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return the Gauss-Legendre rule of [0, 1], and integrals up to its nodes.

    .. math:: \int_0^{u_i} f(u) \, du = \sum_j A_{ij} f(u_j)

    for polynomials f of a degree below the number of nodes: through the coefficients of
    f in Legendre polynomials, whose integrals are differences of such polynomials.

    Returns
    -------
    nodes, weights : Tensor of shape (n_nodes,)
        The rule.
    matrix : Tensor of shape (n_nodes, n_nodes)
        The matrix A.
    """
    x, weights = gauss_legendre(n_nodes)
    values = [torch.ones_like(x), x]
    for k in range(1, n_nodes):
        values.append(((2 * k + 1) * x * values[k] - k * values[k - 1]) / (k + 1))
    table = torch.stack(values, -1)
    odd = 2.0 * torch.arange(n_nodes, dtype=x.dtype) + 1.0
    coefficients = 0.5 * odd.unsqueeze(-1) * table[:, :-1].mT * weights
    integrals = [x + 1.0]
    for k in range(1, n_nodes):
        integrals.append((values[k + 1] - values[k - 1]) / (2 * k + 1))
    matrix = 0.5 * torch.stack(integrals, -1) @ coefficients
    return 0.5 + 0.5 * x, 0.5 * weights, matrix
