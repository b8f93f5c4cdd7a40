"""The highest mode of a mixture, for a whole batch at once."""

import math
from typing import Any

import torch
from torch import Tensor

from .blocks import Block, by_measure, pulled_back
from .peaks import endless_growth, highest_mass, highest_place

__all__ = ["highest_mode"]

_FIRST_ASCENT = 20
_MAX_ASCENT = 200
_MAX_NEWTON = 100
# Two heights this close are one: rounding must not stop Newton's steps.
_LEVEL = 1e-13

# Several outputs of other families: starts that climb, and how long, one output after
# the other and by Newton's steps between.
_N_STARTS = 4
_MAX_SWEEPS = 30
_SHORTER = (1.0, 0.2, 0.03)


def highest_mode(mixture: Any) -> Tensor:
    r"""Return the point of highest density, or probability, of every mixture.

    Normal components have a climb of their own. From the components' means (and, with
    several outputs, from the likeliest
    of the points where two components pull equally: modes can lie far from
    every mean) the fixed point

    .. math::
        y \leftarrow \Bigl(\sum_k r_k(y) \Lambda_k\Bigr)^{-1}
        \sum_k r_k(y) \Lambda_k \mu_k

    climbs without ever losing density [1]_. After a few steps
    the highest of the climbers goes on alone, and Newton's steps finish where
    the top is flat.

    With one output of other families, the highest points of a fine grid are followed
    to their tops (:func:`skmdn.queries.peaks.highest_place`). Several outputs are
    climbed one after the other, from the highest of the components' modes: given the
    others, each has a mixture of its own, whose mode is found in the same way. Newton's
    steps follow ridges. Discrete components are searched over their points.

    Parameters
    ----------
    mixture : Mixture
        Any batch shape.

    Returns
    -------
    mode : Tensor of shape (..., n_outputs)
        Where the density is largest. Where it grows without end towards an end of the
        support, it is that end; with several such components it belongs to the
        one that grows fastest. An end is also the answer if the supremum is there.

    Raises
    ------
    ValueError
        If some components are discrete and others are not: a probability and a
        density cannot be compared.

    References
    ----------
    .. [1] M. A. Carreira-Perpinan, "Mode-finding for mixtures of Gaussian
       distributions", IEEE Transactions on Pattern Analysis and Machine
       Intelligence 22(11), 2000.
    """
    if mixture.gaussian:
        return _normal_mode(mixture)
    inner, onto = pulled_back(mixture)
    continuous, discrete = by_measure(inner)
    if continuous is not None and discrete is not None:
        raise ValueError(
            "Some components have a probability at single points and others a "
            "density, which cannot be compared: there is no mode of both. Ask "
            "component(name).mode(), with a dict as family, or cdf and weights."
        )
    place = _Ascent(inner, onto).top()
    return place if onto is None else onto.forward(place)


def _normal_mode(mixture: Any) -> Tensor:
    """Return the mode of normal components."""
    climber = _Climber(mixture)
    points = climber.climb(climber.starts(), _FIRST_ASCENT)
    best = climber.mixture.log_prob(points).argmax(-1)
    index = best[..., None, None].expand((*best.shape, 1, points.shape[-1]))
    top = climber.climb(points.gather(-2, index), _MAX_ASCENT)
    return climber.finish(top).squeeze(-2)


