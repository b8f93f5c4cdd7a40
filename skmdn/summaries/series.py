"""The summary of a time series by a recurrent network."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .base import Summary, SummaryNetwork, last_layer, linear, masked_mean

__all__ = ["MemberGRU", "RecurrentNetwork", "RecurrentSummary"]


class RecurrentSummary(Summary):
    r"""A recurrent network with gates, for items whose order means something.

    .. math:: h_t = (1 - z_t) \, n_t + z_t \, h_{t-1}, \quad
        n_t = \tanh\bigl(x_t W + r_t (h_{t-1} U)\bigr), \quad
        s = \rho\Bigl(h_T, \; \frac1T \sum_t h_t, \;
        \log\tfrac{1 + T}{1 + N}\Bigr)

    with the gates r and z in (0, 1), functions of the same inputs [1]_. Padded steps
    are passed over, wherever they are.

    Parameters
    ----------
    n_summaries : int, default=16
        How many numbers describe a series.
    hidden_layer_sizes : sequence of int, default=(32,)
        The widths of the recurrent layers, in each direction.
    bidirectional : bool, default=True
        Whether every layer also reads the series from its end.

    References
    ----------
    .. [1] K. Cho, B. van Merriënboer, C. Gulcehre, D. Bahdanau, F. Bougares,
       H. Schwenk and Y. Bengio, "Learning phrase representations using RNN
       encoder-decoder for statistical machine translation", EMNLP 2014.

    Examples
    --------
    >>> import torch
    >>> from skmdn.summaries import RecurrentSummary
    >>> network = RecurrentSummary(n_summaries=4).build(
    ...     1, n_items=5, n_features=2, generator=torch.Generator().manual_seed(0))
    >>> network(torch.zeros(1, 3, 5, 2, dtype=torch.float64)).shape
    torch.Size([1, 3, 4])
    """

    def __init__(
        self,
        n_summaries: int = 16,
        *,
        hidden_layer_sizes: Sequence[int] = (32,),
        bidirectional: bool = True,
    ) -> None:
        self.n_summaries = n_summaries
        self.hidden_layer_sizes = hidden_layer_sizes
        self.bidirectional = bidirectional

    def build(
        self,
        n_members: int,
        n_items: int,
        n_features: int,
        *,
        generator: torch.Generator | None = None,
    ) -> "RecurrentNetwork":
        """Return a network with initial weights."""
        return RecurrentNetwork(
            n_members,
            n_items,
            n_features,
            self._count("n_summaries"),
            self._widths("hidden_layer_sizes", least=1),
            2 if self.bidirectional else 1,
            generator=generator,
        )


class RecurrentNetwork(SummaryNetwork):
    """The module of :class:`RecurrentSummary`.

    Parameters
    ----------
    n_members, n_items, n_features, n_out : int
        Its size.
    widths : sequence of int
        Of the recurrent layers.
    n_directions : int
        1, or 2 for both.
    generator : torch.Generator, optional
        The source of the weights.
    """

    def __init__(
        self,
        n_members: int,
        n_items: int,
        n_features: int,
        n_out: int,
        widths: Sequence[int],
        n_directions: int,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        widest = 3 * n_items * n_directions * max(widths)
        super().__init__(n_items, n_features, n_out, widest)
        sizes = [n_features, *(n_directions * width for width in widths)]
        self.layers = nn.ModuleList(
            MemberGRU(n_members, n_in, width, n_directions, generator)
            for n_in, width in zip(sizes[:-1], widths, strict=True)
        )
        n_last = 2 * sizes[-1] + 1
        self.last = last_layer(n_members, n_last, n_out, generator, count=n_last - 1)

    def summarize(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the summaries of rows whose padding is 0 already."""
        for layer in self.layers:
            x, final = layer(x, mask)
        pools = [final, masked_mean(x, mask), self.log_count(mask, x)]
        summaries: Tensor = self.last(torch.cat(pools, -1))
        return summaries


class MemberGRU(nn.Module):
    """A layer of gated recurrent units for every member, in one or both directions.

    Parameters
    ----------
    n_members, n_in, width : int
        Its size.
    n_directions : int, default=1
        1, or 2 for both.
    generator : torch.Generator, optional
        The source of the weights.
    """

    def __init__(
        self,
        n_members: int,
        n_in: int,
        width: int,
        n_directions: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.width = width
        self.n_directions = n_directions
        axes = (n_members, n_directions)
        enter = linear(math.prod(axes), n_in, 3 * width, generator)
        again = linear(math.prod(axes), width, 3 * width, generator)
        self.enter_weight = nn.Parameter(enter.weight.detach().unflatten(0, axes))
        self.enter_bias = nn.Parameter(enter.bias.detach().unflatten(0, axes))
        self.again_weight = nn.Parameter(again.weight.detach().unflatten(0, axes))
        self.again_bias = nn.Parameter(again.bias.detach().unflatten(0, axes))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Read the series.

        Parameters
        ----------
        x : Tensor of shape (members, rows, n_steps, n_in)
            The series.
        mask : Tensor of shape (members, rows, n_steps)
            Where a step is real; others leave the state as it is.

        Returns
        -------
        states : Tensor of shape (members, rows, n_steps, n_directions * width)
            After each step.
        final : Tensor of shape (members, rows, n_directions * width)
            After the last step of each direction.
        """
        states = self._run(self._turned(x), self._turned(mask.unsqueeze(-1)))
        final = states[-1].transpose(1, 2).flatten(2)
        if self.n_directions == 2:
            states = torch.stack([states[:, :, 0], states[:, :, 1].flip(0)], 2)
        return states.permute(1, 3, 0, 2, 4).flatten(3), final

    def _run(self, x: Tensor, real: Tensor) -> Tensor:
        """Return the states after each step; directions are members of their own."""
        parts = 2 * self.width, self.width
        enter = self.enter_bias.flatten(0, 1), self.enter_weight.flatten(0, 1)
        again = self.again_bias.flatten(0, 1), self.again_weight.flatten(0, 1)
        flat_x, flat_real = x.flatten(1, 2), real.flatten(1, 2)
        state = x.new_zeros((*flat_x.shape[1:3], self.width))
        states = []
        # All at once, what enters would be too large to stay in the cache.
        for now, here in zip(flat_x.unbind(), flat_real.unbind(), strict=True):
            entering = torch.baddbmm(enter[0], now, enter[1]).split(parts, -1)
            staying = torch.baddbmm(again[0], state, again[1]).split(parts, -1)
            reset, keep = torch.sigmoid(entering[0] + staying[0]).chunk(2, -1)
            new = torch.tanh(torch.addcmul(entering[1], reset, staying[1]))
            # A padded step keeps everything.
            state = torch.lerp(new, state, torch.where(here, keep, 1.0))
            states.append(state)
        return torch.stack(states).unflatten(1, x.shape[1:3])

    def _turned(self, x: Tensor) -> Tensor:
        """Return ``(steps, members, directions, rows, ...)``, the second reversed."""
        x = x.permute(2, 0, 1, 3)
        turned = [x, x.flip(0)][: self.n_directions]
        return torch.stack(turned, 2)
