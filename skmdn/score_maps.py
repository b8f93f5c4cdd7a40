r"""Monotone maps of normal scores: what the calibration of a distribution learns.

A predictive distribution function F is calibrated by a monotone map of its values. The
map is written for their normal scores,

.. math:: z = \Phi^{-1}(F(y)), \qquad G(y) = \Phi(h(z)),

which do not saturate: computed from the logarithm of the smaller tail, a target a
thousand standard deviations out has its own score. For a normal F an error of location
and scale is a straight line h, however large.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ConformalMap", "ScoreMap", "conformal_map", "isotonic_map"]

# A score whose tail probability is below the smallest number is not further out.
_LEAST_SCORE = 40.0

# Rows on a straight line that may join those of an isotonic map, rows beyond each
# outermost knot, and the distance of knots for a thousand rows, in normal scores.
_N_PSEUDO = (1000.0, 100.0, 10.0)
_N_OUTSIDE = 10.0
_SPACING = 0.5
_CENTRAL = 1.2815515655446004  # 80 %
# The levels at which a conformal map is certain to have knots are multiples of 1 / 40.
_N_LEVELS = 40
# Knots closer than this, relative to the spread of the scores, are one.
_CLOSEST = 1e-9


@dataclass(frozen=True, eq=False)
class ScoreMap:
    """An increasing function: a rational quadratic spline between straight lines.

    Between its knots it is the monotone interpolant of [1]_, which has a continuous
    slope and is inverted by a quadratic equation.

    Parameters
    ----------
    knots, values : Tensor of shape (n_knots,)
        Both strictly ascending, at least two.
    slopes : Tensor of shape (n_knots,)
        The slopes there, positive; the outer ones are those of the lines.

    References
    ----------
    .. [1] J. A. Gregory and R. Delbourgo, "Piecewise rational quadratic interpolation
       to monotonic data", IMA Journal of Numerical Analysis 2(2), 1982.
    """

    knots: Tensor
    values: Tensor
    slopes: Tensor

    @classmethod
    def through(
        cls, knots: Tensor, values: Tensor, low_slope: Tensor, high_slope: Tensor
    ) -> "ScoreMap":
        """Interpolate; slopes at inner knots are weighted geometric means of secants.

        Parameters
        ----------
        knots, values : Tensor of shape (n_knots,)
            Strictly ascending; at least one.
        low_slope, high_slope : Tensor of shape ()
            Slopes of the lines below and above.
        """
        if len(knots) == 1:
            knots = torch.cat([knots, knots + 1.0])
            values = torch.cat([values, values + high_slope])
        width = knots.diff()
        steepness = (values.diff() / width).log()
        inner = width[1:] * steepness[:-1] + width[:-1] * steepness[1:]
        inner = (inner / (width[1:] + width[:-1])).exp()
        slopes = torch.cat([low_slope.reshape(1), inner, high_slope.reshape(1)])
        return cls(knots, values, slopes)

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values at some points and the logarithms of the slopes there."""
        cell = self._cell(self.knots, z)
        width, rise = self.knots.diff()[cell], self.values.diff()[cell]
        low, high, secant = self.slopes[cell], self.slopes[cell + 1], rise / width
        share = ((z - self.knots[cell]) / width).clamp(0.0, 1.0)
        rest = 1.0 - share
        bottom = secant + (low + high - 2.0 * secant) * share * rest
        inside = (secant * share + low * rest) * share * rise / bottom
        slope = high * share.square() + 2.0 * secant * share * rest
        slope = slope + low * rest.square()
        log_slope = slope.log() + 2.0 * (secant / bottom).log()
        # Outside the knots the share is 0 or 1 and the slope that of the line.
        beyond = torch.where(
            z < self.knots[0],
            (z - self.knots[0]) * self.slopes[0],
            (z - self.knots[-1]).clamp_min(0.0) * self.slopes[-1],
        )
        return self.values[cell] + inside + beyond, log_slope

    def inverse(self, h: Tensor) -> Tensor:
        """Return the points at which the function has some values."""
        cell = self._cell(self.values, h)
        width, rise = self.knots.diff()[cell], self.values.diff()[cell]
        low, high, secant = self.slopes[cell], self.slopes[cell + 1], rise / width
        reached = ((h - self.values[cell]) / rise).clamp(0.0, 1.0)
        bend = (low + high - 2.0 * secant) * reached
        linear, constant = low - bend, -secant * reached
        root = linear.square() - 4.0 * (secant - low + bend) * constant
        # 0 / 0 where the value is that of the lower knot
        bottom = linear + root.clamp_min(0.0).sqrt()
        share = torch.where(reached > 0.0, -2.0 * constant / bottom, 0.0)
        beyond = torch.where(
            h < self.values[0],
            (h - self.values[0]) / self.slopes[0],
            (h - self.values[-1]).clamp_min(0.0) / self.slopes[-1],
        )
        return self.knots[cell] + share.clamp(0.0, 1.0) * width + beyond

    @staticmethod
    def _cell(edges: Tensor, points: Tensor) -> Tensor:
        cell = torch.searchsorted(edges, points.contiguous()) - 1
        return cell.clamp(0, len(edges) - 2)

    def ends(self, coverage: float) -> Tensor:
        """Return the scores between which a share of all targets lies, two numbers."""
        tail = self.values.new_tensor([0.5 - 0.5 * coverage])
        end = torch.special.ndtri(tail)
        return self.inverse(torch.cat([end, -end]))

    def reaches(self, coverage: float) -> bool:
        """Tell whether the map knows the ends of such an interval."""
        return bool(self.ends(coverage).isfinite().all())


