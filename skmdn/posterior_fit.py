"""One observation's posterior: its target, its fit, and what is asked of it later."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .bridge import generator_from, to_numpy
from .covering import Covering, LinkedNormals, Normals, Settings, Target, cover
from .covering.descent import Parameters, descend
from .covering.judging import judged
from .covering.objectives import Objective
from .covering.pareto import pareto_smoothed
from .covering.quality import Coverage, Quality, coverage, fresh_draws, measure
from .covering.summits import summits
from .parameter_space import ParameterSpace
from .posterior_density import PosteriorDensity
from .potentials import Potential

__all__ = ["Descent", "PosteriorFit", "Problem"]

# Fewer evaluations than this make the fit frugal.
_FRUGAL = 50_000
# A shape of the weights' tail above this, where there is something to correct.
_MAX_KHAT = 0.7
_GOOD_EFFICIENCY = 0.9
_MIN_EFFICIENCY = 0.05
_MAX_DIVERGENCE = 0.3
# Draws for each that is kept after resampling.
_OVERSAMPLING = 10
_MODE_STARTS = 60
_MODE_EVALS = 200_000


@dataclass(frozen=True)
class Problem:
    """The target of an observation.

    Parameters
    ----------
    function : callable
        The user's potential.
    space : ParameterSpace
        What the prior says.
    observation : ndarray of shape (n_observed,) or None
        What follows the points.
    add_prior : bool
        Whether the potential is a likelihood.
    """

    function: Callable[..., Any]
    space: ParameterSpace
    observation: np.ndarray | None
    add_prior: bool

    def target(
        self, max_evals: int, *, heights: bool = False, counted: bool = False
    ) -> Target:
        """Return the target in the coordinates of the prior.

        ``counted`` counts also the points that the potential was tried with.
        """
        space = self.space
        middle = torch.zeros(2, space.n_features, dtype=torch.float64)
        potential = Potential(
            self.function, self.observation, space.coordinates.forward(middle)
        )
        relative = self.add_prior and space.exact
        log_prior = space.log_prob if self.add_prior and not relative else None

        def function(theta: Tensor) -> Tensor:
            values = potential(theta)
            return values if log_prior is None else values + log_prior(theta)

        return Target(
            function,
            space.coordinates,
            max_evals=max_evals,
            differentiable=potential.differentiable
            and (log_prior is None or space.differentiable),
            base="prior" if relative else "parameters",
            heights=heights,
            n_evals=potential.n_probed if counted else 0,
        )


@dataclass(frozen=True)
class Descent:
    """What follows the covering start.

    Parameters
    ----------
    q : {"mixture", "gaussian", "gaussian_diag"}
        The family.
    objective : Objective or None
        What is minimised; None lets the start and a descent of rKL compete, and is
        the start itself for a mixture.
    n_particles, max_iter : int
        Draws in a step; steps.
    learning_rate, clip_norm : float
        Of Adam.
    """

    q: str
    objective: Objective | None
    n_particles: int
    max_iter: int
    learning_rate: float
    clip_norm: float

    @classmethod
    def from_params(
        cls,
        q: str,
        vi_method: str,
        n_particles: int,
        max_iter: int,
        learning_rate_init: float,
        max_grad_norm: float,
        **params: Any,
    ) -> "Descent":
        """Read the estimator's parameters.

        Raises
        ------
        ValueError
            If two of them contradict each other.
        """
        names = ("alpha_order", "n_importance", "stick_the_landing", "dreg")
        options = {name: params[name] for name in (*names, "weight_transform")}
        if options["dreg"] and q == "mixture" and vi_method in ("IW", "alpha"):
            raise ValueError(
                "dreg=True is for a q of one component: draws of a mixture come from "
                "all its components together. Use q='gaussian', or dreg=False."
            )
        objective = None if vi_method == "auto" else Objective(vi_method, **options)
        return cls(
            q, objective, n_particles, max_iter, learning_rate_init, max_grad_norm
        )

    @property
    def n_evals(self) -> int:
        """What it may take."""
        if self.q == "mixture" and self.objective is None:
            return 0
        return self.n_particles * self.max_iter

    def run(
        self,
        target: Target,
        normals: Normals,
        max_evals: int,
        n_judged: int,
        generator: torch.Generator,
    ) -> Normals:
        """Return the fitted member of the family."""
        if self.q == "mixture" and self.objective is None:
            return normals
        diagonal = self.q == "gaussian_diag"
        start = normals if self.q == "mixture" else normals.moment_matched(diagonal)
        objective = self.objective
        if objective is None:
            if not target.differentiable:
                return start
            objective = Objective("rKL", stick_the_landing=True)
        if objective.needs_gradient and not target.differentiable:
            raise ValueError(
                f"vi_method={objective.method!r} needs a potential through which "
                "gradients flow, from tensors to a tensor; 'fKL' and 'auto' do not."
            )
        moved, losses = descend(
            target,
            objective,
            Parameters(start, diagonal),
            n_particles=self.n_particles,
            max_iter=min(self.max_iter, max_evals // self.n_particles),
            learning_rate=self.learning_rate,
            clip_norm=self.clip_norm,
            generator=generator,
        )
        if not np.isfinite(losses).any():
            return start
        if self.objective is not None:
            return moved
        return judged(target, [start, moved], n_judged, generator)[0]


@dataclass
class PosteriorFit:
    """A fitted posterior and what is known about it.

    Parameters
    ----------
    problem : Problem
        What it approximates.
    covering : Covering
        The mixture and the draws on the way to it.
    report : dict
        Its quality.
    n_evals : int
        Evaluations of the potential, later ones included.
    """

    problem: Problem
    covering: Covering
    report: dict[str, Any]
    n_evals: int
    _modes: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False)

    @classmethod
    def fit(
        cls,
        problem: Problem,
        descent: Descent,
        *,
        max_evals: int,
        max_components: int | None,
        effort: int,
        generator: torch.Generator,
        start: Normals | None = None,
    ) -> "PosteriorFit":
        """Cover the target, descend, report; twice the effort has twice as much."""
        most = effort * max_evals
        target = problem.target(most, counted=True)
        settings = Settings.for_dimension(
            target.n_features,
            frugal=max_evals < _FRUGAL,
            max_components=max_components,
            effort=effort,
        ).within(most)
        n_later = settings.n_judged + settings.n_reported
        n_descent = min(descent.n_evals, target.max_evals // 2 - n_later)
        reserve = n_descent + n_later if n_descent else 0
        target.max_evals -= reserve
        covering = cover(target, settings, generator, start)
        target.max_evals += reserve
        if n_descent:
            normals = descent.run(
                target, covering.normals, n_descent, settings.n_judged, generator
            )
            u, log_p = fresh_draws(target, normals, settings.n_reported, generator)
            covering = replace(
                covering,
                normals=normals,
                quality=measure(normals, u, log_p),
                coverage=coverage(normals, u, log_p, covering.batches),
            )
        report = _report(covering.quality, covering.coverage, covering.power, target)
        return cls(problem, covering, report, target.n_evals)

    @property
    def linked(self) -> LinkedNormals:
        """The mixture behind the links."""
        return LinkedNormals(self.problem.space.coordinates, self.covering.normals)

    @property
    def density(self) -> PosteriorDensity:
        """What the user holds."""
        return PosteriorDensity(self.linked)

    def evaluate(self, n_samples: int, generator: torch.Generator) -> dict[str, Any]:
        """Renew the report with fresh draws."""
        target = self.problem.target(n_samples)
        normals = self.covering.normals
        u, log_p = fresh_draws(target, normals, n_samples, generator)
        self.n_evals += n_samples
        quality = measure(normals, u, log_p)
        check = coverage(normals, u, log_p, self.covering.batches)
        self.report = _report(quality, check, self.covering.power, target)
        return self.report

    def draw(
        self, n_samples: int, method: str, generator: torch.Generator
    ) -> np.ndarray:
        """Return draws of the mixture, or resampled ones.

        None comes twice as long as enough of them have weight.
        """
        if method == "q":
            return to_numpy(self.linked.draw(n_samples, generator))
        n_draws = _OVERSAMPLING * n_samples
        normals, target = self.covering.normals, self.problem.target(n_draws)
        u, log_p = fresh_draws(target, normals, n_draws, generator)
        self.n_evals += n_draws
        log_w = log_p - normals.log_prob(u)
        if method == "psir":
            log_w, _ = pareto_smoothed(log_w)
        weights = torch.softmax(log_w, 0)
        repeated = int((weights > 0).sum()) < n_samples
        chosen = torch.multinomial(weights, n_samples, repeated, generator=generator)
        order = torch.randperm(n_samples, generator=generator)
        return to_numpy(self.problem.space.coordinates.forward(u[chosen[order]]))

    def modes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the target's modes and their heights, found once."""
        if self._modes is None:
            target = self.problem.target(_MODE_EVALS, heights=True)
            generator = generator_from(0)
            u, log_p = summits(target, self.covering.normals, _MODE_STARTS, generator)
            self.n_evals += target.n_evals
            theta = self.problem.space.coordinates.forward(u)
            self._modes = to_numpy(theta), to_numpy(log_p)
        return self._modes


