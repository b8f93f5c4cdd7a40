"""Quadrature over many rows at once, on panels that are halved where it is needed."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .basic import gauss_legendre, nodes_between

__all__ = ["Grid", "N_NODES", "halved", "last_terms"]

# Nodes in each panel.
N_NODES = 12
# Panels are halved until the last terms of an expansion there are this share of the
# integral, of which the error is then far less; but not for ever.
_TOLERANCE, _MAX_HALVINGS = 1e-8, 100
_MOST_TOGETHER = 2**12


class Grid(NamedTuple):
    """Panels ``(n_rows, n_panels)``, their nodes, and a function there.

    The weights of panels that others have replaced are 0.
    """

    low: Tensor
    high: Tensor
    points: Tensor
    weights: Tensor
    values: Tensor


def last_terms(values: Tensor) -> Tensor:
    """Return how far a function is from a polynomial, one number per panel.

    Parameters
    ----------
    values : Tensor of shape (..., n_nodes)
        The function at the nodes of a panel.

    Returns
    -------
    size : Tensor of shape (...)
        The larger of the last two coefficients of an expansion in Legendre polynomials.
    """
    nodes, weights = (part.to(values) for part in gauss_legendre(N_NODES))
    before, last = torch.ones_like(nodes), nodes
    for k in range(1, N_NODES - 1):
        before, last = last, ((2 * k + 1) * nodes * last - k * before) / (k + 1)
    terms = torch.stack([(N_NODES - 1.5) * before, (N_NODES - 0.5) * last], -1)
    return (values @ (weights.unsqueeze(-1) * terms)).abs().amax(-1)


def halved(
    edges: Tensor,
    function: Callable[[Tensor], Tensor],
    integrands: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
) -> Grid:
    """Halve panels between edges until some integrals are exact.

    Parameters
    ----------
    edges : Tensor of shape (n_rows, n_edges)
        Ascending.
    function : callable
        Takes points ``(n_rows, n_points)``; what it costs is the cost of all.
    integrands : callable
        Makes the integrands of points and function values, both of shape
        ``(n_rows, n_panels, n_nodes)``.

    Returns
    -------
    grid : Grid
        With the function at all nodes.
    """

    def evaluated(low: Tensor, high: Tensor) -> Grid:
        points, weights = nodes_between(low, high, N_NODES)
        values = function(points.flatten(-2)).reshape(points.shape)
        return Grid(low, high, points, weights, values)

    panels = evaluated(edges[:, :-1], edges[:, 1:])
    done, totals = [panels], None
    for _ in range(_MAX_HALVINGS):
        parts = integrands(panels.points, panels.values)
        found = torch.stack([(panels.weights * p).abs().sum((-2, -1)) for p in parts])
        # What a coarse rule has missed counts as soon as it is seen.
        totals = found if totals is None else torch.maximum(totals, found)
        wide = _too_wide(panels, parts, totals)
        n_wide = int(wide.sum(-1).max())
        if not 0 < n_wide < _MOST_TOGETHER:
            break
        panels.weights.masked_fill_(wide.unsqueeze(-1), 0.0)
        panels = evaluated(*_halves(panels, wide, n_wide))
        done.append(panels)
    return Grid(*(torch.cat(parts, 1) for parts in zip(*done, strict=True)))


def _too_wide(panels: Grid, parts: tuple[Tensor, ...], totals: Tensor) -> Tensor:
    """Tell for each panel if one of the integrands is far from a polynomial there."""
    low, high = panels.low, panels.high
    wide = torch.zeros_like(low, dtype=torch.bool)
    for part, total in zip(parts, totals, strict=True):
        size = last_terms(part) * (high - low)
        wide = wide | (size > _TOLERANCE * total.unsqueeze(-1))
    # Neighbours among floating-point numbers have nothing between them.
    middle = 0.5 * (low + high)
    return wide & (middle > low) & (middle < high)


def _halves(panels: Grid, wide: Tensor, n_wide: int) -> tuple[Tensor, Tensor]:
    """Return ends of halves; rows with fewer wide panels get some of width 0."""
    chosen = wide.to(torch.int8).argsort(-1, descending=True)[:, :n_wide]
    kept = wide.gather(-1, chosen)
    low = panels.low.gather(-1, chosen)
    high = torch.where(kept, panels.high.gather(-1, chosen), low)
    middle = 0.5 * (low + high)
    return torch.cat([low, middle], -1), torch.cat([middle, high], -1)
