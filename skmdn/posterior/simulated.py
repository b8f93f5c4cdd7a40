"""Simulations as they come: what is read from them, left out, and measured."""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from scipy import stats

from skmdn.base import ChosenRows, Standardizer
from skmdn.bridge import to_numpy, to_tensor
from skmdn.coordinates import Coordinates
from skmdn.items import whole_rows, with_padding
from skmdn.parameter_space import ParameterSpace
from skmdn.predictive import row_chunks

__all__ = [
    "DataScaler",
    "Outlyingness",
    "Simulated",
    "Source",
    "coordinates_of",
    "filled_prior",
    "online_parts",
    "spaced_rows",
    "to_coordinates",
    "usable_rows",
]

# A table of so few rows holds data: a NaN there is an error, not a failed simulation.
_FEWEST_ROWS = 20

# Rows that tails and distances are measured by.
_MOST_COMPARED = 10_000
_JITTER = 1e-6

# A column is squashed if it reaches so many standard deviations; it is about linear up
# to this quantile of its size.
_FAR = 10.0
_BEND = 0.1
_RARE = 1e-3


@dataclass(frozen=True)
class Simulated:
    """Simulations: data, coordinates of parameters, positive weights.

    Data that are ``streamed`` stay where they are, on disk.
    """

    X: "np.ndarray | ChosenRows"
    u: np.ndarray
    weights: np.ndarray
    streamed: bool

    def __len__(self) -> int:
        return len(self.u)


@dataclass(frozen=True)
class DataScaler:
    r"""Standardised data, of which columns with far tails are squashed before.

    .. math:: z = \frac{\operatorname{arsinh}(x / s) - m}{c}

    Counts that explode for some parameters would otherwise make all others look alike.

    Parameters
    ----------
    units : ndarray of shape (n_features,)
        The numbers s: where the function bends from a line to a logarithm; infinite
        for columns that stay as they are.
    moments : Standardizer
        Mean m and scale c of what that gives.
    """

    units: np.ndarray
    moments: Standardizer

    @classmethod
    def fit(cls, values: Any, weights: np.ndarray) -> "DataScaler":
        """Measure columns; tails by some of the rows."""
        moments = Standardizer.fit(values, weights)
        units = np.full(len(moments.mean), np.inf)
        chosen = spaced_rows(len(values))
        some = np.asarray(values[chosen], dtype=np.float64)
        far = np.abs(moments.transform(some)).max(axis=0) > _FAR
        if not far.any():
            return cls(units, moments)
        small = np.quantile(np.abs(some), _BEND, axis=0)
        small = np.where(small > 0.0, small, 1e-3 * moments.scale)
        units[far] = small[far]
        squashed = _squashed(some, units)
        return cls(units, Standardizer.fit(squashed, weights[chosen]))

    def transform(self, values: np.ndarray) -> np.ndarray:
        """Return standardised values."""
        return self.moments.transform(_squashed(values, self.units))


def _squashed(values: np.ndarray, units: np.ndarray) -> np.ndarray:
    far = np.isfinite(units)
    if not far.any():
        return values
    values = np.array(values, dtype=np.float64)
    values[..., far] = np.arcsinh(values[..., far] / units[far])
    return values


def spaced_rows(n_rows: int) -> np.ndarray:
    """Return which of many rows to measure: evenly spaced ones."""
    n = min(n_rows, _MOST_COMPARED)
    return np.linspace(0, n_rows - 1, n).round().astype(int)


