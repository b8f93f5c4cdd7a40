"""Blocks: components of one family that a mixture puts side by side."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import compress
from typing import Any

import torch
from torch import Tensor

__all__ = ["Block", "by_measure", "pulled_back"]


@dataclass(frozen=True)
class Block:
    """Components of one family, batched over their own axis.

    Parameters
    ----------
    family : Family
        The mathematics; see :mod:`skmdn.families`.
    params : dict of str to Tensor
        Each ``batch + (n_components or 1,) + event``.
    n_components : int
        The number of components, which shared parameters do not tell.
    """

    family: Any
    params: dict[str, Tensor]
    n_components: int

    def map(self, function: Callable[[Tensor], Tensor]) -> "Block":
        """Apply a function to every parameter tensor."""
        params = {name: function(value) for name, value in self.params.items()}
        return Block(self.family, params, self.n_components)

    def replace(self, params: dict[str, Tensor]) -> "Block":
        """Return the same family with other parameters."""
        return Block(self.family, params, self.n_components)

    def component_axis(self, name: str) -> int:
        """Return the position of a parameter's component axis, from the end."""
        return -1 - self.family.event_ranks[name]

    def expanded(self) -> "Block":
        """Give every parameter a component axis of full length."""
        params = {}
        for name, value in self.params.items():
            axis = self.component_axis(name)
            shape = list(value.shape)
            shape[axis] = self.n_components
            params[name] = value.expand(shape)
        return self.replace(params)

    def expand_batch(self, batch: torch.Size) -> "Block":
        """Give every parameter all of the batch axes."""
        params = {
            name: value.expand(batch + value.shape[self.component_axis(name) :])
            for name, value in self.params.items()
        }
        return self.replace(params)

    def take(self, flat: Tensor) -> dict[str, Tensor]:
        """Gather components by their flat index ``row * n_components + component``."""
        taken = {}
        for name, value in self.params.items():
            axis = self.component_axis(name)
            event = value.shape[value.ndim + axis + 1 :]
            shared = value.shape[axis] == 1
            index = flat // self.n_components if shared else flat
            table = value.reshape((-1, *event))
            picked = table.index_select(0, index.reshape(-1))
            taken[name] = picked.reshape(index.shape + event)
        return taken


def by_measure(mixture: Any) -> tuple[Any, Any]:
    """Return the continuous components of a mixture and the discrete ones, or None.

    Their weights are those that they have in the mixture.
    """
    sizes = [block.n_components for block in mixture.blocks]
    log_weights = mixture.log_weights.split(sizes, -1)
    parts: list[Any] = []
    for discrete in (False, True):
        chosen = [b.family.discrete == discrete for b in mixture.blocks]
        blocks = list(compress(mixture.blocks, chosen))
        if blocks:
            weights = torch.cat(list(compress(log_weights, chosen)), -1)
            parts.append(type(mixture)(weights, blocks))
        else:
            parts.append(None)
    return parts[0], parts[1]


def pulled_back(mixture: Any) -> tuple[Any, Any]:
    """Return the mixture on the real line that one is the image of, and the map.

    The map is a :class:`skmdn.supports.Support`. There is none, and the mixture is
    returned as it is, unless all families are images by the same one.
    """
    maps = {block.family.onto for block in mixture.blocks}
    onto = maps.pop()
    if maps or onto is None:
        return mixture, None
    blocks = [Block(b.family.base, b.params, b.n_components) for b in mixture.blocks]
    return type(mixture)(mixture.log_weights, blocks), onto
