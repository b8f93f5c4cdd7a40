"""Matrix products of all members that are made again and again, in the same places.

A batched product by the library of linear algebra is the rule. On processors with
512-bit vectors the library that torch is built with may leave half of them idle, where
they are of another maker; large products in single precision go to oneDNN there, which
torch carries for its own layers.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

__all__ = ["product", "product_anywhere"]

# Multiplications of a member's product from which oneDNN, which arranges its operands
# and does not write where it is told, is worth it.
_LARGE = 2**21


def product(left: Tensor, right: Tensor, out: Tensor) -> Callable[[], Tensor]:
    """Return a function that writes ``left @ right`` to ``out`` and returns it.

    Parameters
    ----------
    left, right, out : Tensor of shape (n_members, ...)
        Matrices, whose numbers may be others whenever the function is called. The
        batched product is fastest where ``out`` is contiguous.
    """
    if not _goes_to_one_dnn(left, out):
        return partial(torch.bmm, left, right, out=out)
    pairs = zip(left.unbind(0), right.mT.unbind(0), out.unbind(0), strict=True)
    return partial(_one_by_one, list(pairs), out)


def product_anywhere(left: Tensor, right: Tensor, out: Tensor) -> Callable[[], Tensor]:
    """Return a function that returns ``left @ right``, in ``out`` or in new memory.

    It does not copy what oneDNN has written. Parameters are those of
    :func:`product`.
    """
    if len(out) == 1 and _goes_to_one_dnn(left, out):
        return partial(_linear, left, right[0].mT, None, "none", [], "")
    return product(left, right, out)


def _goes_to_one_dnn(left: Tensor, out: Tensor) -> bool:
    n_rows, n_columns = out.shape[1:]
    large = n_rows * n_columns * left.shape[2] >= _LARGE
    return large and out.dtype == torch.float32 and _linear is not None


def _one_by_one(
    members: list[tuple[Tensor, Tensor, Tensor]], all_out: Tensor
) -> Tensor:
    for left, right, out in members:
        out.copy_(_linear(left, right, None, "none", [], ""))
    return all_out


def _one_dnn() -> Any:
    """Return the affine layer of oneDNN, or None where it is not worth it."""
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    known = torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()
    if not (wide and known):
        return None
    # It has no public name.
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


_linear: Any = _one_dnn()
