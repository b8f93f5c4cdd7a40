"""Laws of columns of real numbers."""

import math

import torch
from torch import Tensor, nn

from .column_law import ColumnLaw, n_seen

__all__ = ["Gaussian", "SphericalGaussian"]

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
# A column's scale, in units of its standard deviation: the density of columns that the
# codes can reproduce would have no bound.
_LEAST_SCALE = 1e-2


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

    def start(self, x: Tensor, exposure: Tensor | None = None) -> Tensor:
        """Measure the columns."""
        self.center = x.nansum(0) / n_seen(x)
        spread = ((x - self.center).square().nansum(0) / n_seen(x)).sqrt()
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


class SphericalGaussian(Gaussian):
    r"""Normal columns in the same units, with one learned scale for all.

    .. math:: x_j \sim \mathcal{N}(m_j + s \eta_j, (s \sigma)^2)

    with the root mean variance s of the columns. Columns that hardly vary, such as
    pixels at the edge, do not become important by it.
    """

    name = "spherical_gaussian"

    def __init__(self, n_columns: int) -> None:
        super().__init__(n_columns)
        self.raw = nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))

    def start(self, x: Tensor, exposure: Tensor | None = None) -> Tensor:
        """Measure the columns together."""
        outputs = super().start(x)
        variance = (x - self.center).square().nansum(0) / n_seen(x)
        size = self.center.abs().amax()
        variance = torch.where(variance <= (1e-12 * size) ** 2, 0.0, variance)
        spread = variance.mean().sqrt()
        self.spread = torch.where(spread > 0.0, spread, 1.0).expand_as(outputs).clone()
        return outputs

    def parameter_slopes(
        self, x: Tensor, eta: Tensor, log_size: Tensor | float, observed: Tensor | float
    ) -> Tensor:
        """Return the gradient by the one parameter."""
        return super().parameter_slopes(x, eta, log_size, observed).sum(0, keepdim=True)
