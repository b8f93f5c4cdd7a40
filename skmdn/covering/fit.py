"""The whole algorithm, step by step."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .annealing import Annealing
from .growth import Growth
from .hunt import hunt, local_maxima
from .judging import judged, reweighted
from .merging import merge_cheapest, reduced
from .natural import natural_gradient
from .normals import Normals, features
from .pool import Batch, Pool, Proposal, effective_size, log_mean, normalized
from .quality import (
    Coverage,
    Quality,
    coverage,
    fresh_draws,
    lost_draws,
    measure,
)
from .settings import Settings
from .target import Density

__all__ = ["Covering", "cover"]

_ANNEALING_SHARE = 0.6
_HUNT_SHARE = 0.15
_NATURAL_SHARE = 0.2
# Of what the growth leaves over.
_SPARE_SHARE = 0.75
# What the log density of draws may lose by mergers that are worth a polish, in nats.
_MERGER_LOSS = 0.005


@dataclass(frozen=True)
class Covering:
    """A mixture, what is known about it and how it came about.

    Attributes
    ----------
    normals : Normals
        The mixture in the coordinates.
    quality : Quality
        From fresh draws.
    coverage : Coverage
        Against the draws of the annealing.
    batches : list of Batch
        Those draws.
    power : float
        How far the annealing came; 1 is the target.
    divergences : list of float
        KL(p || q) at the levels of the growth.
    picked : str
        Which candidate was best.
    pool : Pool or None
        The last draws of the growth, for whoever goes on.
    own : Batch or None
        Those of the report.
    """

    normals: Normals
    quality: Quality
    coverage: Coverage
    batches: list[Batch]
    power: float
    divergences: list[float]
    picked: str
    pool: Pool | None = None
    own: Batch | None = None

    def without_draws(self) -> "Covering":
        """Return the same without them."""
        return replace(self, pool=None, own=None)


def cover(
    target: Density,
    settings: Settings,
    generator: torch.Generator,
    start: Normals | None = None,
) -> Covering:
    """Fit a mixture of normals to a density of which N(0, I) is the prior.

    Parameters
    ----------
    target : Density
        What is approximated.
    settings : Settings
        Sizes and rules to stop.
    generator : torch.Generator
        For all draws.
    start : Normals, optional
        An earlier fit, from which draws are taken as well.
    """
    total = target.left
    settings = settings.within(total)
    reserve = settings.n_judged + settings.n_reported
    most = int(_HUNT_SHARE * total)
    annealing = Annealing(target, settings, generator)
    normals = annealing.run(
        min(int(_ANNEALING_SHARE * total), total - reserve - most), start
    )
    pool = annealing.pool
    # Under a prior that is much wider than the target no draw of its own is near.
    starts = local_maxima(
        pool.u, pool.log_p, pool.log_denominators(), settings.n_starts
    )
    normals = hunt(target, starts, normals, log_mean(pool.log_weights()), most)
    normals = merge_cheapest(normals, settings.most_components)
    growth = Growth(target, settings, pool, generator)
    natural = int(_NATURAL_SHARE * total) if target.differentiable else 0
    most = total - reserve - natural
    normals = growth.run(normals, most)
    batches = [*annealing.batches, *([growth.first] if growth.first else [])]
    found = _sought(target, normals, growth.pool, settings, most, batches, generator)
    found = _recovered(target, found, batches, settings, reserve)
    if found is not normals:
        normals = growth.run(found, most)
    covering = _finished(target, normals, growth, settings, generator, batches)
    # The draws of the report may be the first to see something.
    found = _recovered(target, covering.normals, covering.batches, settings, reserve)
    if found is not covering.normals:
        normals = growth.run(found, total - reserve)
        batches = covering.batches
        covering = _finished(target, normals, growth, settings, generator, batches)
    return replace(
        covering,
        batches=[replace(batch, phi=batch.phi[:0]) for batch in covering.batches[:-1]],
        own=covering.batches[-1],
        power=annealing.power,
    )


def _finished(
    target: Density,
    normals: Normals,
    growth: Growth,
    settings: Settings,
    generator: torch.Generator,
    batches: list[Batch],
) -> Covering:
    """Return the best candidate and its report, whose draws are the last batch."""
    reserve = settings.n_judged + settings.n_reported
    candidates = _candidates(target, normals, growth, settings, generator, reserve)
    best, scores = judged(
        target, list(candidates.values()), settings.n_judged, generator
    )
    u, log_p = fresh_draws(target, best, settings.n_reported, generator)
    if not log_mean(log_p - best.log_prob(u)) < math.inf:
        raise ValueError(
            "The fit ran away and ended where numbers have no meaning: the potential "
            "seems to have no finite integral. If it is a likelihood, add_prior=True "
            "adds the density of the prior."
        )
    own = Batch(Proposal(best, 0.0), u, log_p, features(u))
    return Covering(
        best,
        measure(best, u, log_p),
        coverage(best, u, log_p, batches),
        [*batches, own],
        1.0,
        growth.history,
        list(candidates)[scores.index(min(scores))],
        growth.pool,
    )


def _sought(
    target: Density,
    normals: Normals,
    pool: Pool,
    settings: Settings,
    max_evals: int,
    batches: list[Batch],
    generator: torch.Generator,
) -> Normals:
    """Return the mixture with summits near more draws of the prior.

    They take most of what the growth has left over, and are added to the batches.
    """
    spare = max_evals - target.n_evals
    n_draws = min(settings.n_spare, int(_SPARE_SHARE * spare))
    if n_draws < settings.n_batch:
        return normals
    prior = Proposal(Normals.standard(target.n_features), 0.0)
    batch = Batch.draw(target, prior, n_draws, generator)
    batches.append(batch)
    log_prior = prior.log_prob(batch.u, batch.phi)
    starts = local_maxima(batch.u, batch.log_p, log_prior, settings.n_starts)
    most = (max_evals - target.n_evals) // 2
    found = hunt(target, starts, normals, log_mean(pool.log_weights()), most)
    return merge_cheapest(found, settings.most_components)


def _recovered(
    target: Density,
    normals: Normals,
    batches: list[Batch],
    settings: Settings,
    reserve: int,
) -> Normals:
    """Return the mixture with summits near draws that it has lost on the way.

    A narrow mode is lost if a single draw speaks for it: tempering has to make it
    light enough, and EM drops a component of a single draw.
    """
    left = target.left - 2 * reserve
    full = normals.n_components >= settings.most_components
    if left <= 0 or full:
        return normals
    starts, log_evidence = lost_draws(normals, batches, settings.n_starts)
    found = hunt(target, starts, normals, log_evidence, left // 2)
    return merge_cheapest(found, settings.most_components)


def _candidates(
    target: Density,
    normals: Normals,
    growth: Growth,
    settings: Settings,
    generator: torch.Generator,
    reserve: int,
) -> dict[str, Normals]:
    """Return the mixtures of which the best will be taken."""
    log_w = growth.pool.log_weights()
    weights, size = normalized(log_w), effective_size(log_w)
    phi = growth.pool.phi

    def penalty(q: Normals) -> float:
        return 0.5 * math.log(max(size, 2.0)) * q.n_parameters

    candidates = {"em": normals, "best": growth.best or normals}
    merged = reduced(normals, phi, weights, penalty, size)
    candidates["merged"] = merged
    if not target.differentiable:
        return candidates
    sources = {"natural": normals}
    if _lost_by_merging(normals, merged, growth.pool, weights, size) > _MERGER_LOSS:
        # Where fewer components do not suffice, more of them are worth a polish.
        sources = {"natural": growth.larger(normals)}
    elif merged.n_components < normals.n_components:
        sources["natural merged"] = merged
    for position, (name, source) in enumerate(sources.items()):
        most = (target.left - reserve) // (len(sources) - position)
        candidates[name] = natural_gradient(
            target, source, settings.natural_steps, most, generator
        )
    both = normals.joined(candidates["natural"], 0.5)
    if both.n_components <= settings.most_components:
        candidates["blend"] = reweighted(both, phi, weights)
    return candidates


def _lost_by_merging(
    normals: Normals, merged: Normals, pool: Pool, weights: Tensor, size: float
) -> float:
    """Return how much the mean log density falls, less what is fitted to the noise."""
    seen = weights > 0
    u, phi = pool.u[seen], pool.phi[seen]
    gap = normals.log_prob(u, phi) - merged.log_prob(u, phi)
    n_more = normals.n_parameters - merged.n_parameters
    return float(weights[seen] @ gap) - n_more / max(size, 1.0)
