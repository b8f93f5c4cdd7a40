"""Laws of columns of counts."""

import torch
from torch import Tensor, nn

from .column_law import ColumnLaw, all_allowed, n_seen

__all__ = ["Counts", "NegativeBinomial", "Poisson"]

# The mean of columns without a single count.
_LEAST_RATE = 1e-3
_LOG_LARGEST_SHAPE = 12.0


class Counts(ColumnLaw):
    r"""Base of the laws of counts: the mean is the row's size times exp(eta).

    .. math:: s_i = \frac{\sum_j x_{ij}}{\sum_j m_j}

    over the columns j that are not missing, with their means m over the training rows.
    Exposures that are known take the place of sizes; the means are then those of rows
    of exposure 1.

    Parameters
    ----------
    n_columns : int
        The number of columns.
    sized : bool, default=True
        Whether rows have a size; otherwise it is 1.
    """

    counts = True

    def __init__(self, n_columns: int, sized: bool = True) -> None:
        super().__init__(n_columns)
        self.sized = sized
        self.usual: Tensor
        self.level: Tensor
        self.register_buffer("usual", torch.ones(n_columns, dtype=torch.float64))
        self.register_buffer("level", torch.ones((), dtype=torch.float64))

    def problem(self, x: Tensor) -> str | None:
        """Return what the values have to be."""
        good = (x >= 0.0) & (x == x.floor())
        return None if all_allowed(x, good) else "non-negative integers"

    def start(self, x: Tensor, exposure: Tensor | None = None) -> Tensor:
        """Return the logarithms of the columns' means at size 1."""
        seen = n_seen(x)
        if exposure is not None:
            self.level = exposure.mean()
            seen = ((~x.isnan()) * exposure).sum(0)
            seen = torch.where(seen > 0.0, seen, 1.0)
        self.usual = (x.nansum(0) / seen).clamp_min(_LEAST_RATE / float(self.level))
        return self.usual.log()

    def log_size(self, x: Tensor, exposure: Tensor | None = None) -> Tensor | float:
        """Return the log size of rows; 0 for those without a count."""
        if exposure is not None:
            return exposure.log()
        if not self.sized:
            return 0.0
        expected = (~x.isnan()).to(x.dtype) @ self.usual
        total = x.nansum(1)
        return torch.where(total > 0.0, (total / expected).log(), 0.0).unsqueeze(1)

    def features(self, x: Tensor, log_size: Tensor | float) -> Tensor:
        """Return logarithms of counts as they would be at the usual size."""
        return (x * self.level * torch.as_tensor(-log_size).exp()).log1p()

    def mean(self, eta: Tensor, log_size: Tensor | float) -> Tensor:
        """Return the expected counts."""
        return (eta + log_size).exp()


class Poisson(Counts):
    """Counts whose variance is the mean."""

    name = "poisson"

    def constant(self, x: Tensor) -> Tensor:
        """Return minus the log factorials."""
        return -torch.lgamma(x + 1.0)

    def log_prob(self, x: Tensor, eta: Tensor, log_size: Tensor | float) -> Tensor:
        """Return the log probability."""
        log_mean = eta + log_size
        return x * log_mean - log_mean.exp()

    def slopes(
        self, x: Tensor, eta: Tensor, log_size: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Return the residuals and the variances."""
        mean = self.mean(eta, log_size)
        return x - mean, mean

    def sample(
        self, eta: Tensor, log_size: Tensor | float, generator: torch.Generator
    ) -> Tensor:
        """Draw counts."""
        return torch.poisson(self.mean(eta, log_size), generator=generator)


class NegativeBinomial(Counts):
    r"""Counts with the variance :math:`\mu + \mu^2 / r`, r > 0 learned by column."""

    name = "negative_binomial"

    def __init__(self, n_columns: int, sized: bool = True) -> None:
        super().__init__(n_columns, sized)
        self.raw = nn.Parameter(torch.zeros(1, n_columns, dtype=torch.float64))

    def shape(self) -> Tensor:
        """Return the dispersions r."""
        return self.raw[0].clamp(max=_LOG_LARGEST_SHAPE).exp()

    def constant(self, x: Tensor) -> Tensor:
        """Return the logarithm of the number of ways."""
        shape = self.shape()
        return torch.lgamma(x + shape) - torch.lgamma(shape) - torch.lgamma(x + 1.0)

    def log_prob(self, x: Tensor, eta: Tensor, log_size: Tensor | float) -> Tensor:
        """Return the log probability."""
        log_shape, log_mean = self.shape().log(), eta + log_size
        log_total = torch.logaddexp(log_shape, log_mean)
        return self.shape() * (log_shape - log_total) + x * (log_mean - log_total)

    def slopes(
        self, x: Tensor, eta: Tensor, log_size: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Return both derivatives: the log density is concave in eta."""
        shape = self.shape()
        share = torch.sigmoid(eta + log_size - shape.log())
        total = x + shape
        return x - total * share, total * share * (1.0 - share)

    def parameter_slopes(
        self, x: Tensor, eta: Tensor, log_size: Tensor | float, observed: Tensor | float
    ) -> Tensor:
        """Return the gradient by log r."""
        shape, log_mean = self.shape(), eta + log_size
        log_total = torch.logaddexp(shape.log(), log_mean)
        share = torch.sigmoid(log_mean - shape.log())
        slope = torch.digamma(x + shape) - torch.digamma(shape)
        slope = slope + shape.log() - log_total + share - x / log_total.exp()
        inside = self.raw[0] < _LOG_LARGEST_SHAPE
        return (slope * observed).sum(0) * shape * inside

    def sample(
        self, eta: Tensor, log_size: Tensor | float, generator: torch.Generator
    ) -> Tensor:
        """Draw counts: Poisson ones with a gamma rate."""
        shape = self.shape().expand_as(eta).contiguous()
        # The standard gamma law takes a generator only under this name.
        gamma = torch._standard_gamma(shape, generator=generator)
        rate = gamma / shape * self.mean(eta, log_size)
        return torch.poisson(rate, generator=generator)
