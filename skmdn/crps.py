"""The continuous ranked probability score: in closed form, or by quadrature."""

import math
from typing import Any

import torch
from torch import Tensor

from .numerics import gauss_bell, gauss_legendre, own_units, panel_nodes

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


# Quantile levels between whose points the integral is taken, as deviates, and the
# number of nodes of the rule in each panel.
_DEVIATES = (-8.0, 8.0, 17)
_N_NODES = 12
# Integers that a component may spread over.
_MOST_INTEGERS = 100_000


def integrated_crps(mixture: Any, y: Tensor) -> Tensor:
    r"""Return the CRPS of every output by itself, of mixtures of any families.

    .. math:: \mathrm{CRPS} = \int_{-\infty}^y F(x)^2 \, dx
        + \int_y^\infty (1 - F(x))^2 \, dx

    by Gauss-Legendre quadrature between quantiles of every component, y and the points
    where F jumps.

    Parameters
    ----------
    mixture : Mixture
        Of batch shape (...).
    y : Tensor of shape (..., n_outputs)
        Points.

    Returns
    -------
    crps : Tensor, shaped like ``y``

    Raises
    ------
    ValueError
        If a component spreads over too many integers to add them up.
    """
    z = torch.linspace(*_DEVIATES, dtype=y.dtype, device=y.device)
    levels = 0.5 * torch.special.erfc(z / -_SQRT_2)
    levels = levels.clamp(max=1.0 - torch.finfo(y.dtype).eps).view(-1, 1, 1)
    expanded = mixture.unsqueeze()
    edges = expanded.per_point(lambda block: block.family.ppf(block.params, levels))
    parts = [edges.flatten(-3, -2), y.unsqueeze(-2)]
    for block in expanded.blocks:
        if block.family.discrete:
            parts.append(_jumps(block, edges))
    batch = torch.broadcast_shapes(*(part.shape[:-2] for part in parts))
    parts = [part.expand(*batch, *part.shape[-2:]) for part in parts]
    ordered = torch.cat(parts, -2).mT.sort(-1).values
    points, weights = panel_nodes(
        ordered, *(part.to(ordered) for part in gauss_legendre(_N_NODES))
    )
    points, weights = points.mT, weights.mT
    below = points < y.unsqueeze(-2)
    height = torch.where(below, expanded.cdf(points), expanded.sf(points))
    return (weights * height.square()).sum(-2)


def _jumps(block: Any, edges: Tensor) -> Tensor:
    """Return the points with a probability from the lowest to the highest edge."""
    low, high = edges.flatten(-3, -2).amin(-2), edges.flatten(-3, -2).amax(-2)
    masses = block.family.masses_between(block.params, low, high, _MOST_INTEGERS)
    if masses is None:
        raise ValueError(
            f"The CRPS of {block.family!r} adds up more than {_MOST_INTEGERS} integers."
        )
    found: Tensor = masses
    return found
