"""Fewer components: pairs are merged as long as the fit does not suffer."""

from collections.abc import Callable

import torch
from torch import Tensor

from .normals import Normals, em_step

__all__ = ["merge_cheapest", "reduced"]

_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)
_EM_STEPS = 3


def merge_cheapest(normals: Normals, n_wanted: int) -> Normals:
    r"""Merge pairs until so many components are left.

    The cost of a pair is an upper bound of the divergence that its merger brings [1]_,

    .. math:: \tfrac12 [(w_i + w_j) \log |C_{ij}| - w_i \log |C_i| - w_j \log |C_j|]

    The cheapest pairs that have no component in common are merged together.

    References
    ----------
    .. [1] A. R. Runnalls, "Kullback-Leibler approach to Gaussian mixture reduction",
       IEEE Transactions on Aerospace and Electronic Systems 43(3), 2007, eq. 21.
    """
    while normals.n_components > n_wanted:
        i, j = torch.triu_indices(normals.n_components, normals.n_components, 1)
        log_weights, means, roots = _merged(normals, i, j)
        weights = normals.log_weights.exp()
        each = weights * normals.log_determinants()
        log_det = 2.0 * roots.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        cost = log_weights.exp() * log_det - each[i] - each[j]
        free = [True] * normals.n_components
        chosen = []
        n_pairs = max(1, (normals.n_components - n_wanted + 1) // 2)
        n_pairs = min(n_pairs, normals.n_components - n_wanted)
        pairs = torch.stack([i, j], 1)[cost.argsort()].tolist()
        places = cost.argsort().tolist()
        for place, (a, b) in zip(places, pairs, strict=True):
            if free[a] and free[b]:
                free[a] = free[b] = False
                chosen.append(place)
                if len(chosen) == n_pairs:
                    break
        rest = torch.tensor(free).nonzero().squeeze(1)
        normals = Normals(
            torch.cat([normals.log_weights[rest], log_weights[chosen]]),
            torch.cat([normals.means[rest], means[chosen]]),
            torch.cat([normals.roots[rest], roots[chosen]]),
        )
    return normals


def _merged(normals: Normals, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pairs' common weights, means and factors."""
    logs = torch.stack([normals.log_weights[i], normals.log_weights[j]])
    log_weights = torch.logsumexp(logs, 0)
    share = (logs[0] - log_weights).exp()
    gap = normals.means[i] - normals.means[j]
    means = normals.means[j] + share.unsqueeze(1) * gap
    covariances = normals.covariances
    between = (share * (1.0 - share))[:, None, None] * gap[:, :, None] * gap[:, None]
    total = torch.lerp(covariances[j], covariances[i], share[:, None, None]) + between
    return log_weights, means, torch.linalg.cholesky(total)


def reduced(
    normals: Normals,
    phi: Tensor,
    weights: Tensor,
    penalty: Callable[[Normals], float],
    n_points: float,
) -> Normals:
    """Return the best of the mixture and its reductions.

    Best is the largest ``n_points`` times the weighted mean log density minus the
    penalty. Each size starts from the next larger one.
    """
    best, best_score, n_worse = normals, -float("inf"), 0
    for size in [normals.n_components, *sorted(_SIZES, reverse=True)]:
        if size > normals.n_components or n_worse == 3:
            continue
        normals = merge_cheapest(normals, size)
        for _ in range(_EM_STEPS):
            previous = normals
            normals, _, score = em_step(normals, phi, weights, n_points=n_points)
        value = n_points * score - penalty(previous)
        if value > best_score:
            best, best_score, n_worse = normals, value, 0
        else:
            n_worse += 1
    return best
