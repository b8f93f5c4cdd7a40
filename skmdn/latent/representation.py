"""One learnable vector per row, as a torch module."""

from typing import Any

import numpy as np
from torch import Tensor, nn

from skmdn.bridge import to_tensor

from .checks import checked_count, default_dtype

__all__ = ["RepresentationLayer"]


class RepresentationLayer(nn.Module):
    """One learnable vector per row of the data.

    Parameters
    ----------
    n_rep : int
        The number of features of a representation.
    n_sample : int
        The number of rows.
    value_init : "zero", float, Tensor or array of shape (n_sample, n_rep)
        Where the representations begin. Tensors and arrays are copied.

    Attributes
    ----------
    z : Parameter of shape (n_sample, n_rep)
        The representations.

    Examples
    --------
    >>> import torch
    >>> from skmdn.latent import RepresentationLayer
    >>> layer = RepresentationLayer(2, 10, value_init=torch.randn(10, 2))
    >>> layer([3, 4]).shape
    torch.Size([2, 2])
    """

    def __init__(self, n_rep: int, n_sample: int, value_init: Any = "zero") -> None:
        super().__init__()
        self.n_rep, self.n_sample = (
            checked_count(n_rep, "n_rep"),
            checked_count(n_sample, "n_sample"),
        )
        shape = (self.n_sample, self.n_rep)
        if isinstance(value_init, str):
            if value_init != "zero":
                raise ValueError(
                    f"value_init={value_init!r} is not known: use 'zero', a number or "
                    f"a tensor of shape {shape}."
                )
            value_init = 0.0
        if isinstance(value_init, Tensor):
            values = value_init.detach()
        else:
            values = to_tensor(np.asarray(value_init), dtype=default_dtype())
        if values.ndim and values.shape != shape:
            raise ValueError(
                f"value_init has shape {tuple(values.shape)}; expected {shape}."
            )
        self.z = nn.Parameter(values.expand(shape).clone())

    def forward(self, idx: Any = None) -> Tensor:
        """Return the representations of some rows.

        Parameters
        ----------
        idx : Tensor or sequence of int, optional
            Rows; all of them by default.

        Returns
        -------
        z : Tensor of shape (len(idx), n_rep)
            With gradients.
        """
        return self.z if idx is None else self.z[idx]
