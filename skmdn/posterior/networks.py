r"""Networks from data to posteriors: mixtures of correlated normals around a line.

.. math::
    q(u \mid x) = \sum_k w_k(x)\, \mathcal{N}\bigl(u \mid V x + m_k(x), P_k(x)^{-1}
    P_k(x)^{-\top}\bigr), \qquad P_k = \mathrm{diag}(g_k)\, A_k(x)

in coordinates u of the parameters. The matrix V is shared by all components and starts
at a ridge regression: what is linear in the data need not be learned by the trunk, and
components start at the size of the residuals. The units g do not depend on x. Where x
are summaries, the mixture is one of standardised residuals,

.. math:: z = e^{-D x} (u - a - V x),

so that what the size of a set says about all scales need not be learned either.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skmdn.families import MultivariateNormal
from skmdn.learning.correlated import (
    apply_link,
    component_terms,
    correlated_log_prob,
    raw_sizes,
    split_raw,
)
from skmdn.learning.networks import ACTIVATIONS, MLP, MemberLinear, MixtureNetwork
from skmdn.learning.objectives import MixtureObjective
from skmdn.mixture import Mixture
from skmdn.queries.blocks import Block

__all__ = [
    "CorrelatedHead",
    "DropoutMLP",
    "Features",
    "PosteriorNetwork",
    "PosteriorObjective",
    "rows_of",
]

# Hidden weights start with this standard deviation times the root of the inputs'
# number: small enough that the first layers turn to what matters before they memorise.
_GAIN = 0.58
_HEAD_GAIN = 0.1
_LOG_UNITS = (-2.0, 6.0)
_LOG_SCALES = (-8.0, 8.0)

# What the widest tensor of a forward pass of summaries may take.
_FORWARD_BYTES = 2**23

# Logarithms of the factors of all scales that held-out rows may choose.
_LOG_SPREADS = (-0.2, -0.05, 0.0, 0.05, 0.2)
_SPREAD_RANGE = (0.0, 1.4)


def rows_of(values: Any, rows: Tensor) -> Tensor:
    """Return ``values[rows]`` of a tensor, or of what returns rows of one by index.

    Short rows are copied one by one, which is several times as fast as indexing.
    """
    if not isinstance(values, Tensor):
        taken: Tensor = values[rows]
        return taken
    flat = values.index_select(0, rows.reshape(-1))
    return flat.view(*rows.shape, *values.shape[1:])


class Features(nn.Module):
    """The first features as their own summaries.

    Parameters
    ----------
    n_out : int
        How many of them.
    """

    def __init__(self, n_out: int) -> None:
        super().__init__()
        self.n_out = n_out

    def forward(self, x: Tensor) -> Tensor:
        """Return them."""
        return x[..., : self.n_out]


class DropoutMLP(MLP):
    """A trunk that starts small and, while it is trained, leaves out units.

    Parameters
    ----------
    n_members, n_in : int
        The number of members and of inputs.
    hidden_layer_sizes : sequence of int
        The width of each layer.
    activation : str
        A key of :data:`skmdn.learning.networks.ACTIVATIONS`.
    dropout : float, default=0.0
        The share of the units of each layer that a training step leaves out.
    generator : torch.Generator, optional
        The source of the weights.
    """

    def __init__(
        self,
        n_members: int,
        n_in: int,
        hidden_layer_sizes: Sequence[int],
        activation: str,
        *,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            n_members, n_in, hidden_layer_sizes, activation, generator=generator
        )
        self.dropout = dropout
        with torch.no_grad():
            for layer in self.layers:
                weight: Any = layer.weight
                bias: Any = layer.bias
                weight.mul_(_GAIN / math.sqrt(2.0))
                bound = 1.0 / math.sqrt(max(weight.shape[1], 1))
                bias.uniform_(-bound, bound, generator=generator)

    def forward(self, x: Tensor, kept: Sequence[Tensor] = ()) -> Tensor:
        """Return the last hidden layer; each layer perhaps times what is kept of it."""
        if not kept:
            return super().forward(x)
        phi = ACTIVATIONS[self.activation]
        for layer, factor in zip(self.layers, kept, strict=True):
            x = phi(layer(x)) * factor
        return x

    def draw_kept(self, n_rows: int, generator: torch.Generator) -> list[Tensor]:
        """Return, for each layer, 0 where a unit is left out and a factor elsewhere.

        Few are left out, so that they are drawn, not asked one by one.
        """
        if not self.dropout:
            return []
        factors = []
        for layer in self.layers:
            like: Any = layer.weight
            shape = like.shape[0], n_rows, like.shape[2]
            factor = like.new_full(shape, 1.0 / (1.0 - self.dropout))
            n_out = round(self.dropout * factor.numel())
            out = torch.randint(
                factor.numel(), (n_out,), generator=generator, device=generator.device
            )
            factors.append(factor)
            factor.view(-1).index_fill_(0, out, 0.0)
        return factors


class CorrelatedHead(nn.Module):
    """The last layer: hidden units and summaries to mixtures of correlated normals.

    Parameters
    ----------
    n_members, n_in, n_summaries, n_outputs : int
        Its size.
    n_components : int
        Components of each member.
    link : {"softplus", "exp"}
        From raw numbers to the diagonal of the precision factors.
    scaled : bool, default=False
        Whether the summaries scale what is left over by the line.
    generator : torch.Generator, optional
        The source of the weights.
    """

    min_scale = 0.0

    def __init__(
        self,
        n_members: int,
        n_in: int,
        n_summaries: int,
        n_outputs: int,
        *,
        n_components: int,
        link: str,
        scaled: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_components, self.n_outputs, self.link = n_components, n_outputs, link
        self.scaled = scaled
        self.linear = MemberLinear(
            n_members,
            n_in,
            sum(raw_sizes(n_components, n_outputs)),
            gain=_HEAD_GAIN,
            out_first=True,
            generator=generator,
        )
        zeros = self.linear.bias.detach().new_zeros
        self.line = nn.Parameter(zeros((n_members, n_outputs, n_summaries)))
        if scaled:
            self.scale_line = nn.Parameter(torch.zeros_like(self.line))
            self.shift = nn.Parameter(zeros((n_members, n_outputs, 1)))
        self.log_unit = nn.Parameter(zeros((n_members, n_components, n_outputs)))
        # Found on held-out rows, not by gradients.
        self.log_spread = nn.Parameter(zeros((n_members, 1)), requires_grad=False)

    @torch.no_grad()
    def start(
        self,
        intercept: Tensor,
        line: Tensor,
        residual: Tensor,
        scale_line: Tensor,
        generator: torch.Generator | None = None,
    ) -> None:
        """Begin at a linear regression with normal residuals.

        Parameters
        ----------
        intercept : Tensor of shape (n_members or 1, n_outputs)
            Where the line is at 0.
        line : Tensor of shape (n_members or 1, n_outputs, n_summaries)
            Its coefficients.
        residual : Tensor of shape (n_members or 1, n_outputs)
            Standard deviations of what it leaves over, where summaries are 0.
        scale_line : Tensor of shape (n_members or 1, n_outputs, n_summaries)
            How their logarithms change with the summaries, if the head is scaled.
        generator : torch.Generator, optional
            Where components begin around the line.
        """
        self.line.copy_(line.expand_as(self.line))
        if self.scaled:
            self.scale_line.copy_(scale_line.expand_as(self.line))
            self.shift.copy_(intercept.unsqueeze(2).expand_as(self.shift))
            intercept = torch.zeros_like(intercept)
        low, high = _LOG_UNITS
        log_unit = (-residual.log()).clamp(low, high).unsqueeze(1)
        self.log_unit.copy_(log_unit.expand_as(self.log_unit))
        n_logits, n_means, *_ = raw_sizes(self.n_components, self.n_outputs)
        mean = self.linear.bias[:, 0, n_logits : n_logits + n_means]
        around = torch.empty_like(self.log_unit).normal_(generator=generator)
        around = intercept.unsqueeze(1) + residual.unsqueeze(1) * around
        mean.copy_(around.flatten(1))

    def unit(self) -> Tensor:
        """Return the logarithms of the units, within bounds."""
        return self.log_unit.clamp(*_LOG_UNITS)

    def raw(self, hidden: Tensor) -> Tensor:
        """Return raw numbers, rows last: ``(n_members, n_raw, n_rows)``."""
        linear = self.linear
        return torch.baddbmm(linear.bias.mT, linear.weight, hidden.mT)

    def base(self, summaries: Tensor) -> Tensor:
        """Return the line, ``(n_members, n_outputs, n_rows)``."""
        if self.scaled:
            return torch.baddbmm(self.shift, self.line, summaries.mT)
        return self.line @ summaries.mT

    def log_scale(self, summaries: Tensor) -> Tensor:
        """Return the logarithms of what residuals are scaled by, like the line."""
        return (self.scale_line @ summaries.mT).clamp(*_LOG_SCALES)

    def log_prob(self, hidden: Tensor, summaries: Tensor, u: Tensor) -> Tensor:
        """Return the log density of ``u (n_members, n_rows, n_outputs)``."""
        base, z, log_volume = self._residuals(summaries, u.mT)
        raw = self.raw(hidden)
        log_prob = correlated_log_prob(raw, base, self.unit(), z, self.link)
        return log_prob - log_volume.squeeze(1) if self.scaled else log_prob

    def terms(
        self, hidden: Tensor, summaries: Tensor, u: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what log densities are made of; see ``component_terms``."""
        base, z, log_volume = self._residuals(summaries, u.mT)
        raw = self.raw(hidden)
        log_top, squares = component_terms(raw, base, self.unit(), z, self.link)
        return (log_top - log_volume if self.scaled else log_top), squares

    def _residuals(self, summaries: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what mixtures are of: a base, points around it, their log volume."""
        base = self.base(summaries)
        if not self.scaled:
            return base, u, base.new_zeros(())
        log_scale = self.log_scale(summaries)
        z = (u - base) * torch.exp(-log_scale)
        return torch.zeros_like(base), z, log_scale.sum(1, keepdim=True)

    def forward(self, hidden: Tensor, summaries: Tensor) -> Mixture:
        """Return one mixture per member and row; in training without the spread."""
        parts = split_raw(self.raw(hidden), self.n_components, self.n_outputs)
        logits, mean, diagonal, lower = (part.movedim(-1, 1) for part in parts)
        unit = self.unit().exp().unsqueeze(1)
        factor = torch.diag_embed(apply_link(diagonal, self.link))
        row, column = torch.tril_indices(self.n_outputs, self.n_outputs, -1)
        factor[..., row, column] = lower
        factor = factor * unit.unsqueeze(-1)
        if self.scaled:
            scale = self.log_scale(summaries).mT.exp().unsqueeze(2)
            mean, factor = mean * scale, factor / scale.unsqueeze(-2)
        mean = mean + self.base(summaries).mT.unsqueeze(2)
        block = Block(
            MultivariateNormal(),
            {"mean": mean, "precision_factor": factor},
            self.n_components,
        )
        mixture = Mixture.from_logits(logits, [block])
        return mixture if self.training else mixture.widen(self.log_spread.exp())


class PosteriorNetwork(MixtureNetwork):
    """Data to posteriors: summaries, a trunk and a head.

    Parameters
    ----------
    block : nn.Module
        Summaries: ``(members, rows, ...)`` to ``(members, rows, n_summaries)``.
    trunk : DropoutMLP
        To the hidden units.
    head : CorrelatedHead
        To the mixture.
    """

    @property
    def activation(self) -> str:
        """The name of the trunk's activation."""
        return str(self.trunk.activation)

    def leave_out(self, share: float) -> None:
        """Say which share of the units training steps leave out."""
        self.trunk.dropout = share  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Mixture:
        """Return mixtures with batch axes (members, rows).

        Parameters
        ----------
        x : Tensor of shape (members, rows, ...) or (rows, n_features)
            Rows of each member, or the same rows for all of them.
        """
        if x.ndim == 2:
            x = x.expand((self.head.linear.weight.shape[0], *x.shape))
        block: Any = self.block
        summaries = block(x)
        mixture: Mixture = self.head(self.trunk(summaries), summaries)
        return mixture

    def n_rows_together(self) -> int:
        """Return how many rows go forward together where memory is to be bounded."""
        n_rows = super().n_rows_together()
        n_numbers = getattr(self.block, "numbers_per_row", 0)
        if not n_numbers:
            return n_rows
        weight = self.head.linear.weight
        n_bytes = n_numbers * weight.shape[0] * weight.element_size()
        return max(1, min(n_rows, _FORWARD_BYTES // n_bytes))

    def log_prob(self, x: Tensor, u: Tensor, kept: Sequence[Tensor] = ()) -> Tensor:
        """Return log densities, perhaps without some units."""
        block: Any = self.block
        summaries = block(x)
        hidden = self.trunk(summaries, kept)
        head: Any = self.head
        log_prob: Tensor = head.log_prob(hidden, summaries, u)
        return log_prob


class PosteriorObjective(MixtureObjective):
    """The negative log density of parameters given data, member by member.

    It is a :class:`MixtureObjective` whose losses need no mixture.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.equal = bool((self.weights == 1.0).all())
        self._of_batch: tuple[Tensor | None, list[Tensor]] = None, []

    def kept_units(self, rows: Tensor) -> list[Tensor]:
        """Return which units a batch leaves out, the same if asked about twice."""
        if self._of_batch[0] is not rows:
            network: Any = self.network
            kept = network.trunk.draw_kept(rows.shape[1], self.generator)
            self._of_batch = rows, kept
        return self._of_batch[1]

    def training_loss(self, rows: Tensor) -> Tensor:
        """Return the loss of each member on its rows ``(n_members, n_batch)``."""
        network: Any = self.network
        kept = self.kept_units(rows)
        x, u = rows_of(self.x, rows), rows_of(self.y, rows)
        log_prob = network.log_prob(x, u, kept)
        if not self.equal:
            log_prob = rows_of(self.weights, rows) * log_prob
        return self.log_scale - log_prob.mean(1)

    def held_out_loss(self, rows: Tensor, counts: Tensor | None = None) -> Tensor:
        """Return the negative log-likelihood of each member on its rows.

        Of these only the ones for which ``counts`` is 1 matter, if it is given. Every
        member is judged at the factor t of its scales that suits it best, as in
        :meth:`MixtureObjective.held_out_loss`.
        """
        network: Any = self.network
        head, spread = network.head, network.get_parameter("head.log_spread")
        steps = self.y.new_tensor(_LOG_SPREADS)
        log_spread = (spread + steps).clamp(*_SPREAD_RANGE)
        counts = torch.ones_like(rows) if counts is None else counts
        weights = self.weights[rows] * counts
        total = log_spread.new_zeros(log_spread.shape)
        for part, weight in zip(
            rows.split(network.n_rows_together(), 1),
            weights.split(network.n_rows_together(), 1),
            strict=True,
        ):
            summaries = network.block(self.x[part])
            hidden = network.trunk(summaries)
            top, squares = head.terms(hidden, summaries, self.y[part])
            for i, log_t in enumerate(log_spread.unbind(1)):
                shrink = torch.exp(-2.0 * log_t)[:, None, None]
                joint = top - 0.5 * shrink * squares
                log_prob = torch.logsumexp(joint, 1) - (
                    head.n_outputs * log_t.unsqueeze(1)
                )
                total[:, i] -= (weight * log_prob).sum(1)
        losses = total / weights.sum(1, keepdim=True)
        losses += log_spread.square() / counts.sum(1, keepdim=True)
        best = losses.min(1)
        spread.copy_(log_spread.gather(1, best.indices.unsqueeze(1)))
        return self.log_scale + best.values
