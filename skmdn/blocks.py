"""Blocks: components of one family that a mixture puts side by side."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Block"]


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
