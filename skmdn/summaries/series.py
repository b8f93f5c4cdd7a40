"""The summary of a time series by a recurrent network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .base import Summary, SummaryNetwork, linear, masked_mean

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
        self.last = linear(n_members, 2 * sizes[-1] + 1, n_out, generator)

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
        self.enter = linear(n_members, n_in, n_directions * 3 * width, generator)
        # Directions are members of their own once the input is projected.
        again = linear(n_members * n_directions, width, 3 * width, generator)
        axes = (n_members, n_directions)
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
        members, rows, n_steps, _ = x.shape
        entered = self.enter(x.flatten(1, 2))
        entered = entered.view(members, rows, n_steps, self.n_directions, -1)
        # (steps, members, directions, rows, 3 * width), the second direction reversed.
        entered = entered.permute(2, 0, 3, 1, 4)
        real = mask.permute(2, 0, 1)[:, :, None, :, None]
        real = real.expand(-1, -1, self.n_directions, -1, -1)
        states, final = self._run(_turned(entered), _turned(real))
        states = _turned(states).permute(1, 3, 0, 2, 4).flatten(3)
        return states, final.transpose(1, 2).flatten(2)

    def _run(self, entered: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Go through the steps, all directions at once."""
        n_steps, members, n_directions, rows, _ = entered.shape
        flat = members * n_directions
        weight, bias = self.again_weight.flatten(0, 1), self.again_bias.flatten(0, 1)
        entered, real = entered.flatten(1, 2), real.flatten(1, 2)
        state, states = entered.new_zeros((flat, rows, self.width)), []
        for now, here in zip(entered.unbind(), real.unbind(), strict=True):
            again = torch.baddbmm(bias, state, weight)
            gates = torch.sigmoid(
                now[..., : 2 * self.width] + again[..., : 2 * self.width]
            )
            reset, keep = gates.chunk(2, -1)
            new = torch.tanh(
                torch.addcmul(
                    now[..., 2 * self.width :], reset, again[..., 2 * self.width :]
                )
            )
            # A padded step keeps everything.
            state = torch.lerp(new, state, torch.where(here, keep, 1.0))
            states.append(state)
        shape = (n_steps, members, n_directions, rows, self.width)
        return torch.stack(states).view(shape), state.view(shape[1:])


def _turned(x: Tensor) -> Tensor:
    """Reverse the second direction of ``(steps, members, directions, ...)``."""
    if x.shape[2] == 1:
        return x
    return torch.stack([x[:, :, 0], x[:, :, 1].flip(0)], 2)
