r"""Flows that start from a covering mixture, and what trains them.

.. math:: q(u) = \pi(f(t)) \left| \frac{\partial f}{\partial u} \right|,
    \qquad u = m + S t

Under the transforms f lies the mixture :math:`\pi` itself, not a single normal: with
f = 1 the flow is the mixture, with all its modes, and the transforms have to learn only
what the mixture lacks.
"""

import copy
import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from skmdn.flows import Flow

from .descent import log_mixture, log_target, repeats
from .judging import falls, falls_forward, scores_of
from .minimise import Record, Steps, minimise
from .normals import Normals
from .objectives import Objective
from .pareto import pareto_smoothed
from .pool import Batch, Pool
from .target import Density

__all__ = ["Flowed", "FlowTraining", "flow_loss", "over_mixture"]

# Draws of the mixture that say where a flow has to reach.
_FRAME_DRAWS = 10_000
# A flow this close, in nats, is the mixture already.
_SAME = 1e-3
_IMITATED = 512
_PART = 2**14
_Shape = torch.Size | list[int] | tuple[int, ...]


class _MixtureBase(nn.Module):
    """A mixture of normals in the place of a flow's base."""

    log_weights: Tensor
    means: Tensor
    roots: Tensor

    def __init__(self, normals: Normals) -> None:
        super().__init__()
        self.register_buffer("log_weights", normals.log_weights)
        self.register_buffer("means", normals.means)
        self.register_buffer("roots", normals.roots)

    def forward(self, context: None = None) -> Distribution:
        return _MixtureDistribution(Normals(self.log_weights, self.means, self.roots))