def usable_rows(
    X: np.ndarray, theta: np.ndarray, weights: np.ndarray, *, padded: bool
) -> tuple[np.ndarray, int]:
    """Tell which simulations can be learned from, and count those that failed.

    Parameters
    ----------
    X : ndarray of shape (n_samples, ...)
        The data.
    theta : ndarray of shape (n_samples, n_parameters)
        The parameters.
    weights : ndarray of shape (n_samples,)
        Rows of weight 0 are neither.
    padded : bool
        Whether NaN is padding in the data.

    Raises
    ------
    ValueError
        If almost nothing is left.
    """
    counts = weights > 0
    finite = _finite_rows(theta)
    finite &= whole_rows(X) if padded else _finite_rows(X)
    good = finite & counts
    n_failed = int(np.sum(~finite & counts))
    if not n_failed:
        return good, 0
    if good.sum() < _FEWEST_ROWS:
        raise ValueError(
            f"X or y contains NaN or infinity in {n_failed} of {len(X)} rows; fewer "
            f"than {_FEWEST_ROWS} simulations are left."
        )
    warnings.warn(
        f"{n_failed} of {len(X)} simulations contain NaN or infinity and are left out: "
        "the posterior is that given that a simulation succeeds.",
        UserWarning,
        stacklevel=5,
    )
    return good, n_failed


def _finite_rows(values: np.ndarray) -> np.ndarray:
    """Tell which rows are finite, some of them at a time."""
    parts = [np.isfinite(values[part]) for part in row_chunks(len(values))]
    return np.concatenate([part.reshape(len(part), -1).all(axis=1) for part in parts])


def filled_prior(prior: Any, theta: np.ndarray, weights: np.ndarray) -> Any:
    """Return a prior without gaps: parameters of which nothing is known are measured.

    Parameters
    ----------
    prior : None or prior
        What the user says; in a list, None and a pair without a finite end say
        nothing about a parameter.
    theta : ndarray of shape (n_samples, n_parameters)
        Simulated parameters.
    weights : ndarray of shape (n_samples,)
        Their weights.
    """
    if prior is None:
        prior = [None] * theta.shape[1]
    if not isinstance(prior, list | tuple) or not any(map(_is_open, prior)):
        return prior
    if len(prior) != theta.shape[1]:
        raise ValueError(
            f"prior describes {len(prior)} parameter(s), but y has {theta.shape[1]} "
            "column(s)."
        )
    moments = Standardizer.fit(theta, weights)
    return [
        stats.norm(mean, scale) if _is_open(entry) else entry
        for entry, mean, scale in zip(prior, moments.mean, moments.scale, strict=True)
    ]


def _is_open(entry: Any) -> bool:
    """Tell whether an entry of a prior says nothing."""
    pair = isinstance(entry, list | tuple) and len(entry) == 2
    return entry is None or (pair and all(e is None or math.isinf(e) for e in entry))


def coordinates_of(prior: Any, n_parameters: int) -> Coordinates:
    """Return the coordinates in which a prior is about standard normal.

    Raises
    ------
    ValueError
        If it is one of another number of parameters.
    """
    space = ParameterSpace.parse(prior)
    if space.n_features != n_parameters:
        raise ValueError(
            f"prior describes {space.n_features} parameter(s), but y has "
            f"{n_parameters} column(s)."
        )
    return space.coordinates


def to_coordinates(theta: np.ndarray, coordinates: Coordinates) -> np.ndarray:
    """Return u; parameters outside of the prior's support are refused."""
    low, high = to_numpy(coordinates.low), to_numpy(coordinates.high)
    outside = ((theta < low) | (theta > high)).any(axis=1)
    if outside.any():
        raise ValueError(
            f"{outside.sum()} row(s) of y lie outside of the prior's support, for "
            f"example {theta[outside][0].tolist()}."
        )
    # On an end: as far out as floating-point numbers go.
    inner = np.clip(theta, np.nextafter(low, high), np.nextafter(high, low))
    return to_numpy(coordinates.inverse(to_tensor(inner)))


