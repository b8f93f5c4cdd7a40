"""Class labels, some of which are not known."""

import numpy as np
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from ._sklearn import is_pandas_na, is_scalar_nan

__all__ = ["UNKNOWN", "codes_of", "read_labels"]

# Codes of a row without label, and of one whose label is no class.
UNKNOWN = -1
_FOREIGN = -2


def read_labels(y, marker="auto", name="y"):
    """Return the classes of a training target, and for every row which one it is.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Labels; None, NaN and NA are never classes.
    marker : "auto", None or a label, default="auto"
        What else marks a row without label. "auto" is -1 among integers if at least
        two other ones remain, None is nothing else.
    name : str, default="y"
        What users call the target.

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        Distinct labels in ascending order.
    codes : ndarray of shape (n_samples,)
        Numbers of classes, -1 for rows without label.

    Raises
    ------
    ValueError
        If no row has a label, or labels are no classes.
    """
    labels, known = _split(y)
    if isinstance(marker, str) and marker == "auto":
        marked = np.zeros(len(labels), dtype=bool)
        if labels.dtype.kind == "i" and known.all():
            marked = labels == -1
            if len(np.unique(labels[~marked])) < 2:
                marked[:] = False
    else:
        marked = _marked(labels, marker)
    known[known] = ~marked
    labels = labels[~marked]
    if not len(labels):
        raise ValueError(
            f"{name} contains NaN, None or the mark of rows without label only: at "
            "least one row needs a label."
        )
    if labels.dtype.kind == "f" and np.isinf(labels).any():
        raise ValueError(f"{name} contains infinity, which is no class.")
    try:
        check_classification_targets(labels)
    except ValueError as error:
        raise ValueError(f"{name} must hold classes. {error}") from error
    classes, numbers = np.unique(labels, return_inverse=True)
    codes = np.full(len(known), UNKNOWN)
    codes[known] = numbers
    return classes, codes


def codes_of(y, classes, marker="auto", *, strict=True, name="y"):
    """Return which of known classes labels are.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Labels, also those that mark rows without one.
    classes : ndarray of shape (n_classes,)
        The classes.
    marker : "auto", None or a label, default="auto"
        As in :func:`read_labels`; "auto" is -1 unless that is a class.
    strict : bool, default=True
        Whether labels have to be classes.
    name : str, default="y"
        What users call the labels.

    Returns
    -------
    codes : ndarray of shape (n_samples,)
        Numbers of classes, -1 for rows without label; -2 for labels that are none.

    Raises
    ------
    ValueError
        If a label is no class.
    """
    labels, known = _split(column_or_1d(y, warn=True))
    number = {label: code for code, label in enumerate(classes.tolist())}
    if isinstance(marker, str) and marker == "auto":
        marker = -1 if classes.dtype.kind == "i" else None
    if marker is not None:
        number.setdefault(marker, UNKNOWN)
    codes = np.full(len(known), UNKNOWN)
    codes[known] = [number.get(label, _FOREIGN) for label in labels.tolist()]
    if strict and (codes == _FOREIGN).any():
        foreign = labels[codes[known] == _FOREIGN][0]
        raise ValueError(
            f"{name} contains {foreign.item()!r}, which is none of the classes "
            f"{classes.tolist()}."
        )
    return codes


def _split(y):
    """Return the labels that are there, as plainly as numpy can, and where they are."""
    known = np.ones(len(y), dtype=bool)
    if y.dtype.kind == "f":
        known = ~np.isnan(y)
    elif y.dtype.kind == "O":
        known = np.array([not _is_missing(label) for label in y], dtype=bool)
    labels = y[known]
    if y.dtype.kind == "O" and len(labels):
        plain = np.array(labels.tolist())
        # Labels of several kinds would all become strings.
        if plain.ndim == 1 and plain.tolist() == labels.tolist():
            labels = plain
    return labels, known


def _is_missing(label):
    return label is None or is_scalar_nan(label) or is_pandas_na(label)


def _marked(labels, marker):
    """Return which labels equal a marker."""
    if marker is None or _is_missing(marker):
        return np.zeros(len(labels), dtype=bool)
    return np.array([label == marker for label in labels.tolist()], dtype=bool)
