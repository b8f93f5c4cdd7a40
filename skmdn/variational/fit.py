"""One observation's posterior: its target, its fit, and what is asked of it later."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skmdn.bridge import generator_from, to_numpy
from skmdn.covering import Covering, LinkedNormals, Settings, Target, cover
from skmdn.covering.flowing import Flowed
from skmdn.covering.linked import LinkedFlow
from skmdn.covering.minimise import Record
from skmdn.covering.normals import log_normal
from skmdn.covering.pareto import pareto_smoothed
from skmdn.covering.quality import Coverage, Quality, coverage, fresh_draws, measure
from skmdn.covering.summits import summits
from skmdn.parameter_space import ParameterSpace
from skmdn.posterior_density import PosteriorDensity

from .family import Descent, Fitted, Start
from .potentials import OnDevice, Potential, answer_together, takes_many_observations
from .side_by_side import run_side_by_side

__all__ = ["Descent", "PosteriorFit", "Problem", "in_company", "of_each"]

# Fewer evaluations than this make the fit frugal.
_FRUGAL = 50_000
# A shape of the weights' tail above this, where there is something to correct.
_MAX_KHAT = 0.7
_GOOD_EFFICIENCY = 0.9
_MIN_EFFICIENCY = 0.05
# Few evaluations can leave tails that nothing has seen.
_MIN_FRUGAL_EFFICIENCY = 0.5
_MAX_DIVERGENCE = 0.3
# Draws for each that is kept after resampling.
_OVERSAMPLING = 10
_MODE_STARTS = 60
_MODE_EVALS = 200_000
# Fits that advance side by side: their draws are in memory together.
_WIDTH = 16


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
    device : str, default="cpu"
        Where tensors that the potential is given are.
    max_points : int, optional
        The most points that it is given at a time.
    """

    function: Callable[..., Any]
    space: ParameterSpace
    observation: np.ndarray | None
    add_prior: bool
    device: str = "cpu"
    max_points: int | None = None

    def generator(self, seed: int) -> torch.Generator:
        """Return a stream of the seed that depends on the observation as well."""
        if self.observation is None:
            return torch.Generator().manual_seed(seed)
        # Plus zero: -0 is 0.
        key = [seed, zlib.crc32((self.observation + 0.0).tobytes())]
        return generator_from(np.random.RandomState(key))

    def target(
        self, max_evals: int, *, heights: bool = False, counted: bool = False
    ) -> Target:
        """Return the target in the coordinates of the prior.

        ``counted`` counts also the points that the potential was tried with.
        """
        space = self.space
        middle = torch.zeros(2, space.n_features, dtype=torch.float64)
        potential = self._potential(space.coordinates.forward(middle))
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

    def log_potential(self, theta: Tensor) -> Tensor:
        """Return what is approximated, at points; -inf outside of the prior's support.

        Gradients flow through it where they do through the potential.
        """
        space = self.space
        inside = space.coordinates.contains(theta.detach())
        result = theta.new_full((len(theta),), -torch.inf)
        points = theta[inside]
        if not len(points):
            return result
        values = self._potential(points[:2].detach())(points)
        if self.add_prior and space.log_prob is not None:
            values = values + space.log_prob(points)
        elif self.add_prior:
            u = space.coordinates.inverse(points)
            values = values + log_normal(u) - space.coordinates.log_jacobian(u)
        return result.index_put((inside.nonzero().squeeze(1),), values)

    @property
    def on_device(self) -> Callable[..., Any]:
        """The user's potential, where its tensors should be."""
        if self.device == "cpu":
            return self.function
        return OnDevice(self.function, self.device)

    def _potential(self, probe: Tensor) -> Potential:
        return Potential(self.on_device, self.observation, probe, self.max_points)


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
    frugal : bool
        Whether there were few in the fit.
    flow : Flowed or None
        What stands in the place of the mixture.
    records : list of Record
        How the descents went.
    """

    problem: Problem
    covering: Covering
    report: dict[str, Any]
    n_evals: int
    frugal: bool = False
    flow: Flowed | None = None
    records: list[Record] = field(default_factory=list, repr=False)
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
        start: Start | None = None,
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
        later = settings.within(most // 2)
        n_later = later.n_reported + (0 if descent.learns else later.n_judged)
        reserve = descent.kept(most) + n_later if descent.n_evals else 0
        target.max_evals -= reserve
        earlier = start.normals if start is not None else None
        covering = cover(target, settings, generator, earlier)
        target.max_evals += reserve
        flow, records = None, []
        if reserve:
            # What the covering has left over is the descent's as well.
            n_descent = min(descent.n_evals, target.left - n_later)
            fitted, records = descent.run(
                target, covering, n_descent, later.n_judged, generator, start
            )
            u, log_p = fresh_draws(target, fitted, later.n_reported, generator)
            covering = replace(
                covering,
                quality=measure(fitted, u, log_p),
                coverage=coverage(fitted, u, log_p, covering.batches),
            )
            if isinstance(fitted, Flowed):
                flow = fitted
            else:
                covering = replace(covering, normals=fitted)
        covering = covering.without_draws()
        frugal = max_evals < _FRUGAL
        report = _report(
            covering.quality, covering.coverage, covering.power, target, frugal
        )
        return cls(problem, covering, report, target.n_evals, frugal, flow, records)

    @property
    def fitted(self) -> Fitted:
        """The density in the coordinates."""
        return self.covering.normals if self.flow is None else self.flow

    @property
    def linked(self) -> LinkedNormals | LinkedFlow:
        """The same behind the links."""
        coordinates, normals = self.problem.space.coordinates, self.covering.normals
        if self.flow is None:
            return LinkedNormals(coordinates, normals)
        return LinkedFlow(coordinates, self.flow, normals)

    @property
    def density(self) -> PosteriorDensity:
        """What the user holds."""
        return PosteriorDensity(self.linked)

    def evaluate(self, n_samples: int, generator: torch.Generator) -> dict[str, Any]:
        """Renew the report with fresh draws."""
        target = self.problem.target(n_samples)
        u, log_p = fresh_draws(target, self.fitted, n_samples, generator)
        self.n_evals += n_samples
        quality = measure(self.fitted, u, log_p)
        check = coverage(self.fitted, u, log_p, self.covering.batches)
        power = self.covering.power
        self.report = _report(quality, check, power, target, self.frugal)
        return self.report

    def draw(
        self, n_samples: int, method: str, generator: torch.Generator
    ) -> np.ndarray:
        """Return draws of q, or resampled ones.

        None comes twice as long as enough of them have weight.
        """
        if method == "q":
            return to_numpy(self.linked.draw(n_samples, generator))
        n_draws = _OVERSAMPLING * n_samples
        target = self.problem.target(n_draws)
        u, log_p = fresh_draws(target, self.fitted, n_draws, generator)
        self.n_evals += n_draws
        log_w = log_p - self.fitted.log_prob(u)
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


def in_company(problems: Sequence[Problem]) -> tuple[bool, int]:
    """Tell whether the potential takes several observations at once.

    Returns also how many points it was asked for.
    """
    rows = [problem.observation for problem in problems]
    others = [row for row in rows[1:] if not np.array_equal(row, rows[0])]
    if rows[0] is None or not others:
        return False, 0
    space = problems[0].space
    noise = torch.empty(8, space.n_features, dtype=torch.float64)
    probe = space.coordinates.forward(noise.normal_(generator=generator_from(0)))
    pair = np.stack([rows[0], others[0]])
    return takes_many_observations(problems[0].on_device, pair, probe)


def of_each(tasks: Sequence[Callable[[], Any]], together: bool) -> list[Any]:
    """Return the results of tasks, whose calls of the potential may be put together."""
    if not together or len(tasks) == 1:
        return [task() for task in tasks]
    return run_side_by_side(tasks, answer_together, _WIDTH)


def _report(
    quality: Quality, check: Coverage, power: float, target: Target, frugal: bool
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
    if efficiency < (_MIN_FRUGAL_EFFICIENCY if frugal else _MIN_EFFICIENCY):
        few = " of a fit with few evaluations" if frugal else ""
        doubts.append(f"only {efficiency:.1%} of the draws{few} are effective")
    if quality.divergence > _MAX_DIVERGENCE:
        doubts.append(f"KL(p || q) is about {quality.divergence:.3g} nats")
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
