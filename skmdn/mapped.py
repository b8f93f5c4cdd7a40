r"""Mixtures whose distribution functions pass through a monotone map.

.. math:: G_d(y) = \Phi(h_d(z)), \quad z = \Phi^{-1}(F_d(y)), \qquad
    g_d(y) = f_d(y) \, h_d'(z) \, \frac{\varphi(h_d(z))}{\varphi(z)}

Each output d has its own map. How several outputs depend on each other stays what it
was: if Y follows the mixture, the outputs :math:`G_d^{-1}(F_d(Y_d))` follow the mapped
law.
"""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .families.bell import log_probability
from .mixture import Mixture
from .numerics.basic import ndtr, nodes_between
from .numerics.halving import N_NODES, Grid, halved
from .queries.blocks import by_measure, pulled_back
from .queries.normal_scores import (
    has_mass,
    just_below,
    point_scores,
    quantiles_at,
    randomized_scores,
)
from .queries.panels import Panels
from .score_maps import ScoreMap

__all__ = ["MappedMixture"]

# Edges of the quadrature in scores of the mapped law; moments of heavy tails need some
# far out, where a square is still a number.
_EDGES = (-8.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 8.0)
_FAR_EDGES = (10.0, 13.0, 17.0, 22.0)
_LARGEST = 1e150
# Integers that a discrete component may spread over.
_MOST_INTEGERS = 100_000
# A share of a moment beyond this score that says that there is no such moment.
_FAR, _FAR_SHARE = 12.0, 1e-3
# The score of the smallest number.
_DEEPEST = 38.5
# Peaks that are looked at more closely, and by how many steps.
_N_PEAKS = 4
_N_STEPS = 60
_GOLDEN = 0.5 * (math.sqrt(5.0) - 1.0)


