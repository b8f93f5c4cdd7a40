"""How good a mixture is, and whether it has lost what the annealing saw."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .flowing import Flowed
from .judging import TRUNCATION, divergence
from .normals import Normals, features
from .pool import Batch, effective_size, log_mean, normalized
from .target import Density

__all__ = ["Coverage", "Quality", "coverage", "fresh_draws", "lost_draws", "measure"]

_MISSED = math.log(20.0)
# A share of the target that may be missed.
_SHARE = 0.02
# Where draws of q have never been, q lacks about as much as where they are: this part
# of KL(p || q) is added to the standard error of the evidence.
_UNSEEN = 0.5


@dataclass(frozen=True)
class Coverage:
    """The evidence with and without the draws of the annealing.

    Attributes
    ----------
    log_evidence, log_evidence_se : float
        From draws of q alone, and its standard error.
    log_evidence_defensive, log_evidence_defensive_se : float
        From draws of q and of all proposals of the annealing.
    missed : float
        The share of the target where p exceeds Z q more than twenty times.
    """

    log_evidence: float
    log_evidence_se: float
    log_evidence_defensive: float
    log_evidence_defensive_se: float
    missed: float

    @property
    def suspicious(self) -> bool:
        """Whether something seems to be missing."""
        gap = self.log_evidence_defensive - self.log_evidence
        se = math.hypot(self.log_evidence_se, self.log_evidence_defensive_se)
        return (gap > 3.0 * se and gap > 0.02) or self.missed > _SHARE


@dataclass(frozen=True)
class Quality:
    """What fresh draws of q say.

    Attributes
    ----------
    log_weights : Tensor of shape (n_draws,)
        log p - log q at the draws.
    efficiency : float
        The effective share of the draws.
    log_evidence, log_evidence_se : float
        The logarithm of the mean weight and its standard error, to which what q may
        lack where none of its draws are has been added.
    elbo : float
        The mean log weight, a lower bound of the evidence; -inf if q has a draw where
        p = 0.
    truncated_elbo : float
        The bound for q without draws of p < Z q exp(-10).
    cut : float
        The share of such draws.
    impossible : float
        The share of draws where p = 0.
    divergence : float
        An estimate of KL(p || q).
    proportionality : float
        How much of the variance of p, at draws of q, a multiple of q explains.
    """

    log_weights: Tensor
    efficiency: float
    log_evidence: float
    log_evidence_se: float
    elbo: float
    truncated_elbo: float
    cut: float
    impossible: float
    divergence: float
    proportionality: float


def measure(normals: Normals | Flowed, u: Tensor, log_p: Tensor) -> Quality:
    """Report on a mixture or a flow by draws of its own."""
    log_q = normals.log_prob(u)
    log_w = log_p - log_q
    size, log_evidence = effective_size(log_w), log_mean(log_w)
    kept = log_w > log_evidence - TRUNCATION
    cut = 1.0 - float(kept.double().mean())
    # Without the cut draws q is larger by 1 / (1 - cut).
    some = bool(kept.any())
    forward = divergence(log_w, log_w) if size else math.inf
    truncated = float(log_w[kept].mean()) + math.log1p(-cut) if some else -math.inf
    return Quality(
        log_w,
        size / len(log_w),
        log_evidence,
        math.hypot(_standard_error(log_w), _UNSEEN * forward),
        float(log_w.mean()),
        truncated,
        cut,
        float((log_w == -torch.inf).double().mean()),
        forward,
        _proportionality(log_p, log_q),
    )


def _proportionality(log_p: Tensor, log_q: Tensor) -> float:
    """Return R^2 of the regression of p on q through the origin."""
    p, q = (log_p - log_p.max()).exp(), (log_q - log_q.max()).exp()
    rest = p - q * (p @ q) / (q @ q)
    total = (p - p.mean()).square().sum()
    return 1.0 - float(rest.square().sum() / total) if total > 0 else math.nan


def coverage(
    normals: Normals | Flowed, u: Tensor, log_p: Tensor, batches: list[Batch]
) -> Coverage:
    """Compare the evidence under q with that under q and all of the annealing.

    Parameters
    ----------
    normals : Normals or Flowed
        The density q.
    u, log_p : Tensor
        Draws of q and their log densities.
    batches : list of Batch
        Those of the annealing, which saw the whole prior.
    """
    _, heights, log_q, log_w = _defensive(normals, batches, u, log_p)
    own = log_p - log_q[: len(u)]
    log_evidence = log_mean(log_w)
    far = heights - log_q - log_evidence > _MISSED
    return Coverage(
        log_mean(own),
        _standard_error(own),
        log_evidence,
        _standard_error(log_w),
        float(normalized(log_w)[far].sum()),
    )


def lost_draws(
    normals: Normals, batches: list[Batch], n_wanted: int
) -> tuple[Tensor, float]:
    """Return the heaviest draws that q has lost, and the evidence with them.

    None are returned as long as they have next to no share of the target.
    """
    u, log_p, log_q, log_w = _defensive(normals, batches)
    log_evidence = log_mean(log_w)
    far = (log_p - log_q - log_evidence > _MISSED).nonzero().squeeze(1)
    if float(normalized(log_w)[far].sum()) <= _SHARE:
        return u[:0], log_evidence
    heaviest = far[log_w[far].argsort(descending=True)[:n_wanted]]
    return u[heaviest], log_evidence


def _defensive(
    normals: Normals | Flowed,
    batches: list[Batch],
    own: Tensor | None = None,
    own_log_p: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return all draws, log p, log q and the weights under what they come from.

    Draws of q itself come first.
    """
    u = torch.cat([*([] if own is None else [own]), *(b.u for b in batches)])
    known = [] if own_log_p is None else [own_log_p]
    log_p = torch.cat([*known, *(b.log_p for b in batches)])
    phi = features(u)
    log_q = normals.log_prob(u, phi)
    logs = [] if own is None else [log_q + math.log(len(own) / len(u))]
    for batch in batches:
        log_share = math.log(len(batch) / len(u))
        logs.append(batch.proposal.log_prob(u, phi) + log_share)
    log_w = log_p - torch.logsumexp(torch.stack(logs), 0)
    return u, log_p, log_q, log_w


def _standard_error(log_w: Tensor) -> float:
    """Return that of the logarithm of the mean weight."""
    size = effective_size(log_w)
    if not size:
        return math.inf
    return math.sqrt(max(1.0 / size - 1.0 / len(log_w), 0.0))


def fresh_draws(
    target: Density,
    normals: Normals | Flowed,
    n_draws: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return independent draws of q and their log densities."""
    u, _ = normals.draw(min(n_draws, target.left), generator)
    return u, target.log_prob(u)
