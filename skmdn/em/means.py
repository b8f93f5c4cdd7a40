"""Most probable means under a prior that pulls them into a ball."""

import math

import torch
from torch import Tensor

from skmdn.numerics.basic import find_root
from skmdn.priors import Softball

from .parameters import Parameters

__all__ = ["softball_means"]


def softball_means(
    prior: Softball, counts: Tensor, means: Tensor, parameters: Parameters
) -> Tensor:
    r"""Return the means that maximise likelihood times prior, given the covariances.

    With m the mean of the rows, all relative to the centre of the ball, the answer is

    .. math:: \mu = (N \Sigma^{-1} + \lambda I)^{-1} N \Sigma^{-1} m, \qquad
        \lambda |\mu| = \frac{s}{r} \, \sigma\Bigl(s \frac{|\mu| - r}{r}\Bigr)

    where :math:`\sigma` is the logistic function. The left side of the second equation
    rises with :math:`\lambda` and the right one falls: there is one root.

    Parameters
    ----------
    prior : Softball
        The prior.
    counts : Tensor of shape (n_runs, n_components)
        The number N of rows of each component.
    means : Tensor of shape (n_runs, n_components, n_features)
        Their means.
    parameters : Parameters
        Where the covariances come from.

    Returns
    -------
    means : Tensor of shape (n_runs, n_components, n_features)
        The most probable means.
    """
    center = prior.center_like(means)
    offset, axes = means - center, None
    if parameters.matrices:
        precision, axes = torch.linalg.eigh(parameters.precisions())
        if parameters.covariance_type == "tied":
            precision, axes = precision.unsqueeze(1), axes.unsqueeze(1)
        offset = (axes.mT @ offset.unsqueeze(-1)).squeeze(-1)
    else:
        precision = parameters.each_whitening().square()
    strength = (counts.unsqueeze(-1) * precision).expand_as(offset).clamp_min(_TINY)
    n_features = means.shape[-1]
    radius, sharpness = float(prior.radius), prior.resolved_sharpness(n_features)
    pulled = offset * _shrinkage(strength, offset, radius, sharpness)
    if axes is not None:
        pulled = (axes @ pulled.unsqueeze(-1)).squeeze(-1)
    return center + pulled


_TINY = 1e-300


def _shrinkage(
    strength: Tensor, offset: Tensor, radius: float, sharpness: float
) -> Tensor:
    """Return the factors ``strength / (strength + root)``."""
    force = math.log(sharpness / radius)

    def log_force(length: Tensor) -> Tensor:
        at = sharpness * (length / radius - 1.0)
        return force + torch.nn.functional.logsigmoid(at)

    def excess(log_root: Tensor) -> Tensor:
        shrunk = offset / (1.0 + (log_root.unsqueeze(-1) - strength.log()).exp())
        length = torch.linalg.vector_norm(shrunk, dim=-1).clamp_min(_TINY)
        return log_root + length.log() - log_force(length)

    length = torch.linalg.vector_norm(offset, dim=-1).clamp_min(_TINY)
    low = log_force(torch.zeros_like(length)) - length.log() - 1.0
    # Beyond this the mean is at the centre, to the last digit.
    high = torch.maximum(low, strength.amax(-1).log()) + 40.0
    root = find_root(excess, low, high, torch.full_like(low, 1e-14))
    return 1.0 / (1.0 + (root.unsqueeze(-1) - strength.log()).exp())
