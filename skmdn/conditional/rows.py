"""Training rows, and targets of an interval as the real line sees them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from skmdn.base import ChosenRows
from skmdn.bridge import to_numpy, to_tensor
from skmdn.supports import Support

from .targets import Targets

__all__ = ["Rows", "feature_types"]


@dataclass(frozen=True)
class Rows:
    """Training rows as arrays: X and y two-dimensional, weights positive.

    Features that are ``streamed`` stay where they are, on disk.
    """

    X: np.ndarray | ChosenRows
    y: Targets
    weights: np.ndarray
    streamed: bool

    def count(self) -> float:
        """Return how many rows these are worth to a prior that counts once.

        A row of weight 2 is worth two rows. Weights below 1 count as one row each:
        they are shares, not counts, and a sum of 1 must not make the prior as
        strong as all the data.
        """
        return max(float(self.weights.sum()), float(len(self.weights)))

    def on_the_line(self, support: Support) -> "Rows":
        """Return rows whose targets are taken from their intervals to the real line.

        Ends of censored targets that lie on an end of the interval, or beyond, become
        infinite.
        """
        if not support.bounded:
            return self

        def taken(values: np.ndarray) -> np.ndarray:
            there = to_numpy(support.inverse(to_tensor(values)))
            return np.where(np.isnan(values), np.nan, there)

        upper = None if self.y.upper is None else taken(self.y.upper)
        return replace(self, y=Targets(taken(self.y.lower), upper))

    def log_slope(self, support: Support) -> float:
        r"""Return the mean of :math:`\sum_d \log dy_d / dz_d` over the rows.

        Of targets on the line, the numbers that are known count.
        """
        if not support.bounded:
            return 0.0
        known = self.y.known
        z = to_tensor(np.where(known, self.y.lower, 0.0))
        slopes = np.where(known, to_numpy(support.log_jacobian(z)), 0.0)
        return float(np.average(slopes.sum(axis=1), weights=self.weights))


def feature_types(X: ArrayLike) -> list[Any]:
    """Return the types that are used as they are: any that lies on disk."""
    types: list[Any] = [np.float64, np.float32]
    if isinstance(X, np.memmap) and X.dtype.kind in "fiub":
        types.append(X.dtype)
    return types
