"""Summaries of sets, which do not depend on the order of the items."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .base import Layers, Summary, SummaryNetwork, last_layer, masked_mean

__all__ = ["DeepSet", "DeepSetNetwork"]


class DeepSet(Summary):
    r"""A network for each item, then pooling, for exchangeable items.

    .. math:: s = \rho\Bigl(\frac1n \sum_i f(x_i), \; \frac1N \sum_i f(x_i), \;
        \max_i f(x_i), \; \log\tfrac{1 + n}{1 + N}\Bigr), \quad
        f(x) = (x, \phi(x))

    with n real items of N places. Any function of a set has this form if the widths
    suffice [1]_.

    Parameters
    ----------
    n_summaries : int, default=16
        How many numbers describe a set.
    hidden_layer_sizes : sequence of int, default=(32, 32)
        The widths of the network for items.
    pooled_layer_sizes : sequence of int, default=(32,)
        Those of the network after pooling, before its last, linear layer.
    activation : {"relu", "silu", "gelu", "tanh", "logistic"}, default="relu"
        Between layers.

    See Also
    --------
    SetTransformer : Where items matter by how they compare.

    References
    ----------
    .. [1] M. Zaheer, S. Kottur, S. Ravanbakhsh, B. Póczos, R. Salakhutdinov and
       A. Smola, "Deep sets", NeurIPS 2017.

    Examples
    --------
    >>> import torch
    >>> from skmdn.summaries import DeepSet
    >>> network = DeepSet(n_summaries=4).build(
    ...     1, n_items=5, n_features=2, generator=torch.Generator().manual_seed(0))
    >>> x = torch.zeros(1, 3, 5, 2, dtype=torch.float64)
    >>> x[:, 0, 2:] = torch.nan
    >>> network(x).shape
    torch.Size([1, 3, 4])
    """

    def __init__(
        self,
        n_summaries: int = 16,
        *,
        hidden_layer_sizes: Sequence[int] = (32, 32),
        pooled_layer_sizes: Sequence[int] = (32,),
        activation: str = "relu",
    ) -> None:
        self.n_summaries = n_summaries
        self.hidden_layer_sizes = hidden_layer_sizes
        self.pooled_layer_sizes = pooled_layer_sizes
        self.activation = activation

    def build(
        self,
        n_members: int,
        n_items: int,
        n_features: int,
        *,
        generator: torch.Generator | None = None,
    ) -> "DeepSetNetwork":
        """Return a network with initial weights."""
        return DeepSetNetwork(
            n_members,
            n_items,
            n_features,
            self._count("n_summaries"),
            self._widths("hidden_layer_sizes", least=1),
            self._widths("pooled_layer_sizes"),
            self._phi(),
            generator=generator,
        )


class DeepSetNetwork(SummaryNetwork):
    """The module of :class:`DeepSet`.

    Parameters
    ----------
    n_members, n_items, n_features, n_out : int
        Its size.
    item_widths, pooled_widths : sequence of int
        The layers before and after pooling.
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
        n_out: int,
        item_widths: Sequence[int],
        pooled_widths: Sequence[int],
        phi: Callable[[Tensor], Tensor],
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        widths = [n_features, *item_widths]
        widest = n_items * (n_features + max(item_widths))
        super().__init__(n_items, n_features, n_out, widest)
        self.items = Layers(n_members, widths, phi, generator=generator)
        n_pooled = 3 * (n_features + widths[-1]) + 1
        widths = [n_pooled, *pooled_widths]
        self.pooled = Layers(n_members, widths, phi, generator=generator)
        # Sample means and the like go through as they are.
        n_last = n_pooled + (widths[-1] if pooled_widths else 0)
        self.last = last_layer(n_members, n_last, n_out, generator, count=n_pooled - 1)

    def summarize(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the summaries of rows whose padding is 0 already."""
        hidden = self.items(x.flatten(1, 2)).unflatten(1, x.shape[1:3])
        mean = torch.cat([masked_mean(x, mask), masked_mean(hidden, mask)], -1)
        count = mask.sum(-1, keepdim=True)
        share = (count / self.n_items).to(x.dtype)
        padding = ~mask.unsqueeze(-1)
        tops = [part.masked_fill(padding, -torch.inf) for part in (x, hidden)]
        largest = torch.cat([part.max(-2).values for part in tops], -1)
        largest = torch.where(count > 0, largest, 0.0)
        pooled = torch.cat([mean, share * mean, largest, self.log_count(mask, x)], -1)
        if len(self.pooled.layers):
            pooled = torch.cat([pooled, self.pooled(pooled)], -1)
        summaries: Tensor = self.last(pooled)
        return summaries
