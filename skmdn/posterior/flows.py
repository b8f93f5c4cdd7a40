r"""Networks from data to posteriors: flows around a line, many members side by side.

.. math::
    q(u \mid x) = \frac{1}{M} \sum_m q_m\bigl(u - V_m s_m(x) \mid s_m(x)\bigr)

with summaries s of the data, which are also the context of the flows. The line starts
at a ridge regression and the flows at normal laws of the size of its residuals. The
parameters of all members are stacked in one flow, so that a step is one call.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skmdn.flows import REACH, Flow, make_flow
from skmdn.learning.ensemble import EnsembleTraining

__all__ = [
    "AMORTIZED_FLOWS",
    "FlowEnsemble",
    "FlowNetwork",
    "FlowObjective",
    "FlowTraining",
]

# Of zuko's there is also unaf, whose integrals keep the parameters of one member.
_N_TRANSFORMS = {"nsf": 3, "maf": 5, "nice": 6, "naf": 1, "sospf": 2, "gf": 3}
AMORTIZED_FLOWS = tuple(_N_TRANSFORMS)
# Their transforms differentiate on the way, which cannot be vectorised over members.
_ONE_BY_ONE = ("naf", "sospf", "gf")
_ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU}

# What the widest tensor of a forward pass may take.
_FORWARD_BYTES = 2**23

# Residuals of a line that tells everything have units, too.
_LEAST_SQUARE = 1e-12


class FlowNetwork(nn.Module):
    """Data to posteriors: summaries, a line and a flow.

    Parameters
    ----------
    name : {"nsf", "maf", "nice", "naf", "sospf", "gf"}
        The family of the flow.
    block : nn.Module
        Summaries: ``(members, rows, ...)`` to ``(members, rows, n_summaries)``.
    line : Tensor of shape (n_members, n_outputs, n_summaries)
        Where its coefficients start.
    shift, scale : Tensor of shape (n_outputs,)
        Mean and size of what the line leaves over.
    hidden_layer_sizes : sequence of int
        Widths of the layers of each transform's network.
    activation : {"relu", "silu"}
        Between these layers.
    generator : torch.Generator
        The source of the weights.
    """

    def __init__(
        self,
        name: str,
        block: nn.Module,
        line: Tensor,
        *,
        shift: Tensor,
        scale: Tensor,
        hidden_layer_sizes: Sequence[int],
        activation: str,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.block = block
        self.line = nn.Parameter(line)
        self.activation = activation
        n_members, n_outputs, n_summaries = line.shape
        members = [
            make_flow(
                name,
                n_outputs,
                n_summaries,
                n_transforms=_N_TRANSFORMS[name],
                hidden_layer_sizes=hidden_layer_sizes,
                activation=_ACTIVATIONS[activation],
                generator=generator,
            )
            for _ in range(n_members)
        ]
        self.flow = Flow(_stacked(members), shift, torch.diag(scale))
        self.together = name not in _ONE_BY_ONE

    def leave_out(self, share: float) -> None:
        """Do nothing: flows leave out no units."""

    def set_trainable(self, trainable: bool) -> None:
        """Say whether gradients are wanted."""
        self.requires_grad_(trainable)

    def n_rows_together(self) -> int:
        """Return how many rows go forward together where memory is to be bounded."""
        widest = max(parameter.shape[1] for parameter in self.flow.parameters())
        widest = max(widest, getattr(self.block, "numbers_per_row", 0))
        n_bytes = widest * len(self.line) * self.line.element_size()
        return max(1, _FORWARD_BYTES // n_bytes)

    def log_prob(self, x: Tensor, u: Tensor) -> Tensor:
        """Return log densities ``(members, rows)``, of each member its own rows."""
        summaries, base = self._context(x)

        def of_member(values: dict[str, Tensor], t: Tensor, context: Tensor) -> Tensor:
            result: Tensor = torch.func.functional_call(self.flow, values, (t, context))
            return result

        values: dict[str, Tensor] = dict(self.flow.named_parameters())
        if self.together:
            result: Tensor = torch.vmap(of_member)(values, u - base, summaries)
            return result
        parts = [
            of_member({name: value[m] for name, value in values.items()}, t, context)
            for m, (t, context) in enumerate(zip(u - base, summaries, strict=True))
        ]
        return torch.stack(parts)

    def draw(self, x: Tensor, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """Return a draw of one member for each row.

        Parameters
        ----------
        x : Tensor of shape (rows, n_features)
            Rows, the same for all members.
        chosen : Tensor of shape (n_draws, 2)
            The members and rows to draw from.
        generator : torch.Generator
            For the draws.

        Returns
        -------
        u : Tensor of shape (n_draws, n_outputs)
            The draws.
        """
        summaries, base = self._context(x.expand(len(self.line), *x.shape))
        u = base.new_empty((len(chosen), base.shape[2]))
        for m in range(len(self.line)):
            (places,) = torch.where(chosen[:, 0] == m)
            if len(places):
                rows = chosen[places, 1]
                draws = self._member(m).draw(1, generator, summaries[m, rows])[0]
                u[places] = base[m, rows] + draws
        return u

    def _context(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summaries of each member and where its line is."""
        block: Any = self.block
        summaries = block(x)
        return summaries, summaries @ self.line.mT

    def _member(self, m: int) -> Flow:
        """Return the flow of a member by itself."""
        flow = copy.deepcopy(self.flow)
        for parameter in flow.parameters():
            parameter.data = parameter.data[m]
        return flow


