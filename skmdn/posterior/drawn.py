"""Posteriors that are known by their draws and by the density at each point."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skmdn.bridge import generator_from, to_numpy, to_tensor
from skmdn.coordinates import Coordinates
from skmdn.predictive import row_chunks
from skmdn.rowwise import checked_coverage, checked_levels, checked_points

__all__ = ["DrawnPosteriors", "OneDrawnPosterior"]

# What moments, quantiles and the starts of climbs are taken from. Each row sees the
# same random numbers, whatever rows it is asked with.
_N_DRAWS = 4_000
_SEED = 0

# Draws and densities that are computed together.
_N_TOGETHER = 2**14

# The search for a mode: starts per row, steps, and the first of these in units of the
# posterior's standard deviations.
_N_CLIMBS = 8
_N_STEPS = 150
_FIRST_STEP = 0.1


class DrawnPosteriors:
    """The posteriors of some rows under flows, asked like their distributions.

    Moments and quantiles are those of 4000 draws, always the same.

    Parameters
    ----------
    ensemble : FlowEnsemble
        From standardised data to densities of the coordinates.
    x : Tensor of shape (n_rows, n_features)
        Standardised data.
    coordinates : Coordinates
        From them to the parameters.
    univariate : bool
        Whether parameters come without a last axis.
    """

    def __init__(
        self, ensemble: Any, x: Tensor, coordinates: Coordinates, univariate: bool
    ) -> None:
        self.ensemble = ensemble
        self.x = x
        self.coordinates = coordinates
        self.univariate = univariate

    def log_prob(self, theta: np.ndarray) -> np.ndarray:
        """Return the log density of a point for each row; -inf outside the support."""
        points = checked_points(np.reshape(theta, (len(self.x), -1)))
        with torch.no_grad():
            parts = [
                self._log_prob(self.x[rows], points[rows])
                for rows in _parts(len(points), 1)
            ]
        return to_numpy(torch.cat(parts))

    def sample(self, n_draws: int, random_state: Any) -> np.ndarray:
        """Return draws ``(n_rows, n_draws[, n_outputs])``."""
        generator = generator_from(random_state)
        with torch.no_grad():
            parts = [
                self.coordinates.forward(
                    self.ensemble.draw(self.x[rows], n_draws, generator)
                )
                for rows in _parts(len(self.x), n_draws)
            ]
        return self._shaped(torch.cat(parts))

    def mean(self) -> np.ndarray:
        """Return the mean of each row."""
        return self._of_draws(lambda theta: theta.mean(0))

    def std(self) -> np.ndarray:
        """Return the standard deviation of each row."""
        return self._of_draws(lambda theta: theta.std(0))

    def ppf(self, levels: np.ndarray) -> np.ndarray:
        """Return quantiles ``(n_rows, n_levels[, n_outputs])``."""
        wanted = to_tensor(checked_levels(levels))
        return self._of_draws(lambda theta: torch.quantile(theta, wanted, dim=0))

    def interval(self, coverage: float) -> np.ndarray:
        """Return lower and upper ends ``(n_rows, 2[, n_outputs])``."""
        tail = 0.5 * (1.0 - checked_coverage(coverage))
        return self.ppf(np.array([tail, 1.0 - tail]))

    def mode(self) -> np.ndarray:
        """Return where each density is highest: the best of climbs from draws."""
        modes = []
        for rows in _parts(len(self.x), _N_CLIMBS):
            x = self.x[rows]
            starts, units = zip(*(self._starts(row) for row in x), strict=True)
            modes.append(self._climb(x, torch.stack(starts), torch.stack(units)))
        return self._shaped(self.coordinates.forward(torch.cat(modes)))

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        inside = self.coordinates.contains(theta)
        u = self.coordinates.inverse(theta)
        u = torch.where(inside.unsqueeze(1), u, 0.0)
        return torch.where(inside, self._height(x, u), -math.inf)

    def _height(self, x: Tensor, u: Tensor) -> Tensor:
        """Return the log density of the parameters at coordinates."""
        log_prob: Tensor = self.ensemble.log_prob(x, u)
        return log_prob - self.coordinates.log_jacobian(u)

    def _row_draws(self, row: Tensor) -> Tensor:
        """Return coordinates ``(n_draws, n_outputs)`` drawn for a row."""
        with torch.no_grad():
            draws: Tensor = self.ensemble.draw(
                row.unsqueeze(0), _N_DRAWS, generator_from(_SEED)
            )
        return draws[0]

    def _of_draws(self, query: Callable[[Tensor], Tensor]) -> np.ndarray:
        forward = self.coordinates.forward
        answers = [query(forward(self._row_draws(row))) for row in self.x]
        return self._shaped(torch.stack(answers))

    def _starts(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Return the highest draws of a row and the spread of all."""
        u = self._row_draws(row)
        with torch.no_grad():
            heights = self._height(row.expand(len(u), -1), u)
        return u[heights.topk(_N_CLIMBS).indices], u.std(0).expand(_N_CLIMBS, -1)

    def _climb(self, x: Tensor, starts: Tensor, units: Tensor) -> Tensor:
        """Return the highest points that climbs from ``(n_rows, n_climbs)`` reach."""
        x = x.repeat_interleave(_N_CLIMBS, 0)
        start, unit = starts.flatten(0, 1), units.flatten(0, 1)
        best, highest = start, start.new_full((len(start),), -math.inf)
        moved, mean = torch.zeros_like(start), torch.zeros_like(start)
        square = torch.zeros_like(start)
        for step in range(1, _N_STEPS + 1):
            with torch.enable_grad():
                at = (start + unit * moved).requires_grad_()
                height = self._height(x, at)
                (slope,) = torch.autograd.grad(height.sum(), at)
            better = height.detach() > highest
            highest = torch.where(better, height.detach(), highest)
            best = torch.where(better.unsqueeze(1), at.detach(), best)
            slope = (slope * unit).nan_to_num(0.0)
            mean.lerp_(slope, 0.1)
            square.lerp_(slope.square(), 0.1)
            rate = _FIRST_STEP * (1.0 - (step - 1) / _N_STEPS)
            moved = moved + rate * mean / (square.sqrt() + 1e-12)
        shape = (-1, _N_CLIMBS)
        winner = highest.reshape(shape).argmax(1)
        return best.unflatten(0, shape)[torch.arange(len(winner)), winner]

    def _shaped(self, theta: Tensor) -> np.ndarray:
        values = to_numpy(theta)
        return values[..., 0] if self.univariate else values


class OneDrawnPosterior:
    """The posterior of one row, as something to start from.

    Parameters
    ----------
    posteriors : DrawnPosteriors
        Of a single row.
    """

    def __init__(self, posteriors: DrawnPosteriors) -> None:
        self.posteriors = posteriors

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Return draws ``(n_samples, n_outputs)``."""
        draws = self.posteriors.sample(n_samples, random_state)
        return draws.reshape(n_samples, -1)


def _parts(n_rows: int, n_each: int) -> list[slice]:
    return row_chunks(n_rows, max(1, _N_TOGETHER // n_each))
