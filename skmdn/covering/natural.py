"""Natural gradients of the reverse divergence, for all components at once."""

import torch
from torch import Tensor

from .normals import Normals, features
from .target import Density

__all__ = ["natural_cost", "natural_gradient"]

_STEP = 0.2
_DECAY = 10.0
_WEIGHT_STEP = 2.5
# Eigenvalues of a precision change by at most this factor in a step.
_TRUST = 1.5


def natural_cost(normals: Normals) -> int:
    """Return the evaluations of a step."""
    return 2 * max(8, normals.n_features) * normals.n_components


def natural_gradient(
    target: Density,
    normals: Normals,
    n_steps: int,
    max_evals: int,
    generator: torch.Generator,
) -> Normals:
    r"""Lower KL(q || p) by natural gradients of all components at once.

    With :math:`h = \log q - \log p` and draws :math:`u = \mu_k + L_k \epsilon` of
    component k [1]_,

    .. math::
        \Sigma_k^{-1} \mathrel{+}= \rho \, E_k[\nabla^2 h], \qquad
        \mu_k \mathrel{-}= \rho \, \Sigma_k E_k[\nabla h], \qquad
        \log w_k \mathrel{-}= \rho \, E_k[h]

    and :math:`L_k^\top E_k[\nabla^2 h] L_k = E_k[\epsilon (L_k^\top \nabla h)^\top]`.
    Draws where p = 0 are left out.

    References
    ----------
    .. [1] W. Lin, M. E. Khan, M. Schmidt, "Fast and simple natural-gradient
       variational inference with mixture of exponential-family approximations",
       International Conference on Machine Learning, 2019.
    """
    n_draws = natural_cost(normals)
    last = target.n_evals + min(max_evals, target.left)
    for step in range(n_steps):
        if target.n_evals + n_draws > last:
            break
        rho = _STEP / (1.0 + step / _DECAY)
        normals = _natural_step(target, normals, rho, generator)
    return normals


def _natural_step(
    target: Density,
    normals: Normals,
    rho: float,
    generator: torch.Generator,
) -> Normals:
    n_components, n_features = normals.means.shape
    n_each = natural_cost(normals) // n_components
    half = normals.means.new_empty((n_components, n_each // 2, n_features))
    half.normal_(generator=generator)
    noise = torch.cat([half, -half], 1)
    u = normals.means.unsqueeze(1) + noise @ normals.roots.mT
    flat = u.reshape(-1, n_features)
    log_p, slope_p = target.log_prob_and_gradient(flat)
    log_q, slope_q = _log_prob_and_gradient(normals, flat)
    usable = log_p.isfinite()
    share = usable.reshape(n_components, n_each).double()
    share = share / share.sum(1, keepdim=True).clamp_min(1.0)
    h = (log_q - log_p).masked_fill(~usable, 0.0).reshape(share.shape)
    slope = (slope_q - slope_p).reshape(u.shape) @ normals.roots
    slope = slope * share.unsqueeze(-1)
    curvature = noise.mT @ slope
    values, vectors = torch.linalg.eigh(0.5 * rho * (curvature + curvature.mT))
    values = (1.0 + values).clamp(1.0 / _TRUST, _TRUST)
    pull = (vectors.mT @ slope.sum(1).unsqueeze(-1)).squeeze(-1) / values
    step = -rho * pull
    step = step * (1.0 / step.norm(dim=1, keepdim=True)).clamp_max(1.0)
    means = normals.means + (normals.roots @ vectors @ step.unsqueeze(-1)).squeeze(-1)
    half_root = (normals.roots @ vectors) * values.rsqrt().unsqueeze(1)
    roots, failed = torch.linalg.cholesky_ex(half_root @ half_root.mT)
    roots = torch.where((failed > 0)[:, None, None], normals.roots, roots)
    # The weights may move faster: their part of the problem is better conditioned.
    log_weights = normals.log_weights - _WEIGHT_STEP * rho * (h * share).sum(1)
    return Normals(torch.log_softmax(log_weights, 0), means, roots)


def _log_prob_and_gradient(normals: Normals, u: Tensor) -> tuple[Tensor, Tensor]:
    joint = features(u) @ normals.coefficients()
    log_q = torch.logsumexp(joint, 1)
    resp = (joint - log_q.unsqueeze(1)).exp()
    precision = torch.cholesky_inverse(normals.roots)
    pull = (precision @ normals.means.unsqueeze(-1)).squeeze(-1)
    mixed = (resp @ precision.flatten(1)).reshape(-1, *precision.shape[1:])
    return log_q, resp @ pull - (mixed @ u.unsqueeze(-1)).squeeze(-1)
