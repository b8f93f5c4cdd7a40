"""The continuous ranked probability score: in closed form, or by quadrature."""

import math
from typing import Any

import torch
from torch import Tensor

from skmdn.numerics.basic import gauss_bell, own_units

from .blocks import by_measure, pulled_back
from .panels import Panels, integration_matrix, log_density, masses

__all__ = ["integrated_crps", "normal_crps"]

# Components times rows that are at work at a time, for the processor's cache.
_BLOCK = 2**15
_SQRT_2 = math.sqrt(2.0)
_INV_SQRT_PI = 1.0 / math.sqrt(math.pi)


def normal_crps(weights: Tensor, means: Tensor, stds: Tensor, y: Tensor) -> Tensor:
    r"""Return the CRPS of every output by itself.

    .. math::
        \mathrm{CRPS} = \sum_i w_i A(y - \mu_i, \sigma_i^2)
        - \tfrac12 \sum_{ij} w_i w_j A(\mu_i - \mu_j, \sigma_i^2 + \sigma_j^2)

    with :math:`A(m, s^2) = m (2 \Phi(m / s) - 1) + 2 s \varphi(m / s)`, in the units
    of y [1]_.

    Parameters
    ----------
    weights : Tensor of shape (..., n_components)
        Mixture weights.
    means, stds : Tensor of shape (..., n_components, n_outputs)
        Of the components.
    y : Tensor of shape (..., n_outputs)
        Points, which broadcast against the batch axes.

    Returns
    -------
    crps : Tensor, shaped like y

    References
    ----------
    .. [1] E. P. Grimit, T. Gneiting, V. J. Berrocal and N. A. Johnson, "The
       continuous ranked probability score for circular variables and its
       application to mesoscale forecast ensemble verification", Quarterly
       Journal of the Royal Meteorological Society 132, 2006.
    """
    weights = weights.unsqueeze(-1).expand_as(means)
    distance = _mean_abs(y.unsqueeze(-2) - means, _SQRT_2 * stds)
    accuracy = torch.where(weights > 0, weights * distance, 0.0).sum(-2)
    return accuracy - _spread(weights, means, stds)


def _mean_abs(mean: Tensor, root: Tensor) -> Tensor:
    """Return E|Z| of a normal variable; root is sqrt(2) times its deviation."""
    z = mean / root
    return mean * z.erf() + _INV_SQRT_PI * root * gauss_bell(z)


