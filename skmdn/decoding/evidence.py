r"""The density of a row: its code integrated out.

Around the most probable code z the joint density is nearly normal:

.. math:: \log p(x) \approx \log p(x \mid z) + \log p(z) + \tfrac{d}{2} \log 2 \pi
    - \tfrac12 \log \det H

with the Hessian H of minus its logarithm. Draws from that normal law, weighted by the
ratio, correct what is not normal.
"""

import math

import torch
from torch import Tensor

from .codes import Placed, row_chunks
from .objective import Joint
from .table import Table

__all__ = ["hessian_factor", "importance_evidence", "laplace_evidence", "log_volume"]

_LOG_2PI = math.log(2.0 * math.pi)
# Proposals are wider than the normal law by this factor, so that weights are bounded
# where its tails are too light.
_WIDER = 1.2


def hessian_factor(
    joint: Joint, codes: Tensor, table: Table, labels: Tensor | None
) -> Tensor:
    """Return the Cholesky factor of each row's Hessian, or of its bound."""
    local = joint.local(codes, table, labels)
    root, info = torch.linalg.cholesky_ex(local.hessian)
    other, _ = torch.linalg.cholesky_ex(local.bound)
    return torch.where((info == 0)[:, None, None], root, other)


def log_volume(
    joint: Joint, codes: Tensor, table: Table, labels: Tensor | None
) -> Tensor:
    r"""Return :math:`\tfrac{d}{2} \log 2 \pi - \tfrac12 \log \det H` for every row."""
    n_latent = codes.shape[1]
    result = codes.new_empty(len(codes))
    for rows in row_chunks(joint, len(codes), n_latent):
        known = None if labels is None else labels[rows]
        root = hessian_factor(joint, codes[rows], table.of(rows), known)
        log_det = 2.0 * root.diagonal(dim1=1, dim2=2).log().sum(1)
        result[rows] = 0.5 * (n_latent * _LOG_2PI - log_det)
    return result


def laplace_evidence(
    joint: Joint, placed: Placed, table: Table, labels: Tensor | None
) -> Tensor:
    """Return the log density of every row by Laplace's method.

    Parameters
    ----------
    joint : Joint
        The model.
    placed : Placed
        The most probable codes.
    table : Table
        The rows.
    labels : Tensor of shape (n_rows, n_blocks) or None
        Their classes.
    """
    volume = log_volume(joint, placed.codes, table, labels)
    return volume - placed.values + joint.blocks.constant(table)


def importance_evidence(
    joint: Joint,
    placed: Placed,
    table: Table,
    labels: Tensor | None,
    n_draws: int,
    generator: torch.Generator,
) -> Tensor:
    """Return the log density of every row by importance sampling.

    All rows share the same standard normal draws, so that each is independent of the
    others.

    Parameters
    ----------
    joint, placed, table, labels
        As in :func:`laplace_evidence`.
    n_draws : int
        Draws for each row.
    generator : torch.Generator
        Their source.
    """
    n_rows, n_latent = placed.codes.shape
    noise = torch.empty(n_draws, n_latent, dtype=torch.float64, device=generator.device)
    noise.normal_(generator=generator)
    log_weights = noise.new_empty(n_rows, n_draws)
    for rows in row_chunks(joint, n_rows, n_latent):
        known = None if labels is None else labels[rows]
        part, code = table.of(rows), placed.codes[rows]
        root = hessian_factor(joint, code, part, known)
        log_det = root.diagonal(dim1=1, dim2=2).log().sum(1)
        step = torch.linalg.solve_triangular(
            root.mT, noise.T.expand(len(rows), -1, -1), upper=True
        )
        for place, eps in enumerate(noise):
            drawn = code + _WIDER * step[:, :, place]
            log_q = log_det - 0.5 * (eps.square().sum() + n_latent * _LOG_2PI)
            value = joint.value(drawn, part, known)
            log_weights[rows, place] = -value - log_q + n_latent * math.log(_WIDER)
    total = torch.logsumexp(log_weights, 1) - math.log(n_draws)
    return total + joint.blocks.constant(table)
