r"""Networks that map features to mixtures, many members at once.

Every parameter carries a leading *member* axis: an ensemble, or the restarts of a
search, is one batched matrix product and a single network the case M = 1.

.. math::
    h_0 = \mathrm{block}(x), \quad
    h_{l+1} = \phi(h_l W_l + b_l), \quad
    (\text{logits}, \text{parameters}) = h_L W + b
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skmdn.composition import Composition
from skmdn.mixture import Block, Mixture

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "MemberLinear",
    "MixtureEnsemble",
    "MixtureHead",
    "MixtureNetwork",
    "row_keys",
]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": nn.functional.gelu,
    "logistic": torch.sigmoid,
    "relu": torch.relu,
    "silu": nn.functional.silu,
    "tanh": torch.tanh,
}

# What the widest layer of a forward pass may take: many rows of a wide input block
# are worth splitting.
_FORWARD_BYTES = 2**23

# Spreads the bits of what is multiplied by it: odd, near 2^64 over the golden ratio.
_SPREADING = -7046029254386353131

# Small enough that the start is the marginal mixture, large enough that equal
# components of a target with ties part.
_HEAD_GAIN = 0.1


def row_keys(x: Tensor) -> Tensor:
    """Return a number for each row of ``(rows, columns)``, the same for equal rows.

    Rows that differ have different numbers but for an accident of 64 bits; in single
    precision they are equal if they are told apart by less than it holds.
    """
    # Zero has two signs.
    bits = (x.float() + 0.0).view(torch.int32).long()
    keys = torch.zeros_like(bits[:, 0])
    for column in bits.unbind(1):
        keys = ((keys ^ (keys >> 32)) + column) * _SPREADING
    return keys


class MemberLinear(nn.Module):
    """An affine layer for every member: ``(members, rows, n_in)`` to ``n_out``.

    Parameters
    ----------
    n_members, n_in, n_out : int
        The layer's size.
    gain : float, default=1.0
        Weights start normal with standard deviation ``gain / sqrt(n_in)``, biases
        at zero.
    out_first : bool, default=False
        Whether the weights are stored as ``(members, n_out, n_in)``, which suits
        the products of a layer with few outputs.
    generator : torch.Generator, optional
        The source of the weights.
    """

    def __init__(
        self,
        n_members: int,
        n_in: int,
        n_out: int,
        *,
        gain: float = 1.0,
        out_first: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        std = gain / math.sqrt(max(n_in, 1))
        self.out_first = out_first
        shape = (n_out, n_in) if out_first else (n_in, n_out)
        weight = torch.empty((n_members, *shape), dtype=torch.float64)
        self.weight = nn.Parameter(weight.normal_(0.0, std, generator=generator))
        self.bias = nn.Parameter(weight.new_zeros((n_members, 1, n_out)))

    def forward(self, x: Tensor) -> Tensor:
        """Apply each member's layer to its own rows."""
        weight = self.weight.mT if self.out_first else self.weight
        return torch.baddbmm(self.bias, x, weight)


class MLP(nn.Module):
    """The trunk: affine layers with an activation after each.

    Parameters
    ----------
    n_members, n_in : int
        The number of members and of inputs.
    hidden_layer_sizes : sequence of int
        The width of each layer; empty for a linear model.
    activation : str
        A key of :data:`ACTIVATIONS`.
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
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        widths = [n_in, *hidden_layer_sizes]
        self.layers = nn.ModuleList(
            MemberLinear(n_members, a, b, gain=math.sqrt(2.0), generator=generator)
            for a, b in itertools.pairwise(widths)
        )
        self.activation = activation
        self.n_out = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Return the last hidden layer."""
        phi = ACTIVATIONS[self.activation]
        for layer in self.layers:
            x = phi(layer(x))
        return x


