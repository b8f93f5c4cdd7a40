r"""Draws from several proposals, weighted as draws from their mixture.

.. math:: w_i = \frac{p(u_i)}{\sum_b (n_b / n) \, q_b(u_i)}

for a draw i of whichever of the batches b: every weight is bounded where one of the
proposals is good, and none forgets what an earlier one has found [1]_.

References
----------
.. [1] J.-M. Cornuet, J.-M. Marin, A. Mira, C. P. Robert, "Adaptive multiple importance
   sampling", Scandinavian Journal of Statistics 39(4), 2012.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .normals import Normals, features
from .target import Density

__all__ = [
    "Batch",
    "Pool",
    "Proposal",
    "effective_size",
    "log_mean",
    "normalized",
    "tempered",
]


@dataclass(frozen=True)
class Proposal:
    """A mixture of which a share is drawn wider, so that no tail is too thin."""

    normals: Normals
    share: float = 0.1
    factor: float = 1.6

    def draw(self, n_draws: int, generator: torch.Generator) -> Tensor:
        """Return points; exactly the share of them, up to rounding, is wider."""
        n_wide = round(n_draws * self.share)
        narrow, _ = self.normals.draw(n_draws - n_wide, generator)
        if not n_wide:
            return narrow
        wide = Normals(
            self.normals.log_weights,
            self.normals.means,
            self.normals.roots * self.factor,
        )
        return torch.cat([narrow, wide.draw(n_wide, generator)[0]])

    def log_prob(self, u: Tensor, phi: Tensor | None = None) -> Tensor:
        """Return the log density."""
        return self.normals.log_prob_widened(u, self.share, self.factor, phi)


@dataclass
class Batch:
    """Draws of a proposal with their features and log densities."""

    proposal: Proposal
    u: Tensor
    log_p: Tensor
    phi: Tensor

    @classmethod
    def draw(
        cls,
        target: Density,
        proposal: Proposal,
        n_draws: int,
        generator: torch.Generator,
    ) -> "Batch":
        """Draw points and ask for their densities."""
        u = proposal.draw(n_draws, generator)
        return cls(proposal, u, target.log_prob(u), features(u))

    def __len__(self) -> int:
        return len(self.u)


class Pool:
    """The last batches of draws.

    Parameters
    ----------
    size : int
        How many batches are kept.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.batches: list[Batch] = []
        self._log_q: list[list[Tensor]] = []

    def add(self, batch: Batch) -> None:
        """Add a batch and forget the oldest."""
        known = self.batches[-(self.size - 1) :] if self.size > 1 else []
        rows = self._log_q[-(self.size - 1) :] if self.size > 1 else []
        first = len(self.batches) - len(known)
        rows = [
            [*row[first:], batch.proposal.log_prob(b.u, b.phi)]
            for row, b in zip(rows, known, strict=True)
        ]
        own = [b.proposal.log_prob(batch.u, batch.phi) for b in [*known, batch]]
        self.batches, self._log_q = [*known, batch], [*rows, own]

    @property
    def u(self) -> Tensor:
        """All points."""
        return torch.cat([b.u for b in self.batches])

    @property
    def phi(self) -> Tensor:
        """Their features."""
        return torch.cat([b.phi for b in self.batches])

    @property
    def log_p(self) -> Tensor:
        """Their log densities."""
        return torch.cat([b.log_p for b in self.batches])

    def log_denominators(self) -> Tensor:
        """Return the log density of the mixture of all proposals."""
        sizes = torch.tensor([float(len(b)) for b in self.batches])
        logs = (sizes / sizes.sum()).double().log()
        rows = [torch.stack(row, 1) + logs for row in self._log_q]
        return torch.cat([torch.logsumexp(row, 1) for row in rows])

    def log_weights(self) -> Tensor:
        """Return the log importance weights."""
        return self.log_p - self.log_denominators()


def normalized(log_weights: Tensor) -> Tensor:
    """Return weights with sum 1."""
    return torch.softmax(log_weights, 0)


def effective_size(log_weights: Tensor) -> float:
    """Return the effective number of draws, 0 if none has weight."""
    top = log_weights.max()
    if not bool(top.isfinite()):
        return 0.0
    weights = (log_weights - top).exp()
    return float(weights.sum().square() / weights.square().sum())


def log_mean(log_weights: Tensor) -> float:
    """Return the logarithm of the mean weight."""
    return float(torch.logsumexp(log_weights, 0)) - math.log(len(log_weights))


def largest_power(
    log_weights: Callable[[float], Tensor], n_wanted: float, tol: float = 1e-4
) -> float:
    """Return the largest power in [0, 1] at which enough draws are effective."""
    if effective_size(log_weights(1.0)) >= n_wanted:
        return 1.0
    low, high = 0.0, 1.0
    # In logarithms: the first steps may be as short as a ten-thousandth.
    while high - low > tol * high and high > 1e-12:
        middle = math.sqrt(low * high) if low else 0.1 * high
        if effective_size(log_weights(middle)) >= n_wanted:
            low = middle
        else:
            high = middle
    return low


def tempered(log_weights: Tensor, n_wanted: float) -> Tensor:
    """Return a power of the weights at which enough draws are effective."""
    finite = log_weights.masked_fill(log_weights == -torch.inf, -1e300)
    power = largest_power(lambda b: b * finite, n_wanted, 1e-2)
    return power * finite
