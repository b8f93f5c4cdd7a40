"""Which family q is of, how it is fitted after the covering start, and from where."""

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skmdn.bridge import to_tensor
from skmdn.coordinates import Coordinates
from skmdn.covering import Covering, LinkedNormals, Normals, Target
from skmdn.covering.descent import Parameters, descend, improved
from skmdn.covering.flowing import Flowed, FlowTraining, over_mixture
from skmdn.covering.judging import judged
from skmdn.covering.linked import LinkedFlow
from skmdn.covering.merging import reduced
from skmdn.covering.minimise import Record, Steps
from skmdn.covering.normals import em, features
from skmdn.covering.objectives import Objective
from skmdn.flows import Flow, lent, make_flow
from skmdn.mixture import Mixture

__all__ = ["NORMALS", "Descent", "Fitted", "Start"]

NORMALS = ("mixture", "gaussian", "gaussian_diag")
# Flows whose transforms have an inverse in closed form, by one pass for each feature.
_INVERTIBLE = ("maf", "nsf")
_RATES = {"normals": 0.03, "flow": 0.005}
# The share of the evaluations that is kept for a descent.
_SHARE = 0.2
# That of a flow by "auto": weighted draws have taught it before, and cost nothing. A
# descent of fewer steps is left out.
_LATER_SHARE = 0.1
_FEWEST_STEPS = 50
_START_DRAWS = 4_000
_START_COMPONENTS = 20
_START_STEPS = 20

Fitted = Normals | Flowed


@dataclass(frozen=True)
class Start:
    """Where a fit begins: an earlier one.

    Parameters
    ----------
    normals : Normals
        A mixture in the coordinates of the new prior.
    flow : Flow or None
        A flow in the same coordinates.
    """

    normals: Normals
    flow: Flow | None = None

    @classmethod
    def of(
        cls, density: Any, coordinates: Coordinates, generator: torch.Generator
    ) -> "Start":
        """Understand a density of parameters.

        One that has the same links is taken over exactly. A mixture is fitted to draws
        of any other; it need not be exact, since draws of it are weighted.

        Parameters
        ----------
        density : PosteriorDensity, Mixture or object with ``sample(n_samples)``
            The earlier fit.
        coordinates : Coordinates
            Those of the new prior.
        generator : torch.Generator
            For the draws.

        Raises
        ------
        ValueError
            If it has another number of parameters, or no draw within the prior.
        """
        linked = getattr(density, "_linked", None)
        if isinstance(linked, LinkedNormals):
            normals = _between(linked, coordinates)
            if normals is not None:
                return cls(normals)
        if isinstance(linked, LinkedFlow) and linked.coordinates.equals(coordinates):
            return cls(linked.normals, copy.deepcopy(linked.flowed.flow))
        return cls(_fitted_to(_draws_of(density, generator), coordinates, generator))


def _between(linked: LinkedNormals, coordinates: Coordinates) -> Normals | None:
    """Return a mixture in other coordinates with the same links, else None."""
    own = linked.coordinates
    ends = zip((own.low, own.high), (coordinates.low, coordinates.high), strict=True)
    if not all(torch.equal(first, second) for first, second in ends):
        return None
    gap = own.linear(linked.normals.means) - coordinates.shift
    root = coordinates.root
    means = torch.linalg.solve_triangular(root, gap.mT, upper=False).mT
    roots = own.root @ linked.normals.roots
    roots = torch.linalg.solve_triangular(root, roots, upper=False)
    return Normals(linked.normals.log_weights, means.contiguous(), roots)


def _draws_of(density: Any, generator: torch.Generator) -> Tensor:
    if isinstance(density, Mixture):
        if density.batch_shape:
            raise ValueError(
                f"q is a batch of mixtures of shape {tuple(density.batch_shape)}; "
                "give one of them, such as q[0]."
            )
        return density.sample(_START_DRAWS, generator).double()
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    # scikit-learn's mixtures have a seed of their own, and return labels as well.
    seeded = "random_state" in inspect.signature(density.sample).parameters
    draws = density.sample(_START_DRAWS, **({"random_state": seed} if seeded else {}))
    return to_tensor(np.asarray(draws[0] if isinstance(draws, tuple) else draws))


