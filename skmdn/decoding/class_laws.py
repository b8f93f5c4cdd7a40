"""Laws of columns of zeros and ones, and of categories."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .column_law import ColumnLaw, all_allowed, n_seen

__all__ = ["Bernoulli", "Categorical"]


class Bernoulli(ColumnLaw):
    r"""Columns of zeros and ones with the log odds :math:`\eta`.

    A number between them is a share of ones: it counts with its expected log
    probability.
    """

    name = "bernoulli"

    def problem(self, x: Tensor) -> str | None:
        """Return what the values have to be."""
        inside = (x >= 0.0) & (x <= 1.0)
        return None if all_allowed(x, inside) else "numbers from 0 to 1"

    def start(self, x: Tensor, exposure: Tensor | None = None) -> Tensor:
        """Return the log odds of the columns."""
        seen = n_seen(x)
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
        return None if all_allowed(x, good) else "numbers of categories seen in fit"

    def one_hot(self, x: Tensor) -> Tensor:
        """Return a row of zeros and a one for every value."""
        n_levels = self.closed.shape[1]
        return nn.functional.one_hot(x.long(), n_levels).to(self.closed.dtype)

    def start(self, x: Tensor, exposure: Tensor | None = None) -> Tensor:
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
