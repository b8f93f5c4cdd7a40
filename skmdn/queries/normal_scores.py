r"""Normal scores of points under mixtures of one output, and points of given scores.

.. math:: z = \Phi^{-1}(F(y))

A score is computed from the smaller tail and from its logarithm where the tail itself
underflows: it tells targets apart however far out they are.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from skmdn.numerics.basic import find_root, ndtr

from .quantiles import at_masses, normal_quantiles

__all__ = [
    "has_mass",
    "just_below",
    "normal_score",
    "point_scores",
    "quantiles_at",
    "randomized_scores",
]

_LOG_2PI = math.log(2.0 * math.pi)
# Below this logarithm a probability is inverted by the expansion of its tail, and below
# that probability its logarithm is asked for.
_FAR_TAIL = -300.0
_LEAST = 1e-290
# Scores whose tail is a normal number.
_ORDINARY = 36.0
_MAX_EXPANSIONS = 60
_NEXT = 2e-10
_FARTHEST = 1e300


def normal_score(log_cdf: Tensor, log_sf: Tensor) -> Tensor:
    """Return the normal score of a probability from the logarithms of both sides."""
    score = _log_quantile(torch.minimum(log_cdf, log_sf))
    return torch.where(log_cdf <= log_sf, score, -score)


def _log_quantile(log_level: Tensor) -> Tensor:
    """Return the normal quantile, at most 0, of a level given by its logarithm."""
    near = torch.special.ndtri(log_level.clamp_min(_FAR_TAIL).exp())
    far = log_level < _FAR_TAIL
    if not bool(far.any()):
        return near
    double = -2.0 * log_level.clamp(-1e300, _FAR_TAIL)
    score = -(double - double.log() - _LOG_2PI).sqrt()
    for _ in range(3):
        # Newton's steps, with the first terms of the slope of the logarithm
        excess = torch.special.log_ndtr(score) + 0.5 * double
        score = score + excess / (score + 1.0 / score)
    score = score.masked_fill(log_level == -math.inf, -math.inf)
    return torch.where(far, score, near)


def point_scores(mixture: Any, y: Tensor) -> Tensor:
    """Return the normal scores of points.

    Parameters
    ----------
    mixture : Mixture
        Of one output and batch shape ``(n_rows,)``.
    y : Tensor of shape (n_rows, n_points)
        Points.

    Returns
    -------
    scores : Tensor, shaped like ``y``
        Infinite where a tail has no probability.
    """
    expanded, points = mixture.unsqueeze(), y.unsqueeze(-1)
    cdf, sf = expanded.cdf(points), expanded.sf(points)
    tail = torch.minimum(cdf, sf)
    score = torch.special.ndtri(tail)
    score = torch.where(cdf <= sf, score, -score)
    score, deep = score.squeeze(-1), (tail < _LEAST).squeeze(-1)
    if bool(deep.any()):
        some, place = mixture[deep.nonzero()[:, 0]], y[deep].unsqueeze(-1)
        exact = normal_score(some.log_cdf(place), some.log_sf(place))
        score[deep] = exact.squeeze(-1)
    return score


def randomized_scores(mixture: Any, y: Tensor, uniform: Tensor) -> Tensor:
    r"""Return the normal scores of points, drawn where a point has a probability.

    .. math:: z = \Phi^{-1}(F(y^-) + u \, (F(y) - F(y^-)))

    They are normal if the mixture is right, also where F jumps.

    Parameters
    ----------
    mixture : Mixture
        Of one output and batch shape ``(n_rows,)``.
    y : Tensor of shape (n_rows, n_points)
        Points.
    uniform : Tensor, shaped like ``y``
        Uniform numbers u.
    """
    score = point_scores(mixture, y)
    at_mass = has_mass(mixture, y)
    if not bool(at_mass.any()):
        return score
    expanded, points = mixture.unsqueeze(), y.unsqueeze(-1)
    before, share = just_below(points), uniform.unsqueeze(-1)
    lower = torch.lerp(expanded.cdf(before), expanded.cdf(points), share)
    upper = torch.lerp(expanded.sf(before), expanded.sf(points), share)
    drawn = normal_score(lower.log(), upper.log()).squeeze(-1)
    return torch.where(at_mass, drawn, score)


def has_mass(mixture: Any, y: Tensor) -> Tensor:
    """Tell for each number whether a component may give it a probability."""
    found = torch.zeros_like(y, dtype=torch.bool)
    for block in mixture.blocks:
        if block.family.discrete:
            found = found | block.family.contains(y)
    return found


def just_below(y: Tensor) -> Tensor:
    """Return the numbers before these."""
    return torch.nextafter(y, torch.full_like(y, -math.inf))


def quantiles_at(mixture: Any, scores: Tensor) -> Tensor:
    """Return the smallest points that have at least these normal scores.

    Parameters
    ----------
    mixture : Mixture
        Of one output and batch shape ``(n_rows,)``.
    scores : Tensor of shape (n_points,) or (n_rows, n_points)
        The same for all rows, or others for each; at infinite ones are the ends of the
        support.

    Returns
    -------
    points : Tensor of shape (n_rows, n_points)
    """
    n_rows = mixture.batch_shape[0]
    if mixture.gaussian and mixture.n_components == 1:
        means, stds = _parameters(mixture)
        return means + stds * scores
    ordinary = scores.abs() < _ORDINARY
    shared = mixture.gaussian and scores.ndim == 1
    if shared and bool(ordinary.all()):
        return _normal_quantiles(mixture, scores)
    points = _search(mixture, scores.expand(n_rows, -1))
    if shared:
        points[:, ordinary] = _normal_quantiles(mixture, scores[ordinary])
    return points


def _parameters(mixture: Any) -> tuple[Tensor, Tensor]:
    """Return means and standard deviations, ``(n_rows, n_components)``."""
    return mixture.component_means()[..., 0], mixture.component_stds()[..., 0]


def _normal_quantiles(mixture: Any, scores: Tensor) -> Tensor:
    """Return quantiles at levels that are written from below, or from above."""
    means, stds = _parameters(mixture)
    points = means.new_empty((len(means), len(scores)))
    for sign, side in ((1.0, scores <= 0.0), (-1.0, scores > 0.0)):
        if bool(side.any()):
            levels = ndtr(sign * scores[side])
            found = normal_quantiles(mixture.weights, sign * means, stds, levels)
            points[:, side] = sign * found
    return points


def _search(mixture: Any, scores: Tensor) -> Tensor:
    """Return the roots of z(y) - z for scores ``(n_rows, n_points)``."""

    def residual(points: Tensor) -> Tensor:
        return point_scores(mixture, points) - finite

    finite = torch.where(scores.isinf(), 0.0, scores)
    # Where each component has its central two thirds
    levels = ndtr(scores.new_tensor([[-1.0], [1.0]]))
    low, high = _component_quantiles(mixture, levels)
    widths = high - low
    low, high = low.amin(-1, keepdim=True), high.amax(-1, keepdim=True)
    low, high = _bracket(residual, low, high, widths.amax(-1, keepdim=True), finite)
    narrowest = widths.masked_fill(widths == 0.0, math.inf).amin(-1, keepdim=True)
    narrowest = narrowest.masked_fill(narrowest.isinf(), 1.0)
    # Next to 0, where positive variables have a tail, all digits count.
    xtol = torch.finfo(low.dtype).eps ** 8 * narrowest
    discrete = [block.family.discrete for block in mixture.blocks]
    if all(discrete):
        # Next to a point with a probability is as good as there.
        xtol = torch.full_like(xtol, _NEXT)
    points = find_root(residual, low, high, xtol)
    if any(discrete):
        points = at_masses(mixture.unsqueeze(), points.unsqueeze(-1)).squeeze(-1)
    if bool(scores.isinf().any()):
        low, high = _component_quantiles(mixture, scores.new_tensor([[0.0], [1.0]]))
        lowest, highest = low.amin(-1, keepdim=True), high.amax(-1, keepdim=True)
        points = torch.where(scores == -math.inf, lowest, points)
        points = torch.where(scores == math.inf, highest, points)
    return points


def _bracket(
    residual: Callable[[Tensor], Tensor],
    low: Tensor,
    high: Tensor,
    width: Tensor,
    scores: Tensor,
) -> tuple[Tensor, Tensor]:
    """Widen intervals until they hold the roots."""
    step = width + 1e-3 * (low.abs() + high.abs()) + torch.finfo(low.dtype).tiny
    low, high = low - scores.abs() * width, high + scores.abs() * width
    for i in range(2, _MAX_EXPANSIONS):
        too_high, too_low = residual(low) > 0.0, residual(high) < 0.0
        if not bool((too_high | too_low).any()):
            break
        # Faster and faster: heavy tails are long.
        step = (step * 2.0**i).clamp_max(_FARTHEST)
        low = torch.where(too_high, low - step, low)
        high = torch.where(too_low, high + step, high)
    return low, high


def _component_quantiles(mixture: Any, levels: Tensor) -> Tensor:
    """Return quantiles at two levels, ``(2, n_rows, n_components)``.

    Those of components without a weight lie inside those of the others.
    """
    expanded = mixture.unsqueeze()
    found = expanded.per_point(
        lambda block: block.family.ppf(block.params, levels.unsqueeze(-2))
    )
    found = found.squeeze(-1).movedim(1, 0)
    heaviest = mixture.log_weights.argmax(-1, keepdim=True)
    index = heaviest.expand(2, -1, -1)
    return torch.where(mixture.log_weights == -math.inf, found.gather(-1, index), found)
