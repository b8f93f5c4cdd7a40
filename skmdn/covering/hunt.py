"""The mode hunt: climbs from draws that stand out, and what they have found."""

import math

import torch
from torch import Tensor

from .climb import Summits, climb, negative_hessians
from .normals import Normals
from .target import Density, Differences

__all__ = ["hunt", "local_maxima"]

_MAX_ITER = 40
_CANDIDATES = 1_000
_ROWS = 500
# A summit counts if p exceeds Z q there by this factor ...
_EXCESS = math.log(3.0)
# ... and a normal around it has this share of the evidence.
_MASS = math.log(1e-3)
_MAX_SUMMITS = 40


def local_maxima(
    u: Tensor, log_p: Tensor, log_density: Tensor, n_starts: int
) -> Tensor:
    """Return the points that are higher than all their neighbours.

    First come those whose next higher point is farthest away for how dense the draws
    are there: a mode that many draws have seen has maxima of noise as well, which are
    higher than the draws near a narrow one.

    Parameters
    ----------
    u : Tensor of shape (n_points, n_features)
        Draws.
    log_p : Tensor of shape (n_points,)
        How high they are.
    log_density : Tensor of shape (n_points,)
        That of what they are drawn from.
    n_starts : int
        How many are returned at most.
    """
    n_neighbours = min(max(5, u.shape[1] + 3), len(u) - 1)
    order = log_p.argsort(descending=True)[: int(log_p.isfinite().sum())]
    gaps = _gaps_to_higher(u[order].float()) * (log_density[order] / u.shape[1]).exp()
    likely = order[gaps.topk(min(_CANDIDATES, len(order))).indices]
    found = []
    for rows in likely.split(250):
        near = torch.cdist(u[rows], u).topk(n_neighbours + 1, largest=False).indices
        found.append(rows[log_p[rows] >= log_p[near].amax(1)])
    maxima = torch.cat(found)
    return u[maxima[:n_starts]]


def _gaps_to_higher(u: Tensor) -> Tensor:
    """Return each point's squared distance to the nearest of those before it."""
    norms = u.square().sum(1)
    gaps = torch.full_like(norms, torch.inf)
    for first in range(0, len(u), _ROWS):
        rows = slice(first, first + _ROWS)
        before = slice(0, first + _ROWS)
        square = torch.addmm(norms[before], u[rows], u[before].mT, alpha=-2.0)
        # The block's own points count only where they come earlier.
        square[:, first:].masked_fill_(
            torch.ones_like(square[:, first:], dtype=torch.bool).triu_(), torch.inf
        )
        gaps[rows] = square.amin(1) + norms[rows]
    return gaps.clamp_min(0.0).sqrt()


def hunt(
    target: Density,
    starts: Tensor,
    normals: Normals,
    log_evidence: float,
    max_evals: int,
) -> Normals:
    """Return the mixture with a component on every summit that it has missed.

    Parameters
    ----------
    target : Density
        Without gradients differences are taken.
    starts : Tensor of shape (n_starts, n_features)
        Where climbs begin.
    normals : Normals
        The mixture so far.
    log_evidence : float
        Its estimate of log Z.
    max_evals : int
        What may be spent.
    """
    if not len(starts):
        return normals
    if not target.differentiable:
        max_evals //= 2 * target.n_features + 1
        target = Differences(target)
    kept = target.left - min(max_evals, target.left)
    summits = climb(target, starts, _MAX_ITER, target.left - kept)
    u, log_p = _missed(summits, normals, log_evidence)
    affordable = (target.left - kept) // (2 * target.n_features)
    u, log_p = u[:affordable], log_p[:affordable]
    if not len(u):
        return normals
    values, vectors = torch.linalg.eigh(negative_hessians(target, u))
    # The prior has curvature 1 here: the target has not much less.
    values = values.abs().clamp_min(1.0)
    log_det = values.log().sum(1)
    log_mass = log_p + 0.5 * (u.shape[1] * math.log(2.0 * math.pi) - log_det)
    log_mass = log_mass - log_evidence
    roots = torch.linalg.cholesky((vectors / values.unsqueeze(1)) @ vectors.mT)
    for i in (log_mass > _MASS).nonzero().flatten().tolist():
        if _excess(normals, u[i], log_p[i], log_evidence):
            mass = math.exp(min(float(log_mass[i]), 0.0))
            zero = torch.zeros(1, dtype=u.dtype)
            summit = Normals(zero, u[i : i + 1], roots[i : i + 1])
            normals = normals.joined(summit, mass / (1.0 + mass))
    return normals


def _excess(normals: Normals, u: Tensor, log_p: Tensor, log_evidence: float) -> bool:
    """Tell whether the mixture still falls short, now with other summits."""
    log_q = normals.log_prob(u.unsqueeze(0))
    return bool(log_p - log_evidence - log_q > _EXCESS)


def _missed(
    summits: Summits, normals: Normals, log_evidence: float
) -> tuple[Tensor, Tensor]:
    """Return distinct summits, the highest first, where the mixture falls short."""
    order = summits.log_p.argsort(descending=True)
    u, log_p = summits.u[order], summits.log_p[order]
    excess = log_p - log_evidence - normals.log_prob(u)
    rows = ((excess > _EXCESS) & log_p.isfinite()).nonzero().squeeze(1)
    kept: list[int] = []
    for i in rows.tolist():
        gaps = (u[kept] - u[i]).norm(dim=1) if kept else torch.ones(1)
        if bool((gaps > 1e-3).all()):
            kept.append(i)
    return u[kept[:_MAX_SUMMITS]], log_p[kept[:_MAX_SUMMITS]]
