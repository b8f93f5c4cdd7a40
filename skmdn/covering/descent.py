"""Stochastic descent on an objective, for the parameters of a mixture of normals."""

import math

import torch
from torch import Tensor

from .normals import Normals
from .objectives import Objective
from .target import Density

__all__ = ["Parameters", "descend", "loss_of"]

_LOG_2PI = math.log(2.0 * math.pi)
_BETAS = (0.9, 0.99)
# The share of the steps, at the end, whose parameters are averaged.
_AVERAGED = 0.25


class Parameters:
    r"""A mixture of normals as free numbers, relative to where it starts.

    .. math:: \mu_k = \mu_k^0 + L_k^0 \delta_k, \qquad L_k = L_k^0 T_k

    with a triangular matrix T whose diagonal is :math:`e^{\tau}`. All numbers are 0 at
    the start, and a step of a size means the same for all of them.

    Parameters
    ----------
    start : Normals
        The mixture at 0.
    diagonal : bool, default=False
        Whether the covariances stay diagonal.
    """

    def __init__(self, start: Normals, diagonal: bool = False) -> None:
        self.start = start
        self.diagonal = diagonal
        n_components, n_features = start.means.shape
        n_lower = 0 if diagonal else n_features * (n_features - 1) // 2
        size = n_components * (1 + 2 * n_features + n_lower)
        self.values = torch.zeros(size, dtype=start.means.dtype, requires_grad=True)

    def normals(self, values: Tensor) -> Normals:
        """Return the mixture at some values."""
        n_components, n_features = self.start.means.shape
        table = values.reshape(n_components, -1)
        shift, log_scale = table[:, 1 : 1 + n_features], table[:, 1 + n_features :]
        triangle = torch.diag_embed(log_scale[:, :n_features].exp())
        if not self.diagonal:
            i, j = torch.tril_indices(n_features, n_features, -1)
            triangle = triangle.index_put(
                (torch.arange(n_components)[:, None], i, j), log_scale[:, n_features:]
            )
        roots = self.start.roots
        means = self.start.means + (roots @ shift.unsqueeze(-1)).squeeze(-1)
        log_weights = torch.log_softmax(self.start.log_weights + table[:, 0], 0)
        return Normals(log_weights, means, roots @ triangle)


def _log_prob(normals: Normals, u: Tensor) -> Tensor:
    """Return the log density of points ``(..., n_features)``, differentiably."""
    flat = u.reshape(-1, u.shape[-1])
    gaps = (flat - normals.means.unsqueeze(1)).mT
    z = torch.linalg.solve_triangular(normals.roots, gaps, upper=False)
    log_det = normals.roots.diagonal(dim1=1, dim2=2).log().sum(1)
    at_mean = normals.log_weights - log_det - 0.5 * u.shape[-1] * _LOG_2PI
    joint = at_mean.unsqueeze(1) - 0.5 * z.square().sum(1)
    return torch.logsumexp(joint, 0).reshape(u.shape[:-1])


def _held(normals: Normals) -> Normals:
    return Normals(
        normals.log_weights.detach(), normals.means.detach(), normals.roots.detach()
    )


def loss_of(
    target: Density, objective: Objective, normals: Normals, noise: Tensor
) -> Tensor:
    """Return the loss of draws made of noise (n_draws, n_components, n_features)."""
    u = normals.means + (normals.roots @ noise.unsqueeze(-1)).squeeze(-1)
    flat = u.detach().reshape(-1, u.shape[-1])
    if not objective.needs_gradient:
        log_p = target.log_prob(flat).reshape(u.shape[:-1])
        u, shares = u.detach(), normals.log_weights.detach()
        return objective.loss(log_p, _log_prob(normals, u), shares)
    value, slope = target.log_prob_and_gradient(flat)
    # The same value, and the gradient with respect to u.
    moved = (u - u.detach()) * slope.reshape(u.shape)
    log_p = value.reshape(u.shape[:-1]) + moved.sum(-1)
    density = _held(normals) if objective.holds_density else normals
    return objective.loss(log_p, _log_prob(density, u), normals.log_weights)


def descend(
    target: Density,
    objective: Objective,
    parameters: Parameters,
    *,
    n_particles: int,
    max_iter: int,
    learning_rate: float,
    clip_norm: float,
    generator: torch.Generator,
) -> tuple[Normals, list[float]]:
    """Minimise by Adam with a rate that falls to 0; the last iterates are averaged.

    Parameters
    ----------
    target : Density
        What is approximated.
    objective : Objective
        The loss.
    parameters : Parameters
        Where it starts.
    n_particles : int
        Draws in a step, of all components together.
    max_iter : int
        Steps.
    learning_rate : float
        The largest step of a number, in standard deviations.
    clip_norm : float
        Longer gradients are shortened to this.
    generator : torch.Generator
        For the draws.

    Returns
    -------
    normals : Normals
        The mixture.
    losses : list of float
        One for every step; NaN for a step that was left out.
    """
    n_components, n_features = parameters.start.means.shape
    n_each = max(1, n_particles // n_components)
    if objective.method == "IW":
        n_groups = max(1, n_each // objective.n_importance)
        n_each = n_groups * objective.n_importance
    values, losses = parameters.values, []
    first, second = torch.zeros_like(values), torch.zeros_like(values)
    average, n_averaged = torch.zeros_like(values), 0
    max_iter = min(max_iter, target.left // (n_each * n_components))
    for step in range(max_iter):
        noise = values.new_empty((n_each, n_components, n_features))
        noise.normal_(generator=generator)
        loss = loss_of(target, objective, parameters.normals(values), noise)
        (gradient,) = torch.autograd.grad(loss, values)
        # A step that is not finite is not taken.
        if bool(loss.isfinite() & gradient.isfinite().all()):
            losses.append(float(loss.detach()))
            norm = float(gradient.norm())
            gradient = gradient * min(1.0, clip_norm / max(norm, 1e-300))
            first.lerp_(gradient, 1.0 - _BETAS[0])
            second.lerp_(gradient.square(), 1.0 - _BETAS[1])
            rate = 0.5 * learning_rate * (1.0 + math.cos(math.pi * step / max_iter))
            unbiased = first / (1.0 - _BETAS[0] ** len(losses))
            scale = (second / (1.0 - _BETAS[1] ** len(losses))).sqrt() + 1e-8
            values = (values - rate * unbiased / scale).detach().requires_grad_()
        else:
            losses.append(math.nan)
        if step >= (1.0 - _AVERAGED) * max_iter:
            average, n_averaged = average + values.detach(), n_averaged + 1
    with torch.no_grad():
        return parameters.normals(average / max(n_averaged, 1)), losses