@dataclass(frozen=True)
class Outlyingness:
    r"""How far observations lie from all simulations.

    .. math:: D^2(x) = (s - m)^\top C^{-1} (s - m)

    with the mean m and the covariance C of the simulations' summaries s.

    Parameters
    ----------
    mean : ndarray of shape (n_summaries,)
        Of the simulations' summaries.
    root : ndarray of shape (n_summaries, n_summaries)
        The lower factor of their covariance.
    distances : ndarray of shape (n_simulations,)
        Of the simulations, in ascending order.
    """

    mean: np.ndarray
    root: np.ndarray
    distances: np.ndarray

    @classmethod
    def fit(cls, summaries: np.ndarray) -> "Outlyingness":
        """Measure summaries of simulations, ``(n_simulations, n_summaries)``."""
        mean = summaries.mean(axis=0)
        covariance = np.cov(summaries, rowvar=False, bias=True).reshape(
            2 * (len(mean),)
        )
        size = np.trace(covariance) / len(mean)
        root = np.linalg.cholesky(
            covariance + _JITTER * max(size, _JITTER) * np.eye(len(mean))
        )
        made = cls(mean, root, np.empty(0))
        return cls(mean, root, np.sort(made.squares(summaries)))

    def squares(self, summaries: np.ndarray) -> np.ndarray:
        """Return squared distances from the simulations' mean."""
        z = np.linalg.solve(self.root, (summaries - self.mean).T)
        return np.sum(z * z, axis=0)

    def p_values(self, summaries: np.ndarray) -> np.ndarray:
        """Return which share of the simulations, and the row, lie as far out."""
        place = np.searchsorted(self.distances, self.squares(summaries), side="left")
        n = len(self.distances)
        return (1 + n - place) / (1 + n)

    def warn(self, summaries: np.ndarray) -> None:
        """Warn of observations that hardly any simulation is as far out as."""
        p_values = self.p_values(summaries)
        n = len(self.distances)
        far = p_values <= max(_RARE, 1.0 / (1 + n))
        if far.any():
            warnings.warn(
                f"{far.sum()} of {len(far)} observation(s) lie further out than almost "
                "all simulations: posteriors for them are extrapolated. Simulate more "
                "widely, or look for what the simulator lacks.",
                UserWarning,
                stacklevel=5,
            )


@dataclass(frozen=True)
class Source:
    """Where fresh simulations come from.

    Parameters
    ----------
    simulator : object or callable
        Has a method ``sample``, or returns data and parameters.
    parameters, data : str
        Their names in what ``sample`` returns.
    """

    simulator: Any
    parameters: str
    data: str

    def draw(
        self, n_samples: int, rng: np.random.RandomState
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return data, padded by NaN where there is a mask, and parameters."""
        if not hasattr(self.simulator, "sample"):
            X, y = self.simulator(n_samples, rng)
            return np.asarray(X), np.asarray(y)
        made = self.simulator.sample(n_samples, random_state=rng)
        missing = [name for name in (self.parameters, self.data) if name not in made]
        if missing:
            raise ValueError(
                f"The simulator returns no {missing[0]!r}, only {sorted(made)}; see "
                "the arguments parameters and data."
            )
        X, mask = made[self.data], made.get(self.data + "_mask")
        return (X if mask is None else with_padding(X, mask)), made[self.parameters]


def online_parts(n_batches: int) -> Iterator[tuple[int, float]]:
    """Yield numbers of steps that share simulations, and their share of the rate.

    The rate stays for half of the steps and falls along a cosine.
    """
    if not isinstance(n_batches, Integral) or n_batches < 1:
        raise ValueError(f"n_batches must be a positive integer, got {n_batches!r}.")
    n_done = 0
    while n_done < n_batches:
        n_steps = min(_STEPS_TOGETHER, int(n_batches) - n_done)
        falling = max(0.0, 2.0 * (n_done + 0.5 * n_steps) / n_batches - 1.0)
        yield n_steps, 0.5 * (1.0 + math.cos(math.pi * falling))
        n_done += n_steps


# Steps whose simulations are made at once: enough to be fast, few enough to forget.
_STEPS_TOGETHER = 25
