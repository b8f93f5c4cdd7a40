"""Most probable variances and covariance matrices."""

import math

import torch
from torch import Tensor

from skmdn.priors import InverseGamma, InverseWishart, LogNormalScale, Prior

__all__ = ["matrix_mode", "variance_mode", "wright_omega"]


def variance_mode(
    prior: Prior | None, reg_covar: float, counts: Tensor, scatters: Tensor
) -> Tensor:
    r"""Return the variances that maximise likelihood times prior.

    .. math:: -\frac{n}{2} \log v - \frac{S}{2 v} + \log p(v)

    Parameters
    ----------
    prior : InverseGamma, LogNormalScale or None
        The prior p; None is flat, and ``reg_covar`` is added.
    reg_covar : float
        A variance.
    counts, scatters : Tensor of shape (...)
        The number n of deviations and the sum S of their squares.

    Returns
    -------
    variances : Tensor of shape (...)
    """
    scatters = scatters.clamp_min(0.0)
    if prior is None:
        return scatters / counts.clamp_min(_TINY) + reg_covar
    if isinstance(prior, InverseGamma):
        return (prior.scale + 0.5 * scatters) / (prior.shape + 1.0 + 0.5 * counts)
    assert isinstance(prior, LogNormalScale)
    spread = prior.sd_sd**2
    middle = -2.0 * math.log(prior.sd_mean)
    nu = _log_precision(spread, middle, counts, scatters)
    # Equal numbers in many rows let the variance fall below what can be inverted.
    return (-nu.clamp_max(_LARGEST_LOG_PRECISION)).exp()


def matrix_mode(
    prior: Prior | None, reg_covar: float, counts: Tensor, scatters: Tensor
) -> Tensor:
    r"""Return the covariance matrices that maximise likelihood times prior.

    .. math:: -\frac{n}{2} \log |\Sigma| - \frac12 \mathrm{tr}(\Sigma^{-1} S)
        + \log p(\Sigma)

    A prior on scales is one on the principal variances. The best matrix then has the
    axes of S, and each of its variances is that of its own axis.

    Parameters
    ----------
    prior : InverseWishart, InverseGamma, LogNormalScale or None
        The prior p; None is flat, and ``reg_covar`` is added to the diagonal.
    reg_covar : float
        A variance.
    counts : Tensor of shape (...)
        The number n of deviations.
    scatters : Tensor of shape (..., n_features, n_features)
        The sum S of their outer products.

    Returns
    -------
    covariances : Tensor of shape (..., n_features, n_features)
    """
    scatters = 0.5 * (scatters + scatters.mT)
    counts = counts[..., None, None]
    d = scatters.shape[-1]
    eye = torch.eye(d, dtype=scatters.dtype, device=scatters.device)
    if prior is None:
        return scatters / counts.clamp_min(_TINY) + reg_covar * eye
    if isinstance(prior, InverseWishart):
        shape, scale = prior.df + d + 1.0, prior.matrix_like(scatters)
        return (scale + scatters) / (shape + counts)
    if isinstance(prior, InverseGamma):
        scale = 2.0 * prior.scale * eye
        return (scale + scatters) / (2.0 * prior.shape + 2.0 + counts)
    principal, axes = torch.linalg.eigh(scatters)
    variances = variance_mode(prior, 0.0, counts.squeeze(-1), principal)
    return (axes * variances.unsqueeze(-2)) @ axes.mT


_TINY = 1e-300
_LARGEST_LOG_PRECISION = 300.0


def _log_precision(
    spread: float, middle: float, counts: Tensor, scatters: Tensor
) -> Tensor:
    r"""Return the log precision given a normal law of it.

    With the prior's variance :math:`\tau^2` and mean :math:`\nu_0` it is

    .. math:: \nu = A - \omega\bigl(A + \log(\tau^2 S / 2)\bigr), \qquad
        A = \tau^2 n / 2 + \nu_0

    where :math:`\omega` is Wright's function. A large A cancels: the last digits come
    from Newton's method on the derivative of the posterior.
    """
    log_half = (0.5 * scatters).log()
    top = 0.5 * spread * counts + middle
    nu = top - wright_omega(top + log_half + math.log(spread))
    for _ in range(2):
        pull = (log_half + nu).exp()
        slope = 0.5 * counts - pull - (nu - middle) / spread
        nu = nu + slope / (pull + 1.0 / spread)
    return nu


def wright_omega(z: Tensor) -> Tensor:
    r"""Return Wright's omega function on the real line [1]_.

    .. math:: \omega + \log \omega = z

    Parameters
    ----------
    z : Tensor of shape (...)
        Real numbers; -inf is 0.

    Returns
    -------
    omega : Tensor of shape (...)
        Positive.

    References
    ----------
    .. [1] P. W. Lawrence, R. M. Corless and D. J. Jeffrey, "Algorithm 917: complex
       double-precision evaluation of the Wright omega function", ACM Transactions on
       Mathematical Software 38(3), 2012.
    """
    # In terms of the logarithm of omega the equation is exp(x) + x = z.
    x = torch.where(z > 1.0, z.clamp_min(1.0).log(), z.clamp(-700.0, 1.0) - 0.5)
    for _ in range(6):
        size = x.exp()
        residual = size + x - z.clamp_min(-700.0)
        newton = residual / (1.0 + size)
        x = x - newton / (1.0 - 0.5 * newton * size / (1.0 + size))
    return torch.where(z < -700.0, z.exp(), x.exp())
