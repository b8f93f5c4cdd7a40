"""The highest mode of a mixture of Gaussians, for a whole batch at once."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["highest_mode"]

_FIRST_ASCENT = 20
_MAX_ASCENT = 200
_MAX_NEWTON = 100
# Two heights this close are one: rounding must not stop Newton's steps.
_LEVEL = 1e-13


def highest_mode(mixture: Any) -> Tensor:
    r"""Return the point of highest density of every mixture of a batch.

    From the components' means (and, with several outputs, from the likeliest
    of the points where two components pull equally: modes can lie far from
    every mean) the fixed point

    .. math::
        y \leftarrow \Bigl(\sum_k r_k(y) \Lambda_k\Bigr)^{-1}
        \sum_k r_k(y) \Lambda_k \mu_k

    climbs without ever losing density [1]_. After a few steps
    the highest of the climbers goes on alone, and Newton's steps finish where
    the top is flat.

    Parameters
    ----------
    mixture : Mixture
        Any batch shape.

    Returns
    -------
    mode : Tensor of shape (..., n_outputs)
        Where the density is largest.

    References
    ----------
    .. [1] M. A. Carreira-Perpinan, "Mode-finding for mixtures of Gaussian
       distributions", IEEE Transactions on Pattern Analysis and Machine
       Intelligence 22(11), 2000.
    """
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
