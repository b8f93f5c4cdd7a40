"""What comes with the rows of a decoder: classes, covariates, exposures."""

import numpy as np
from sklearn.utils import check_array

from skmdn.labels import codes_of, read_labels

__all__ = [
    "FOREIGN",
    "covariate_columns",
    "covariate_numbers",
    "read_exposure",
    "read_groups",
]

# The mark of rows whose covariate is not known.
_UNKNOWN_COVARIATE = -1
# The number of a class that was not seen in fit.
FOREIGN = -2


def read_groups(y, covariates, marker, n_samples):
    """Return the classes of each group of features of the code, from training rows.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or None
        Classes that components belong to.
    covariates : array-like of shape (n_samples,) or (n_samples, n_covariates) or None
        Each covariate has a group of its own.
    marker : "auto", None or a label
        What marks rows without class in y.
    n_samples : int
        The number of rows.

    Returns
    -------
    classes : list of ndarray
        Of y, which may be None, and of each covariate.
    numbers : ndarray of shape (n_samples, n_groups)
        Each row's class in each group, -1 where it is not known.
    """
    classes, numbers = [None], [np.full(n_samples, -1)]
    if y is not None:
        y = np.asarray(y)
        y = y.ravel() if y.ndim == 2 and y.shape[1] == 1 else y
        if y.shape != (n_samples,):
            raise ValueError(f"y has the shape {y.shape} for {n_samples} rows.")
        classes[0], numbers[0] = read_labels(y, marker)
    if covariates is not None:
        for place, column in enumerate(covariate_columns(covariates, n_samples)):
            known, own = read_labels(column, _UNKNOWN_COVARIATE, _name(place))
            classes.append(known)
            numbers.append(own)
    return classes, np.stack(numbers, axis=1)


def covariate_numbers(covariates, classes, n_samples):
    """Return the class of each row in each group; those of y are asked, not told.

    Parameters
    ----------
    covariates : array-like of shape (n_samples,) or (n_samples, n_covariates) or None
        None stands for covariates that are not known.
    classes : list of ndarray
        As from :func:`read_groups`.
    n_samples : int
        The number of rows.

    Returns
    -------
    numbers : ndarray of shape (n_samples, n_groups)
        -1 where a class is not known, ``FOREIGN`` where it was not seen in fit.
    """
    numbers = np.full((n_samples, len(classes)), -1)
    if covariates is None:
        return numbers
    columns = covariate_columns(covariates, n_samples)
    if len(columns) != len(classes) - 1:
        raise ValueError(
            f"covariates has {len(columns)} column(s); the decoder was fitted with "
            f"{len(classes) - 1}."
        )
    for place, column in enumerate(columns):
        numbers[:, place + 1] = codes_of(
            column, classes[place + 1], _UNKNOWN_COVARIATE, strict=False
        )
    return numbers


def covariate_columns(covariates, n_samples):
    """Return the columns of covariates, one or several, for every row."""
    covariates = np.asarray(covariates)
    if covariates.ndim == 1:
        covariates = covariates[:, np.newaxis]
    if covariates.ndim != 2 or len(covariates) != n_samples:
        raise ValueError(
            f"covariates has the shape {covariates.shape}; expected a row for each of "
            f"the {n_samples} rows of X."
        )
    return list(covariates.T)


def read_exposure(exposure, n_samples):
    """Return exposures as a column, or None.

    Parameters
    ----------
    exposure : array-like of shape (n_samples,) or None
        Positive numbers.
    n_samples : int
        The number of rows.
    """
    if exposure is None:
        return None
    values = check_array(
        exposure, dtype=np.float64, ensure_2d=False, input_name="exposure"
    )
    if values.size != n_samples or values.shape[:1] != (n_samples,):
        raise ValueError(
            f"exposure has the shape {values.shape}; expected a number for each of the "
            f"{n_samples} rows."
        )
    if (values <= 0.0).any():
        raise ValueError(
            f"exposure must be positive, got {values.min()}: leave out rows without "
            "exposure."
        )
    return values.reshape(n_samples, 1)


def _name(place):
    return f"covariates[:, {place}]"
