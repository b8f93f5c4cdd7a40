"""Growth: draws from the mixture itself, and components where it falls short."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .annealing import underrepresented
from .judging import divergence
from .natural import natural_cost, natural_gradient
from .normals import Normals, em
from .pool import Batch, Pool, Proposal, effective_size, normalized, tempered
from .settings import Settings
from .target import Density

__all__ = ["Growth"]

_ROUNDS = 3
_EM_STEPS = 4
# Steps of a trial of natural gradients.
_POLISH = 12
_MOST_DRAWS = 12_000
# A gain that is worth another level.
_GAIN = 0.94


@dataclass
class Growth:
    """Population Monte Carlo at the target, level by level more components.

    Parameters
    ----------
    target : Density
        What is approximated.
    settings : Settings
        Sizes and rules to stop.
    pool : Pool
        The draws of the annealing.
    generator : torch.Generator
        For all draws.

    Attributes
    ----------
    best : Normals
        The mixture of the round with the smallest divergence on fresh draws.
    first : Batch
        The first draws, which have seen what the mode hunt has found.
    history : list of float
        The divergence at every level.
    """

    target: Density
    settings: Settings
    pool: Pool
    generator: torch.Generator
    best: Normals | None = None
    first: Batch | None = None
    history: list[float] = field(default_factory=list)
    _best_value: float = math.inf

    def run(self, normals: Normals, max_evals: int) -> Normals:
        """Return the mixture after the last level that the budget allows."""
        size = self.settings.n_pooled
        pool = Pool(size)
        for batch in self.pool.batches[1 - size :]:
            pool.add(batch)
        self.pool = pool
        lowest, n_flat = math.inf, 0
        self.best, self._best_value = normals, math.inf
        for _ in range(self.settings.max_levels):
            values = []
            for _ in range(_ROUNDS):
                n_draws = self._n_draws(normals)
                if self.target.n_evals + n_draws > max_evals:
                    return normals
                normals, value = self._round(normals, n_draws)
                values.append(value)
            level = sum(values[1:]) / (_ROUNDS - 1)
            self.history.append(level)
            if level < self.settings.good_divergence:
                break
            n_flat = 0 if level < _GAIN * lowest else n_flat + 1
            lowest = min(lowest, level)
            normals, done = self._polished(normals, max_evals)
            if done:
                break
            fair = level <= self.settings.fair_divergence
            patience = self.settings.patience if fair else self.settings.long_patience
            if n_flat >= patience:
                break
            larger = self.larger(normals)
            if larger is normals and n_flat:
                break
            normals = larger
        return normals

    def larger(self, normals: Normals) -> Normals:
        """Add components where the mixture underrates the target."""
        log_w, size = self._log_weights()
        wanted = max(int(1.5 * normals.n_components), normals.n_components + 3)
        most = int(size / (3 * (self.target.n_features + 1)))
        n_more = min(wanted, most, self.settings.max_components) - normals.n_components
        if n_more <= 0:
            return normals
        larger = underrepresented(normals, self.pool, log_w, n_more, self.generator)
        return self._fitted(larger, normalized(log_w), size)

    def _n_draws(self, normals: Normals) -> int:
        wanted = 20 * normals.n_components * (self.target.n_features + 1)
        return min(max(wanted, self.settings.n_batch), _MOST_DRAWS)

    def _round(self, normals: Normals, n_draws: int) -> tuple[Normals, float]:
        """Judge the mixture on fresh draws, then fit it to the pool with them."""
        batch = Batch.draw(self.target, Proposal(normals), n_draws, self.generator)
        log_q = batch.proposal.log_prob(batch.u, batch.phi)
        ratio = batch.log_p - normals.log_prob(batch.u, batch.phi)
        value = divergence(batch.log_p - log_q, ratio)
        if value < self._best_value:
            self.best, self._best_value = normals, value
        self.first = self.first or batch
        self.pool.add(batch)
        log_w, size = self._log_weights()
        return self._fitted(normals, normalized(log_w), size), value

    def _polished(self, normals: Normals, max_evals: int) -> tuple[Normals, bool]:
        """Try natural gradients if they are cheap; tell whether that is enough.

        In many dimensions EM is limited by the noise of its draws, which natural
        gradients do not have where the target is smooth.
        """
        n_draws = self._n_draws(normals)
        cost = natural_cost(normals) * _POLISH
        affordable = self.target.n_evals + cost + n_draws <= max_evals
        if not self.target.differentiable or cost > n_draws or not affordable:
            return normals, False
        polished = natural_gradient(self.target, normals, _POLISH, cost, self.generator)
        batch = Batch.draw(self.target, Proposal(polished), n_draws, self.generator)
        log_w = batch.log_p - batch.proposal.log_prob(batch.u, batch.phi)
        self.pool.add(batch)
        values = [
            divergence(log_w, batch.log_p - q.log_prob(batch.u, batch.phi))
            for q in (normals, polished)
        ]
        if values[1] > values[0]:
            return normals, False
        self.history.append(values[1])
        return polished, values[1] < self.settings.good_divergence

    def _log_weights(self) -> tuple[Tensor, float]:
        """Return the pool's weights, tempered where too few draws are effective."""
        log_w = self.pool.log_weights()
        wanted = max(self.settings.n_effective, 0.1 * len(log_w))
        wanted = min(wanted, 0.5 * len(log_w))
        if effective_size(log_w) < wanted:
            log_w = tempered(log_w, wanted)
        return log_w, effective_size(log_w)

    def _fitted(self, normals: Normals, weights: Tensor, size: float) -> Normals:
        rows = weights > 1e-12
        return em(normals, self.pool.phi[rows], weights[rows], _EM_STEPS, size)
