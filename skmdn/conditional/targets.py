"""Targets as they come: numbers, intervals and holes; what is checked and measured."""

import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_array
from torch import Tensor

from skmdn.base import Standardizer, lattice_width, marginal_start
from skmdn.bridge import mapped_tensor, to_numpy, to_tensor
from skmdn.composition import Composition
from skmdn.likelihood import cells, log_likelihood
from skmdn.mixture import Mixture

__all__ = [
    "Targets",
    "check_intervals",
    "check_support",
    "column_spreads",
    "found_resolution",
    "log_volume",
    "marginal_components",
    "read_targets",
    "rowwise_log_likelihood",
    "target_units",
]

_AS_THEY_ARE: dict[str, Any] = {
    "ensure_2d": False,
    "dtype": np.float64,
    "ensure_all_finite": False,
}


@dataclass(frozen=True)
class Targets:
    """A lower and an upper end for every row and output.

    Parameters
    ----------
    lower : ndarray of shape (n_samples, n_outputs)
        Numbers, or the lower ends of intervals; NaN where the target is missing.
    upper : ndarray of shape (n_samples, n_outputs), optional
        Upper ends, equal to the lower ones where the number is known. Without them
        all numbers are known.
    """

    lower: np.ndarray
    upper: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.lower)

    @property
    def plain(self) -> bool:
        """Whether all numbers are known."""
        return self.upper is None

    @property
    def known(self) -> np.ndarray:
        """Where the number is known."""
        if self.upper is None:
            return np.ones(self.lower.shape, dtype=bool)
        return self.lower == self.upper

    @property
    def between(self) -> np.ndarray:
        """Where there is an interval."""
        if self.upper is None:
            return np.zeros(self.lower.shape, dtype=bool)
        return self.lower < self.upper

    def take(self, rows: Any) -> "Targets":
        """Return some of the rows."""
        upper = None if self.upper is None else self.upper[rows]
        return Targets(self.lower[rows], upper)

    def tensors(
        self, units: Standardizer, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Return lower and upper ends in other units; a negative scale swaps them."""
        lower, upper = self.lower, self.upper
        if upper is not None:
            turned = units.scale < 0.0
            lower, upper = (
                np.where(turned, upper, lower),
                np.where(turned, lower, upper),
            )
            upper = mapped_tensor(upper, units.transform, **kwargs)
        return mapped_tensor(lower, units.transform, **kwargs), upper

    def metadata(self) -> dict[str, np.ndarray]:
        """Return the upper ends as a keyword argument, if there are any."""
        return {} if self.upper is None else {"y_upper": self.upper}

    def values(self, composition: Composition) -> np.ndarray:
        """Return a number for every entry, for a rough description; NaN where none is.

        An interval is described by its middle or, where the components do not allow
        that, by its lower or upper end.
        """
        if self.upper is None:
            return self.lower
        with np.errstate(invalid="ignore"):
            middle = self.lower + 0.5 * (self.upper - self.lower)
        values = np.where(self.known, self.lower, np.nan)
        for candidate in (self.upper, self.lower, middle):
            allowed = [f.contains(to_tensor(candidate)) for f in composition.families]
            inside = np.any([to_numpy(part) for part in allowed], axis=0)
            values = np.where(self.between & inside, candidate, values)
        empty = np.isnan(values).all(axis=0)
        if empty.any():
            raise ValueError(
                f"Nothing is known of output {empty.argmax()} of y: no row has a "
                "number or an end there that the components allow."
            )
        return values


def read_targets(y: Any, y_upper: Any) -> tuple[Any, Targets | None]:
    """Understand targets that may be known in part only.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Numbers or lower ends.
    y_upper : array-like, shaped like y, or None
        Upper ends.

    Returns
    -------
    stand_in : array-like
        What scikit-learn should check in the place of y: y itself, or numbers of its
        shape.
    targets : Targets or None
        The targets, if they are not just the numbers in y.

    Raises
    ------
    ValueError
        If the ends contradict each other, or a row says nothing.
    """
    if y_upper is None and not _has_holes(y):
        return y, None
    lower = upper = check_array(y, input_name="y", **_AS_THEY_ARE)
    if y_upper is not None:
        upper = check_array(y_upper, input_name="y_upper", **_AS_THEY_ARE)
    if upper.shape != lower.shape:
        raise ValueError(
            f"y_upper has shape {upper.shape}, but y has shape {lower.shape}."
        )
    if lower.ndim != 2 and np.isnan(lower).any():
        return lower, None
    _check_ends(lower, upper)
    nothing = np.isnan(lower) | ((lower == -np.inf) & (upper == np.inf))
    lower, upper = (np.where(nothing, np.nan, end) for end in (lower, upper))
    empty = nothing.reshape(len(lower), -1).all(axis=1)
    if empty.any():
        raise ValueError(
            f"y says nothing in {empty.sum()} of {len(empty)} rows, the first of them "
            f"row {empty.argmax()}: every output is NaN or lies between -inf and inf. "
            "Leave such rows out."
        )
    stand_in = np.where(np.isfinite(lower), lower, 0.0)
    columns = lower.reshape(len(lower), -1), upper.reshape(len(lower), -1)
    targets = Targets(*columns)
    return stand_in, Targets(columns[0]) if targets.known.all() else targets


def _has_holes(y: Any) -> bool:
    """Tell whether two-dimensional targets have NaN; scikit-learn judges all others."""
    if getattr(y, "ndim", 2) != 2:
        return False
    try:
        values = check_array(y, **_AS_THEY_ARE)
    except (TypeError, ValueError):
        return False
    return values.ndim == 2 and bool(np.isnan(values).any())


def _check_ends(lower: np.ndarray, upper: np.ndarray) -> None:
    """Refuse ends that are no interval."""
    half = np.isnan(lower) != np.isnan(upper)
    if half.any():
        raise ValueError(
            f"{half.sum()} entries are NaN in only one of y and y_upper; a missing "
            "target is NaN in both, and an interval without an end has inf there."
        )
    crossed = upper < lower
    if crossed.any():
        first = tuple(np.argwhere(crossed)[0])
        raise ValueError(
            f"y_upper must not be below y: {crossed.sum()} of {crossed.size} entries "
            f"are, the first of them with y={lower[first]}, y_upper={upper[first]}."
        )
    beyond = (lower == np.inf) | (upper == -np.inf)
    if beyond.any():
        first = tuple(np.argwhere(beyond)[0])
        raise ValueError(
            f"{beyond.sum()} entries lie at infinity, the first of them with "
            f"y={lower[first]}, y_upper={upper[first]}; a lower end may be -inf and an "
            "upper one inf."
        )


def check_support(
    targets: Targets, composition: Composition, family: Any, univariate: bool
) -> None:
    """Refuse rows that no component allows.

    Parameters
    ----------
    targets : Targets
        The targets.
    composition : Composition
        The families.
    family : object
        What the user calls them.
    univariate : bool
        Whether the user's y has one dimension.

    Raises
    ------
    ValueError
        With the number of such rows and the first of them.
    """
    lower = to_tensor(targets.lower)
    upper = lower if targets.upper is None else to_tensor(targets.upper)
    outside = ~to_numpy(composition.allows(lower, upper))
    if not outside.any():
        return
    row = int(outside.argmax())
    first = targets.lower[row, 0] if univariate else targets.lower[row].tolist()
    value = str(first)
    if targets.upper is not None and targets.between[row].any():
        last = targets.upper[row, 0] if univariate else targets.upper[row].tolist()
        value = f"y={first}, y_upper={last}"
    raise ValueError(
        f"y must lie in the support of family={family!r}, {composition.support()}: "
        f"{outside.sum()} of {len(outside)} rows do not, the first of them with "
        f"{value}."
    )


def check_intervals(
    targets: Targets,
    composition: Composition,
    covariance_type: str,
    *,
    resolution: Any = None,
) -> None:
    """Refuse intervals of several outputs that vary together.

    Parameters
    ----------
    targets : Targets
        The targets.
    composition : Composition
        The families.
    covariance_type : str
        What the user calls the way in which outputs vary together.
    resolution : object
        The parameter of this name.

    Raises
    ------
    ValueError
        If there are such intervals, or a resolution that makes some.
    """
    correlated = any(family.correlated for family in composition.families)
    if targets.lower.shape[1] == 1 or not correlated:
        return
    between = bool(targets.between.any())
    if between or isinstance(resolution, numbers.Real):
        given = "intervals in y" if between else f"resolution={resolution!r}"
        raise ValueError(
            f"covariance_type={covariance_type!r} does not go with {given}: the "
            "probability of a box has no closed form where outputs vary together. "
            "Use covariance_type='diag'."
        )


def found_resolution(
    resolution: str | float | None, targets: Targets, composition: Composition
) -> float:
    """Return what the targets are rounded to, 0 if nothing says so.

    Parameters
    ----------
    resolution : "auto", float or None
        "auto" looks at a single output whose numbers are all known.
    targets : Targets
        The targets.
    composition : Composition
        The families; for counts, masses are all there is.

    Returns
    -------
    resolution : float
    """
    if not isinstance(resolution, str):
        return float(resolution or 0.0)
    counts = all(family.discrete for family in composition.families)
    if counts or not targets.plain or targets.lower.shape[1] > 1:
        return 0.0
    return lattice_width(targets.lower)


# Rough descriptions, from numbers with holes.


def target_units(
    values: np.ndarray, weights: np.ndarray, composition: Composition
) -> Standardizer:
    """Return the units in which the networks see the target.

    Parameters
    ----------
    values : ndarray of shape (n_samples, n_outputs)
        Numbers; every column is measured on the rows that have one.
    weights : ndarray of shape (n_samples,)
        Weights of the rows.
    composition : Composition
        Says which changes of units the components allow.

    Returns
    -------
    units : Standardizer
    """
    if composition.units == "location-scale":
        return _standardizer(values, weights, orient=composition.mirrors)
    scale = np.ones(values.shape[1])
    if composition.units == "scale":
        shares = np.where(np.isnan(values), 0.0, weights[:, None])
        scale = np.average(np.abs(np.nan_to_num(values)), axis=0, weights=shares)
        scale[scale == 0.0] = 1.0
    return Standardizer(np.zeros(len(scale)), scale)


def _standardizer(
    values: np.ndarray, weights: np.ndarray, *, orient: bool = False
) -> Standardizer:
    """Measure every column on the rows that have a number there."""
    there = ~np.isnan(values)
    if there.all():
        return Standardizer.fit(values, weights, orient=orient)
    parts = [
        Standardizer.fit(values[has, j : j + 1], weights[has], orient=orient)
        for j, has in enumerate(there.T)
    ]
    return Standardizer(
        np.concatenate([part.mean for part in parts]),
        np.concatenate([part.scale for part in parts]),
    )


def marginal_components(
    values: np.ndarray,
    weights: np.ndarray,
    composition: Composition,
    units: Standardizer,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Describe the targets by components, in given units.

    Rows at a point mass make its weight; the other components describe the rest.

    Parameters
    ----------
    values : ndarray of shape (n_samples, n_outputs)
        Numbers; a hole counts as the mean of its column.
    weights : ndarray of shape (n_samples,)
        Weights of the rows.
    composition : Composition
        Says how many components there are.
    units : Standardizer
        The units of the answer.

    Returns
    -------
    centers, spreads : ndarray of shape (n_components, n_outputs)
        Means and standard deviations.
    shares : ndarray of shape (n_components,)
        Weights.
    """
    own = units
    if composition.units != "location-scale":
        own = _standardizer(values, weights)
    standard = np.nan_to_num(own.transform(values), nan=0.0)
    at_mass, shares = _mass_shares(values, weights, composition)
    free = shares == 0.0
    centers, spreads = np.ones((2, len(shares), values.shape[1]))
    if free.any() and not at_mass.all():
        centers[free], spreads[free], _ = marginal_start(
            standard[~at_mass], weights[~at_mass], free.sum()
        )
    shares[free] = (1.0 - shares.sum()) / max(1, free.sum())
    scale = own.scale / units.scale
    shift = (own.mean - units.mean) / units.scale
    return centers * scale + shift, spreads * np.abs(scale), shares


def _mass_shares(
    values: np.ndarray, weights: np.ndarray, composition: Composition
) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows are at a point mass, and its weight; 0 for other components."""
    at_mass = np.zeros(len(values), dtype=bool)
    shares = np.zeros(composition.n_components)
    for family, places in composition.point_masses:
        here = to_numpy(family.contains(to_tensor(values)).all(-1))
        share = np.average(here, weights=weights) / len(places)
        # All components start with some weight.
        shares[places] = 0.95 * share + 0.05 / len(shares)
        at_mass |= here
    return at_mass, shares


def column_spreads(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the standard deviation of each column; 1 where there is none."""
    return _standardizer(values, weights).scale


def log_volume(
    targets: Targets,
    weights: np.ndarray,
    units: Standardizer,
    composition: Composition,
) -> float:
    """Return the log volume of the targets' units, on average over the rows.

    A probability has no units: intervals have none, and neither have points with a
    probability; and missing targets have no probability.

    Parameters
    ----------
    targets : Targets
        The targets.
    weights : ndarray of shape (n_samples,)
        Weights of the rows.
    units : Standardizer
        Their units.
    composition : Composition
        The families.

    Returns
    -------
    log_volume : float
    """
    log_scale = np.log(np.abs(units.scale))
    masses = [family for family in composition.families if family.discrete]
    if targets.plain and not masses:
        return float(log_scale.sum())
    known = targets.known
    if masses:
        y = to_tensor(targets.lower)
        at_mass = [to_numpy(family.contains(y).all(-1)) for family in masses]
        known = known & ~np.any(at_mass, axis=0)[:, None]
    return float(np.average(known @ log_scale, weights=weights))


def rowwise_log_likelihood(
    mixture: Mixture, targets: Targets, resolution: float
) -> np.ndarray:
    """Return the log-likelihood of each row.

    Parameters
    ----------
    mixture : Mixture
        Of batch shape ``(n_samples,)``, in the units of the targets.
    targets : Targets
        The targets.
    resolution : float
        What the known numbers are rounded to; with 0 they have a density, otherwise
        their cells a probability.

    Returns
    -------
    log_likelihood : ndarray of shape (n_samples,)
    """
    low = to_tensor(targets.lower)
    high = None if targets.upper is None else to_tensor(targets.upper)
    if resolution:
        low, high = cells(low, high, resolution)
    n_together = max(1, _NUMBERS_TOGETHER // mixture.n_components)
    parts = [
        log_likelihood(
            mixture[start : start + n_together],
            low[start : start + n_together],
            None if high is None else high[start : start + n_together],
        )
        for start in range(0, len(low), n_together)
    ]
    return to_numpy(torch.cat(parts))


# Work arrays of about so many numbers are made together.
_NUMBERS_TOGETHER = 2**17
