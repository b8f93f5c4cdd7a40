r"""Expected rows: the average over all codes that were found, each with its mass.

.. math:: \mathrm{E}[x \mid x_o] \approx \sum_m w_m \, \mathrm{E}[x \mid z_m], \qquad
    w_m \propto p(x_o, z_m) \, |H_m|^{-1/2}

The most probable code alone would be too sure where much is missing.
"""

import torch
from torch import Tensor

from .codes import Search, best_of, descend
from .evidence import log_volume
from .objective import Joint
from .table import Table

__all__ = ["expected_rows"]

# Codes closer than this in every feature are the same.
_SAME = 1e-4


def expected_rows(
    joint: Joint, starts: Tensor, table: Table, labels: Tensor | None, search: Search
) -> Tensor:
    """Return the expected values of rows given what is there of them.

    Parameters
    ----------
    joint : Joint
        The model.
    starts : Tensor of shape (n_rows, n_starts, n_latent)
        Where a search may begin.
    table : Table
        The rows.
    labels : Tensor of shape (n_rows, n_blocks) or None
        Their classes.
    search : Search
        How many of the best are followed, and when to stop.

    Returns
    -------
    rows : Tensor of shape (n_rows, n_features)
    """
    starts = best_of(joint, starts, table, labels, search.n_starts)
    n_rows, n_starts, n_latent = starts.shape
    rows = torch.arange(n_rows, device=starts.device).repeat_interleave(n_starts)
    many = table.of(rows)
    known = None if labels is None else labels[rows]
    placed = descend(joint, starts.flatten(0, 1), many, known, search)
    mass = log_volume(joint, placed.codes, many, known) - placed.values
    mass = mass.view(n_rows, n_starts)
    codes = placed.codes.view(n_rows, n_starts, n_latent)
    apart = (codes.unsqueeze(2) - codes.unsqueeze(1)).abs().amax(-1)
    earlier = torch.ones_like(apart[0]).tril(-1).bool()
    mass = mass.masked_fill(((apart < _SAME) & earlier).any(2), -torch.inf)
    share = torch.softmax(mass.nan_to_num(nan=-torch.inf), 1)
    with torch.no_grad():
        decoded = joint.blocks.mean(joint.network(placed.codes), many.log_sizes())
    mean = (share.unsqueeze(1) @ decoded.view(n_rows, n_starts, -1)).squeeze(1)
    return joint.blocks.values(mean)
