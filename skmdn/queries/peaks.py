"""The highest points of one-dimensional mixtures, for a whole batch at once."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from skmdn.numerics.basic import find_root

from .panels import Panels, log_density

__all__ = ["endless_growth", "highest_mass", "highest_place"]

# Points of the search in each panel, beside its edges.
_PLACES = (0.125, 0.375, 0.625, 0.875)
# So many of the highest are followed to their tops.
_N_TOPS = 4
# Heights that rounding cannot tell apart, relative to their size.
_LEVEL = 1e-13
# How far from a top a place may be, in distances of the grid.
_PRECISION = 1e-10

# How far from an end it is told whether the density grows without end: in spacings of
# numbers, or from 0; or so far out on a line that is mapped onto an interval.
_SPACINGS = (8.0, 1024.0)
_FROM_ZERO = (1e-300, 1e-290)
_FAR_OUT = (1e5, 2e5)
# Growth, in powers of one over the distance, that is no rounding error.
_LEAST_GROWTH = 1e-9

# Deviations from means at which discrete components are looked at, and how many points
# of a bracket are looked at together.
_DEVIATIONS = (-6.0, 6.0, 25)
_TOGETHER = 65
_MAX_ROUNDS = 40


def highest_place(mixture: Any, onto: Any = None) -> tuple[Tensor, Tensor]:
    """Return where the density is largest, and its logarithm there.

    The highest points of a grid that knows every component are followed to where the
    slope is 0 or changes its sign. A supremum at an end of a component, which need not
    belong to the support, is found on the next number inside.

    Parameters
    ----------
    mixture : Mixture
        Of one output, without discrete components, with batch shape (...).
    onto : Support, optional
        Its image under this map is meant; the place is the one on the line.

    Returns
    -------
    place, height : Tensor of shape (...)
    """
    with torch.no_grad():
        panels = Panels(mixture)
        points, _ = panels.points(panels.edges.new_tensor(_PLACES))
        grid = torch.cat([points.flatten(-2), panels.edges, _beside(panels)], -1)
        tops = _Tops(grid, lambda z: _height(mixture, z, onto))
    rising = _slope(mixture, tops.here, onto) > 0.0
    low = torch.where(rising, tops.here, tops.before)
    high = torch.where(rising, tops.after, tops.here)
    tolerance = _PRECISION * (high - low)
    found = find_root(lambda z: -_slope(mixture, z, onto), low, high, tolerance)
    with torch.no_grad():
        height = _height(mixture, found, onto)
    # Where the density jumps there is no slope to follow.
    better = height >= tops.height - _LEVEL * (1.0 + tops.height.abs())
    place = torch.where(better, found, tops.here)
    return _highest(place, torch.where(better, height, tops.height))


def _highest(places: Tensor, heights: Tensor) -> tuple[Tensor, Tensor]:
    best = heights.argmax(-1, keepdim=True)
    return places.gather(-1, best).squeeze(-1), heights.gather(-1, best).squeeze(-1)


class _Tops:
    """The highest local maxima of a grid, with their neighbours.

    Parameters
    ----------
    grid : Tensor of shape (..., n)
        Points in any order, of which some may be equal.
    height : callable
        Of points.

    Attributes
    ----------
    here, before, after, height : Tensor of shape (..., n_tops)
        Places and heights; rows with fewer tops repeat one.
    """

    def __init__(self, grid: Tensor, height: Callable[[Tensor], Tensor]) -> None:
        grid = grid.sort(-1).values
        again = torch.nn.functional.pad(grid.diff(dim=-1) == 0.0, (1, 0))
        grid = grid.masked_fill(again, math.inf).sort(-1).values
        known = grid.isfinite()
        grid = torch.where(known, grid, grid[..., :1])
        heights = height(grid).masked_fill(~known, -math.inf)
        padded = torch.nn.functional.pad(heights, (1, 1), value=-math.inf)
        top = (heights >= padded[..., :-2]) & (heights >= padded[..., 2:])
        n_tops = min(_N_TOPS, heights.shape[-1])
        ranked = heights.masked_fill(~top, -math.inf)
        self.height, index = ranked.topk(n_tops, -1)
        first = self.height == -math.inf
        index = torch.where(first, index[..., :1], index)
        self.height = torch.where(first, self.height[..., :1], self.height)
        last = known.sum(-1, keepdim=True) - 1
        self.here = grid.gather(-1, index)
        self.before = grid.gather(-1, (index - 1).clamp_min(0))
        self.after = grid.gather(-1, torch.minimum(index + 1, last))


def _beside(panels: Panels) -> Tensor:
    """Return the numbers next to the ends, on both sides."""
    edges, ends = panels.edges, panels.ends
    tiny = torch.finfo(edges.dtype).tiny
    parts = []
    for side in (-math.inf, math.inf):
        next_to = torch.nextafter(ends, torch.full_like(ends, side))
        next_to = torch.where(ends == 0.0, math.copysign(tiny, side), next_to)
        parts.append(torch.where(ends.isfinite(), next_to, edges[..., :1]))
    return torch.cat(parts, -1)


def _height(mixture: Any, points: Tensor, onto: Any) -> Tensor:
    """Return the log density of the image."""
    height = log_density(mixture, points)
    return height if onto is None else height - onto.log_jacobian(points)


def _slope(mixture: Any, points: Tensor, onto: Any) -> Tensor:
    """Return the derivative of the height."""
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        height = _height(mixture, points, onto)
        (slope,) = torch.autograd.grad(height.sum(), points)
    return slope.detach()


def endless_growth(block: Any, onto: Any = None) -> tuple[Tensor, Tensor]:
    """Return how fast components' densities grow without end, and where.

    Parameters
    ----------
    block : Block
        Continuous components of one output.
    onto : Support, optional
        Their image under this map is meant.

    Returns
    -------
    growth : Tensor of shape (..., n_components)
        The power of one over the distance; 0 where the density is bounded.
    place : Tensor of shape (..., n_components)
        The end; on the line, if there is a map, where it is infinite.
    """
    best = torch.zeros_like(block.expanded().family.scales(block.params)[..., 0])
    where = torch.zeros_like(best)
    for near, far, log_ratio, end in _approaches(block, onto):
        heights = []
        for points in (near, far):
            height = block.family.log_prob(block.params, points)
            if onto is not None:
                height = height - onto.log_jacobian(points).squeeze(-1)
            heights.append(height)
        growth = ((heights[0] - heights[1]) / log_ratio).nan_to_num(0.0, 0.0, 0.0)
        faster = (growth > _LEAST_GROWTH) & (growth > best)
        best, where = torch.where(faster, growth, best), torch.where(faster, end, where)
    return best, where


def _approaches(
    block: Any, onto: Any
) -> Iterator[tuple[Tensor, Tensor, Tensor | float, Tensor]]:
    """Yield two points close to an end, the log of their distances' ratio, the end.

    Points ``(..., 1, 1)``, ends ``(..., 1)``.
    """
    one = next(iter(block.params.values()))
    if onto is not None:
        for side, end in ((-1.0, onto.low), (1.0, onto.high)):
            if math.isfinite(end):
                far, near = (one.new_full((1, 1), side * place) for place in _FAR_OUT)
                infinite = one.new_full((1,), side * math.inf)
                yield near, far, _FAR_OUT[1] - _FAR_OUT[0], infinite
        return
    for end in block.family.ends(block.params).unbind(-2):
        end = torch.where(end.isfinite(), end, 0.0)
        spacing = end.abs() * torch.finfo(end.dtype).eps
        distances = [
            torch.where(end == 0.0, from_zero, n * spacing)
            for n, from_zero in zip(_SPACINGS, _FROM_ZERO, strict=True)
        ]
        log_ratio = (distances[1] / distances[0]).log()
        for side in (-1.0, 1.0):
            near, far = ((end + side * d).unsqueeze(-1) for d in distances)
            yield near, far, log_ratio, end


def highest_mass(mixture: Any) -> tuple[Tensor, Tensor]:
    """Return the likeliest point of discrete mixtures, and its log probability.

    The highest points of a grid in the components' deviations are enclosed by their
    neighbours; a bracket is looked at more and more closely, in the end at all of its
    integers.

    Parameters
    ----------
    mixture : Mixture
        Of one output and of discrete components, with batch shape (...).

    Returns
    -------
    place, height : Tensor of shape (...)
    """
    weights = mixture.log_weights
    z = torch.linspace(*_DEVIATIONS, dtype=weights.dtype, device=weights.device)
    grid = mixture.component_means() + mixture.component_stds() * z
    grid = grid.masked_fill((weights == -math.inf).unsqueeze(-1), 0.0).flatten(-2)
    tops = _Tops(_possible(mixture, grid), lambda points: log_density(mixture, points))
    low, high = tops.before, tops.after
    inner = mixture.unsqueeze()
    share = torch.linspace(0.0, 1.0, _TOGETHER, dtype=z.dtype, device=z.device)
    for _ in range(_MAX_ROUNDS):
        first, last = low.unsqueeze(-1), high.unsqueeze(-1)
        points = _possible(inner, torch.lerp(first, last, share))
        points = torch.where((points >= first) & (points <= last), points, first)
        tops = _Tops(points, lambda points: log_density(inner, points))
        all_seen = bool((high - low < _TOGETHER).all())
        low, high = tops.before[..., 0], tops.after[..., 0]
        if all_seen:
            break
    return _highest(tops.here[..., 0], tops.height[..., 0])


def _possible(mixture: Any, points: Tensor) -> Tensor:
    """Return the points with a probability that are nearest to points."""
    wide = points.unsqueeze(-1).unsqueeze(-1)
    blocks = mixture.unsqueeze().blocks
    nearest = [block.family.nearest_mass(block.params, wide) for block in blocks]
    batch = torch.broadcast_shapes(*(part.shape[:-2] for part in nearest))
    parts = [part.expand(*batch, *part.shape[-2:]).flatten(-3) for part in nearest]
    return torch.cat(parts, -1)
