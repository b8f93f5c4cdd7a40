"""Draws: the choice of components, normal draws from it, gamma variables."""

import math

import torch
from torch import Tensor

__all__ = ["choose_components", "log_gamma_draws", "normal_draws"]

# Numbers at work at a time: few enough for the processor's cache.
_BLOCK = 2**18
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
    places = _search(_edges(weights), uniform, _Work(uniform))
    return places.sub_(_starts(weights, weights.shape[-1]))


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
    n_rows = len(weights)
    draws = means.new_empty((n_rows, n_draws))
    step = max(1, _BLOCK // max(1, n_draws))
    work = _Work(draws[:step])
    for first in range(0, n_rows, step):
        rows = slice(first, first + step)
        uniform, weight = draws[rows].uniform_(generator=generator), weights[rows]
        edges = _edges(weight)
        chosen = _search(edges, uniform, work)
        lower = torch.cat([torch.zeros_like(edges[:, :1]), edges[:, :-1]], -1)
        slope = 2.0 / weight
        noise = work.line(-lower * slope - 1.0, slope, chosen, uniform)
        noise.clamp_(-_LARGEST, _LARGEST).erfinv_()
        work.line(means[rows], _SQRT_2 * stds[rows], chosen, noise)
    return draws


class _Work:
    """Memory that is used again: fresh pages cost more than the arithmetic.

    Parameters
    ----------
    uniform : Tensor
        As many draws as there is to be room for.
    """

    def __init__(self, uniform: Tensor) -> None:
        self.numbers, self.others = (torch.empty_like(uniform) for _ in range(2))
        self.index = torch.empty_like(uniform, dtype=torch.int64)
        self.chosen = torch.empty_like(self.index)

    def line(
        self, constant: Tensor, slope: Tensor, index: Tensor, draws: Tensor
    ) -> Tensor:
        """Take draws to the line of their component, in place; return them."""
        a, b = self.numbers[: len(index)], self.others[: len(index)]
        for table, out in ((constant, a), (slope, b)):
            torch.index_select(table.reshape(-1), 0, index.view(-1), out=out.view(-1))
        return torch.addcmul(a, b, draws, out=draws)


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
    """Return the place of the first edge above each number, in rows end to end.

    Many draws look the answer up in a table of buckets, which the processor does
    without guessing branches; those in a bucket with edges climb over these.
    """
    chosen = work.chosen[: len(uniform)]
    n_buckets = 2 ** math.ceil(math.log2(_BUCKETS * edges.shape[-1]))
    if uniform.shape[-1] < n_buckets:
        torch.searchsorted(edges, uniform, right=True, out=chosen)
        return chosen.add_(_starts(edges, edges.shape[-1]))
    table = _bucket_table(edges, n_buckets)
    scaled = torch.mul(uniform, n_buckets, out=work.numbers[: len(uniform)])
    bucket = work.index[: len(uniform)].copy_(scaled)
    bucket.add_(_starts(edges, n_buckets))
    flat = torch.index_select(table, 0, bucket.view(-1), out=chosen.view(-1))
    unsure = (flat < 0).nonzero().view(-1)
    flat[unsure] = _climb(edges.reshape(-1), ~flat[unsure], uniform.reshape(-1)[unsure])
    return chosen


def _climb(edges: Tensor, place: Tensor, point: Tensor) -> Tensor:
    """Return the first place from here on whose edge is above the point.

    The last edge of a row is infinite.
    """
    while True:
        below = edges[place] <= point
        if not bool(below.any()):
            return place
        place = place + below


def _bucket_table(edges: Tensor, n_buckets: int) -> Tensor:
    """Return the place for each bucket, row after row.

    If a bucket has edges inside, it is the place for its lower end as a negative
    number, ``~place``.
    """
    scaled = (edges * n_buckets).clamp_(max=n_buckets)
    above = scaled.ceil()
    n_each = above.diff(dim=-1, prepend=torch.zeros_like(above[:, :1])).long()
    places = torch.arange(edges.numel(), device=edges.device)
    table = places.repeat_interleave(
        n_each.view(-1), output_size=len(edges) * n_buckets
    )
    inside = (scaled.floor().long() + _starts(edges, n_buckets))[above > scaled]
    table[inside] = ~table[inside]
    return table


def log_gamma_draws(shape: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return the logarithms of gamma variables, which may be too small themselves.

    Parameters
    ----------
    shape : Tensor
        The shape parameter of each.
    generator : torch.Generator or None
        The source of the draws.
    """
    log_power = torch.empty_like(shape).exponential_(generator=generator) / shape
    return torch._standard_gamma(shape + 1.0, generator).log() - log_power
