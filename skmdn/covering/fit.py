"""The whole algorithm, step by step."""

import math
from dataclasses import dataclass, replace

import torch

from .annealing import Annealing
from .growth import Growth
from .hunt import hunt
from .judging import judged, reweighted
from .merging import merge_cheapest, reduced
from .natural import natural_gradient
from .normals import Normals
from .pool import Batch, effective_size, log_mean, normalized
from .quality import Coverage, Quality, coverage, fresh_draws, measure
from .settings import Settings
from .target import Density

__all__ = ["Covering", "cover"]

_ANNEALING_SHARE = 0.6
_HUNT_SHARE = 0.15
_NATURAL_SHARE = 0.2


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
    """

    normals: Normals
    quality: Quality
    coverage: Coverage
    batches: list[Batch]
    power: float
    divergences: list[float]
    picked: str


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
    if target.differentiable:
        log_evidence = log_mean(annealing.pool.log_weights())
        prior = annealing.batches[0]
        normals = hunt(target, prior, normals, log_evidence, settings, most)
        normals = merge_cheapest(normals, settings.most_components)
    growth = Growth(target, settings, annealing.pool, generator)
    natural = int(_NATURAL_SHARE * total) if target.differentiable else 0
    normals = growth.run(normals, total - reserve - natural)
    candidates = _candidates(target, normals, growth, settings, generator, reserve)
    best, scores = judged(
        target, list(candidates.values()), settings.n_judged, generator
    )
    u, log_p = fresh_draws(target, best, settings.n_reported, generator)
    batches = [*annealing.batches, *([growth.first] if growth.first else [])]
    return Covering(
        best,
        measure(best, u, log_p),
        coverage(best, u, log_p, batches),
        [replace(batch, phi=batch.phi[:0]) for batch in batches],
        annealing.power,
        growth.history,
        list(candidates)[scores.index(min(scores))],
    )


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
    if merged.n_components < normals.n_components:
        sources["natural merged"] = merged
    for position, (name, source) in enumerate(sources.items()):
        most = (target.left - reserve) // (len(sources) - position)
        candidates[name] = natural_gradient(
            target, source, settings.natural_steps, most, generator
        )
    if 2 * normals.n_components <= settings.most_components:
        both = normals.joined(candidates["natural"], 0.5)
        candidates["blend"] = reweighted(both, phi, weights)
    return candidates
