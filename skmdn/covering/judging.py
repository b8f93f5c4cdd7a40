"""Candidates judged on one shared sample."""

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from .normals import Normals, features
from .pool import Proposal, log_mean, normalized
from .target import Density

__all__ = [
    "TRUNCATION",
    "divergence",
    "falls",
    "falls_forward",
    "judged",
    "reweighted",
    "scores_of",
]

_EM_STEPS = 10
# A gain below this many of them may be noise.
_STANDARD_ERRORS = 3.0
# Draws with p < Z q exp(-10) are cut off before a reverse divergence is taken.
TRUNCATION = 10.0


class Scored(Protocol):
    """What is judged: a density in the coordinates."""

    def log_prob(self, u: Tensor, phi: Tensor | None = None) -> Tensor:
        """Return log densities of points, whose features may be known."""


class Drawn(Scored, Protocol):
    """What draws come from."""

    def draw(self, n_draws: int, generator: torch.Generator) -> Tensor:
        """Return points."""


Candidate = TypeVar("Candidate", bound=Scored)


def divergence(log_w: Tensor, log_ratio: Tensor) -> float:
    r"""Estimate KL(p || q) from weighted draws.

    .. math:: \sum_i \bar w_i \log \frac{p(u_i)}{q(u_i)} - \log Z

    Parameters
    ----------
    log_w : Tensor of shape (n_draws,)
        Log importance weights of the draws.
    log_ratio : Tensor of shape (n_draws,)
        log p - log q at the draws.
    """
    weights = normalized(log_w)
    log_evidence = float(torch.logsumexp(log_w, 0)) - math.log(len(log_w))
    seen = weights > 0
    return float(weights[seen] @ log_ratio[seen]) - log_evidence


def falls(losses: Sequence[Callable[[torch.Generator], float]], seeds: range) -> bool:
    """Tell whether a loss is lower than another, by more than its noise.

    Parameters
    ----------
    losses : sequence of two callables
        Both estimates from draws of a generator, the earlier loss first.
    seeds : range
        Of the generators, each of which both are given.
    """
    if len(seeds) < 2:
        # The noise is not known.
        return False
    table = torch.tensor(
        [
            [loss(torch.Generator().manual_seed(seed)) for seed in seeds]
            for loss in losses
        ],
        dtype=torch.float64,
    )
    gain = table[0] - table[1]
    return bool(gain.mean() > _STANDARD_ERRORS * gain.std() / math.sqrt(len(gain)))


def falls_forward(
    target: Density,
    pair: Sequence[Drawn],
    n_draws: int,
    generator: torch.Generator,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> bool:
    """Tell whether KL(p || q) of the second is lower, by more than its noise.

    A loss from weighted draws of its own q cannot be compared with another: both are
    judged on draws of both.
    """
    u = torch.cat([q.draw(n_draws // 2, generator) for q in pair])
    phi = features(u)
    log_q = torch.stack([q.log_prob(u, phi) for q in pair])
    log_w = target.log_prob(u) - torch.logsumexp(log_q, 0)
    if not bool(log_w.isfinite().any()):
        return False
    weights = normalized(log_w)
    if transform is not None:
        weights = transform(weights)
        weights = weights / weights.sum()
    seen = weights > 0
    weights, gain = weights[seen], (log_q[1] - log_q[0])[seen]
    mean = weights @ gain
    return bool(mean > _STANDARD_ERRORS * (weights * (gain - mean)).norm())


def reweighted(normals: Normals, phi: Tensor, weights: Tensor) -> Normals:
    """Return the components with the weights that EM finds for them."""
    joint = phi @ normals.coefficients() - normals.log_weights
    log_weights = normals.log_weights
    for _ in range(_EM_STEPS):
        resp = torch.softmax(joint + log_weights, 1)
        log_weights = (weights @ resp).clamp_min(1e-300).log()
    kept = (log_weights > math.log(1e-6)).nonzero().squeeze(1)
    return normals.with_weights(log_weights).choose(kept) if len(kept) else normals


def judged(
    target: Density,
    candidates: Sequence[Candidate],
    n_draws: int,
    generator: torch.Generator,
    proposals: Sequence[Drawn] | None = None,
) -> tuple[Candidate, list[float]]:
    """Return the best candidate, and the scores of all (smaller is better).

    All are judged on the same draws, an equal share from each proposal, with the
    mixture of all of them in the denominators. Those of mixtures are they themselves,
    a third of them widened.
    """
    if proposals is None:
        proposals = [Proposal(q, share=1.0 / 3.0) for q in candidates]  # type: ignore[arg-type]
    n_each = min(n_draws, target.left) // len(proposals)
    u = torch.cat([q.draw(n_each, generator) for q in proposals])
    phi, log_p = features(u), target.log_prob(u)
    logs = torch.stack([q.log_prob(u, phi) for q in proposals])
    log_mix = torch.logsumexp(logs, 0) - math.log(len(proposals))
    scores = scores_of(candidates, u, log_p, log_mix)
    return candidates[min(range(len(scores)), key=scores.__getitem__)], scores


def scores_of(
    candidates: Sequence[Scored], u: Tensor, log_p: Tensor, log_mix: Tensor
) -> list[float]:
    """Return the scores on draws of known log density, smaller is better.

    They are the sum of both divergences and a part of the loss of efficiency; all are
    infinite if no draw has density.
    """
    log_w, phi = log_p - log_mix, features(u)
    if not bool(log_w.isfinite().any()):
        return [math.inf] * len(candidates)
    return [_score(log_p, q.log_prob(u, phi), log_w, log_mix) for q in candidates]


def _score(log_p: Tensor, log_q: Tensor, log_w: Tensor, log_mix: Tensor) -> float:
    """Return both divergences minus a quarter of the logarithm of the efficiency."""
    log_evidence = log_mean(log_w)
    ratio = (log_p - log_q - log_evidence).masked_fill(log_p == -torch.inf, -torch.inf)
    forward = divergence(log_w, log_p - log_q)
    kept = ratio > -TRUNCATION
    share = normalized(log_q - log_mix)
    reverse = -float((share[kept] * ratio[kept]).sum() / share[kept].sum())
    # E_q[w^2] / Z^2 = E_p[p / q] / Z.
    log_inverse_efficiency = float(
        torch.logsumexp(torch.log_softmax(log_w, 0) + ratio, 0)
    )
    return forward + reverse + 0.25 * log_inverse_efficiency