@dataclass(frozen=True, eq=False)
class ConformalMap(ScoreMap):
    """A map through order statistics of calibration scores, which it remembers.

    Parameters
    ----------
    knots, values, slopes : Tensor of shape (n_knots,)
        As in :class:`ScoreMap`.
    scores : Tensor of shape (n_scores,)
        The different scores, ascending.
    weights : Tensor of shape (n_scores,)
        How many rows have each.
    """

    scores: Tensor
    weights: Tensor

    def ends(self, coverage: float) -> Tensor:
        r"""Return two order statistics with at least this share between them.

        Of n + 1 exchangeable scores, the last is below the k-th smallest of the others
        with probability at most k / (n + 1). The ends are the innermost scores for
        which that is at most :math:`(1 - c) / 2` on either side; infinite if there are
        none.
        """
        # Levels such as 0.05 have no exact binary form.
        allowed = 0.5 * (1.0 - coverage) * (float(self.weights.sum()) + 1.0) + 1e-9
        below, above = _outside(self.weights)
        low = self.scores[below + 1.0 <= allowed]
        high = self.scores[above + 1.0 <= allowed]
        infinite = self.scores.new_tensor([math.inf])
        return torch.stack(
            [torch.cat([-infinite, low])[-1], torch.cat([high, infinite])[0]]
        )


