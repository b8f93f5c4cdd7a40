"""The continuous ranked probability score of Gaussian mixtures in closed form."""

import math

import torch
from torch import Tensor

from .numerics import gauss_bell, own_units

__all__ = ["normal_crps"]

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