class _Climber:
    """Hill climbing on the density of a batch of mixtures, many points at once."""

    def __init__(self, mixture: Any) -> None:
        self.mixture = mixture.unsqueeze()
        self.precision = self.mixture.component_precisions()
        self.means = self.mixture.component_means()
        self.pull = (self.precision @ self.means.unsqueeze(-1)).squeeze(-1)
        self.tolerance = 1e-10 * self.mixture.component_stds().amin(-2)

    def starts(self) -> Tensor:
        """Return the means and, in several dimensions, as many points between them."""
        means = self.means.squeeze(-3)
        n_components, n_outputs = means.shape[-2:]
        if n_outputs == 1 or n_components == 1:
            return means
        i, j = torch.triu_indices(n_components, n_components, 1, device=means.device)
        precision, pull = self.precision.squeeze(-4), self.pull.squeeze(-3)
        between = torch.linalg.solve(
            precision[..., i, :, :] + precision[..., j, :, :],
            pull[..., i, :] + pull[..., j, :],
        )
        n_kept = min(n_components, between.shape[-2])
        kept = self.mixture.log_prob(between).topk(n_kept).indices
        index = kept.unsqueeze(-1).expand((*kept.shape, n_outputs))
        return torch.cat([means, between.gather(-2, index)], -2)

    def climb(self, point: Tensor, n_steps: int) -> Tensor:
        """Iterate the fixed point."""
        for _ in range(n_steps):
            resp = self.mixture.responsibilities(point)
            curvature = (resp[..., None, None] * self.precision).sum(-3)
            force = (resp.unsqueeze(-1) * self.pull).sum(-2)
            last, point = point, torch.linalg.solve(curvature, force)
            if bool(((point - last).abs() <= self.tolerance).all()):
                break
        return point

    def finish(self, point: Tensor) -> Tensor:
        """Take Newton's steps while they lead uphill."""
        height = self.mixture.log_prob(point)
        for _ in range(_MAX_NEWTON):
            resp = self.mixture.responsibilities(point).unsqueeze(-1)
            forces = self.pull - (self.precision @ point[..., None, :, None]).squeeze(
                -1
            )
            force = (resp * forces).sum(-2)
            spread = (resp * forces).mT @ forces - force.unsqueeze(
                -1
            ) * force.unsqueeze(-2)
            curvature = (resp.unsqueeze(-1) * self.precision).sum(-3) - spread
            root, failed = torch.linalg.cholesky_ex(curvature)
            step = torch.cholesky_solve(force.unsqueeze(-1), root).squeeze(-1)
            moved = point + step
            reached = self.mixture.log_prob(moved)
            uphill = (failed == 0) & (reached >= height - _LEVEL)
            point = torch.where(uphill.unsqueeze(-1), moved, point)
            height = torch.where(uphill, reached, height)
            if not bool((uphill.unsqueeze(-1) & (step.abs() > self.tolerance)).any()):
                break
        return point


