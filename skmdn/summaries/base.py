"""What summary networks have in common: parameters by name, masks, the count."""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skmdn.configurable import Configurable
from skmdn.learning.networks import ACTIVATIONS, MemberLinear

__all__ = [
    "Layers",
    "Summary",
    "SummaryNetwork",
    "last_layer",
    "linear",
    "masked_mean",
]


class Summary(Configurable, ABC):
    """Base of the summaries: what a network is like, before the data are known.

    A subclass has a parameter ``n_summaries`` and makes a module, so that
    scikit-learn can clone it and a search can set what it is made of.
    """

    n_summaries: int

    @abstractmethod
    def build(
        self,
        n_members: int,
        n_items: int,
        n_features: int,
        *,
        generator: torch.Generator | None = None,
    ) -> "SummaryNetwork":
        """Return a network with initial weights.

        Parameters
        ----------
        n_members : int
            Number of networks that are trained side by side.
        n_items, n_features : int
            The size of a row of the padded data.
        generator : torch.Generator, optional
            The source of the weights.

        Returns
        -------
        network : SummaryNetwork
            In double precision.

        Raises
        ------
        ValueError
            If a parameter cannot be used.
        """

    def _count(self, name: str) -> int:
        """Return a parameter that has to be a positive whole number."""
        (count,) = self._counts(name, [getattr(self, name)])
        return count

    def _widths(self, name: str, *, least: int = 0) -> list[int]:
        """Return a parameter that has to be the widths of layers."""
        value = getattr(self, name)
        sizes = self._counts(name, value if isinstance(value, Sequence) else [value])
        if len(sizes) < least:
            raise ValueError(f"{name} of {type(self).__name__} needs a layer at least.")
        return sizes

    def _counts(self, name: str, values: Sequence[Any]) -> list[int]:
        for value in values:
            whole = hasattr(value, "__index__") and not isinstance(value, bool)
            if not whole or value < 1:
                raise ValueError(
                    f"{name} of {type(self).__name__} must be positive whole numbers, "
                    f"got {getattr(self, name)!r}."
                )
        return [int(value) for value in values]

    def _phi(self) -> Callable[[Tensor], Tensor]:
        """Return the function that the parameter ``activation`` names."""
        activation: Any = getattr(self, "activation", None)
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation of {type(self).__name__} must be one of "
                f"{sorted(ACTIVATIONS)}, got {activation!r}."
            )
        return ACTIVATIONS[activation]


class SummaryNetwork(nn.Module):
    r"""Rows of items to a few numbers each, for many members at once.

    .. math:: s = h\bigl(\{x_i : m_i\}, \log \tfrac{1 + n}{1 + N}\bigr),
        \quad n = \sum_i m_i

    with the mask m and N items in a padded row. Every parameter has a leading member
    axis. What stands at padded places never matters, not even NaN.

    Parameters
    ----------
    n_items, n_features : int
        The size of a row of the padded data. Other numbers of items are allowed
        later, unless their places mean something to the network.
    n_out : int
        Number of summaries.
    numbers_per_row : int
        How many numbers the largest tensor of a pass has for each row, about.
    """

    def __init__(
        self, n_items: int, n_features: int, n_out: int, numbers_per_row: int
    ) -> None:
        super().__init__()
        self.n_items = n_items
        self.n_features = n_features
        self.n_out = n_out
        self.numbers_per_row = numbers_per_row

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the summaries of each row.

        Parameters
        ----------
        x : Tensor of shape (members, rows, n_items, n_features)
            The data, padded. The last two axes can be flat, so that the network can
            stand where a network of rows of numbers has its first block.
        mask : Tensor of shape (rows, n_items) or (members, rows, n_items), optional
            True where an item is real. Without it items whose first feature is NaN
            are padding.

        Returns
        -------
        summaries : Tensor of shape (members, rows, n_out)
        """
        if x.ndim == 3:
            x = x.unflatten(-1, (-1, self.n_features))
        if mask is None:
            mask = ~x[..., 0].isnan()
        mask = mask.expand(x.shape[:-1])
        # Not a product, which would keep NaN.
        x = torch.where(mask.unsqueeze(-1), x, 0.0)
        return self.summarize(x, mask)

    def summarize(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the summaries of rows whose padding is 0 already."""
        raise NotImplementedError

    def log_count(self, mask: Tensor, like: Tensor) -> Tensor:
        """Return the count of items as a feature: ``(members, rows, 1)``."""
        count = mask.sum(-1, keepdim=True).to(like.dtype)
        return torch.log1p(count) - math.log1p(self.n_items)


class Layers(nn.Module):
    """Affine layers with an activation between them, each with its own start.

    Parameters
    ----------
    n_members : int
        Number of members.
    widths : sequence of int
        Of the input and of each layer.
    phi : callable
        The activation.
    last : bool, default=True
        Whether it also follows the last layer.
    generator : torch.Generator, optional
        The source of the weights.
    """

    def __init__(
        self,
        n_members: int,
        widths: Sequence[int],
        phi: Callable[[Tensor], Tensor],
        *,
        last: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            linear(n_members, a, b, generator) for a, b in itertools.pairwise(widths)
        )
        self.phi = phi
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(members, rows, n_in)`` to the width of the last layer."""
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if self.last or i + 1 < len(self.layers):
                x = self.phi(x)
        return x


def linear(
    n_members: int, n_in: int, n_out: int, generator: torch.Generator | None
) -> MemberLinear:
    """Return an affine layer with weights as small as those of ``torch.nn.Linear``.

    Larger ones let a network memorise simulations before it finds what matters.
    """
    gain = 1.0 / math.sqrt(3.0)
    layer = MemberLinear(n_members, n_in, n_out, gain=gain, generator=generator)
    bound = 1.0 / math.sqrt(n_in)
    with torch.no_grad():
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


def last_layer(
    n_members: int,
    n_in: int,
    n_out: int,
    generator: torch.Generator | None,
    *,
    count: int,
) -> MemberLinear:
    """Return the layer that makes summaries, the first of which starts as the count.

    How narrow a posterior is may depend on nothing else, and must not be searched for
    among all the other numbers.

    Parameters
    ----------
    n_members, n_in, n_out : int
        Its size.
    generator : torch.Generator or None
        The source of the weights.
    count : int
        At which place of the input the count of items is.
    """
    layer = linear(n_members, n_in, n_out, generator)
    if n_out > 1:
        with torch.no_grad():
            layer.weight[:, :, 0] = 0.0
            layer.weight[:, count, 0] = 1.0
            layer.bias[:, :, 0] = 0.0
    return layer


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return means over real items; 0 where there are none.

    Parameters
    ----------
    x : Tensor of shape (members, rows, n_items, width)
        What is averaged.
    mask : Tensor of shape (members, rows, n_items)
        True where an item is real.
    """
    share = mask.to(x.dtype)
    share = share / share.sum(-1, keepdim=True).clamp(min=1.0)
    return (share.unsqueeze(-2) @ x).squeeze(-2)
