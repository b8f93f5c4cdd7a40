"""Attention between items, and the summary of a set that is made of it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from .base import Layers, Summary, SummaryNetwork, last_layer, linear, masked_mean

__all__ = ["MemberAttention", "SetTransformer", "SetTransformerNetwork"]


class SetTransformer(Summary):
    r"""Items that look at one another, then pooling by attention.

    .. math:: h \leftarrow h + A(h, h), \quad h \leftarrow h + \phi(h), \quad
        s = \rho\Bigl(A(q, h), \; \frac1n \sum_i x_i, \;
        \log\tfrac{1 + n}{1 + N}\Bigr)

    with attention A of several heads, each on normalised items, and learned queries q
    [1]_. It does not depend on the order of the items.

    Parameters
    ----------
    n_summaries : int, default=16
        How many numbers describe a set.
    width : int, default=32
        Numbers that describe an item.
    n_blocks : int, default=2
        How often the items look at one another.
    n_heads : int, default=2
        Heads of each attention; they divide the width.
    n_queries : int, default=1
        Learned queries that pool the items.
    n_inducing : int, default=None
        Items look at so many learned points, which look at them, instead of at one
        another: time and memory then grow linearly with the number of items.
    activation : {"relu", "silu", "gelu", "tanh", "logistic"}, default="relu"
        Of the layers between.

    See Also
    --------
    DeepSet : Cheaper: each item by itself.

    References
    ----------
    .. [1] J. Lee, Y. Lee, J. Kim, A. Kosiorek, S. Choi and Y. W. Teh, "Set
       transformer: a framework for attention-based permutation-invariant neural
       networks", ICML 2019.

    Examples
    --------
    >>> import torch
    >>> from skmdn.summaries import SetTransformer
    >>> network = SetTransformer(n_summaries=4).build(
    ...     1, n_items=5, n_features=2, generator=torch.Generator().manual_seed(0))
    >>> network(torch.zeros(1, 3, 5, 2, dtype=torch.float64)).shape
    torch.Size([1, 3, 4])
    """

    def __init__(
        self,
        n_summaries: int = 16,
        *,
        width: int = 32,
        n_blocks: int = 2,
        n_heads: int = 2,
        n_queries: int = 1,
        n_inducing: int | None = None,
        activation: str = "relu",
    ) -> None:
        self.n_summaries = n_summaries
        self.width = width
        self.n_blocks = n_blocks
        self.n_heads = n_heads
        self.n_queries = n_queries
        self.n_inducing = n_inducing
        self.activation = activation

    def build(
        self,
        n_members: int,
        n_items: int,
        n_features: int,
        *,
        generator: torch.Generator | None = None,
    ) -> "SetTransformerNetwork":
        """Return a network with initial weights."""
        width, n_heads = self._count("width"), self._count("n_heads")
        if width % n_heads:
            raise ValueError(f"width={width} cannot be divided by n_heads={n_heads}.")
        n_inducing = None if self.n_inducing is None else self._count("n_inducing")
        return SetTransformerNetwork(
            n_members,
            n_items,
            n_features,
            self._count("n_summaries"),
            width=width,
            n_blocks=self._count("n_blocks"),
            n_heads=n_heads,
            n_queries=self._count("n_queries"),
            n_inducing=n_inducing,
            phi=self._phi(),
            generator=generator,
        )


class SetTransformerNetwork(SummaryNetwork):
    """The module of :class:`SetTransformer`.

    Parameters
    ----------
    n_members, n_items, n_features, n_out : int
        Its size.
    width, n_blocks, n_heads, n_queries : int
        As in :class:`SetTransformer`.
    n_inducing : int or None
        As there.
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
        *,
        width: int,
        n_blocks: int,
        n_heads: int,
        n_queries: int,
        n_inducing: int | None,
        phi: Callable[[Tensor], Tensor],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(n_items, n_features, n_out, 2 * n_items * width)
        self.first = linear(n_members, n_features, width, generator)
        size = (n_members, width, n_heads)
        self.blocks = nn.ModuleList(
            _Block(*size, n_inducing, phi, generator) for _ in range(n_blocks)
        )
        self.pool = _Queries(*size, n_queries, generator)
        n_pooled = n_queries * width + n_features + 1
        self.pooled = Layers(n_members, [n_pooled, width], phi, generator=generator)
        n_last = n_pooled + width
        self.last = last_layer(n_members, n_last, n_out, generator, count=n_pooled - 1)

    def summarize(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the summaries of rows whose padding is 0 already."""
        # Attention to nothing is undefined: a set without items looks at its padding,
        # which is the same everywhere.
        seen = mask | ~mask.any(-1, keepdim=True)
        hidden = self.first(x.flatten(1, 2)).unflatten(1, x.shape[1:3])
        for block in self.blocks:
            hidden = block(hidden, seen)
        pools = [
            self.pool(_normed(hidden), seen).flatten(2),
            masked_mean(x, mask),
            self.log_count(mask, x),
        ]
        pooled = torch.cat(pools, -1)
        summaries: Tensor = self.last(torch.cat([pooled, self.pooled(pooled)], -1))
        return summaries


class MemberAttention(nn.Module):
    r"""Attention of several heads, for every member.

    .. math:: A(q, h) = \Bigl[\mathrm{softmax}\bigl(
        (q W_j)(h U_j)^\top / \sqrt{d}\bigr) h V_j\Bigr]_j W

    Parameters
    ----------
    n_members, width, n_heads : int
        Its size; d is the width of a head.
    generator : torch.Generator, optional
        The source of the weights.
    """

    def __init__(
        self,
        n_members: int,
        width: int,
        n_heads: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = linear(n_members, width, width, generator)
        self.key_value = linear(n_members, width, 2 * width, generator)
        self.out = linear(n_members, width, width, generator)

    def forward(self, queries: Tensor, items: Tensor, mask: Tensor | None) -> Tensor:
        """Return what each query finds.

        Parameters
        ----------
        queries : Tensor of shape (members, rows, n_queries, width)
            Or with a single row, for the same queries in all rows.
        items : Tensor of shape (members, rows, n_items, width)
            What they look at.
        mask : Tensor of shape (members, rows, n_items) or None
            Which items they see; at least one in every row.

        Returns
        -------
        found : Tensor of shape (members, rows, n_queries, width)
        """
        query = self._heads(self.query, queries)
        key, value = self._heads(self.key_value, items).chunk(2, 2)
        query = query.expand(-1, items.shape[1], -1, -1, -1)
        if mask is not None:
            mask = mask.flatten(0, 1)[:, None, None]
        found = scaled_dot_product_attention(
            query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1), mask
        )
        joined = found.transpose(1, 2).flatten(2).unflatten(0, items.shape[:2])
        return _affine(self.out, joined)

    def _heads(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Return projections as ``(members, rows, heads, items, width of a head)``."""
        size = x.shape[-1] // self.n_heads
        return _affine(layer, x).unflatten(-1, (-1, size)).transpose(2, 3)


class _Block(nn.Module):
    """Items look at one another, then each at itself."""

    def __init__(
        self,
        n_members: int,
        width: int,
        n_heads: int,
        n_inducing: int | None,
        phi: Callable[[Tensor], Tensor],
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        size = (n_members, width, n_heads)
        self.inducing = None
        if n_inducing is not None:
            self.inducing = _Queries(*size, n_inducing, generator)
        self.attention = MemberAttention(*size, generator)
        widths = [width, 2 * width, width]
        self.each = Layers(n_members, widths, phi, last=False, generator=generator)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        normed = _normed(hidden)
        if self.inducing is None:
            hidden = hidden + self.attention(normed, normed, mask)
        else:
            points = _normed(self.inducing(normed, mask))
            hidden = hidden + self.attention(normed, points, None)
        return hidden + _affine(self.each, _normed(hidden))


class _Queries(nn.Module):
    """Learned queries, the same for every row, and what they find."""

    def __init__(
        self,
        n_members: int,
        width: int,
        n_heads: int,
        n_queries: int,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        queries = torch.empty((n_members, 1, n_queries, width), dtype=torch.float64)
        self.queries = nn.Parameter(queries.normal_(generator=generator))
        self.attention = MemberAttention(n_members, width, n_heads, generator)

    def forward(self, items: Tensor, mask: Tensor) -> Tensor:
        found: Tensor = self.attention(self.queries, items, mask)
        return found


def _affine(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a layer for rows to the items of rows."""
    y: Tensor = layer(x.flatten(1, 2))
    return y.unflatten(1, x.shape[1:3])


def _normed(x: Tensor) -> Tensor:
    """Normalise items; what follows is affine and has scales of its own."""
    return layer_norm(x, x.shape[-1:])