def _report(
    quality: Quality, check: Coverage, power: float, target: Target
) -> dict[str, Any]:
    """Put together what is known about a fit."""
    _, khat = pareto_smoothed(quality.log_weights)
    efficiency = quality.efficiency
    doubts = []
    if power < 1.0:
        doubts.append("the evaluations ended before the target was reached")
    if check.suspicious:
        doubts.append("the coverage check sees mass that q has lost")
    if khat > _MAX_KHAT and efficiency < _GOOD_EFFICIENCY:
        doubts.append(f"the weights have a heavy tail, khat = {khat:.2f}")
    if efficiency < _MIN_EFFICIENCY:
        doubts.append(f"only {efficiency:.1%} of the draws are effective")
    if quality.divergence > _MAX_DIVERGENCE:
        doubts.append(f"KL(p || q) is about {quality.divergence:.2f} nats")
    if target.n_nan:
        doubts.append(f"the potential was NaN or inf at {target.n_nan} points")
    return {
        "khat": khat,
        "ess": efficiency * len(quality.log_weights),
        "efficiency": efficiency,
        "log_evidence": quality.log_evidence,
        "log_evidence_se": quality.log_evidence_se,
        "elbo": quality.elbo,
        "truncated_elbo": quality.truncated_elbo,
        "cut": quality.cut,
        "impossible": quality.impossible,
        "divergence": quality.divergence,
        "prop": quality.proportionality,
        "log_evidence_defensive": check.log_evidence_defensive,
        "log_evidence_defensive_se": check.log_evidence_defensive_se,
        "missed": check.missed,
        "suspicious": check.suspicious,
        "doubts": doubts,
    }
