"""The finish: natural gradients, and candidates judged on one shared sample."""

import math

import torch
from torch import Tensor

from .growth import divergence
from .normals import Normals, em_step, features
from .pool import Proposal, log_mean, normalized
from .target import Density

__all__ = ["TRUNCATION", "judged", "natural_gradient", "reweighted"]

_STEP = 0.2
_DECAY = 10.0
# Eigenvalues of a precision change by at most this factor in a step.
_TRUST = 1.5
_EM_STEPS = 10
# Draws with p < Z q exp(-10) are cut off before a reverse divergence is taken.
TRUNCATION = 10.0


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
    n_each = 2 * max(8, normals.n_features)
    n_draws = n_each * normals.n_components
    last = target.n_evals + min(max_evals, target.left)
    for step in range(n_steps):
        if target.n_evals + n_draws > last:
            break
        rho = _STEP / (1.0 + step / _DECAY)
        normals = _natural_step(target, normals, rho, n_each, generator)
    return normals


def _natural_step(
    target: Density,
    normals: Normals,
    rho: float,
    n_each: int,
    generator: torch.Generator,
) -> Normals:
    n_components, n_features = normals.means.shape
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
    log_weights = normals.log_weights - rho * (h * share).sum(1)
    return Normals(torch.log_softmax(log_weights, 0), means, roots)


def _log_prob_and_gradient(normals: Normals, u: Tensor) -> tuple[Tensor, Tensor]:
    joint = features(u) @ normals.coefficients()
    log_q = torch.logsumexp(joint, 1)
    resp = (joint - log_q.unsqueeze(1)).exp()
    precision = torch.cholesky_inverse(normals.roots)
    pull = (precision @ normals.means.unsqueeze(-1)).squeeze(-1)
    mixed = (resp @ precision.flatten(1)).reshape(-1, *precision.shape[1:])
    return log_q, resp @ pull - (mixed @ u.unsqueeze(-1)).squeeze(-1)


def reweighted(normals: Normals, phi: Tensor, weights: Tensor) -> Normals:
    """Return the components with the weights that EM finds for them."""
    joint = phi @ normals.coefficients() - normals.log_weights
    log_weights = normals.log_weights
    for _ in range(_EM_STEPS):
        resp = torch.softmax(joint + log_weights, 1)
        log_weights = (weights @ resp).clamp_min(1e-300).log()
    kept = (log_weights > math.log(1e-6)).nonzero().squeeze(1)
    return normals.with_weights(log_weights).choose(kept)


def judged(
    target: Density,
    candidates: list[Normals],
    n_draws: int,
    generator: torch.Generator,
) -> tuple[Normals, list[float]]:
    """Return the best candidate, and the scores of all (smaller is better).

    All are judged on the same draws, an equal share from each, with the mixture of
    all proposals in the denominators.
    """
    proposals = [Proposal(q, share=1.0 / 3.0) for q in candidates]
    n_each = min(n_draws, target.left) // len(candidates)
    u = torch.cat([q.draw(n_each, generator) for q in proposals])
    phi, log_p = features(u), target.log_prob(u)
    logs = torch.stack([q.log_prob(u, phi) for q in proposals])
    log_mix = torch.logsumexp(logs, 0) - math.log(len(candidates))
    log_w = log_p - log_mix
    if not bool(log_w.isfinite().any()):
        return candidates[0], [math.inf] * len(candidates)
    scores = [_score(log_p, q.log_prob(u, phi), log_w, log_mix) for q in candidates]
    return candidates[min(range(len(scores)), key=scores.__getitem__)], scores


def _score(log_p: Tensor, log_q: Tensor, log_w: Tensor, log_mix: Tensor) -> float:
    """Return both divergences minus a quarter of the logarithm of the efficiency."""
    log_evidence = log_mean(log_w)
    ratio = log_p - log_q - log_evidence
    forward = divergence(log_w, log_p - log_q)
    kept = ratio > -TRUNCATION
    share = normalized(log_q - log_mix)
    reverse = -float((share[kept] * ratio[kept]).sum() / share[kept].sum())
    # E_q[w^2] / Z^2 = E_p[p / q] / Z.
    log_inverse_efficiency = float(
        torch.logsumexp(torch.log_softmax(log_w, 0) + ratio, 0)
    )
    return forward + reverse + 0.25 * log_inverse_efficiency
