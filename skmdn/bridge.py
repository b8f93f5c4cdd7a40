"""The only door between numpy and torch: tensors, devices, generators, CPU state."""

import copy
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

__all__ = ["cpu_copy", "generator_from", "to_numpy", "to_tensor"]

Module = TypeVar("Module", bound=nn.Module)


def to_tensor(
    array: ArrayLike, *, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> Tensor:
    """Copy an array into a tensor.

    The copy makes read-only, negatively strided and byte-swapped arrays ordinary.
    """
    native = np.asarray(array)
    native = np.ascontiguousarray(native, dtype=native.dtype.newbyteorder("="))
    return torch.tensor(native, dtype=dtype, device=device)


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor as an array on the CPU; floats come as float64."""
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.double()
    array: NDArray[Any] = tensor.numpy()
    return array


def generator_from(
    random_state: int | np.random.RandomState | None, device: str = "cpu"
) -> torch.Generator:
    """Return a torch generator seeded by a numpy one.

    A seed gives the same draws every time, None fresh ones; a ``RandomState`` is
    advanced by one draw.
    """
    if not isinstance(random_state, np.random.RandomState):
        random_state = np.random.RandomState(random_state)
    seed = int(random_state.randint(np.iinfo(np.int32).max))
    return torch.Generator(device).manual_seed(seed)


def cpu_copy(module: Module) -> Module:
    """Return a module whose tensors lie on the CPU; itself where they already do."""
    if all(value.device.type == "cpu" for value in module.state_dict().values()):
        return module
    return copy.deepcopy(module).cpu()
