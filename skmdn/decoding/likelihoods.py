r"""What a decoder's outputs say about columns of data: a class for each law.

An output :math:`\eta` is a number of the whole line. Every law gives its log density,
the first two derivatives by :math:`\eta`, which Newton's method and the evidence need
for each row, and the gradient by its own parameters, which all rows share.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

__all__ = ["LIKELIHOODS", "ColumnLaw", "Gaussian"]

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
# A column's scale, in units of its standard deviation: the density of columns that the
# codes can reproduce would have no bound.
_LEAST_SCALE = 1e-2
# Means of columns without a single count, chances of columns without a change.
_LEAST_RATE = 1e-3
_LOG_LARGEST_SHAPE = 12.0


class ColumnLaw(nn.Module):
    """Base of the laws of columns that are independent given the code.

    Parameters
    ----------
    n_columns : int
        The number of columns.
    n_levels : int, default=1
        The number of outputs for each of them.

    Attributes
    ----------
    name : str
        What users call it.
    counts : bool
        Whether rows have a size, which multiplies the means.
    """

    name: ClassVar[str]
    counts: ClassVar[bool] = False

    def __init__(self, n_columns: int, n_levels: int = 1) -> None:
        super().__init__()
        self.n_columns = n_columns
        self.n_outputs = n_columns * n_levels

    def problem(self, x: Tensor) -> str | None:
        """Return what the values would have to be if they are not; NaN is missing."""
        raise NotImplementedError

    def start(self, x: Tensor) -> Tensor:
        """Learn what is fixed from the training rows; return the marginal outputs.

        Parameters
        ----------
        x : Tensor of shape (n_samples, n_columns)
            Values; NaN is missing.

        Returns
        -------
        outputs : Tensor of shape (n_outputs,)
            Where the biases of the decoder begin.
        """
        raise NotImplementedError

    def prepared(self, x: Tensor) -> Tensor:
        """Return values as the other methods take them, with 0 where one is missing."""
        return x.nan_to_num(nan=0.0)

    def log_size(self, x: Tensor) -> Tensor | float:
        """Return the logarithm of every row's size, ``(n_rows, 1)``, or 0 for all."""
        return 0.0

    def features(self, x: Tensor, log_size: Tensor | float) -> Tensor:
        """Return prepared values on a scale on which linear methods make sense."""
        return x

    def expected_features(self, eta: Tensor) -> Tensor:
        """Return about what :meth:`features` would be, given the outputs."""
        return self.features(self.mean(eta, 0.0), 0.0)

    def constant(self, x: Tensor) -> Tensor:
        """Return what of the log density of every value does not depend on eta."""
        return torch.zeros_like(x)

    def log_prob(self, x: Tensor, eta: Tensor, log_size: Tensor | float) -> Tensor:
        """Return the log density of every value without :meth:`constant`.

        Parameters
        ----------
        x : Tensor of shape (n_rows, n_columns)
            Prepared values.
        eta : Tensor of shape (n_rows, n_outputs)
            Outputs of the decoder.
        log_size : Tensor of shape (n_rows, 1) or float
            The logarithms of the rows' sizes.

        Returns
        -------
        log_prob : Tensor of shape (n_rows, n_columns)
        """
        raise NotImplementedError

    def slopes(
        self, x: Tensor, eta: Tensor, log_size: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Return the derivative of the log density by each output, and its decline.

        The second tensor is what :meth:`gram` takes: minus the second derivative.
        """
        raise NotImplementedError

    def spread_over_outputs(self, observed: Tensor) -> Tensor:
        """Return a mask of columns as one of outputs."""
        return observed

    def gram(self, tangents: Tensor, decline: Tensor) -> Tensor:
        r"""Return :math:`-J^\top (\nabla^2 \log p) J` for every row.

        Parameters
        ----------
        tangents : Tensor of shape (n_rows, n_latent, n_outputs)
            The transposed Jacobian J of the outputs.
        decline : Tensor of shape (n_rows, n_outputs)
            From :meth:`slopes`.

        Returns
        -------
        gram : Tensor of shape (n_rows, n_latent, n_latent)
        """
        return (tangents * decline.unsqueeze(1)) @ tangents.mT

    def parameter_slopes(
        self, x: Tensor, eta: Tensor, log_size: Tensor | float, observed: Tensor | float
    ) -> Tensor | None:
        """Return the gradient of the summed log density by the law's parameter."""
        return None

    def mean(self, eta: Tensor, log_size: Tensor | float) -> Tensor:
        """Return an expected value for every output, in the units of the data."""
        raise NotImplementedError

    def values(self, mean: Tensor) -> Tensor:
        """Return what users get for expected values, one for every column."""
        return mean

    def sample(
        self, eta: Tensor, log_size: Tensor | float, generator: torch.Generator
    ) -> Tensor:
        """Draw values, in the units of the data."""
        raise NotImplementedError


def _seen(x: Tensor) -> Tensor:
    """Return how many values each column has, at least one."""
    return (~x.isnan()).sum(0).clamp_min(1).to(x.dtype)


def _bad(x: Tensor, allowed: Tensor) -> bool:
    return not bool((allowed | x.isnan()).all())


class Gaussian(ColumnLaw):
    r"""Normal columns with a learned scale each.

    .. math:: x_j \sim \mathcal{N}(m_j + s_j \eta_j, (s_j \sigma_j)^2)

    with the mean m and the standard deviation s of the training rows.
    """

    name = "gaussian"

    def __init__(self, n_columns: int) -> None:
        super().__init__(n_columns)
        self.raw = nn.Parameter(torch.zeros(1, n_columns, dtype=torch.float64))
        self.center: Tensor
        self.spread: Tensor
        self.register_buffer("center", torch.zeros(n_columns, dtype=torch.float64))
        self.register_buffer("spread", torch.ones(n_columns, dtype=torch.float64))

    def problem(self, x: Tensor) -> str | None:
        """Return None: all numbers will do."""
        return None

    def start(self, x: Tensor) -> Tensor:
        """Measure the columns."""
        self.center = x.nansum(0) / _seen(x)
        spread = ((x - self.center).square().nansum(0) / _seen(x)).sqrt()
        # What is left of a constant column is rounding.
        constant = spread <= 1e-12 * self.center.abs()
        self.spread = torch.where(constant, 1.0, spread)
        return torch.zeros_like(self.center)

    def prepared(self, x: Tensor) -> Tensor:
        """Return standardised values."""
        return ((x - self.center) / self.spread).nan_to_num(nan=0.0)

    def constant(self, x: Tensor) -> Tensor:
        """Return what the units and the root of two pi contribute."""
        return (-self.spread.log() - _LOG_SQRT_2PI).expand_as(x)

    def scale(self) -> Tensor:
        """Return the scales, in units of the columns' standard deviations."""
        return _LEAST_SCALE + self.raw[0].exp()

    def log_prob(self, x: Tensor, eta: Tensor, log_size: Tensor | float) -> Tensor:
        """Return the normal log density of standardised values."""
        scale = self.scale()
        z = (x - eta) / scale
        return -0.5 * z.square() - scale.log()

    def slopes(
        self, x: Tensor, eta: Tensor, log_size: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Return the residuals by the variances, and the precisions."""
        precision = self.scale().square().reciprocal()
        return (x - eta) * precision, precision.expand_as(x)

    def parameter_slopes(
        self, x: Tensor, eta: Tensor, log_size: Tensor | float, observed: Tensor | float
    ) -> Tensor:
        """Return the gradient by the logarithm of what is above the floor."""
        scale = self.scale()
        by_scale = ((x - eta) / scale).square().sub(1.0).mul(observed) / scale
        return by_scale.sum(0) * self.raw[0].exp()

    def mean(self, eta: Tensor, log_size: Tensor | float) -> Tensor:
        """Return the means in the units of the data."""
        return self.center + self.spread * eta

    def expected_features(self, eta: Tensor) -> Tensor:
        """Return the outputs, which are standardised."""
        return eta

    def sample(
        self, eta: Tensor, log_size: Tensor | float, generator: torch.Generator
    ) -> Tensor:
        """Draw normal values."""
        noise = torch.empty_like(eta).normal_(generator=generator)
        return self.mean(eta + self.scale() * noise, log_size)


class Bernoulli(ColumnLaw):
    r"""Columns of zeros and ones with the log odds :math:`\eta`.

    A number between them is a share of ones: it counts with its expected log
    probability.
    """

    name = "bernoulli"

    def problem(self, x: Tensor) -> str | None:
        """Return what the values have to be."""
        inside = (x >= 0.0) & (x <= 1.0)
        return "numbers from 0 to 1" if _bad(x, inside) else None

    def start(self, x: Tensor) -> Tensor:
        """Return the log odds of the columns."""
        seen = _seen(x)
        chance = (x.nansum(0) + 0.5) / (seen + 1.0)
        return chance.logit()

    def log_prob(self, x: Tensor, eta: Tensor, log_size: Tensor | float) -> Tensor:
        """Return the log probability."""
        return x * eta - nn.functional.softplus(eta)

    def slopes(
        self, x: Tensor, eta: Tensor, log_size: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Return the residuals and the variances."""
        chance = torch.sigmoid(eta)
        return x - chance, chance * (1.0 - chance)

    def mean(self, eta: Tensor, log_size: Tensor | float) -> Tensor:
        """Return the chances of a one."""
        return torch.sigmoid(eta)

    def sample(
        self, eta: Tensor, log_size: Tensor | float, generator: torch.Generator
    ) -> Tensor:
        """Draw zeros and ones."""
        uniform = torch.empty_like(eta).uniform_(generator=generator)
        return (uniform < torch.sigmoid(eta)).to(eta.dtype)


class Counts(ColumnLaw):
    r"""Base of the laws of counts: the mean is the row's size times exp(eta).

    .. math:: s_i = \frac{\sum_j x_{ij}}{\sum_j m_j}

    over the columns j that are not missing, with their means m over the training rows.

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
        self.register_buffer("usual", torch.ones(n_columns, dtype=torch.float64))

    def problem(self, x: Tensor) -> str | None:
        """Return what the values have to be."""
        return (
            "non-negative integers" if _bad(x, (x >= 0.0) & (x == x.floor())) else None
        )

    def start(self, x: Tensor) -> Tensor:
        """Return the logarithms of the columns' means."""
        self.usual = (x.nansum(0) / _seen(x)).clamp_min(_LEAST_RATE)
        return self.usual.log()

    def log_size(self, x: Tensor) -> Tensor | float:
        """Return the log size of rows; 0 for those without a count."""
        if not self.sized:
            return 0.0
        expected = (~x.isnan()).to(x.dtype) @ self.usual
        total = x.nansum(1)
        return torch.where(total > 0.0, (total / expected).log(), 0.0).unsqueeze(1)

    def features(self, x: Tensor, log_size: Tensor | float) -> Tensor:
        """Return logarithms of counts relative to the row's size."""
        return (x * torch.as_tensor(-log_size).exp()).log1p()

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


class Categorical(ColumnLaw):
    """Columns of the categories 0, 1, ...: a softmax over outputs for each.

    Parameters
    ----------
    n_levels : sequence of int
        The number of categories of each column; columns with fewer than the most have
        idle outputs.
    """

    name = "categorical"

    def __init__(self, n_levels: Sequence[int]) -> None:
        most = max(n_levels)
        super().__init__(len(n_levels), most)
        levels = torch.tensor(n_levels)
        idle = torch.arange(most) >= levels.unsqueeze(1)
        self.closed: Tensor
        closed = torch.zeros(idle.shape, dtype=torch.float64)
        self.register_buffer("closed", closed.masked_fill(idle, -math.inf))

    def problem(self, x: Tensor) -> str | None:
        """Return what the values have to be."""
        known = (self.closed > -math.inf).sum(1)
        good = (x >= 0.0) & (x == x.floor()) & (x < known)
        return "numbers of categories seen in fit" if _bad(x, good) else None

    def one_hot(self, x: Tensor) -> Tensor:
        """Return a row of zeros and a one for every value."""
        n_levels = self.closed.shape[1]
        return nn.functional.one_hot(x.long(), n_levels).to(self.closed.dtype)

    def start(self, x: Tensor) -> Tensor:
        """Return the logarithms of the frequencies."""
        seen = (~x.isnan()).to(x.dtype).unsqueeze(-1)
        counts = (self.one_hot(x.nan_to_num(nan=0.0)) * seen).sum(0) + 0.5
        return (counts / counts.sum(1, keepdim=True)).log().flatten()

    def features(self, x: Tensor, log_size: Tensor | float) -> Tensor:
        """Return zeros and ones."""
        return self.one_hot(x).flatten(1)

    def expected_features(self, eta: Tensor) -> Tensor:
        """Return the chances."""
        return self.mean(eta, 0.0)

    def _log_chances(self, eta: Tensor) -> Tensor:
        logits = eta.unflatten(1, self.closed.shape) + self.closed
        return torch.log_softmax(logits, -1)

    def log_prob(self, x: Tensor, eta: Tensor, log_size: Tensor | float) -> Tensor:
        """Return the log probability."""
        chosen = x.long().unsqueeze(-1)
        return self._log_chances(eta).gather(-1, chosen).squeeze(-1)

    def slopes(
        self, x: Tensor, eta: Tensor, log_size: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Return the residuals, and the chances in place of a decline."""
        chance = self._log_chances(eta).exp()
        return (self.one_hot(x) - chance).flatten(1), chance.flatten(1)

    def spread_over_outputs(self, observed: Tensor) -> Tensor:
        """Return the mask for each category."""
        return observed.repeat_interleave(self.closed.shape[1], 1)

    def gram(self, tangents: Tensor, decline: Tensor) -> Tensor:
        """Return the sum over columns of the covariances of their tangents."""
        weighted = tangents * decline.unsqueeze(1)
        middle = weighted.unflatten(2, self.closed.shape).sum(-1)
        return weighted @ tangents.mT - middle @ middle.mT

    def mean(self, eta: Tensor, log_size: Tensor | float) -> Tensor:
        """Return the chances of the categories."""
        return self._log_chances(eta).exp().flatten(1)

    def values(self, mean: Tensor) -> Tensor:
        """Return the most probable categories, as these have no mean."""
        return mean.unflatten(1, self.closed.shape).argmax(-1).to(mean.dtype)

    def sample(
        self, eta: Tensor, log_size: Tensor | float, generator: torch.Generator
    ) -> Tensor:
        """Draw categories."""
        chances = self._log_chances(eta).exp()
        flat = torch.multinomial(chances.flatten(0, 1), 1, generator=generator)
        return flat.view(chances.shape[:2]).to(eta.dtype)


LIKELIHOODS: dict[str, type[ColumnLaw]] = {
    law.name: law
    for law in (Bernoulli, Categorical, Gaussian, NegativeBinomial, Poisson)
}