def _fitted_to(
    theta: Tensor, coordinates: Coordinates, generator: torch.Generator
) -> Normals:
    """Return a mixture fitted to draws, in the coordinates."""
    n_features = coordinates.n_features
    if theta.ndim != 2 or theta.shape[1] != n_features:
        raise ValueError(
            f"q has draws of shape {tuple(theta.shape)}; the prior has {n_features} "
            "parameters."
        )
    u = coordinates.inverse(theta[coordinates.contains(theta)])
    u = u[u.isfinite().all(1)]
    if len(u) < 10 * (n_features + 1):
        raise ValueError(
            f"q has {len(u)} of {len(theta)} draws within the bounds of the prior: too "
            "few to start from."
        )
    size = float(len(u))
    n_components = min(_START_COMPONENTS, len(u) // (5 * (n_features + 1)))
    chosen = torch.randperm(len(u), generator=generator)[:n_components]
    spread = torch.cov(u.mT).reshape(n_features, n_features)
    spread.diagonal().add_(1e-12)
    root = torch.linalg.cholesky(spread) / n_components ** (1.0 / n_features)
    log_weights = u.new_full((n_components,), -math.log(n_components))
    normals = Normals(log_weights, u[chosen], root.repeat(n_components, 1, 1))
    phi, weights = features(u), u.new_full((len(u),), 1.0 / size)
    normals = em(normals, phi, weights, _START_STEPS, size)
    return reduced(normals, phi, weights, lambda q: q.n_parameters, size)


@dataclass(frozen=True)
class Descent:
    """What follows the covering start.

    Parameters
    ----------
    q : str or callable
        The family: one of ``NORMALS``, one of ``FLOWS``, or a factory.
    objective : Objective or None
        What is minimised; None lets candidates compete, and is the start itself for a
        mixture.
    n_particles : int
        Draws in a step.
    steps : Steps
        How many, and how long.
    n_transforms, hidden_layer_sizes
        Of a flow.
    """

    q: str | Callable[[int], nn.Module]
    objective: Objective | None
    n_particles: int
    steps: Steps
    n_transforms: int = 3
    hidden_layer_sizes: Sequence[int] = (50, 50)

    @classmethod
    def from_params(
        cls,
        q: str | Callable[[int], nn.Module],
        vi_method: str,
        n_particles: int,
        max_iter: int,
        learning_rate_init: float | str,
        max_grad_norm: float,
        tol: float,
        n_iter_no_change: int,
        n_transforms: int,
        hidden_layer_sizes: Sequence[int],
        report: Callable[[int, float], None] | None = None,
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
                "dreg=True is not for q='mixture': draws of a mixture come from all "
                "its components together. Use q='gaussian' or a flow, or dreg=False."
            )
        objective = None if vi_method == "auto" else Objective(vi_method, **options)
        rate = learning_rate_init
        if isinstance(rate, str):
            rate = _RATES["normals" if q in NORMALS else "flow"]
        steps = Steps(max_iter, rate, max_grad_norm, tol, n_iter_no_change, report)
        return cls(
            q, objective, n_particles, steps, n_transforms, tuple(hidden_layer_sizes)
        )

    @property
    def is_flow(self) -> bool:
        """Whether q is more than normals."""
        return self.q not in NORMALS

    @property
    def n_evals(self) -> int:
        """What it may take."""
        if self.q == "mixture" and self.objective is None:
            return 0
        return self.n_particles * self.steps.max_iter

    @property
    def learns(self) -> bool:
        """Whether it is a flow that is fitted to draws of the covering first."""
        return self.is_flow and self.objective is None

    def kept(self, max_evals: int) -> int:
        """Return how many of all evaluations are kept for it."""
        if not self.learns:
            return min(self.n_evals, int(_SHARE * max_evals))
        kept = min(self.n_evals, int(_LATER_SHARE * max_evals))
        return kept if kept >= self._n_fewest else 0

    @property
    def _n_fewest(self) -> int:
        """What a descent has to have if weighted draws have taught the flow."""
        return self.n_particles * min(_FEWEST_STEPS, self.steps.max_iter)

    def run(
        self,
        target: Target,
        covering: Covering,
        max_evals: int,
        n_judged: int,
        generator: torch.Generator,
        start: Start | None = None,
    ) -> tuple[Fitted, list[Record]]:
        """Return the fitted member of the family, and how the descents went."""
        normals = covering.normals
        if self.q == "mixture" and self.objective is None:
            return normals, []
        objective = self.objective
        if objective is None and target.differentiable:
            objective = Objective("rKL", stick_the_landing=True)
        if objective and objective.needs_gradient and not target.differentiable:
            raise ValueError(
                f"vi_method={objective.method!r} needs a potential through which "
                "gradients flow, from tensors to a tensor; 'fKL' and 'auto' do not."
            )
        if self.is_flow:
            flow = start.flow if start is not None else None
            training = FlowTraining(
                target, normals, self.steps, self.n_particles, generator
            )
            flow = flow or self._new_flow(normals, generator)
            if self.objective is None:
                return self._learned(training, flow, covering, max_evals)
            return self._descended(training, flow, max_evals, n_judged)
        diagonal = self.q == "gaussian_diag"
        first = normals if self.q == "mixture" else normals.moment_matched(diagonal)
        if objective is None:
            return first, []
        moved, record = descend(
            target,
            objective,
            Parameters(first, diagonal),
            n_particles=self.n_particles,
            steps=self.steps.within(max_evals // self.n_particles),
            generator=generator,
        )
        if self.objective is not None:
            better = improved(
                target,
                objective,
                [first, moved],
                n_particles=self.n_particles,
                n_draws=min(n_judged, target.left),
                generator=generator,
            )
            return moved if better else first, [record]
        return judged(target, [first, moved], n_judged, generator)[0], [record]

    def _descended(
        self, training: FlowTraining, flow: Flow, max_evals: int, n_judged: int
    ) -> tuple[Flowed, list[Record]]:
        """Follow the objective that was asked for."""
        objective = self.objective
        assert objective is not None
        records = [training.imitate(flow.train())]
        first = copy.deepcopy(flow).eval()
        records.append(training.descend(flow, objective, max_evals))
        pair = [first, flow.eval()]
        better = training.improved(objective, pair, n_judged)
        return Flowed(pair[better]), [r for r in records if r]

    def _learned(
        self, training: FlowTraining, flow: Flow, covering: Covering, max_evals: int
    ) -> tuple[Flowed, list[Record]]:
        """Let the start, a fit to weighted draws and a descent compete.

        The draws are the last ones of the covering, and those of its report judge.
        """
        assert covering.pool is not None
        assert covering.own is not None
        records = [training.imitate(flow.train())]
        flows = [copy.deepcopy(flow)]
        records.append(training.learn(flow, covering.pool))
        if training.target.differentiable and max_evals >= self._n_fewest:
            flows.append(copy.deepcopy(flow))
            objective = Objective("rKL", stick_the_landing=True)
            records.append(training.descend(flow, objective, max_evals))
        best = training.best([*flows, flow], covering.own)
        return Flowed(best.eval()), [r for r in records if r]

    def _new_flow(self, normals: Normals, generator: torch.Generator) -> Flow:
        """Return a flow over the mixture, or what the factory makes, near it."""
        n_features = normals.n_features
        if callable(self.q):
            return _made_by(self.q, normals, generator)
        flow = make_flow(
            self.q,
            n_features,
            n_transforms=self.n_transforms,
            hidden_layer_sizes=self.hidden_layer_sizes,
            generator=generator,
        )
        objective = self.objective
        if (
            self.q in _INVERTIBLE
            and n_features > 1
            and objective is not None
            and objective.needs_gradient
            and not objective.holds_density
        ):
            # Draws and their densities then take a single pass.
            flow.transform = flow.transform.inv
        return over_mixture(flow, normals, generator)


def _made_by(
    factory: Callable[[int], nn.Module],
    normals: Normals,
    generator: torch.Generator,
) -> Flow:
    """Return the flow of a user's factory, if it keeps what is asked of it."""
    n_features = normals.n_features
    with lent(generator):
        module = factory(n_features)
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"q({n_features}) returned {type(module).__name__}; a factory has to "
            "return a torch.nn.Module whose call without arguments returns a "
            "distribution, such as a flow of zuko."
        )
    draws, _ = normals.draw(_START_DRAWS, generator)
    flow = Flow(module.double(), *Flow.frame(draws))
    if not list(flow.parameters()):
        raise ValueError(f"q({n_features}) has no parameters: nothing can be fitted.")
    try:
        u, log_q = flow.rsample_and_log_prob(2, generator)
        shapes = tuple(u.shape), tuple(flow(u.detach()).shape)
    except Exception as error:
        raise ValueError(
            f"The distribution of q({n_features}) cannot be used: "
            f"{type(error).__name__}: {error}"
        ) from error
    if shapes != ((2, n_features), (2,)) or not (u + log_q[:, None]).requires_grad:
        raise ValueError(
            f"Two draws of q({n_features}) have shape {shapes[0]} and log densities of "
            f"shape {shapes[1]}; expected {(2, n_features)} and (2,), with gradients."
        )
    return flow