def _spread(weights: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    """Return half the expected distance of two draws, ``(..., n_outputs)``."""
    batch, n_components = means.shape[:-2], means.shape[-2]
    # Component by component, one long row of mixtures and outputs each.
    parts = [
        values.movedim(-2, 0).reshape(n_components, -1)
        for values in (weights, means, stds)
    ]
    step = max(1, _BLOCK // n_components)
    blocks = [values.split(step, -1) for values in parts]
    spread = torch.cat([_spread_of(*block) for block in zip(*blocks, strict=True)])
    return spread.reshape(*batch, means.shape[-1])


def _spread_of(weights: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    """Sum over each unordered pair of components once, ``(n_components, n)``."""
    means, stds, unit = own_units(weights, means, stds, 0)
    double = 2.0 * stds.square()
    # A component with itself gives 2 s / sqrt(pi), of which half counts.
    spread = _INV_SQRT_PI * (weights.square() * stds).sum(0)
    for i in range(len(means) - 1):
        root = (double[i + 1 :] + double[i]).sqrt()
        distance = _mean_abs(means[i + 1 :] - means[i], root)
        spread = spread + weights[i] * (weights[i + 1 :] * distance).sum(0)
    return spread * unit.squeeze(0)


# Nodes of the rule in each panel.
_N_NODES = 12
# By how much a density may miss a total of 1.
_MISSING = 1e-10


def integrated_crps(mixture: Any, y: Tensor) -> Tensor:
    r"""Return the CRPS of every output by itself, of mixtures of any families.

    .. math:: \mathrm{CRPS} = \int_{-\infty}^y F(x)^2 \, dx
        + \int_y^\infty (1 - F(x))^2 \, dx

    by Gauss-Legendre quadrature over the panels of
    :class:`skmdn.queries.panels.Panels`, with y and the points where F jumps as further
    edges. Inside a panel F is the integral of the density, by the same nodes.

    Parameters
    ----------
    mixture : Mixture
        Of batch shape (...).
    y : Tensor of shape (..., n_outputs)
        Points, which broadcast against the batch axes. Those along a last batch axis
        of length 1 share the work.

    Returns
    -------
    crps : Tensor, shaped like ``y``

    Raises
    ------
    ValueError
        If a component spreads over too many integers to add them up.
    """
    axis = len(mixture.batch_shape) - 1
    if axis < 0 or mixture.batch_shape[axis] != 1:
        return integrated_crps(mixture.unsqueeze(), y.unsqueeze(-2)).squeeze(-2)
    rows = mixture.map(lambda value: value.squeeze(axis))
    n_outputs = y.shape[-1]
    if n_outputs == 1:
        return _of_rows(rows, y.squeeze(-1)).unsqueeze(-1)
    parts = [_of_rows(rows.marginal([d]), y[..., d]) for d in range(n_outputs)]
    return torch.stack(parts, -1)


def _of_rows(mixture: Any, y: Tensor) -> Tensor:
    """Return the CRPS at points ``(..., n_points)`` of mixtures of one output."""
    inner, onto = pulled_back(mixture)
    continuous, discrete = by_measure(inner)
    panels = None if continuous is None else Panels(continuous)
    edges, probability = _edges(panels, discrete)
    place = y if onto is None else onto.inverse(y)
    reached = torch.minimum(torch.maximum(place, edges[..., :1]), edges[..., -1:])
    batch = torch.broadcast_shapes(edges.shape[:-1], reached.shape[:-1])
    parts = [p.expand(*batch, p.shape[-1]) for p in (edges, reached, probability)]
    edges, order = torch.cat(parts[:2], -1).sort(-1)
    jumps = torch.nn.functional.pad(parts[2], (0, y.shape[-1]))
    jumps = jumps.gather(-1, order).unsqueeze(-1)
    below, above, lengths = _tails(continuous, panels, edges, onto)
    below = below + jumps.cumsum(-2)[..., :-1, :]
    above = above + jumps.flip(-2).cumsum(-2).flip(-2)[..., 1:, :]
    lower = _cumulated((below.square() * lengths).sum(-1))
    upper = _cumulated((above.square() * lengths).sum(-1).flip(-1)).flip(-1)
    at_points = order.argsort(-1)[..., -y.shape[-1] :]
    last = reached if onto is None else onto.forward(reached)
    distance = torch.where(place == reached, 0.0, (y - last).abs())
    return (lower + upper).gather(-1, at_points) + distance


def _edges(panels: Panels | None, discrete: Any) -> tuple[Tensor, Tensor]:
    """Return edges between which F is smooth, and its jumps there."""
    edges, jumps = [], []
    if panels is not None:
        edges.append(panels.edges)
        jumps.append(torch.zeros_like(panels.edges))
    if discrete is not None:
        points, probability = masses(discrete)
        edges.append(points)
        jumps.append(probability)
    joined, order = torch.cat(edges, -1).sort(-1)
    return joined, torch.cat(jumps, -1).gather(-1, order)


def _tails(
    continuous: Any, panels: Panels | None, edges: Tensor, onto: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Return both tails at the nodes of all panels, and the nodes' weights.

    Each ``(..., n_panels, n_nodes)``; without a density one node is enough.
    """
    if panels is None:
        lengths = edges.diff(dim=-1).unsqueeze(-1)
        return torch.zeros_like(lengths), torch.zeros_like(lengths), lengths
    rule = integration_matrix(_N_NODES)
    nodes, weights, matrix = (part.to(edges) for part in rule)
    points, slopes = panels.points(nodes, edges)
    density = log_density(continuous, points.flatten(-2)).exp().view_as(points)
    reached = (density * slopes) @ matrix.mT
    mass = (density * slopes) @ weights
    below, above = _cumulated(mass), _cumulated(mass.flip(-1)).flip(-1)
    missing = (continuous.weights.sum(-1, keepdim=True) - below[..., -1:]).abs()
    if bool((missing > _MISSING).any()):
        expanded, column = continuous.unsqueeze(), edges.unsqueeze(-1)
        below, above = expanded.cdf(column).squeeze(-1), expanded.sf(column).squeeze(-1)
    rest = mass.unsqueeze(-1) - reached
    lengths = slopes * weights
    if onto is not None:
        lengths = lengths * onto.log_jacobian(points).exp()
    return below[..., :-1, None] + reached, above[..., 1:, None] + rest, lengths


def _cumulated(values: Tensor) -> Tensor:
    """Return what comes before each value and, at last, the total."""
    return torch.nn.functional.pad(values.cumsum(-1), (1, 0))