class _MixtureDistribution(Distribution):
    """Normals as a distribution of torch, for a flow on top."""

    arg_constraints = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, normals: Normals) -> None:
        self.normals = normals
        event_shape = torch.Size([normals.n_features])
        super().__init__(torch.Size(), event_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return log_mixture(self.normals, value)

    def sample(self, sample_shape: _Shape = ()) -> Tensor:
        n_draws = math.prod(sample_shape)
        # The caller has lent its generator to torch.
        u, _ = self.normals.draw(n_draws, torch.default_generator)
        return u[torch.randperm(n_draws)].reshape(*sample_shape, -1)


def over_mixture(flow: nn.Module, normals: Normals, generator: torch.Generator) -> Flow:
    """Put a mixture under a flow of zuko.

    Parameters
    ----------
    flow : Module
        With attributes ``transform`` and ``base``; the base is replaced.
    normals : Normals
        The mixture.
    generator : torch.Generator
        For the draws that show where the mixture is.
    """
    draws, _ = normals.draw(_FRAME_DRAWS, generator)
    shift, root = Flow.frame(draws)
    columns = (normals.means - shift).mT
    means = torch.linalg.solve_triangular(root, columns, upper=False).mT
    roots = torch.linalg.solve_triangular(root, normals.roots, upper=False)
    base = _MixtureBase(Normals(normals.log_weights, means.contiguous(), roots))
    flow.base = base
    return Flow(flow, shift, root)


@dataclass(frozen=True)
class Flowed:
    """A fitted flow, asked as a mixture of normals is.

    Parameters
    ----------
    flow : Flow
        On the CPU.
    """

    flow: Flow

    @property
    def n_features(self) -> int:
        """The dimension."""
        return self.flow.n_features

    def draw(self, n_draws: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return points and zeros, since there are no components."""
        sizes = [min(_PART, n_draws - a) for a in range(0, n_draws, _PART)]
        u = torch.cat([self.flow.draw(n, generator) for n in sizes])
        return u, torch.zeros(n_draws, dtype=torch.long)

    def log_prob(self, u: Tensor, phi: Tensor | None = None) -> Tensor:
        """Return the log density, -inf where there is none; features are not used."""
        if not len(u):
            return u.new_zeros(0)
        with torch.set_grad_enabled(torch.is_grad_enabled() and u.requires_grad):
            values = torch.cat([self.flow(part) for part in u.split(_PART)])
        return values.masked_fill(~values.isfinite(), -torch.inf)


@dataclass(frozen=True)
class _Own:
    """A flow as a proposal."""

    flowed: Flowed

    def draw(self, n_draws: int, generator: torch.Generator) -> Tensor:
        return self.flowed.draw(n_draws, generator)[0]

    def log_prob(self, u: Tensor, phi: Tensor | None = None) -> Tensor:
        return self.flowed.log_prob(u, phi)


def flow_loss(
    target: Density,
    objective: Objective,
    flow: Flow,
    n_particles: int,
    generator: torch.Generator,
) -> Tensor:
    """Return the loss of an objective at draws of a flow."""
    shares = flow.shift.new_zeros(1)
    if not objective.needs_gradient:
        u = flow.draw(n_particles, generator)
        return objective.loss(target.log_prob(u)[:, None], flow(u)[:, None], shares)
    u, log_q = flow.rsample_and_log_prob(n_particles, generator)
    log_p = log_target(target, u)
    if objective.holds_density:
        log_q = flow.held_log_prob(u)
    loss = objective.loss(log_p[:, None], log_q[:, None], shares)
    possible = log_p.detach().isfinite()
    if bool(possible.all()):
        return loss
    return loss + _leaving(flow(u.detach()), possible)


def _leaving(log_q: Tensor, possible: Tensor) -> Tensor:
    """Return a term with the gradient of -log of the share of draws where p > 0.

    No gradient of log p says that there is an edge.
    """
    share = possible.to(log_q.dtype)
    term = ((share - share.mean()) * log_q).mean() / share.mean().clamp_min(1e-3)
    return term.detach() - term


@dataclass
class FlowTraining:
    """The training of a flow, from a covering mixture to an objective.

    Parameters
    ----------
    target : Density
        What is approximated.
    normals : Normals
        The covering mixture.
    steps : Steps
        Of each descent.
    n_particles : int
        Draws in a step.
    generator : torch.Generator
        For all draws.
    """

    target: Density
    normals: Normals
    steps: Steps
    n_particles: int
    generator: torch.Generator

    def imitate(self, flow: Flow) -> Record | None:
        """Fit the flow to draws of the mixture, which cost no evaluation.

        A flow that is the mixture is left alone.
        """
        u, _ = self.normals.draw(2_000, self.generator)
        with torch.no_grad():
            gap = self.normals.log_prob(u) - flow(u)
        if bool(gap.isfinite().all()) and abs(float(gap.mean())) < _SAME:
            return None

        def loss() -> Tensor:
            draws, _ = self.normals.draw(_IMITATED, self.generator)
            return -flow(draws).mean()

        return minimise(loss, list(flow.parameters()), self.steps)

    def learn(self, flow: Flow, pool: Pool) -> Record:
        """Fit the flow to weighted draws, by maximum likelihood.

        The weights are smoothed. A tenth of the draws is held out; if the likelihood
        there has not risen, the flow stays what it was.
        """
        u, log_w = pool.u, pool.log_weights()
        weights = torch.softmax(pareto_smoothed(log_w)[0], 0)
        held = torch.rand(len(u), generator=self.generator) < 0.1
        rows, weights_in = u[~held], weights[~held]
        size = min(_IMITATED, len(rows))

        def loss() -> Tensor:
            chosen = torch.multinomial(
                weights_in, size, replacement=True, generator=self.generator
            )
            return -flow(rows[chosen]).mean()

        def held_out() -> float:
            with torch.no_grad():
                return float(weights[held] @ flow(u[held]).clamp_min(-1e3))

        before, state = held_out(), copy.deepcopy(flow.state_dict())
        record = minimise(loss, list(flow.parameters()), self.steps)
        if not held_out() > before:
            flow.load_state_dict(state)
        return record

    def descend(self, flow: Flow, objective: Objective, max_evals: int) -> Record:
        """Minimise an objective."""
        n_particles = objective.whole_groups(self.n_particles)

        def loss() -> Tensor:
            return flow_loss(self.target, objective, flow, n_particles, self.generator)

        steps = self.steps.within(max_evals // n_particles)
        return minimise(loss, list(flow.parameters()), steps)

    def improved(self, objective: Objective, pair: list[Flow], n_draws: int) -> bool:
        """Tell whether the second flow has the lower loss, by more than its noise."""
        if not objective.needs_gradient:
            proposals = [_Own(Flowed(flow)) for flow in pair]
            transform = objective.weight_transform
            return falls_forward(
                self.target, proposals, n_draws, self.generator, transform
            )
        objective, n_each, seeds = repeats(
            objective, self.n_particles, 1, n_draws, self.generator
        )

        def loss(flow: Flow, generator: torch.Generator) -> float:
            with torch.no_grad():
                return float(flow_loss(self.target, objective, flow, n_each, generator))

        return falls([partial(loss, flow) for flow in pair], seeds)

    @staticmethod
    def best(flows: list[Flow], batch: Batch) -> Flow:
        """Return the best one on draws that none of them was fitted to."""
        log_q = batch.proposal.log_prob(batch.u, batch.phi)
        flowed = [Flowed(flow) for flow in flows]
        scores = scores_of(flowed, batch.u, batch.log_p, log_q)
        return flows[scores.index(min(scores))]
