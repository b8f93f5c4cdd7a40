"""Hill climbing from many points at once, by BFGS."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .target import Density

__all__ = ["Summits", "climb", "negative_hessians"]

_ARMIJO = 1e-4
_LONGEST = 3.0
_SHORTEST = 1e-10
_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class Summits:
    """Where the climbers stopped.

    Parameters
    ----------
    u : Tensor of shape (n_starts, n_features)
        The points.
    log_p : Tensor of shape (n_starts,)
        Their log densities.
    gradient : Tensor of shape (n_starts, n_features)
        What is left of the slope.
    """

    u: Tensor
    log_p: Tensor
    gradient: Tensor


def climb(
    target: Density, start: Tensor, max_iter: int, max_evals: int, tol: float = 1e-7
) -> Summits:
    """Climb by BFGS with a backtracking search, all starts side by side.

    Parameters
    ----------
    target : Density
        Of which the summits are wanted.
    start : Tensor of shape (n_starts, n_features)
        Points.
    max_iter : int
        Evaluations of each climber.
    max_evals : int
        Evaluations of all together.
    tol : float, default=1e-7
        A climber whose next step promises less than this stops.
    """
    max_evals = min(max_evals, target.left)
    if len(start) > max_evals:
        start = start[:max_evals]
    x = start.clone()
    f, g = target.log_prob_and_gradient(x)
    left = max_evals - len(x)
    length = torch.ones_like(f)
    # The inverse of the curvature; the first step is at most 1 long.
    scale = 1.0 / g.norm(dim=1).clamp_min(1.0)
    curvature = scale[:, None, None] * torch.eye(x.shape[1], dtype=x.dtype)
    active = f.isfinite() & (g != 0).any(1)
    for _ in range(max_iter):
        rows = active.nonzero().squeeze(1)[:left]
        if not len(rows):
            break
        left -= len(rows)
        step, slope = _step(curvature[rows], g[rows])
        t = length[rows]
        moved = x[rows] + t.unsqueeze(1) * step
        f_new, g_new = target.log_prob_and_gradient(moved)
        better = f_new >= f[rows] + _ARMIJO * t * slope
        up = rows[better]
        curvature[up] = _updated(
            curvature[up], moved[better] - x[up], g[up] - g_new[better]
        )
        x[up], f[up], g[up] = moved[better], f_new[better], g_new[better]
        length[rows] = torch.where(better, 1.0, _shorter(t, slope, f_new - f[rows]))
        promise = g[rows].unsqueeze(1) @ curvature[rows] @ g[rows].unsqueeze(2)
        active[rows] = (promise.flatten() > tol) & (length[rows] > _SHORTEST)
    return Summits(x, f, g)


def _step(curvature: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Return the direction of every climber and the slope along it."""
    step = (curvature @ g.unsqueeze(-1)).squeeze(-1)
    step = step * (_LONGEST / step.norm(dim=1, keepdim=True)).clamp_max(1.0)
    return step, (step * g).sum(1)


def _shorter(t: Tensor, slope: Tensor, gain: Tensor) -> Tensor:
    """Return the length at which a parabola through what is known is highest."""
    top = 0.5 * slope * t.square() / (slope * t - gain)
    top = torch.where(gain.isfinite() & top.isfinite(), top, 0.2 * t)
    return torch.minimum(torch.maximum(top, 0.1 * t), 0.5 * t)


def _updated(curvature: Tensor, s: Tensor, y: Tensor) -> Tensor:
    """Return the BFGS update of inverse curvatures where the step has shown some."""
    sy = (s * y).sum(1)
    usable = sy > 1e-12 * s.norm(dim=1) * y.norm(dim=1)
    rho = torch.where(usable, 1.0 / sy.where(usable, torch.ones_like(sy)), 0.0)
    eye = torch.eye(s.shape[1], dtype=s.dtype)
    left = eye - rho[:, None, None] * s.unsqueeze(2) * y.unsqueeze(1)
    square = rho[:, None, None] * s.unsqueeze(2) * s.unsqueeze(1)
    return left @ curvature @ left.mT + square


def negative_hessians(target: Density, u: Tensor) -> Tensor:
    """Return those of log p at some points, by central differences of gradients."""
    n_points, n_features = u.shape
    offset = _DIFFERENCE * torch.eye(n_features, dtype=u.dtype)
    around = u[:, None, None] + torch.stack([offset, -offset])
    _, g = target.log_prob_and_gradient(around.reshape(-1, n_features))
    g = g.reshape(n_points, 2, n_features, n_features)
    hessian = (g[:, 1] - g[:, 0]) / (2.0 * _DIFFERENCE)
    return 0.5 * (hessian + hessian.mT)
