"""Where one component too many stands in one place, and one too few in another."""

import itertools

import torch
from torch import Tensor

from .expectation import responsibilities
from .parameters import Parameters
from .rows import Rows

__all__ = ["exchanges"]

_TINY = 1e-300


def exchanges(parameters: Parameters, rows: Rows, n_proposals: int) -> list[Tensor]:
    """Return shares in which two components are one and another one is two [1]_.

    Parameters
    ----------
    parameters : Parameters
        One run, near an optimum.
    rows : Rows
        Data without missing numbers.
    n_proposals : int
        The most proposals.

    Returns
    -------
    shares : list of Tensor of shape (n_components, n_samples)
        The most promising first: merged are components that share their rows, split
        those whose rows are least like a normal sample.

    References
    ----------
    .. [1] N. Ueda, R. Nakano, Z. Ghahramani and G. E. Hinton, "SMEM algorithm for
       mixture models", Neural Computation 12(9), 2000.
    """
    share = responsibilities(parameters, rows)[0]
    if rows.weights is not None:
        share = share * rows.weights
    n_components = len(share)
    norms = torch.linalg.vector_norm(share, dim=1).clamp_min(_TINY)
    overlap = share @ share.T / (norms * norms.unsqueeze(-1))
    pairs = list(itertools.combinations(range(n_components), 2))
    pairs.sort(key=lambda pair: -float(overlap[pair]))
    misfit = _misfit(parameters, rows, share)
    splits = misfit.argsort(descending=True).tolist()
    ranked = sorted(
        (place + other, place, other)
        for place, other in itertools.product(
            range(min(len(pairs), n_proposals)), range(n_components)
        )
        if splits[other] not in pairs[place]
    )
    return [
        _exchanged(share, rows, *pairs[place], splits[other])
        for _, place, other in ranked[:n_proposals]
    ]


def _misfit(parameters: Parameters, rows: Rows, share: Tensor) -> Tensor:
    """Return how far the rows of each component are from its own law, in nats."""
    log_density = responsibilities(parameters, rows, "conditional")[0]
    of_rows = share / share.sum(-1, keepdim=True).clamp_min(_TINY)
    return (of_rows * (of_rows.clamp_min(_TINY).log() - log_density)).sum(-1)


def _exchanged(share: Tensor, rows: Rows, kept: int, free: int, split: int) -> Tensor:
    """Give the rows of ``free`` to ``kept``, and half of those of ``split`` to it."""
    shares = share.clone()
    shares[kept] += shares[free]
    part = share[split] / share[split].sum().clamp_min(_TINY)
    deviation = rows.columns - (rows.columns @ part).unsqueeze(-1)
    _, axes = torch.linalg.eigh((deviation * part) @ deviation.T)
    beyond = (axes[:, -1] @ deviation > 0).to(share.dtype)
    shares[free] = share[split] * beyond
    shares[split] = share[split] * (1.0 - beyond)
    if rows.weights is not None:
        shares /= rows.weights
    return shares
