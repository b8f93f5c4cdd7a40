"""Rows of several items: sets and series of any length, as padded arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["padded_items", "whole_rows", "with_padding"]


def padded_items(
    X: Any, mask: Any = None, *, name: str = "X", failed: bool = False
) -> np.ndarray:
    """Return rows of items as one array, with NaN where there is no item.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_items[, n_features]), or sequence of arrays
        Rows that are padded by NaN, a masked array, or a list of rows of different
        lengths, each of shape ``(n_items[, n_features])``. Without an axis for
        features, every number is an item.
    mask : array-like of shape (n_samples, n_items), default=None
        True where an item is real; what stands elsewhere is not looked at.
    name : str, default="X"
        What errors call it.
    failed : bool, default=False
        Whether rows are let through that are not whole; see :func:`whole_rows`.

    Returns
    -------
    items : ndarray of shape (n_samples, n_items, n_features)
        In double precision, a copy.

    Raises
    ------
    ValueError
        If the shapes do not fit, a real item has NaN in some of its features, or
        there is infinity.

    Examples
    --------
    >>> from skmdn.items import padded_items
    >>> padded_items([[1.0, 2.0], [3.0]])[..., 0]
    array([[ 1.,  2.],
           [ 3., nan]])
    """
    if _is_ragged(X):
        items = _joined([_row(row, name) for row in X], name)
    else:
        items = _numbers(X, name)
    items = items[..., None] if items.ndim == 2 else items
    if items.ndim != 3 or not items.shape[-1]:
        raise ValueError(
            f"{name} must have the shape (n_samples, n_items) or (n_samples, n_items, "
            f"n_features), got {items.shape}."
        )
    if mask is not None:
        items = with_padding(items, mask, name=name)
    if not failed:
        _check_whole(items, name)
    return items


def whole_rows(items: np.ndarray) -> np.ndarray:
    """Tell of which rows all items are finite or padding.

    Parameters
    ----------
    items : ndarray of shape (n_samples, n_items, n_features)
        Rows that are padded by NaN.

    Returns
    -------
    whole : ndarray of shape (n_samples,)
        False where an item has infinity or lacks some of its features.
    """
    missing = np.isnan(items).all(-1)
    return np.asarray((np.isfinite(items).all(-1) | missing).all(-1))


def _check_whole(items: np.ndarray, name: str) -> None:
    """Refuse rows that are not whole."""
    missing = np.isnan(items)
    partly = missing.any(-1) & ~missing.all(-1)
    if partly.any():
        raise ValueError(
            f"{partly.sum()} item(s) of {name} lack some of their features: NaN marks "
            "padding and fills an item as a whole. Impute the others, or give them a "
            "feature that says what is missing."
        )
    if np.isinf(items).any():
        raise ValueError(
            f"{name} contains infinity, or NaN in an item that is no padding."
        )


def with_padding(values: Any, mask: Any, *, name: str = "X") -> np.ndarray:
    """Return an array whose items are NaN where the mask is false.

    A real item that is NaN must not pass for padding: there it becomes infinite.

    Parameters
    ----------
    values : array-like of shape (n_samples, n_items, ...)
        The items.
    mask : array-like of shape (n_samples, n_items)
        True where an item is real.
    name : str, default="X"
        What errors call the array.

    Returns
    -------
    padded : ndarray of the shape of values
        In double precision, a copy.
    """
    values, mask = np.array(values, dtype=np.float64), np.asarray(mask)
    if mask.shape != values.shape[:2] or not np.isin(mask, (0, 1)).all():
        raise ValueError(
            f"The mask of {name} must be true or false for each of its "
            f"{values.shape[:2]} items, got the shape {mask.shape}."
        )
    real = mask.astype(bool)
    values[np.isnan(values) & real.reshape(*real.shape, *(values.ndim - 2) * [1])] = (
        np.inf
    )
    values[~real] = np.nan
    return values


def _is_ragged(X: Any) -> bool:
    """Tell whether something is a sequence of rows rather than an array."""
    if isinstance(X, np.ndarray):
        return X.dtype == object
    return isinstance(X, Sequence) and not isinstance(X, str)


def _row(row: Any, name: str) -> np.ndarray:
    """Return a row as ``(n_items, n_features)``."""
    row = _numbers(row, name)
    row = row[:, None] if row.ndim == 1 else row
    if row.ndim != 2:
        raise ValueError(
            f"A row of {name} must have the shape (n_items,) or (n_items, n_features), "
            f"got {row.shape}."
        )
    return row


def _joined(rows: list[np.ndarray], name: str) -> np.ndarray:
    """Return rows of different lengths as one padded array."""
    # A row without items does not say how many features items have.
    widths = {row.shape[1] for row in rows if len(row)} or {1}
    if len(widths) > 1:
        raise ValueError(
            f"Items of {name} differ in their numbers of features: {widths}."
        )
    longest = max((len(row) for row in rows), default=0)
    items = np.full((len(rows), longest, *widths), np.nan)
    for i, row in enumerate(rows):
        items[i, : len(row)] = row
    return items


def _numbers(value: Any, name: str) -> np.ndarray:
    """Return a copy in double precision; what is masked becomes NaN."""
    try:
        if isinstance(value, np.ma.MaskedArray):
            return value.astype(np.float64).filled(np.nan)
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must hold numbers: {error}") from error
