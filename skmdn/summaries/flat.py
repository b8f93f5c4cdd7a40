"""The summary of rows whose places mean something, by a plain network."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .base import Layers, Summary, SummaryNetwork

__all__ = ["MLP", "MLPNetwork"]


class MLP(Summary):
    r"""A plain network on all items side by side.

    .. math:: s = \rho(m_1 x_1, \dots, m_N x_N, m_1, \dots, m_N)

    Parameters
    ----------
    n_summaries : int, default=16
        How many numbers describe a row.
    hidden_layer_sizes : sequence of int, default=(64, 64)
        The widths of the layers before the last, linear one.
    activation : {"relu", "silu", "gelu", "tanh", "logistic"}, default="relu"
        Between layers.

    Examples
    --------
    >>> import torch
    >>> from skmdn.summaries import MLP
    >>> network = MLP(n_summaries=4).build(
    ...     1, n_items=5, n_features=2, generator=torch.Generator().manual_seed(0))
    >>> network(torch.zeros(1, 3, 5, 2, dtype=torch.float64)).shape
    torch.Size([1, 3, 4])
    """

    def __init__(
        self,
        n_summaries: int = 16,
        *,
        hidden_layer_sizes: Sequence[int] = (64, 64),
        activation: str = "relu",
    ) -> None:
        self.n_summaries = n_summaries
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation

    def build(
        self,
        n_members: int,
        n_items: int,
        n_features: int,
        *,
        generator: torch.Generator | None = None,
    ) -> "MLPNetwork":
        """Return a network with initial weights."""
        widths = [*self._widths("hidden_layer_sizes"), self._count("n_summaries")]
        return MLPNetwork(
            n_members, n_items, n_features, widths, self._phi(), generator=generator
        )


class MLPNetwork(SummaryNetwork):
    """The module of :class:`MLP`.

    Parameters
    ----------
    n_members, n_items, n_features : int
        Its size.
    widths : sequence of int
        Of its layers, the last the number of summaries.
    phi : callable
        The activation.
    generator : torch.Generator, optional
        The source of the weights.
    """

    def __init__(
        self,
        n_members: int,
        n_items: int,
        n_features: int,
        widths: Sequence[int],
        phi: Callable[[Tensor], Tensor],
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        widths = [n_items * (n_features + 1), *widths]
        super().__init__(n_items, n_features, widths[-1], max(widths))
        self.layers = Layers(n_members, widths, phi, last=False, generator=generator)

    def summarize(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the summaries of rows whose padding is 0 already."""
        if x.shape[2] != self.n_items:
            raise ValueError(
                f"The network is made for {self.n_items} items in a row, got "
                f"{x.shape[2]}."
            )
        flat = torch.cat([x.flatten(2), mask.to(x.dtype)], -1)
        summaries: Tensor = self.layers(flat)
        return summaries
