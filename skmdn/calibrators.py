"""What is learned from held-out rows to calibrate predictive distributions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize

from .bridge import to_numpy, to_tensor
from .calibrated import CalibratedDistribution
from .distribution import PredictiveDistribution
from .likelihood import log_likelihood
from .mapped import MappedMixture
from .predictive import row_chunks
from .queries.normal_scores import randomized_scores
from .score_maps import ScoreMap, conformal_map, isotonic_map

__all__ = [
    "HeldOut",
    "ScoreCalibrator",
    "TemperatureCalibrator",
    "check_support",
    "counted",
]

# Bounds on the logarithms of factor and temperature, and the rows that speak for 1.
_LARGEST_LOG = 7.0
_N_PSEUDO = 1.0
# Rows that are judged together.
_N_TOGETHER = 2**10


@dataclass(frozen=True)
class HeldOut:
    """Predictions of rows that the model was not trained on, and what came.

    Parameters
    ----------
    dist : PredictiveDistribution
        The predictions.
    y : ndarray of shape (n_samples, n_outputs)
        Targets, NaN where one is missing.
    weights : ndarray of shape (n_samples,)
        How many rows each stands for.
    """

    dist: PredictiveDistribution
    y: np.ndarray
    weights: np.ndarray

    def log_likelihood(self, log_factor: float, log_temperature: float) -> np.ndarray:
        """Return the log-likelihood of each row at other scales and weights."""
        factor = to_tensor(np.exp(log_factor))
        parts = []
        for rows in row_chunks(len(self.y), _N_TOGETHER):
            mixture = self.dist.mixture[rows]
            changed = mixture.widen(factor).temper(float(np.exp(log_temperature)))
            low = to_tensor(self.y[rows])
            missing = bool(np.isnan(self.y[rows]).any())
            parts.append(log_likelihood(changed, low, low if missing else None))
        return to_numpy(torch.cat(parts))

    def scores(self, output: int, rng: np.random.RandomState) -> np.ndarray:
        """Return the normal scores of one output, NaN where it is missing."""
        mixture = self.dist.mixture.marginal([output])
        y = self.y[:, output]
        uniform = torch.full((len(y), 1), 0.5, dtype=torch.float64)
        if any(block.family.discrete for block in mixture.blocks):
            uniform = to_tensor(rng.uniform(size=(len(y), 1)))
        known = to_tensor(np.where(np.isnan(y), 0.0, y)[:, None])
        parts = [
            randomized_scores(mixture[rows], known[rows], uniform[rows])
            for rows in row_chunks(len(y), _N_TOGETHER)
        ]
        return np.where(np.isnan(y), np.nan, to_numpy(torch.cat(parts))[:, 0])


@dataclass(frozen=True)
class TemperatureCalibrator:
    r"""One factor for all scales and one temperature for all weights.

    .. math:: \max_{s, T} \sum_i v_i \log \sum_k
        \frac{w_{ik}^{1/T}}{\sum_j w_{ij}^{1/T}} \, f_{ik}^{(s)}(y_i)

    where :math:`f^{(s)}` has s times the deviations from its mean.

    Parameters
    ----------
    scale_factor : float
        The factor s.
    temperature : float
        The temperature T.
    """

    scale_factor: float
    temperature: float

    @classmethod
    def fit(cls, groups: list[HeldOut]) -> "TemperatureCalibrator":
        """Find both by maximum likelihood, drawn to 1 by the weight of a row."""
        total = sum(group.weights.sum() for group in groups)

        def loss(logs: np.ndarray) -> float:
            likelihood = sum(g.weights @ g.log_likelihood(*logs) for g in groups)
            value = (_N_PSEUDO * (logs @ logs) - likelihood) / total
            return float(value) if np.isfinite(value) else np.inf

        start = np.array([[0.0, 0.0], [0.5, 0.0], [0.0, 0.5]])
        found = minimize(
            loss,
            start[0],
            method="Nelder-Mead",
            bounds=[(-_LARGEST_LOG, _LARGEST_LOG)] * 2,
            options={"initial_simplex": start, "xatol": 1e-4, "fatol": 1e-7},
        )
        return cls(*np.exp(found.x).tolist())

    def __call__(self, dist: PredictiveDistribution) -> PredictiveDistribution:
        """Return calibrated distributions."""
        mixture = dist.mixture.widen(to_tensor(self.scale_factor))
        mixture = mixture.temper(self.temperature)
        return PredictiveDistribution(
            mixture, dist.univariate, dist.single, dist.layout
        )


@dataclass(frozen=True)
class ScoreCalibrator:
    """A monotone map of the normal scores of every output.

    Parameters
    ----------
    maps : tuple of ScoreMap
        One for each output.
    """

    maps: tuple[ScoreMap, ...]

    @classmethod
    def fit(
        cls, groups: list[HeldOut], method: str, rng: np.random.RandomState
    ) -> "ScoreCalibrator":
        """Learn the maps from the scores of held-out rows."""
        fit_map = {"isotonic": isotonic_map, "conformal": conformal_map}[method]
        weights = np.concatenate([group.weights for group in groups])
        maps = []
        for output in range(groups[0].dist.n_outputs):
            scores = np.concatenate([group.scores(output, rng) for group in groups])
            known = ~np.isnan(scores)
            if not known.any():
                raise ValueError(f"No calibration row knows output {output} of y.")
            maps.append(fit_map(to_tensor(scores[known]), to_tensor(weights[known])))
        return cls(tuple(maps))

    def __call__(self, dist: PredictiveDistribution) -> CalibratedDistribution:
        """Return calibrated distributions."""
        return CalibratedDistribution(
            MappedMixture(dist.mixture, self.maps),
            dist.univariate,
            dist.single,
            dist.layout,
        )


def check_support(groups: Sequence[HeldOut]) -> None:
    """Refuse targets that the distributions hold for impossible.

    Parameters
    ----------
    groups : sequence of HeldOut
        The calibration rows.

    Raises
    ------
    ValueError
        With the number of such rows and the first of them.
    """
    n_rows = sum(len(group.y) for group in groups)
    impossible = [group.log_likelihood(0.0, 0.0) == -np.inf for group in groups]
    n_impossible = sum(map(np.sum, impossible))
    if n_impossible:
        rows = [group.y[out] for group, out in zip(groups, impossible, strict=True)]
        first = np.concatenate(rows)[0].tolist()
        raise ValueError(
            f"y must lie in the support of the predictions: {n_impossible} of {n_rows} "
            f"calibration rows do not, the first of them with {first}."
        )


def counted(groups: Sequence[HeldOut]) -> list[HeldOut]:
    """Return the groups with weights that count rows, without rows of weight 0.

    Weights that sum to less than the number of rows are shares, not counts.

    Parameters
    ----------
    groups : sequence of HeldOut
        The calibration rows.

    Raises
    ------
    ValueError
        If no row has a weight.
    """
    weights = np.concatenate([group.weights for group in groups])
    n_rows = np.count_nonzero(weights)
    if not n_rows:
        raise ValueError("sample_weight is zero for all calibration rows.")
    factor = max(1.0, n_rows / weights.sum())
    return [
        HeldOut(group.dist[kept], group.y[kept], factor * group.weights[kept])
        for group in groups
        if (kept := group.weights > 0.0).any()
    ]