def _stacked(members: Sequence[Any]) -> Any:
    """Return the first of modules built alike, with the parameters of all of them."""
    named = [dict(member.named_parameters()) for member in members]
    for name, parameter in named[0].items():
        parameter.data = torch.stack([own[name].detach() for own in named])
    return members[0]


class FlowEnsemble(nn.Module):
    """Networks whose posteriors are averaged, all members alike.

    Parameters
    ----------
    networks : sequence of FlowNetwork
        Networks with equally many members.
    """

    def __init__(self, networks: Sequence[FlowNetwork]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def keep(self, chosen: Sequence[int]) -> None:
        """Forget all networks but these."""
        self.networks = nn.ModuleList([self.networks[i] for i in chosen])

    def log_prob(self, x: Tensor, u: Tensor) -> Tensor:
        """Return the log density of each row of ``u`` given that of ``x``.

        Parameters
        ----------
        x : Tensor of shape (rows, n_features)
            Data.
        u : Tensor of shape (rows, n_outputs)
            Coordinates of the parameters.
        """
        parts = []
        networks: Any = self.networks
        for network in networks:
            n_members = len(network.line)
            every = x.expand(n_members, *x.shape), u.expand(n_members, *u.shape)
            parts.append(network.log_prob(*every))
        members = torch.cat(parts)
        return torch.logsumexp(members, 0) - math.log(len(members))

    def draw(self, x: Tensor, n_draws: int, generator: torch.Generator) -> Tensor:
        """Return draws ``(rows, n_draws, n_outputs)``."""
        networks: Any = self.networks
        n_members = len(networks[0].line)
        n_pairs = len(x) * n_draws
        every = n_members * len(networks)
        members = torch.randint(every, (n_pairs,), generator=generator)
        rows = torch.arange(len(x)).repeat_interleave(n_draws)
        u = x.new_empty((n_pairs, networks[0].line.shape[1]))
        for i, network in enumerate(networks):
            (places,) = torch.where(members // n_members == i)
            chosen = torch.stack([members[places] % n_members, rows[places]], 1)
            u[places] = network.draw(x, chosen, generator)
        return u.unflatten(0, (len(x), n_draws))


class FlowObjective:
    """The negative log density of parameters given data, member by member.

    Parameters
    ----------
    network : FlowNetwork
        The flows.
    x : Tensor of shape (n_samples, n_features)
        Standardised data, or something else that returns rows by index.
    y : Tensor of shape (n_samples, n_outputs)
        Coordinates of the parameters.
    weights : Tensor of shape (n_samples,)
        Positive row weights whose mean is 1.
    log_scale : float
        Added to every loss: the log volume of the parameters' units.
    """

    def __init__(
        self,
        network: FlowNetwork,
        x: Tensor,
        y: Tensor,
        weights: Tensor,
        *,
        log_scale: float,
    ) -> None:
        self.network = network
        self.x, self.y, self.weights = x, y, weights
        self.log_scale = log_scale

    def cool(self, done: float) -> None:
        """Do nothing: a flow has no temperature."""

    def training_loss(self, rows: Tensor) -> Tensor:
        """Return the loss of each member on its rows ``(n_members, n_batch)``."""
        return self.log_scale + self._losses(rows).mean(1)

    def held_out_loss(self, rows: Tensor, counts: Tensor | None = None) -> Tensor:
        """Return the loss of each member on its rows, of which those count."""
        parts = rows.split(self.network.n_rows_together(), 1)
        losses = torch.cat([self._losses(part) for part in parts], 1)
        counts = torch.ones_like(losses) if counts is None else counts
        total = (self.weights[rows] * counts).sum(1)
        return self.log_scale + (losses * counts).sum(1) / total

    def _losses(self, rows: Tensor) -> Tensor:
        rows = rows.long()
        return -self.weights[rows] * self.network.log_prob(self.x[rows], self.y[rows])


class FlowTraining(EnsembleTraining):
    """Train flows as the networks of an ensemble; all count alike."""

    def weigh(self) -> None:
        """Do nothing: the weights are equal and there is no width to set."""

    def _set_width(self, kept: Tensor) -> None:
        """Do nothing."""


def flow_units(residuals: Tensor) -> Tensor:
    """Return the scale at which residuals lie within the reach of a flow.

    Parameters
    ----------
    residuals : Tensor of shape (n_samples, n_outputs)
        What a flow is to describe.
    """
    scale = residuals.square().mean(0).clamp_min(_LEAST_SQUARE).sqrt()
    return scale * max(1.0, float((residuals / scale).abs().max()) / REACH)
