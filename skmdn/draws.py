"""Draws from mixtures: the choice of components, and normal draws from it."""

import math

import torch
from torch import Tensor

__all__ = ["choose_components", "normal_draws"]

# Numbers at work at a time: few enough for the processor's cache.
_BLOCK = 2**17
# Buckets per component, of which at most one in so many holds an edge.
_BUCKETS = 16
_SQRT_2 = math.sqrt(2.0)
# The largest double below 1 keeps normal numbers finite: they end at 8.2.
_LARGEST = 1.0 - 2.0**-53


def choose_components(
    weights: Tensor, n_draws: int, generator: torch.Generator | None
) -> Tensor:
    """Draw component indices, ``(n_rows, n_draws)``, by inverting the cdf.

    Parameters
    ----------
    weights : Tensor of shape (n_rows, n_components)
        Rows sum to about 1.
    n_draws : int
        Number of draws per row.
    generator : torch.Generator or None
        Where one uniform number per draw comes from.
    """
    uniform = weights.new_empty((len(weights), n_draws)).uniform_(generator=generator)
    return _search(_edges(weights), uniform, _Work.like(uniform))


def normal_draws(
    weights: Tensor,
    means: Tensor,
    stds: Tensor,
    n_draws: int,
    generator: torch.Generator | None,
) -> Tensor:
    r"""Draw from one-dimensional Gaussian mixtures with one uniform number each.

    .. math:: y = \mu_k + \sigma_k \Phi^{-1}\Bigl(\frac{u - c_{k-1}}{w_k}\Bigr),
        \qquad c_{k-1} \le u < c_k

    with the cumulated weights c: where u lies inside the share of its component is
    uniform again. The spacing of u, 2^-53, is the one limit of these draws: no
    event of a smaller probability happens.

    Parameters
    ----------
    weights, means, stds : Tensor of shape (n_rows, n_components)
        In double precision, in which u has its 53 bits.
    n_draws : int
        Number of draws per row.
    generator : torch.Generator or None
        Gives uniform numbers row by row, however many rows are worked at a time.

    Returns
    -------
    draws : Tensor of shape (n_rows, n_draws)
    """
    n_rows, n_components = weights.shape
    draws = means.new_empty((n_rows, n_draws))
    step = max(1, _BLOCK // max(1, n_draws))
    work = _Work.like(draws[:step])
    for first in range(0, n_rows, step):
        rows = slice(first, first + step)
        uniform, weight = draws[rows].uniform_(generator=generator), weights[rows]
        edges = _edges(weight)
        chosen = _search(edges, uniform, work).add_(_starts(weight, n_components))
        lower = torch.cat([torch.zeros_like(edges[:, :1]), edges[:, :-1]], -1)
        noise = uniform.sub_(work.pick(lower, chosen))
        noise.mul_(work.pick(2.0 / weight, chosen)).sub_(1.0)
        noise.clamp_(-_LARGEST, _LARGEST).erfinv_()
        noise.mul_(work.pick(_SQRT_2 * stds[rows], chosen))
        noise.add_(work.pick(means[rows], chosen))
    return draws


class _Work:
    """Memory that is used again: fresh pages cost more than the arithmetic.

    Parameters
    ----------
    numbers : Tensor
        One number per draw.
    index, chosen : Tensor
        One integer per draw.
    """

    def __init__(self, numbers: Tensor, index: Tensor, chosen: Tensor) -> None:
        self.numbers, self.index, self.chosen = numbers, index, chosen

    @classmethod
    def like(cls, uniform: Tensor) -> "_Work":
        """Make room for as many draws."""
        integer = torch.int64
        return cls(
            torch.empty_like(uniform),
            torch.empty_like(uniform, dtype=integer),
            torch.empty_like(uniform, dtype=integer),
        )

    def pick(self, table: Tensor, index: Tensor) -> Tensor:
        """Look draws up in a table."""
        out = self.numbers[: len(index)]
        torch.index_select(table.reshape(-1), 0, index.view(-1), out=out.view(-1))
        return out


def _starts(rows: Tensor, length: int) -> Tensor:
    """Return where each row begins in a flat table of rows of some length."""
    return length * torch.arange(len(rows), device=rows.device).unsqueeze(-1)


def _edges(weights: Tensor) -> Tensor:
    """Return the cumulated weights; infinite where nothing is left to choose."""
    edges = weights.cumsum(-1)
    edges = edges / edges[:, -1:]
    # From the last component that has weight on, rounding must find nothing.
    return edges.masked_fill(edges >= edges[:, -1:], math.inf)


def _search(edges: Tensor, uniform: Tensor, work: _Work) -> Tensor:
    """Return how many edges of a row are not above each uniform number.

    Many draws look the answer up in a table of buckets, which the processor does
    without guessing branches; those in a bucket with an edge are counted.
    """
    chosen = work.chosen[: len(uniform)]
    n_buckets = 2 ** math.ceil(math.log2(_BUCKETS * edges.shape[-1]))
    if uniform.shape[-1] < n_buckets:
        return torch.searchsorted(edges, uniform, right=True, out=chosen)
    table = _bucket_table(edges, n_buckets)
    scaled = torch.mul(uniform, n_buckets, out=work.numbers[: len(uniform)])
    bucket = work.index[: len(uniform)].copy_(scaled)
    bucket.add_(_starts(edges, n_buckets))
    torch.index_select(table, 0, bucket.view(-1), out=chosen.view(-1))
    row, column = (chosen < 0).nonzero().unbind(-1)
    point = uniform[row, column].unsqueeze(-1)
    chosen[row, column] = (edges.index_select(0, row) <= point).sum(-1)
    return chosen


def _bucket_table(edges: Tensor, n_buckets: int) -> Tensor:
    """Return the answer for each bucket, row after row; -1 if it has an edge inside."""
    scaled = (edges * n_buckets).clamp_(max=n_buckets)
    above = scaled.ceil()
    n_each = above.diff(dim=-1, prepend=torch.zeros_like(above[:, :1])).long()
    component = torch.arange(edges.shape[-1], device=edges.device)
    table = component.repeat(len(edges)).repeat_interleave(
        n_each.view(-1), output_size=len(edges) * n_buckets
    )
    inside = (scaled.floor().long() + _starts(edges, n_buckets))[above > scaled]
    return table.index_fill_(0, inside, -1)
