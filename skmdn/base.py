"""What the estimators share: pickling, scaling, the start of a fit and its reports."""

import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning

from ._extras import import_extra
from ._sklearn import CallbackSupportMixin
from ._version import __version__, check_namesake
from .bridge import cpu_copy, row_parts
from .learning.training import History

check_namesake()

__all__ = [
    "ChosenRows",
    "EpochReporter",
    "StampedEstimator",
    "Standardizer",
    "TorchEstimator",
    "bin_edges",
    "import_extra",
    "lattice_width",
    "marginal_start",
    "repeated_share",
    "resolve_device",
    "unchanged_on_error",
    "warn_about",
]


class StampedEstimator(BaseEstimator):
    """Base of all estimators: pickles say which version wrote them."""

    def __getstate__(self) -> dict[str, Any]:
        return dict(super().__getstate__(), _skmdn_version=__version__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        version = state.pop("_skmdn_version", "unknown")
        if version != __version__:
            warnings.warn(
                f"This {type(self).__name__} was saved by skmdn {version} and is "
                f"loaded by {__version__}; fit it again if it misbehaves.",
                UserWarning,
                stacklevel=2,
            )
        super().__setstate__(state)


class TorchEstimator(CallbackSupportMixin, StampedEstimator):
    """Base of the estimators that hold a torch module in ``module_``."""

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if "module_" in state:
            state["module_"] = cpu_copy(state["module_"])
        if state.get("_optimizer_states"):
            state["_optimizer_states"] = [
                {name: value.cpu() for name, value in moments.items()}
                for moments in state["_optimizer_states"]
            ]
        return state


@contextmanager
def unchanged_on_error(estimator: BaseEstimator) -> Iterator[None]:
    """Take back every attribute that a failing fit has set or replaced."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        # scikit-learn takes its own callback attributes away after this.
        for name in set(vars(estimator)) - set(before):
            if "callback" not in name:
                delattr(estimator, name)
        for name, value in before.items():
            setattr(estimator, name, value)
        raise


@dataclass(frozen=True)
class Standardizer:
    """Weighted location and scale of each column.

    Parameters
    ----------
    mean, scale : ndarray of shape (n_columns,)
        A column without spread has scale 1. A scale may be negative.
    """

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(
        cls, values: np.ndarray, weights: np.ndarray, *, orient: bool = False
    ) -> "Standardizer":
        """Measure columns; rows of weight w count w times.

        With ``orient`` a column that leans to the left gets a negative scale, so
        that a column and its mirror image are standardised to the same numbers.
        """
        # Scaled by the largest value, so that no power overflows.
        parts = list(row_parts(values.shape))
        size = np.zeros(values.shape[1])
        for rows in parts:
            part = np.abs(values[rows], dtype=np.float64)
            size = np.maximum(size, part.max(axis=0))
        size = np.where(size == 0.0, 1.0, size)
        share = weights / weights.sum()

        def moment(power: int, center: ArrayLike, scale: ArrayLike) -> np.ndarray:
            total = np.zeros(len(size))
            for rows in parts:
                part = (values[rows] / size - center) / scale
                total += share[rows] @ part**power
            return total

        mean = moment(1, 0.0, 1.0)
        scale = np.sqrt(moment(2, mean, 1.0))
        constant = scale <= 10 * np.finfo(np.float64).eps
        scale = np.where(constant, 1.0, scale)
        lean = moment(3, mean, scale) if orient else np.zeros(len(size))
        scale = np.where(constant, 1.0, scale * size)
        # Not where the sign of a symmetric column is a matter of rounding.
        scale = np.where(lean < -1e-8, -scale, scale)
        return cls(mean * size, scale)

    def transform(self, values: np.ndarray) -> np.ndarray:
        """Return standardised values."""
        return (values - self.mean) / self.scale


class ChosenRows:
    """Some rows of an array, taken out of it no sooner than they are asked for.

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_columns)
        The array.
    chosen : ndarray of shape (n_chosen,)
        The rows' numbers.
    """

    def __init__(self, values: np.ndarray, chosen: np.ndarray) -> None:
        self.values = values
        self.chosen = chosen
        self.shape = (len(chosen), *values.shape[1:])

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: Any) -> np.ndarray:
        rows, *columns = index if isinstance(index, tuple) else (index,)
        return self.values[(self.chosen[rows], *columns)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.values.dtype, copy=False)


def bin_edges(values: np.ndarray, weights: np.ndarray, n_bins: int) -> np.ndarray:
    """Return distinct quantiles of a column, at most ``n_bins + 1`` of them.

    The quantiles are values of the column and count weights as repetitions.
    """
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    wanted = np.linspace(0.0, 1.0, n_bins + 1) * reached[-1]
    places = np.searchsorted(reached, wanted).clip(max=len(values) - 1)
    return np.unique(values[order][places])


def lattice_width(values: np.ndarray) -> float:
    """Return the spacing of a column that takes few values at multiples of it, or 0.

    Few are at most one in fifty rows: below that, a rounded column is as good as
    continuous.
    """
    points = np.unique(values)
    if not 2 <= len(points) <= _LATTICE_SHARE * len(values):
        return 0.0
    gaps = np.diff(points)
    steps = gaps / gaps.min()
    return float(gaps.min()) if np.allclose(steps, np.round(steps), atol=0.01) else 0.0


_LATTICE_SHARE = 0.02


def repeated_share(values: np.ndarray) -> float:
    """Return the share of rows that equal an earlier row."""
    # A row is told by a number, since numbers are sorted much faster than rows.
    key = np.zeros(len(values))
    factors = np.sin(np.arange(1, values.shape[1] + 1))
    for rows in row_parts(values.shape):
        for column, factor in zip(values[rows].T, factors, strict=True):
            key[rows] += factor * column
    return 1.0 - len(np.unique(key)) / len(key)


def marginal_start(
    values: np.ndarray, weights: np.ndarray, n_components: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Describe standardised targets by components of equal weight.

    The rows are ordered along their first principal axis and cut into groups of
    equal weight; a row on a cut counts partly in each. Group k has the mean

    .. math:: K \int_{(k-1)/K}^{k/K} y(p) \, dp

    where y(p) runs through the ordered rows, so that a row of weight w and w equal
    rows give the same start.

    Parameters
    ----------
    values : ndarray of shape (n_samples, n_outputs)
        Standardised targets.
    weights : ndarray of shape (n_samples,)
        Their weights.
    n_components : int
        The number of groups.

    Returns
    -------
    centers, spreads : ndarray of shape (n_components, n_outputs)
        Means and standard deviations.
    shares : ndarray of shape (n_components,)
        Weights.
    """
    share = weights / weights.sum()
    axis = np.ones(1)
    if values.shape[1] > 1:
        axis = np.linalg.eigh((values.T * share) @ values)[1][:, -1]
        # Two standardised outputs have the axis (1, -1) or (1, 1): a sign rule by
        # the largest entry would be decided by rounding.
        axis = axis * np.sign(axis @ (1.0 / np.arange(1, len(axis) + 1)))
    order = np.argsort(values @ axis, kind="stable")
    values, share = values[order], share[order]
    reached = np.concatenate([[0.0], np.cumsum(share)])
    cuts = np.linspace(0.0, 1.0, n_components + 1)

    def group_means(columns: np.ndarray) -> np.ndarray:
        total = np.zeros((len(columns) + 1, columns.shape[1]))
        np.cumsum(columns * share[:, None], axis=0, out=total[1:])
        at_cuts = [np.interp(cuts, reached, column) for column in total.T]
        return n_components * np.diff(np.stack(at_cuts, axis=1), axis=0)

    centers = group_means(values)
    variances = group_means(np.square(values)) - np.square(centers)
    # Groups are narrow slices. Smoothing by a kernel of width h, shrunk so that the
    # mixture keeps its variance, lets components begin wide enough to move.
    keep = 1.0 - _START_WIDTH**2
    spreads = np.sqrt(np.maximum(variances, 0.0) * keep + _START_WIDTH**2)
    return centers * np.sqrt(keep), spreads, np.full(n_components, 1 / n_components)


