r"""What the loop minimises: the penalised negative log-likelihood of a mixture.

.. math::
    L = -\frac{1}{\sum_i v_i} \sum_i v_i \Bigl[ \log p(y_i \mid x_i)
    + \frac{1}{n} \log p(\pi(x_i), \sigma(x_i)) \Bigr]

with row weights v and a prior on weights and scales, averaged over the rows and counted
once for the n rows they are worth.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from skmdn.likelihood import log_likelihood

from .networks import MixtureNetwork
from .penalty import MixturePrior
from .steps import agree

__all__ = ["MixtureObjective"]

Widths = Callable[[Tensor, Tensor], Tensor]


def _nothing() -> None:
    """Return that there is no faster way."""


# How far the logarithm of a member's spread moves from one judgement to the next, and
# where it stays: the search goes on while training does.
_SPREAD_STEPS = (-0.2, -0.05, 0.0, 0.05, 0.2)
_SPREAD_RANGE = (0.0, 1.4)

# The share of the steps over which the temperature falls.
_COOLING = 0.2


class MixtureObjective:
    """Losses of a network that maps features to mixtures, member by member.

    Parameters
    ----------
    network : MixtureNetwork
        Maps ``(n_members, n_rows, n_features)`` to a :class:`Mixture`.
    x : Tensor of shape (n_samples, n_features)
        Standardised features, or something else that returns rows by index.
    y : Tensor of shape (n_samples, n_outputs)
        Standardised targets, or their lower ends.
    weights : Tensor of shape (n_samples,)
        Positive row weights whose mean is 1.
    upper : Tensor of shape (n_samples, n_outputs), optional
        Upper ends, if not all targets are known.
    prior : MixturePrior
        Keeps the likelihood bounded.
    n_rows : float
        The number of rows the prior is shared out over.
    log_scale : float
        Added to every loss: the log volume of the target's units.
    x_noise, y_noise : float
        Standard deviation of fresh noise in every batch.
    generator : torch.Generator
        Its source.
    heat : float, default=1.0
        Temperature with which :meth:`cool` begins, over that of the network.
    """

    def __init__(
        self,
        network: MixtureNetwork,
        x: Tensor,
        y: Tensor,
        weights: Tensor,
        *,
        upper: Tensor | None = None,
        prior: MixturePrior,
        n_rows: float,
        log_scale: float,
        x_noise: float,
        y_noise: float,
        generator: torch.Generator,
        heat: float = 1.0,
    ) -> None:
        self.network = network
        self.x, self.y, self.upper = x, y, upper
        self.flat_y = y.flatten()
        self.weights = weights
        self.spread_steps = y.new_tensor(_SPREAD_STEPS)
        self.prior = prior
        self.n_rows = n_rows
        self.log_scale = log_scale
        self.x_noise, self.y_noise = x_noise, y_noise
        self.generator = generator
        self.heat = heat
        self.relative_temperature = 1.0
        # Returns a faster way to :meth:`log_prob_of_spreads`, whose first answer is
        # compared, while there is one: a weak reference, since it knows this object.
        self.by_hand: Callable[[], Widths | None] = _nothing
        self.compared = False
        self.judged: Any = None, None
        # Modules look their parts up slowly.
        self.head: Any = network.head

    def temperature(self) -> float:
        """Return the temperature of the training loss."""
        return float(self.head.temperature * self.relative_temperature)

    def cool(self, done: float) -> None:
        r"""Set the temperature of the training loss.

        .. math:: T = T_1 (T_0 / T_1)^{\max(0, 1 - 5 s)}

        Held-out rows always see the end :math:`T_1`, which is the network's own.

        Parameters
        ----------
        done : float
            The share s of the steps that are done.
        """
        self.relative_temperature = self.heat ** max(0.0, 1.0 - done / _COOLING)

    def training_loss(self, rows: Tensor) -> Tensor:
        """Return the loss of each member on its rows ``(n_members, n_batch)``."""
        x = self.x[rows]
        if self.x_noise:
            x = x + self._noise(x, self.x_noise)
        low, high = self.ends(rows)
        if self.y_noise:
            # Both ends move alike: a known number stays one.
            noise = self._noise(low, self.y_noise)
            low, high = low + noise, None if high is None else high + noise
        mixture = self.network(x).temper(self.relative_temperature)
        log_prior = self.prior.log_prob(mixture) / self.n_rows
        gain = self.weights[rows] * (log_likelihood(mixture, low, high) + log_prior)
        return self.log_scale - gain.mean(1)

    def held_out_loss(self, rows: Tensor, counts: Tensor | None = None) -> Tensor:
        r"""Return the negative log-likelihood of each member on its rows.

        Of these only the ones for which ``counts`` is 1 matter, if it is given.

        Every member is judged at the factor t of its scales that suits it best, with
        :math:`(\log t)^2` added once, and keeps that factor in ``head.log_spread``:
        scales that are too small are repaired, not punished.
        """
        spread = self.head.log_spread
        log_spread = (spread + self.spread_steps).clamp_(*_SPREAD_RANGE)
        log_prob = self._compared_log_prob(rows, log_spread)
        # A loop judges by the same rows again and again.
        if self.judged[0] is not rows or self.judged[1] is not counts:
            self.judged = (rows, counts, *self._shares(rows, counts))
        shares, n_counts = self.judged[2:]
        once = log_spread.square().div_(n_counts).unsqueeze(1)
        losses = torch.baddbmm(once, shares, log_prob, alpha=-1.0).squeeze(1)
        best = losses.min(1)
        spread.copy_(log_spread.gather(1, best.indices.unsqueeze(1)))
        return self.log_scale + best.values

    def _shares(self, rows: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the rows' shares ``(n_members, 1, n_batch)``, and how many count."""
        counts = torch.ones_like(rows) if counts is None else counts
        weights = (self.weights[rows] * counts).unsqueeze(1)
        return weights / weights.sum(2, keepdim=True), counts.sum(1, keepdim=True)

    def _compared_log_prob(self, rows: Tensor, log_spread: Tensor) -> Tensor:
        """Return :meth:`log_prob_of_spreads`, the faster way if that is the same."""
        by_hand = self.by_hand()
        if by_hand is not None and self.compared:
            return by_hand(rows, log_spread)
        expected = self.log_prob_of_spreads(rows, log_spread)
        if by_hand is not None:
            self.compared = agree(by_hand(rows, log_spread), expected)
            if not self.compared:
                self.by_hand = _nothing
        return expected

    def log_prob_of_spreads(self, rows: Tensor, log_spread: Tensor) -> Tensor:
        """Return log-likelihoods ``(n_members, n_batch, n_spreads)``.

        Parameters
        ----------
        rows : Tensor of shape (n_members, n_batch)
            Rows of each member.
        log_spread : Tensor of shape (n_members, n_spreads)
            Logarithms of factors of its scales.
        """
        mixture = self.network.of_rows(self.x, rows).unsqueeze()
        wide = mixture.widen(log_spread.exp().unsqueeze(1))
        return log_likelihood(wide, *self.ends(rows, points=True))

    def ends(
        self, rows: Tensor, *, points: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Return the targets of rows, or their ends; perhaps with an axis of points."""
        axis = rows.ndim
        low = self.y[rows]
        high = None if self.upper is None else self.upper[rows]
        if points:
            low = low.unsqueeze(axis)
            high = None if high is None else high.unsqueeze(axis)
        return low, high

    def _noise(self, like: Tensor, size: float) -> Tensor:
        return torch.empty_like(like).normal_(0.0, size, generator=self.generator)