class _Ascent:
    """Ascent on the density of mixtures that are not normal, output by output.

    Parameters
    ----------
    mixture : Mixture
        Of continuous or of discrete components only.
    onto : Support or None
        Its image under this map is meant; all places are those on the line.
    """

    def __init__(self, mixture: Any, onto: Any) -> None:
        self.mixture, self.onto = mixture, onto
        self.n_outputs = mixture.n_outputs
        self.discrete = mixture.blocks[0].family.discrete
        self.expanded = mixture.unsqueeze()

    def top(self) -> Tensor:
        """Return the highest point, on an end if the supremum is there."""
        if self.n_outputs == 1:
            place = self.along(self.mixture, 0)
            return place if self.discrete else self.at_ends(place)
        points = self.peaks()
        if not self.discrete:
            medians = self.mixture.per_point(_medians).expand_as(points)
            points = self.finish(torch.cat([points, medians], -2))
        points, height = self.highest(points, _N_STARTS)
        for sweep in range(_MAX_SWEEPS):
            last = height
            for output in range(self.n_outputs):
                points = self.better(points, self.given_others(points, output))
            if not self.discrete:
                points = self.finish(points)
            points, height = self.highest(points, _N_STARTS if sweep < 1 else 1)
            if sweep > 1 and bool((height - last[..., :1] <= _LEVEL).all()):
                break
        place = points[..., 0, :]
        return place if self.discrete else self.at_ends(place)

    def along(self, mixture: Any, output: int) -> Tensor:
        """Return the highest place of mixtures of one output, ``(..., 1)``."""
        if self.discrete:
            return highest_mass(mixture)[0].unsqueeze(-1)
        return highest_place(mixture, self.map_of(output))[0].unsqueeze(-1)

    def map_of(self, output: int) -> Any:
        """Return the map of one output."""
        return None if self.onto is None else self.onto.for_outputs([output])

    def height(self, points: Tensor) -> Tensor:
        """Return the log density at points ``(..., n_points, n_outputs)``."""
        height = self.expanded.log_prob(points)
        if self.onto is None:
            return height
        return height - self.onto.log_jacobian(points).sum(-1)

    def highest(self, points: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Return the highest of points, and their heights."""
        height, index = self.height(points).topk(min(n, points.shape[-2]), -1)
        index = index.unsqueeze(-1).expand(*index.shape, self.n_outputs)
        return points.gather(-2, index), height

    def better(self, points: Tensor, others: Tensor) -> Tensor:
        """Return the other points where they are higher."""
        higher = self.height(others) > self.height(points)
        return torch.where(higher.unsqueeze(-1), others, points)

    def given_others(self, points: Tensor, output: int) -> Tensor:
        """Move one output to where its density given the others is highest."""
        rest = [d for d in range(self.n_outputs) if d != output]
        place = self.along(self.expanded.condition(rest, points[..., rest]), output)
        parts = list(points.unbind(-1))
        parts[output] = place.squeeze(-1)
        return torch.stack(parts, -1)

    def peaks(self) -> Tensor:
        """Return the mode of every component, ``(..., n_components, n_outputs)``."""
        modes = []
        for block in self.mixture.blocks:
            alone = _one_by_one(self.mixture, block)
            outputs = range(self.n_outputs)
            parts = [self.along(alone.marginal([d]), d) for d in outputs]
            modes.append(torch.cat(parts, -1))
        return torch.cat(modes, -2)

    def finish(self, points: Tensor) -> Tensor:
        """Take Newton's steps, bent uphill, as far as they lead there."""
        height = self.height(points)
        for _ in range(_MAX_NEWTON):
            slope, curvature = self.derivatives(points)
            values, axes = torch.linalg.eigh(curvature.nan_to_num(0.0, 0.0, 0.0))
            values = values.abs()
            values = values.clamp_min(1e-6 * values.amax(-1, keepdim=True) + _LEVEL)
            along = (axes.mT @ slope.unsqueeze(-1)).squeeze(-1) / values
            step = (axes @ along.unsqueeze(-1)).squeeze(-1)
            before = height
            for shorter in _SHORTER:
                moved = points + shorter * step
                reached = self.height(moved)
                uphill = (reached > height) & (height == before)
                points = torch.where(uphill.unsqueeze(-1), moved, points)
                height = torch.where(uphill, reached, height)
            if bool((height - before <= _LEVEL * (1.0 + height.abs())).all()):
                break
        return points

    def derivatives(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slope of the height and its curvature."""
        with torch.enable_grad():
            points = points.detach().requires_grad_()
            total = self.height(points).sum()
            (slope,) = torch.autograd.grad(total, points, create_graph=True)
            rows = [
                torch.autograd.grad(part.sum(), points, retain_graph=True)[0]
                for part in slope.unbind(-1)
            ]
        return slope.detach(), torch.stack(rows, -2)

    def at_ends(self, place: Tensor) -> Tensor:
        """Put places on the ends towards which the density grows."""
        growths, ends = [], []
        for output in range(self.n_outputs):
            blocks = self.mixture.marginal([output]).blocks
            onto = self.map_of(output)
            pairs = [endless_growth(block, onto) for block in blocks]
            growths.append(torch.cat([pair[0] for pair in pairs], -1))
            ends.append(torch.cat([pair[1] for pair in pairs], -1))
            place = self.snapped(place, output, blocks)
        off = (self.mixture.log_weights == -math.inf).unsqueeze(-1)
        growth = torch.stack(growths, -1).masked_fill(off, 0.0)
        fastest, which = growth.sum(-1).max(-1, keepdim=True)
        if not bool((fastest > 0.0).any()):
            return place
        points = torch.where(growth > 0.0, torch.stack(ends, -1), self.peaks())
        index = which.unsqueeze(-1).expand(*which.shape, self.n_outputs)
        return torch.where(fastest > 0.0, points.gather(-2, index).squeeze(-2), place)

    def snapped(self, place: Tensor, output: int, blocks: Any) -> Tensor:
        """Put one output on an end of the support that is next to it."""
        if self.onto is not None:
            return place
        parts, own = list(place.unbind(-1)), place[..., output]
        for block in blocks:
            for end in block.family.ends(block.params).unbind(-2):
                end = end.squeeze(-1)
                near = torch.finfo(own.dtype).eps * end.abs()
                near = near.clamp_min(torch.finfo(own.dtype).tiny)
                on_it = end.isfinite() & ((own - end).abs() <= near)
                own = torch.where(on_it, end, own)
        parts[output] = own
        return torch.stack(parts, -1)


def _medians(block: Block) -> Tensor:
    """Return the components' medians."""
    block = block.expanded()
    half = next(iter(block.params.values())).new_tensor(0.5)
    medians: Tensor = block.family.ppf(block.params, half)
    return medians


def _one_by_one(mixture: Any, block: Block) -> Any:
    """Return a mixture for each component, along a last batch axis."""
    full = block.expanded().expand_batch(mixture.batch_shape)
    params = {
        name: value.unsqueeze(value.ndim + full.component_axis(name) + 1)
        for name, value in full.params.items()
    }
    log_weights = mixture.log_weights.new_zeros(
        (*mixture.batch_shape, block.n_components, 1)
    )
    return type(mixture)(log_weights, [Block(block.family, params, 1)])
