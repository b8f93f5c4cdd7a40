"""The only door between numpy and torch: tensors, devices, generators, CPU state."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from .families import MultivariateNormal, Normal
from .mixture import Block, Mixture

__all__ = [
    "centred_columns",
    "cpu_copy",
    "gaussian_mixture",
    "StreamedRows",
    "generator_from",
    "mapped_tensor",
    "row_parts",
    "to_numpy",
    "to_tensor",
]

Module = TypeVar("Module", bound=nn.Module)


def to_tensor(
    array: ArrayLike, *, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> Tensor:
    """Copy an array into a tensor.

    The copy makes read-only, negatively strided and byte-swapped arrays ordinary.
    """
    native = np.asarray(array)
    native = np.asarray(native, dtype=native.dtype.newbyteorder("="), order="C")
    return torch.tensor(native, dtype=dtype, device=device)


def mapped_tensor(
    values: NDArray[Any],
    function: Callable[[NDArray[Any]], NDArray[Any]],
    *,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> Tensor:
    """Copy a function of an array into a tensor, some rows at a time.

    No other copy of the whole array is made.
    """
    return _filled(values.shape, lambda rows: function(values[rows]), dtype, device)


def _filled(
    shape: Sequence[int],
    rows_of: Callable[[slice], NDArray[Any]],
    dtype: torch.dtype,
    device: str = "cpu",
) -> Tensor:
    """Return a tensor of rows that come in parts, which say how long a row is."""
    result = torch.empty(shape, dtype=dtype, device=device)
    for rows in row_parts(shape):
        part = to_tensor(rows_of(rows), dtype=dtype)
        if part.shape[1:] != result.shape[1:]:
            result = result.new_empty((shape[0], *part.shape[1:]))
        result[rows] = part
    return result


def centred_columns(
    values: NDArray[Any], offset: NDArray[Any], *, device: str = "cpu"
) -> Tensor:
    """Copy rows into the columns of a tensor, in double precision, moved by an offset.

    Parameters
    ----------
    values : ndarray of shape (n_samples, n_features)
        The rows; NaN stays NaN.
    offset : ndarray of shape (n_features,)
        Subtracted from each row.
    device : str, default="cpu"
        Where the tensor lies.

    Returns
    -------
    columns : Tensor of shape (n_features, n_samples)
    """
    result = torch.empty(values.shape[::-1], dtype=torch.float64, device=device)
    for rows in row_parts(values.shape):
        part = np.asarray(values[rows], dtype=np.float64) - offset
        result[:, rows] = to_tensor(part.T, device=device)
    return result


def row_parts(shape: Sequence[int]) -> Iterator[slice]:
    """Yield slices of rows that are few enough to be copied without a thought."""
    n_rows = max(1, min(_ROWS_AT_A_TIME, _NUMBERS_AT_A_TIME // math.prod(shape[1:])))
    for start in range(0, shape[0], n_rows):
        yield slice(start, start + n_rows)


_ROWS_AT_A_TIME = 2**15
_NUMBERS_AT_A_TIME = 2**20


class StreamedRows:
    """Rows of an array that stays where it is, perhaps on disk, until asked for.

    Parameters
    ----------
    values : ndarray of shape (n_samples, n_columns)
        The array.
    function : callable
        Applied to the rows that are taken.
    dtype : torch.dtype, default=torch.float64
        The type of the tensors.
    device : str, default="cpu"
        Where they lie.
    """

    def __init__(
        self,
        values: NDArray[Any],
        function: Callable[[NDArray[Any]], NDArray[Any]],
        *,
        dtype: torch.dtype = torch.float64,
        device: str = "cpu",
    ) -> None:
        self.values = values
        self.function = function
        self.dtype = dtype
        self.device = torch.device(device)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Tensor) -> Tensor:
        flat = rows.reshape(-1).cpu().numpy()
        taken = _filled(
            (len(flat), *self.values.shape[1:]),
            lambda part: self.function(self.values[flat[part]]),
            self.dtype,
        )
        return taken.view(*rows.shape, *taken.shape[1:]).to(self.device)


def gaussian_mixture(
    weights: ArrayLike,
    means: ArrayLike,
    stds: ArrayLike | None = None,
    covariances: ArrayLike | None = None,
) -> Mixture:
    """Make a batch of Gaussian mixtures from checked arrays.

    Parameters
    ----------
    weights : array-like of shape (n_samples, n_components)
        Rows sum to 1; their rounding is taken out.
    means : array-like of shape (n_samples, n_components[, n_outputs])
        Component means.
    stds : array-like, shaped like means, optional
        Standard deviations of independent outputs.
    covariances : array-like of shape (n_samples, n_components, d, d), optional
        Instead of ``stds``, for d outputs.

    Returns
    -------
    mixture : Mixture
        Of batch shape ``(n_samples,)``.

    Raises
    ------
    ValueError
        If the arrays do not describe distributions.
    """
    if (stds is None) == (covariances is None):
        raise ValueError("Give either stds or covariances.")
    weight, mean = _finite("weights", weights), _finite("means", means)
    _expect("weights", weight, mean.shape[:2])
    mean = mean.unsqueeze(-1) if mean.ndim == 2 else mean
    _expect("means", mean, (*weight.shape, mean.shape[-1]))
    if (weight < 0).any() or ((weight.sum(-1) - 1).abs() > 1e-6).any():
        raise ValueError("weights must not be negative and sum to 1 in every row.")
    n_components = mean.shape[1]
    if covariances is not None:
        covariance = _finite("covariances", covariances)
        _expect("covariances", covariance, (*mean.shape, mean.shape[-1]))
        root, failed = torch.linalg.cholesky_ex(covariance)
        if failed.any():
            raise ValueError("covariances must be positive definite.")
        factor = {"mean": mean, "precision_factor": torch.linalg.inv(root)}
        block = Block(MultivariateNormal(), factor, n_components)
    else:
        scale = _finite("stds", stds)
        _expect("stds", scale, np.shape(means))
        scale = scale.reshape(mean.shape)
        if (scale <= 0).any():
            raise ValueError("stds must be positive.")
        block = Block(Normal(), {"mean": mean, "scale": scale}, n_components)
    return Mixture((weight / weight.sum(-1, keepdim=True)).log(), [block])


def _finite(name: str, values: ArrayLike | None) -> Tensor:
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} contains NaN or infinity.")
    return to_tensor(array)


def _expect(name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; expected {tuple(shape)}."
        )


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