class MixtureHead(nn.Module):
    """The last layer: hidden units to the parameters of a mixture.

    Parameters
    ----------
    n_members, n_in, n_outputs : int
        Its size.
    composition : Composition
        The families with their numbers of components, in the units of the
        (standardised) target.
    min_scale : float
        The floor of every scale, in the units of the (standardised) target.
    temperature : float, default=1.0
        Divides the weight logits.
    generator : torch.Generator, optional
        The source of the weights.
    """

    share_levelled: Tensor

    def __init__(
        self,
        n_members: int,
        n_in: int,
        n_outputs: int,
        composition: Composition,
        *,
        min_scale: float,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.parts = tuple(composition.parts)
        self.places = composition.places
        self.min_scale = min_scale
        self.temperature = temperature
        self.n_components = composition.n_components
        self.shapes = [f.raw_shapes(count, n_outputs) for f, count in self.parts]
        self.sizes = [self.n_components] + [
            math.prod(shape) for shapes in self.shapes for shape in shapes.values()
        ]
        # Found on held-out rows, not by gradients.
        self.log_spread = nn.Parameter(
            torch.zeros(n_members, 1, dtype=torch.float64), requires_grad=False
        )
        self.register_buffer("share_levelled", torch.zeros((), dtype=torch.float64))
        self.linear = MemberLinear(
            n_members,
            n_in,
            sum(self.sizes),
            gain=_HEAD_GAIN,
            out_first=True,
            generator=generator,
        )

    def forward(self, hidden: Tensor) -> Mixture:
        """Return one mixture per member and row; in training as the weights say."""
        chunks = iter(self.linear(hidden).split(self.sizes, -1))
        logits = next(chunks)
        blocks = []
        for (family, count), shapes in zip(self.parts, self.shapes, strict=True):
            raw = {name: next(chunks).unflatten(-1, s) for name, s in shapes.items()}
            params = family.from_raw(raw, self.min_scale)
            blocks.append(Block(family, params, count))
        mixture = Mixture.from_logits(logits, blocks, self.temperature)
        if self.training:
            return mixture
        wide = mixture.widen(self.log_spread.exp(), self.min_scale)
        return wide.level(self.share_levelled)

    @torch.no_grad()
    def start(self, centers: Tensor, spreads: Tensor, shares: Tensor) -> None:
        """Set the biases so that the untrained network is the marginal mixture.

        Parameters
        ----------
        centers, spreads : Tensor of shape (n_components, n_outputs)
            Component means and standard deviations of the target, in the order of
            the composition.
        shares : Tensor of shape (n_components,)
            Component weights.
        """
        every = [place for places in self.places for place in places]
        biases = [shares[every].log() * self.temperature]
        for (family, _), shapes, places in zip(
            self.parts, self.shapes, map(list, self.places), strict=True
        ):
            raw = family.start(centers[places], spreads[places], self.min_scale)
            biases += [raw[name].flatten() for name in shapes]
        self.linear.bias.copy_(torch.cat(biases).expand_as(self.linear.bias))


class MixtureNetwork(nn.Module):
    """Features to mixtures: an input block, a trunk and a head.

    Parameters
    ----------
    block : nn.Module
        What the trunk sees of the features: ``(members, rows, n_features)`` to
        ``(members, rows, width)``.
    trunk : nn.Module
        To the hidden units.
    head : MixtureHead
        To the mixture.
    """

    def __init__(self, block: nn.Module, trunk: nn.Module, head: MixtureHead) -> None:
        super().__init__()
        self.block = block
        self.trunk = trunk
        self.head = head

    def forward(self, x: Tensor) -> Mixture:
        """Return mixtures with batch axes (members, rows).

        Parameters
        ----------
        x : Tensor of shape (members, rows, n_features) or (rows, n_features)
            Rows of each member, or the same rows for all of them.
        """
        if x.ndim == 2:
            x = x.expand((self.head.linear.weight.shape[0], *x.shape))
        mixture: Mixture = self.head(self.trunk(self.block(x)))
        return mixture

    def n_rows_together(self) -> int:
        """Return how many rows go forward together where memory is to be bounded."""
        weight = self.head.linear.weight
        layers: Any = self.trunk.layers
        widest = max(layer.weight.shape[1] for layer in (*layers, self.head.linear))
        n_bytes = weight.shape[0] * widest * weight.element_size()
        return max(1, _FORWARD_BYTES // n_bytes)

    def of_rows(self, x: Any, rows: Tensor) -> Mixture:
        """Return the mixtures of ``x[rows]``, some rows at a time.

        Parameters
        ----------
        x : Tensor of shape (n_samples, n_features)
            Rows, or something else that returns them by index.
        rows : Tensor of shape (members, rows)
            Which of them each member sees.
        """
        dtype = self.head.linear.weight.dtype
        parts = [
            self(x[part].to(dtype)) for part in rows.split(self.n_rows_together(), 1)
        ]
        return parts[0] if len(parts) == 1 else Mixture.concatenate(parts, 1)

    def set_trainable(self, trainable: bool) -> None:
        """Say whether gradients are wanted; the spread never learns by them."""
        for name, parameter in self.named_parameters():
            spread = name == "head.log_spread"
            parameter.requires_grad_(trainable and not spread)


class MixtureEnsemble(nn.Module):
    r"""Networks whose mixtures are averaged into one.

    .. math:: p(y \mid x) = \sum_m v_m \, p_m(y \mid x)

    Parameters
    ----------
    networks : sequence of MixtureNetwork
        Views of the features, each with members of its own; all have the same parts.
    """

    log_weights: Tensor
    seen: Tensor | None
    log_weights_seen: Tensor | None

    def __init__(self, networks: Sequence[MixtureNetwork]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        n_members = sum(self.n_members())
        weights = torch.full((n_members,), -math.log(n_members), dtype=torch.float64)
        self.register_buffer("log_weights", weights)
        self.register_buffer("seen", None)
        self.register_buffer("log_weights_seen", None)
        self.n_joined = 0

    def keep(self, chosen: Sequence[int]) -> None:
        """Forget all networks but these, which divide the weight among them."""
        parts = self.log_weights.split(self.n_members())
        self.networks = nn.ModuleList([self.networks[i] for i in chosen])
        weights = torch.cat([parts[i] for i in chosen])
        self.log_weights = weights - torch.logsumexp(weights, 0)

    def join(
        self, other: "MixtureEnsemble", share: Tensor, share_seen: Tensor, seen: Tensor
    ) -> None:
        """Take in the networks of another ensemble, which get a share.

        Parameters
        ----------
        other : MixtureEnsemble
            Its networks come last.
        share, share_seen : Tensor
            What they get where a row is new, and where it has been seen before.
        seen : Tensor of shape (n_seen,)
            The :func:`row_keys` of rows that have been seen.
        """
        self.networks.extend(other.networks)
        self.n_joined += len(other.networks)
        own, theirs = self.log_weights, other.log_weights
        self.log_weights, self.log_weights_seen = (
            torch.cat([own + (1.0 - part).log(), theirs + part.log()])
            for part in (share, share_seen)
        )
        self.seen = seen

    def forget_joined(self) -> None:
        """Forget the networks of other ensembles, and which rows have been seen."""
        if self.n_joined:
            self.keep(range(len(self.networks) - self.n_joined))
            self.n_joined = 0
            self.seen = self.log_weights_seen = None

    def n_members(self) -> list[int]:
        """Return the number of members of each network."""
        weights = [net.get_parameter("head.log_spread") for net in self.networks]
        return [len(weight) for weight in weights]

    def shares(self) -> Tensor:
        """Return the weight of each network, the sum over its members."""
        parts = self.log_weights.exp().split(self.n_members())
        return torch.stack([part.sum() for part in parts])

    def weigh(self, shares: Tensor, log_factor: Tensor) -> None:
        """Give each network its share, which its members divide, and widen all."""
        counts = torch.tensor(self.n_members(), device=shares.device)
        self.log_weights.copy_((shares / counts).log().repeat_interleave(counts))
        for network in self.networks:
            network.get_parameter("head.log_spread").add_(log_factor)

    def level(self, share: float | Tensor) -> None:
        """Have every network divide a share of its weights equally."""
        for network in self.networks:
            network.get_buffer("head.share_levelled").fill_(share)

    def forward(self, x: Tensor, temperature: float = 1.0) -> Mixture:
        """Return one mixture per row of ``x (rows, n_features)``.

        The temperature divides the logits of each network's weights once more, not
        those of the ensemble.
        """
        parts = [network(x).temper(temperature) for network in self.networks]
        members = parts[0] if len(parts) == 1 else Mixture.concatenate(parts)
        return members.merge(self._log_weights_of(x))

    def _log_weights_of(self, x: Tensor) -> Tensor:
        """Return the members' weights, of each row where it matters which it is."""
        if self.seen is None or self.log_weights_seen is None:
            return self.log_weights
        seen = torch.isin(row_keys(x), self.seen)
        where_seen, elsewhere = self.log_weights_seen, self.log_weights
        return torch.where(seen, where_seen.unsqueeze(1), elsewhere.unsqueeze(1))
