"""Priors on the standard deviations of components."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from skmdn.queries.draws import log_gamma_draws

from .base import Prior, empty_tensor

__all__ = ["InverseGamma", "LogNormalScale", "ScalesPrior"]

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


class ScalesPrior(Prior):
    """Base of the priors on scales: asked element by element, by standard deviation.

    Every prior takes standard deviations and returns the log density of the quantity
    that it is a law of: the variance, or its logarithm. That choice decides where the
    mode is.
    """


class InverseGamma(ScalesPrior):
    r"""Inverse-gamma prior on the variances.

    .. math:: p(\sigma^2) = \frac{b^a}{\Gamma(a)} \, \sigma^{-2 (a + 1)}
        \exp(-b / \sigma^2)

    Its mode is the variance b / (a + 1). It keeps a likelihood bounded: no component
    can shrink onto a row.

    Parameters
    ----------
    shape : float, default=1.0
        The number a; the larger, the sharper.
    scale : float, default=0.2
        The number b, a variance.

    Examples
    --------
    >>> import torch
    >>> from skmdn.priors import InverseGamma
    >>> InverseGamma(shape=1.0, scale=1.0).log_prob(torch.ones(2))
    tensor([-1., -1.])
    """

    def __init__(self, shape: float = 1.0, scale: float = 0.2) -> None:
        self.shape = shape
        self.scale = scale

    def log_prob(self, std: Tensor) -> Tensor:
        """Return the log density of the variances.

        Parameters
        ----------
        std : Tensor of shape (...)
            Standard deviations.

        Returns
        -------
        log_prob : Tensor of shape (...)
            In nats, one for each; -inf at 0.
        """
        a, b = self._positive("shape"), self._positive("scale")
        penalty = 2.0 * (a + 1.0) * std.log() + b / std.square()
        log_prob = -self.log_normalizer() - penalty
        return log_prob.masked_fill(std <= 0.0, -math.inf)

    def sample(
        self, shape: Sequence[int], generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw standard deviations.

        Parameters
        ----------
        shape : sequence of int
            The shape of the answer.
        generator : torch.Generator, optional
            The source of the draws.

        Returns
        -------
        std : Tensor of the given shape
            Roots of inverse-gamma variables.
        """
        a, b = self._positive("shape"), self._positive("scale")
        gamma = log_gamma_draws(empty_tensor(shape, generator).fill_(a), generator)
        return (0.5 * (math.log(b) - gamma)).exp()

    def log_normalizer(self) -> float:
        """Return the logarithm of what the density's kernel is divided by."""
        a, b = self._positive("shape"), self._positive("scale")
        return math.lgamma(a) - a * math.log(b)


class LogNormalScale(ScalesPrior):
    r"""Normal prior on the negative logarithm of the variances.

    .. math:: -\log \sigma^2 \sim \mathcal{N}(-2 \log m, \, \tau^2)

    Standard deviations are lognormal with the median m, around which they vary by a
    factor of about :math:`e^{\tau / 2}`. The density is that of the negative log
    variance, so that m is also the mode.

    Parameters
    ----------
    sd_mean : float
        The number m, a standard deviation.
    sd_sd : float, default=1.0
        The number :math:`\tau`, the standard deviation of the log variance.

    Examples
    --------
    >>> import torch
    >>> from skmdn.priors import LogNormalScale
    >>> prior = LogNormalScale(sd_mean=0.3, sd_sd=1.0)
    >>> prior.log_prob(torch.tensor([0.1, 0.3, 0.9])).argmax()
    tensor(1)
    """

    def __init__(self, sd_mean: float, sd_sd: float = 1.0) -> None:
        self.sd_mean = sd_mean
        self.sd_sd = sd_sd

    def log_prob(self, std: Tensor) -> Tensor:
        """Return the log density of the negative log variances.

        Parameters
        ----------
        std : Tensor of shape (...)
            Standard deviations.

        Returns
        -------
        log_prob : Tensor of shape (...)
            In nats, one for each; -inf at 0.
        """
        middle, spread = self._positive("sd_mean"), self._positive("sd_sd")
        z = (std.log() - math.log(middle)) * (2.0 / spread)
        log_prob = -0.5 * z.square() - (math.log(spread) + _LOG_SQRT_2PI)
        return log_prob.masked_fill(std <= 0.0, -math.inf)

    def sample(
        self, shape: Sequence[int], generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw standard deviations.

        Parameters
        ----------
        shape : sequence of int
            The shape of the answer.
        generator : torch.Generator, optional
            The source of the draws.

        Returns
        -------
        std : Tensor of the given shape
            Lognormal variables.
        """
        middle, spread = self._positive("sd_mean"), self._positive("sd_sd")
        noise = empty_tensor(shape, generator).normal_(generator=generator)
        return middle * noise.mul_(0.5 * spread).exp_()
