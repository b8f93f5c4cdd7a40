r"""The covering start: from the prior to the target, along a path of densities.

.. math:: p_b(u) \propto \mathcal{N}(u \mid 0, I)^{1 - b} \, p(u)^b
"""

import math

import torch
from torch import Tensor

from .merging import reduced
from .normals import Normals, em, log_normal
from .pool import (
    Batch,
    Pool,
    Proposal,
    effective_size,
    largest_power,
    normalized,
)
from .settings import Settings
from .target import Density

__all__ = ["Annealing", "underrepresented"]

_EM_STEPS = 8
_MAX_FIRST = 40
# What a draw's p / (Z q) has to exceed where components are added.
_EXCESS = math.log(1.5)


class Annealing:
    """Adaptive tempering with a pool of draws and weighted EM.

    Parameters
    ----------
    target : Density
        What is to be covered.
    settings : Settings
        Sizes.
    generator : torch.Generator
        For all draws.

    Attributes
    ----------
    batches : list of Batch
        All that were drawn: whoever asks later what has been missed needs them.
    power : float
        How far the path has led; 1 is the target.
    """

    def __init__(
        self, target: Density, settings: Settings, generator: torch.Generator
    ) -> None:
        self.target = target
        self.settings = settings
        self.generator = generator
        # All draws stay: a pool that has forgotten the prior covers nothing any more
        # once a mixture has gone astray.
        self.pool = Pool(settings.max_rounds + 2)
        self.batches: list[Batch] = []
        self.power = 0.0

    def run(self, max_evals: int, start: Normals | None = None) -> Normals:
        """Return the mixture at the end of the path, or where the budget ended."""
        n_prior = min(self.settings.n_prior, max_evals)
        prior = Proposal(Normals.standard(self.target.n_features), 0.0)
        self._draw(prior, n_prior)
        if not bool(self.pool.log_p.isfinite().any()):
            raise ValueError(
                f"The potential is -inf, NaN or infinite at all {n_prior} draws from "
                "the prior: there is nothing to start from. A prior that is narrower "
                "or wider may help."
            )
        if start is not None:
            self._draw(Proposal(start), self.settings.n_batch)
        log_w, self.power = self._tempered()
        normals = self._first(log_w)
        for _ in range(self.settings.max_rounds):
            if self.power == 1.0:
                break
            n_batch = self.settings.n_batch
            if self.target.n_evals + n_batch > max_evals:
                break
            self._draw(Proposal(normals), n_batch)
            normals = self._next(normals)
        return normals

    def _draw(self, proposal: Proposal, n_draws: int) -> None:
        batch = Batch.draw(self.target, proposal, n_draws, self.generator)
        self.batches.append(batch)
        self.pool.add(batch)

    def _tempered(self) -> tuple[Tensor, float]:
        """Return log weights at the largest power that keeps enough draws effective."""
        log_prior, log_p = log_normal(self.pool.u), self.pool.log_p
        log_q = self.pool.log_denominators()
        step = (log_p - log_prior).clamp_min(-1e300)

        def log_weights(power: float) -> Tensor:
            return log_prior + power * step - log_q

        power = largest_power(log_weights, self.settings.n_effective)
        return log_weights(power), power

    def _first(self, log_w: Tensor) -> Normals:
        """Return components around resampled prior draws."""
        u, weights, size = self.pool.u, normalized(log_w), effective_size(log_w)
        n_features = self.target.n_features
        most = min(_MAX_FIRST, self.settings.max_components)
        n_components = min(max(int(size / (2 * (n_features + 1))), 1), most)
        chosen = torch.multinomial(weights, n_components, generator=self.generator)
        mean = weights @ u
        covariance = (u - mean).mT @ ((u - mean) * weights.unsqueeze(1))
        share = (n_features + 2) / (size + n_features + 2)
        covariance.lerp_(torch.eye(n_features, dtype=u.dtype), share)
        root = torch.linalg.cholesky(covariance) / n_components ** (1 / n_features)
        zero = torch.zeros(n_components, dtype=u.dtype)
        normals = Normals(
            torch.log_softmax(zero, 0), u[chosen], root.repeat(n_components, 1, 1)
        )
        return self._fitted(normals, log_w)

    def _next(self, normals: Normals) -> Normals:
        """Go on along the path: temper, add components, fit, merge."""
        log_w, self.power = self._tempered()
        n_more = max(normals.n_components // 2, 3)
        most = effective_size(log_w) / (3 * (self.target.n_features + 1))
        n_more = min(n_more, int(most) - normals.n_components)
        n_more = min(n_more, self.settings.max_components - normals.n_components)
        if n_more > 0:
            normals = underrepresented(
                normals, self.pool, log_w, n_more, self.generator
            )
        return self._fitted(normals, log_w)

    def _fitted(self, normals: Normals, log_w: Tensor) -> Normals:
        weights, size = normalized(log_w), effective_size(log_w)
        rows = weights > 1e-12
        phi, weights = self.pool.phi[rows], weights[rows]
        normals = em(normals, phi, weights, _EM_STEPS, size)
        return reduced(normals, phi, weights, lambda q: q.n_parameters, size)


def underrepresented(
    normals: Normals,
    pool: Pool,
    log_w: Tensor,
    n_more: int,
    generator: torch.Generator,
) -> Normals:
    """Add components at draws whose density the mixture underrates.

    The draws are chosen by their weight; a new component is half as large, in
    covariance, as the one that answers for the draw.
    """
    log_q = normals.log_prob(pool.u, pool.phi)
    weights = normalized(log_w)
    log_p = log_w + pool.log_denominators()
    excess = log_p - log_q - float(torch.logsumexp(log_w, 0)) + math.log(len(log_w))
    weights = weights * (excess > _EXCESS)
    n_more = min(n_more, int((weights > 0).sum()))
    if n_more <= 0:
        return normals
    chosen = torch.multinomial(weights, n_more, generator=generator)
    owner = normals.log_joint(pool.u[chosen]).argmax(1)
    roots = normals.roots[owner] * math.sqrt(0.5)
    share = n_more / (normals.n_components + n_more)
    zero = torch.zeros(n_more, dtype=log_w.dtype)
    added = Normals(torch.log_softmax(zero, 0), pool.u[chosen], roots)
    return normals.joined(added, share)