def _different(scores: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the different scores, ascending, and the weights of all rows with each."""
    different, place = scores.unique(return_inverse=True)
    return different, torch.zeros_like(different).index_add_(0, place, weights)


def _outside(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weight of all that comes before, and of all that comes after."""
    upwards, downwards = weights.cumsum(0), weights.flip(0).cumsum(0).flip(0)
    return upwards - weights, downwards - weights


def _finite(scores: Tensor) -> Tensor:
    """Replace infinite scores by numbers that are no nearer than the others."""
    size = scores[scores.isfinite()].abs()
    reach = max(_LEAST_SCORE, float(size.max()) if len(size) else 0.0)
    return scores.clamp(-reach, reach)


def conformal_map(scores: Tensor, weights: Tensor) -> ConformalMap:
    r"""Return the map that takes scores to the levels of their ranks.

    .. math:: h(z_{(i)}) = \Phi^{-1}\Bigl(\frac{i}{n + 1}\Bigr)

    Its knots are the order statistics whose levels are nearest to multiples of 1/40, to
    1/80, 1/160 and so on in both tails, and the first and the last: all of them, if
    there are few.

    Parameters
    ----------
    scores : Tensor of shape (n_rows,)
        Normal scores of the calibration rows.
    weights : Tensor of shape (n_rows,)
        How many rows each stands for.
    """
    scores, weights = _different(scores, weights)
    total = weights.sum() + 1.0
    # Equal scores share the mean of their ranks.
    levels = (_outside(weights)[0] + 0.5 * (weights + 1.0)) / total
    grid = torch.arange(1.0, _N_LEVELS).to(levels) / _N_LEVELS
    halvings = 2.0 ** -torch.arange(float(total.log2())).to(levels) / _N_LEVELS
    wanted = torch.cat([halvings, grid, 1.0 - halvings])
    nearest = (levels - wanted.unsqueeze(1)).abs().argmin(1)
    ends = torch.tensor([0, len(levels) - 1], device=nearest.device)
    chosen = torch.cat([nearest, ends]).unique()
    knots, values = _separate(
        _finite(scores)[chosen], torch.special.ndtri(levels[chosen])
    )
    straight = _end_slopes(knots, values)
    plain = ScoreMap.through(knots, values, *straight)
    return ConformalMap(plain.knots, plain.values, plain.slopes, scores, weights)


def _separate(knots: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Drop knots that are so close to the one before that a slope means nothing."""
    least = _CLOSEST * (1.0 + knots[:1].abs() + knots[-1:].abs())
    apart = torch.cat([least > 0.0, knots.diff() > least])
    return knots[apart], values[apart]


def _end_slopes(knots: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean slopes of the outer tenths."""
    if len(knots) == 1:
        return torch.ones_like(knots[0]), torch.ones_like(knots[0])
    first = int((values + _CENTRAL).abs().argmin())
    last = int((values - _CENTRAL).abs().argmin())
    low, high = max(first, 1), min(last, len(knots) - 2)
    return (
        (values[low] - values[0]) / (knots[low] - knots[0]),
        (values[-1] - values[high]) / (knots[-1] - knots[high]),
    )


def isotonic_map(scores: Tensor, weights: Tensor) -> ScoreMap:
    r"""Return a smooth map to the levels of the scores, no less plain than they are.

    With a robust location m and scale s of the scores, the levels are those of the rows
    and of c rows that a straight line explains,

    .. math:: h(z) = \Phi^{-1}\Bigl(\frac{C(z) + c \, \Phi((z - m) / s)}{n + c}\Bigr)

    where C counts scores up to z. The knots are equally spaced in h, closer for many
    rows, and have some rows beyond them, which tell the slopes of the lines outside by
    maximum likelihood. Of several c and the identity, the one with the best likelihood
    is taken, less a nat for each free number [1]_.

    Parameters
    ----------
    scores : Tensor of shape (n_rows,)
        Normal scores of the calibration rows.
    weights : Tensor of shape (n_rows,)
        How many rows each stands for.

    References
    ----------
    .. [1] H. Akaike, "A new look at the statistical model identification", IEEE
       Transactions on Automatic Control 19(6), 1974.
    """
    scores, weights = _different(_finite(scores), weights)
    total = float(weights.sum())
    best, highest = _identity(scores), -0.5 * float(weights @ scores.square())
    for n_pseudo in _N_PSEUDO:
        candidate = _smooth_map(scores, weights, n_pseudo)
        values, log_slopes = candidate(scores)
        likelihood = float(weights @ (log_slopes - 0.5 * values.square()))
        # Location and scale, and the knots as far as the rows move them
        n_free = 2.0 + len(candidate.knots) * total / (total + n_pseudo)
        if likelihood - n_free > highest:
            best, highest = candidate, likelihood - n_free
    return best


def _identity(like: Tensor) -> ScoreMap:
    ends = like.new_tensor([-1.0, 1.0])
    return ScoreMap(ends, ends, torch.ones_like(ends))


def _smooth_map(scores: Tensor, weights: Tensor, n_pseudo: float) -> ScoreMap:
    """Return the map for a number of rows that a straight line explains."""
    location, scale = _line(scores, weights)
    scores = (scores - location) / scale
    values = _spaced(float(weights.sum()) + n_pseudo, like=scores)
    levels = torch.special.ndtr(values)
    knots = _levels_reached(scores, weights, levels, n_pseudo)
    knots, values = _separate(knots, values)
    slopes = [
        _tail_slope(
            side * knots[end], side * values[end], side * scores, weights, n_pseudo
        )
        for side, end in ((-1.0, 0), (1.0, -1))
    ]
    slopes = [slope / scale for slope in slopes]
    return ScoreMap.through(location + scale * knots, values, *slopes)


def _line(scores: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a location and a scale to the central 80 % of the scores."""
    total = weights.sum()
    levels = (_outside(weights)[0] + 0.5 * weights) / total
    normal = torch.special.ndtri(levels)
    share = weights * (normal.abs() <= _CENTRAL)
    share = share / share.sum()
    center, normal_center = share @ scores, share @ normal
    spread = share @ (normal - normal_center).square()
    scale = share @ ((normal - normal_center) * (scores - center)) / spread
    # Equal scores have no scale.
    scale = torch.where(scale > 0.0, scale, 1.0)
    location, log_scale = center - scale * normal_center, scale.log()
    # Estimates within their standard errors of 0 are drawn there, others not.
    log_scale = log_scale**3 / (log_scale.square() + 0.7 / total)
    square = location.square()
    return location * square / (square + scale.square() / total), log_scale.exp()


def _spaced(n_rows: float, like: Tensor) -> Tensor:
    """Return the values of the knots for a number of rows."""
    share = min(0.4, _N_OUTSIDE / n_rows)
    outermost = -float(torch.special.ndtri(like.new_tensor(share)))
    spacing = _SPACING * (1000.0 / n_rows) ** 0.2
    n_knots = max(2, math.ceil(2.0 * outermost / spacing) + 1)
    return torch.linspace(-outermost, outermost, n_knots, dtype=like.dtype).to(like)


def _levels_reached(
    scores: Tensor, weights: Tensor, levels: Tensor, n_pseudo: float
) -> Tensor:
    """Return where standardised scores, with the pseudo-rows, reach some levels."""
    total = weights.sum()
    grid = torch.cat([scores, torch.linspace(-8.0, 8.0, 1601).to(scores)]).unique()
    counted = _outside(weights)[0] + 0.5 * weights
    count = _interpolate(grid, scores, counted)
    count = torch.where(
        grid < scores[0], 0.0, torch.where(grid > scores[-1], total, count)
    )
    reached = (count + n_pseudo * torch.special.ndtr(grid)) / (total + n_pseudo)
    return _interpolate(levels, reached, grid)


def _interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Return a piecewise linear function, constant beyond its ends."""
    cell = torch.searchsorted(knots, x).clamp(1, max(1, len(knots) - 1))
    low, high = cell - 1, cell.clamp_max(len(knots) - 1)
    share = ((x - knots[low]) / (knots[high] - knots[low])).clamp(0.0, 1.0)
    return torch.lerp(values[low], values[high], share.nan_to_num(0.0))


def _tail_slope(
    knot: Tensor, value: Tensor, scores: Tensor, weights: Tensor, n_pseudo: float
) -> Tensor:
    r"""Return the slope above a knot that makes the scores beyond it most likely.

    With the distances e and the weights w of these and the pseudo-rows it solves

    .. math:: \frac{\sum w}{a} = \sum w \, e \, (h + a e)
    """
    distance = (scores - knot).clamp_min(0.0)
    bell = torch.exp(-0.5 * knot.square()) / math.sqrt(2.0 * math.pi)
    tail = torch.special.ndtr(-knot)
    n = weights @ (distance > 0.0).to(weights) + n_pseudo * tail
    first = weights @ distance + n_pseudo * (bell - knot * tail)
    second = weights @ distance.square() + n_pseudo * (
        (1.0 + knot.square()) * tail - knot * bell
    )
    linear = value * first
    return 2.0 * n / (linear + (linear.square() + 4.0 * second * n).sqrt())