# Kernel width of the start, in standard deviations of the target.
_START_WIDTH = 0.5


def resolve_device(device: str) -> str:
    """Return the device if this machine has it.

    Raises
    ------
    ValueError
        If torch does not know the device or cannot use it here.
    """
    try:
        torch.empty(0, device=device)
        torch.Generator(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device={device!r} cannot be used here ({reason}); 'cpu' always can."
        ) from error
    return device


def warn_about(history: History, *, stacklevel: int = 3) -> None:
    """Warn about a training that met numbers that are not finite."""
    if history.gave_up:
        message = (
            "The loss kept being infinite or NaN; the last good state was kept. "
            "Look for extreme values in X and y, or lower learning_rate_init."
        )
    elif history.n_recoveries:
        message = (
            f"The loss was infinite or NaN {history.n_recoveries} time(s); each "
            "time the last good state was restored and the learning rate halved."
        )
    else:
        return
    warnings.warn(message, ConvergenceWarning, stacklevel=stacklevel)


class EpochReporter:
    """What the training loop calls after each epoch, and a fit once at its end.

    It prints if ``estimator.verbose`` and, on scikit-learn >= 1.9, serves the
    callbacks set on the estimator.

    Parameters
    ----------
    estimator : estimator
        The estimator being fitted.
    max_iter : int
        The number of epochs of all loops together.
    fitted_attributes : callable
        Returns the attributes that make a copy of the estimator usable.
    **data : dict
        Keyword arguments X, y and metadata of the callbacks' hooks.
    """

    def __init__(
        self,
        estimator: Any,
        max_iter: int,
        fitted_attributes: Callable[[], dict[str, Any]],
        **data: Any,
    ) -> None:
        self.estimator = estimator
        self.max_iter = max_iter
        self.data = dict(data, estimator=estimator)
        self.fitted_attributes = fitted_attributes
        # verbose=1: some twenty lines in all; 2: one per epoch.
        self.every = 1 if estimator.verbose > 1 else math.ceil(max_iter / 20)
        self.n_epochs = 0
        self.stopped = False
        self.context = None
        if hasattr(estimator, "_init_callback_context"):
            self.context = estimator._init_callback_context(max_subtasks=max_iter)
            self.context.call_on_fit_task_begin(**self.data)

    def __call__(self, epoch: int, loss: float, held_out: float | None) -> bool:
        """Report an epoch; a true answer asks the loop, and those after it, to stop."""
        if self.stopped:
            return True
        # Loops run one after another and each counts from 1.
        self.n_epochs += 1
        if self.estimator.verbose and self.n_epochs % self.every == 0:
            tail = "" if held_out is None else f"  held-out {held_out:.4f}"
            done = f"epoch {self.n_epochs}/{self.max_iter}"
            line = f"[{type(self.estimator).__name__}] {done}"
            sys.stdout.write(f"{line}  loss {loss:.4f}{tail}\n")
        if self.context is None:
            return False
        context = self.context.subcontext(task_name="epoch")
        context.call_on_fit_task_begin(**self.data)
        self.stopped = bool(
            context.call_on_fit_task_end(
                reconstruction_attributes=self.fitted_attributes, **self.data
            )
        )
        return self.stopped

    def finish(self) -> None:
        """Tell the callbacks that the fit is over."""
        if self.context is not None:
            self.context.call_on_fit_task_end(
                reconstruction_attributes=self.fitted_attributes, **self.data
            )
