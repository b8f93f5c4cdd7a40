"""What the rows say about the components: counts, means and scatters."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Statistics"]


@dataclass(frozen=True)
class Statistics:
    """Sufficient statistics of Gaussian components.

    Attributes
    ----------
    counts : Tensor of shape (n_runs, n_components)
        Summed weights of the rows that a component explains.
    means : Tensor of shape (n_runs, n_components, n_features)
        The rows' weighted means.
    scatters : Tensor of shape (n_runs, n_components, n_features[, n_features])
        Weighted sums of squares (or of products) of the deviations from these means.
    """

    counts: Tensor
    means: Tensor
    scatters: Tensor

    @classmethod
    def about(
        cls, points: Tensor, counts: Tensor, firsts: Tensor, seconds: Tensor
    ) -> "Statistics":
        """Make them from moments about points.

        Parameters
        ----------
        points : Tensor of shape (n_runs, n_components, n_features)
            Where deviations are measured from.
        counts, firsts, seconds : Tensor
            Weighted sums of 1, of the deviations and of their squares (products).
        """
        safe = counts.clamp_min(_TINY).unsqueeze(-1)
        shift = firsts / safe
        scatters = seconds - _square(shift, seconds) * _column(safe, seconds)
        return cls(counts, points + shift, scatters)

    def to(self, like: "Statistics") -> "Statistics":
        """Return them where others are."""
        device = like.counts.device
        return Statistics(
            self.counts.to(device), self.means.to(device), self.scatters.to(device)
        )

    def scaled(self, factor: float) -> "Statistics":
        """Return the statistics of rows whose weights are multiplied."""
        return Statistics(self.counts * factor, self.means, self.scatters * factor)

    def merged(self, other: "Statistics") -> "Statistics":
        """Return the statistics of both sets of rows together."""
        counts = self.counts + other.counts
        share = (other.counts / counts.clamp_min(_TINY)).unsqueeze(-1)
        gap = other.means - self.means
        between = self.counts.unsqueeze(-1) * share
        scatters = self.scatters + other.scatters
        scatters = scatters + _square(gap, scatters) * _column(between, scatters)
        return Statistics(counts, self.means + share * gap, scatters)

    def scatters_about(self, points: Tensor) -> Tensor:
        """Return the scatters about other points, shaped as the means."""
        gap = self.means - points
        weight = _column(self.counts.unsqueeze(-1), self.scatters)
        return self.scatters + _square(gap, self.scatters) * weight


_TINY = 1e-300


def _square(deviation: Tensor, like: Tensor) -> Tensor:
    """Return squares, or products where scatters are matrices."""
    if like.ndim == deviation.ndim:
        return deviation.square()
    return deviation.unsqueeze(-1) * deviation.unsqueeze(-2)


def _column(values: Tensor, like: Tensor) -> Tensor:
    """Return numbers ``(..., 1)`` that broadcast against scatters."""
    return values if like.ndim == values.ndim else values.unsqueeze(-1)