class MappedMixture:
    """A batch of mixtures with a calibrated distribution function for each output.

    Parameters
    ----------
    mixture : Mixture
        Of batch shape ``(n_rows,)``.
    maps : sequence of ScoreMap
        One for each output.

    Notes
    -----
    Points have shape ``(n_rows, n_points, n_outputs)``.
    """

    def __init__(self, mixture: Mixture, maps: Sequence[ScoreMap]) -> None:
        self.mixture = mixture
        self.maps = tuple(maps)

    def __getstate__(self) -> dict[str, Any]:
        # What was computed on the way can be computed again.
        return {"mixture": self.mixture, "maps": self.maps}

    @property
    def batch_shape(self) -> torch.Size:
        """The shape of the batch of mixtures."""
        return self.mixture.batch_shape

    @property
    def n_components(self) -> int:
        """The number of components of the mixture."""
        return self.mixture.n_components

    @property
    def n_outputs(self) -> int:
        """The dimension of a point."""
        return len(self.maps)

    @property
    def discrete(self) -> bool:
        """Whether single points may have a probability."""
        return self.outputs[0].discrete

    def __getitem__(self, rows: slice | Tensor) -> "MappedMixture":
        """Choose rows."""
        return MappedMixture(self.mixture[rows], self.maps)

    def marginal(self, outputs: list[int]) -> "MappedMixture":
        """Return the joint distribution of some of the outputs, in that order."""
        chosen = [self.maps[output] for output in outputs]
        return MappedMixture(self.mixture.marginal(outputs), chosen)

    @cached_property
    def outputs(self) -> "list[MappedOutput]":
        """The law of every output by itself."""
        if self.n_outputs == 1:
            return [MappedOutput(self.mixture, self.maps[0])]
        return [
            MappedOutput(self.mixture.marginal([d]), one)
            for d, one in enumerate(self.maps)
        ]

    # Queries per output.

    def cdf(self, y: Tensor) -> Tensor:
        """Return P(Y_d <= y_d) for every output, shaped like ``y``."""
        return self._each(lambda output, y: ndtr(output.score(y)), y)

    def sf(self, y: Tensor) -> Tensor:
        """Return P(Y_d > y_d) for every output, shaped like ``y``."""
        return self._each(lambda output, y: ndtr(-output.score(y)), y)

    def crps(self, y: Tensor) -> Tensor:
        """Return the CRPS of every output, shaped like ``y``."""
        return self._each(MappedOutput.crps, y)

    def _each(
        self, query: "Callable[[MappedOutput, Tensor], Tensor]", y: Tensor
    ) -> Tensor:
        parts = zip(self.outputs, y.unbind(-1), strict=True)
        return torch.stack([query(output, points) for output, points in parts], -1)

    def ppf(self, q: Tensor) -> Tensor:
        """Return quantiles at levels (n_levels,), ``(n_rows, n_levels, n_outputs)``."""
        scores = torch.special.ndtri(q)
        return torch.stack([output.quantiles(scores) for output in self.outputs], -1)

    def interval(self, coverage: float) -> Tensor:
        """Return the ends of central intervals, ``(n_rows, 2, n_outputs)``."""
        ends = [
            quantiles_at(output.mixture, output.map.ends(coverage))
            for output in self.outputs
        ]
        return torch.stack(ends, -1)

    def moments(self) -> Tensor:
        """Return means and variances, ``(n_rows, 2, n_outputs)``."""
        return torch.stack([output.moments() for output in self.outputs], -1)

    # Joint queries.

    def log_prob(self, y: Tensor) -> Tensor:
        """Return log densities in nats, ``(n_rows, n_points)``.

        With several outputs they are those of the mixture at the points that the maps
        take to ``y``, and the change of each output's own density.
        """
        if self.n_outputs == 1:
            return self.outputs[0].log_prob(y[..., 0])
        origins, changes = [], []
        for output, points in zip(self.outputs, y.unbind(-1), strict=True):
            origin = quantiles_at(output.mixture, output.score(points))
            there = output.mixture.unsqueeze().log_prob(origin.unsqueeze(-1))
            origins.append(origin)
            changes.append(output.log_prob(points) - there)
        inside = torch.stack([change > -math.inf for change in changes]).all(0)
        origin = torch.stack(origins, -1)
        log_prob = self.mixture.unsqueeze().log_prob(origin) + sum(changes)
        return torch.where(inside, log_prob, -math.inf)

    def sample(self, n_draws: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw from every row, ``(n_rows, n_draws, n_outputs)``."""
        draws = self.mixture.sample(n_draws, generator)
        moved = []
        for output, points in zip(self.outputs, draws.unbind(-1), strict=True):
            uniform = torch.empty_like(points)
            if self.discrete:
                uniform.uniform_(generator=generator)
            scores = randomized_scores(output.mixture, points, uniform)
            moved.append(quantiles_at(output.mixture, output.map.inverse(scores)))
        return torch.stack(moved, -1)


class MappedOutput:
    """The law of one output: points are ``(n_rows, n_points)``.

    Parameters
    ----------
    mixture : Mixture
        Of one output and batch shape ``(n_rows,)``.
    score_map : ScoreMap
        The map h.
    """

    def __init__(self, mixture: Mixture, score_map: ScoreMap) -> None:
        self.mixture = mixture
        self.map = score_map
        discrete = [block.family.discrete for block in mixture.blocks]
        self.discrete, self._staircase = any(discrete), all(discrete)

    def score(self, y: Tensor) -> Tensor:
        """Return the normal scores h(z) of points."""
        return self.map(point_scores(self.mixture, y))[0]

    def quantiles(self, scores: Tensor) -> Tensor:
        """Return the points at which h(z) has some values, the same for all rows."""
        return quantiles_at(self.mixture, self.map.inverse(scores))

    def log_prob(self, y: Tensor) -> Tensor:
        """Return log densities; at a point with a probability its logarithm."""
        base = self.mixture.unsqueeze().log_prob(y.unsqueeze(-1))
        z = point_scores(self.mixture, y)
        # Where a tail underflows but the density does not, the score is at least that.
        z = torch.where(z.isinf(), z.clamp(-_DEEPEST, _DEEPEST), z)
        h, log_slope = self.map(z)
        log_prob = base + log_slope + 0.5 * (z - h) * (z + h)
        at_mass = has_mass(self.mixture, y)
        if bool(at_mass.any()):
            ends = self.score(just_below(y)), self.score(y)
            jump = log_probability(y.new_zeros(()), y.new_ones(()), *ends)
            log_prob = torch.where(at_mass, jump, log_prob)
        return torch.where(base == -math.inf, base, log_prob)

    # Integrals, all of them over the same panels.

    @cached_property
    def _grid(self) -> Grid:
        """Panels on which the integrals of moments are exact, with scores."""

        def integrands(points: Tensor, score: Tensor) -> tuple[Tensor, ...]:
            tail = ndtr(-score.abs())
            return tail, tail * (points - self._center.unsqueeze(-1)).abs()

        if not self.discrete:
            return halved(self._edges(), self.score, integrands)
        edges = torch.cat([self._edges(), self._masses()[0]], -1).sort(-1).values
        low, high = edges[:, :-1], edges[:, 1:]
        # Between its jumps a staircase needs no more than one node.
        points, weights = nodes_between(low, high, 1 if self._staircase else N_NODES)
        score = self.score(points.flatten(-2)).reshape(points.shape)
        return Grid(low, high, points, weights, score)

    def _edges(self) -> Tensor:
        """Return edges where h bends and where the components want them."""
        own = self.map.knots.new_tensor(_EDGES)
        if not self.mixture.gaussian:
            far = self.map.knots.new_tensor(_FAR_EDGES)
            own = torch.cat([own, far, -far])
        scores = torch.cat([self.map.inverse(own), self.map.knots]).sort().values
        edges = quantiles_at(self.mixture, scores).clamp(-_LARGEST, _LARGEST)
        inner, onto = pulled_back(self.mixture)
        continuous, _ = by_measure(inner)
        if continuous is not None:
            more = Panels(continuous).edges
            more = more if onto is None else onto.forward(more)
            edges = torch.cat([edges, more.clamp(-_LARGEST, _LARGEST)], -1)
        return edges.sort(-1).values

    def _masses(self) -> tuple[Tensor, Tensor]:
        """Return points ``(n_rows, n_points)`` and their probabilities, each once."""
        edges = self._edges()
        parts = []
        for block in self.mixture.blocks:
            if block.family.discrete:
                found = block.family.masses_between(
                    block.params, edges[:, :1], edges[:, -1:], _MOST_INTEGERS
                )
                if found is None:
                    raise ValueError(
                        f"A component of {block.family!r} spreads over more than "
                        f"{_MOST_INTEGERS} integers, too many to add them up."
                    )
                parts.append(found.squeeze(-1))
        points = torch.cat(parts, -1).sort(-1).values
        again = points.diff(dim=-1, prepend=points[:, :1] - 1.0) == 0.0
        return points, self.log_prob(points).exp().masked_fill(again, 0.0)

    @cached_property
    def _center(self) -> Tensor:
        """Median, ``(n_rows, 1)``."""
        return self.quantiles(self.map.knots.new_zeros(1))

    def moments(self) -> Tensor:
        r"""Return mean and variance, ``(n_rows, 2)``.

        .. math::
            \mathrm{E}\,Y = c + \int_c^\infty (1 - G) - \int_{-\infty}^c G, \qquad
            \mathrm{E}\,(Y - c)^2 = 2 \int_c^\infty (y - c) (1 - G)
            + 2 \int_{-\infty}^c (c - y) \, G

        with the median c.
        """
        grid = self._grid
        score, offset = grid.values, grid.points - self._center.unsqueeze(-1)
        upper = offset >= 0.0
        tail = grid.weights * ndtr(torch.where(upper, -score, score))
        first = tail * torch.where(upper, 1.0, -1.0)
        second = 2.0 * tail * offset.abs()
        mean = self._center[:, 0] + first.sum((-2, -1))
        variance = second.sum((-2, -1)) - first.sum((-2, -1)).square()
        # Integrals to which the far tails contribute have no end.
        outside = score.abs() > _FAR
        drift = (outside * first).sum((-2, -1))
        endless, wild = (
            (outside * part).sum((-2, -1)) > _FAR_SHARE * part.sum((-2, -1))
            for part in (tail, second)
        )
        mean = torch.where(
            endless, torch.copysign(mean.new_tensor(math.inf), drift), mean
        )
        variance = variance.masked_fill(endless | wild, math.inf)
        return torch.stack([mean, variance], -1)

    def crps(self, y: Tensor) -> Tensor:
        r"""Return the CRPS at points.

        .. math:: \mathrm{CRPS} = \int_{-\infty}^y G^2 + \int_y^\infty (1 - G)^2

        Whole panels are integrated once for all points of a row.
        """
        grid = self._grid
        areas = [
            (grid.weights * ndtr(side * grid.values).square()).sum(-1)
            for side in (1.0, -1.0)
        ]
        # In order; panels that others have replaced come last and have no width.
        end = grid.high.amax(-1, keepdim=True)
        kept = grid.weights[..., 0] > 0.0
        low, order = torch.where(kept, grid.low, end).sort(-1)
        high = torch.where(kept, grid.high, end).gather(-1, order)
        below, above = (area.gather(-1, order) for area in areas)
        finite = torch.where(y.isinf(), 0.0, y).contiguous()
        place = (torch.searchsorted(low, finite) - 1).clamp_min(0)
        # The panel of a point is integrated again in two parts.
        crps = (below.cumsum(-1) - below).gather(-1, place)
        crps = crps + (above.flip(-1).cumsum(-1).flip(-1) - above).gather(-1, place)
        start = torch.minimum(low.gather(-1, place), finite)
        stop = torch.maximum(high.gather(-1, place), finite)
        crps = crps + self._part(start, finite, 1.0) + self._part(finite, stop, -1.0)
        return crps.masked_fill(y.isinf(), math.inf)

    def _part(self, start: Tensor, stop: Tensor, side: float) -> Tensor:
        """Integrate a squared tail over one piece of a panel for each point."""
        points, weights = nodes_between(start, stop, N_NODES)
        tail = ndtr(side * self.score(points.flatten(-2))).reshape(points.shape)
        return (weights * tail.square()).sum(-1)

    def entropy(self) -> Tensor:
        """Return the entropy in nats, ``(n_rows,)``: integral and sum."""
        entropy = torch.zeros_like(self._center[:, 0])
        edges = self._edges()
        if self.discrete:
            points, probability = self._masses()
            entropy = entropy + torch.special.entr(probability).sum(-1)
            if self._staircase:
                return entropy
            edges = torch.cat([edges, points], -1).sort(-1).values

        def surprise(points: Tensor) -> Tensor:
            return torch.special.entr(self.log_prob(points).exp())

        grid = halved(edges, surprise, lambda _, values: (values,))
        return entropy + (grid.weights * grid.values).sum((-2, -1))

    def mode(self) -> Tensor:
        """Return the point of highest density or probability, ``(n_rows,)``.

        The highest nodes of the quadrature that are higher than their neighbours
        start a search by golden sections.
        """
        if self._staircase:
            points, probability = self._masses()
            return points.gather(-1, probability.argmax(-1, keepdim=True))[:, 0]
        if self.discrete:
            raise ValueError(
                "A point with a probability and a density cannot be compared: there is "
                "no mode where a mixture has both."
            )
        points = self._grid.points.flatten(-2).sort(-1).values
        height = self.log_prob(points)
        neighbours = torch.nn.functional.pad(height, (1, 1), value=-math.inf)
        peak = (height >= neighbours[:, 2:]) & (height >= neighbours[:, :-2])
        highest = height.masked_fill(~peak, -math.inf).topk(_N_PEAKS).indices
        low = points.gather(-1, (highest - 1).clamp_min(0))
        high = points.gather(-1, (highest + 1).clamp_max(points.shape[-1] - 1))
        for _ in range(_N_STEPS):
            reach = _GOLDEN * (high - low)
            left, right = high - reach, low + reach
            climbs = self.log_prob(left) < self.log_prob(right)
            low, high = torch.where(climbs, left, low), torch.where(climbs, high, right)
        found = 0.5 * (low + high)
        best = self.log_prob(found).argmax(-1, keepdim=True)
        return found.gather(-1, best)[:, 0]
