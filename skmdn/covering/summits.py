"""All modes of a density, found from many starts."""

import torch
from torch import Tensor

from .climb import climb, negative_hessians
from .normals import Normals
from .target import Density, Differences

__all__ = ["summits"]

_MAX_ITER = 200
_NEWTON = 8
# Two summits closer than this, in standard deviations of the first, are one.
_APART = 0.1
_FLAT = 1e-7


def summits(
    target: Density,
    normals: Normals,
    n_starts: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return the distinct maxima, the highest first, and their log densities.

    Parameters
    ----------
    target : Density
        Of which the maxima are wanted.
    normals : Normals
        An approximation: climbs begin at its draws and means.
    n_starts : int
        The number of draws.
    generator : torch.Generator
        For the draws.
    """
    if not target.differentiable:
        target = Differences(target)
    draws, _ = normals.draw(n_starts, generator)
    heaviest = normals.log_weights.argsort(descending=True)[:n_starts]
    starts = torch.cat([normals.means[heaviest], draws])
    found = climb(target, starts, _MAX_ITER, target.left, tol=1e-12)
    order = found.log_p.argsort(descending=True)
    u, log_p = found.u[order], found.log_p[order]
    u, log_p = u[log_p.isfinite()], log_p[log_p.isfinite()]
    kept = _distinct(u, torch.full_like(u, 1e-3))
    u, log_p, curvature = _polished(target, u[kept], log_p[kept])
    order = log_p.argsort(descending=True)
    u, log_p, curvature = u[order], log_p[order], curvature[order]
    values = torch.linalg.eigvalsh(curvature)
    # A saddle or a slope is no maximum; a flat direction may be one.
    top = values[:, 0] > -_FLAT * values[:, -1].abs().clamp_min(1.0)
    top[0] = True
    u, log_p, curvature = u[top], log_p[top], curvature[top]
    scale = curvature.diagonal(dim1=1, dim2=2).clamp_min(1.0).rsqrt()
    kept = _distinct(u, _APART * scale)
    return u[kept], log_p[kept]


def _distinct(u: Tensor, width: Tensor) -> list[int]:
    """Return places of points that are no nearer to an earlier one than its width."""
    kept: list[int] = []
    for i in range(len(u)):
        near = (u[kept] - u[i]).abs() <= width[kept]
        if not bool(near.all(1).any()):
            kept.append(i)
    return kept


def _polished(
    target: Density, u: Tensor, log_p: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Take Newton's steps where they lead uphill; return also the curvature."""
    curvature = negative_hessians(target, u)
    for _ in range(_NEWTON):
        _, slope = target.log_prob_and_gradient(u)
        root, failed = torch.linalg.cholesky_ex(curvature)
        step = torch.cholesky_solve(slope.unsqueeze(-1), root).squeeze(-1)
        step = step.masked_fill((failed > 0).unsqueeze(1) | ~step.isfinite(), 0.0)
        moved = u + step * (1.0 / step.norm(dim=1, keepdim=True)).clamp_max(1.0)
        reached = target.log_prob(moved)
        # Rounding must not stop the last step.
        better = reached >= log_p - 1e-12 * (1.0 + log_p.abs())
        u = torch.where(better.unsqueeze(1), moved, u)
        log_p = torch.where(better, reached, log_p)
        if float(step.abs().max()) < 1e-12:
            break
    return u, log_p, negative_hessians(target, u)
