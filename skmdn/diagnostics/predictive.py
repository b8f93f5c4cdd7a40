"""Whether data simulated from a posterior resemble what was observed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.utils import check_random_state

__all__ = ["PredictiveCheck", "predictive_check"]


@dataclass(frozen=True)
class PredictiveCheck:
    """What :func:`predictive_check` found.

    Parameters
    ----------
    observed : dict of str to float
        Each statistic of the observed data.
    replicated : dict of str to ndarray of shape (n_draws,)
        Those of simulated data.
    p_values : dict of str to float
        Two-sided: how often simulated data are as extreme.
    median_distance : float
        Median Euclidean distance of simulated data to the observed ones.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.diagnostics import predictive_check
    >>> replicated = np.random.default_rng(0).normal(size=(500, 20))
    >>> check = predictive_check(np.full(20, 3.0), replicated, random_state=0)
    >>> check.p_values["mean"] < 0.01
    True
    """

    observed: dict
    replicated: dict
    p_values: dict
    median_distance: float


def predictive_check(
    observed,
    replicated,
    *,
    statistics: Mapping[str, Callable] | None = None,
    random_state=None,
):
    """Compare observed data with data simulated from the posterior.

    The simulated data come from a simulator that is given posterior draws:
    ``simulator.sample(given={"theta": draws})``. The p-values tend to be too large
    rather than too small, because the posterior has seen the data.

    Parameters
    ----------
    observed : array-like of shape (...)
        One data set.
    replicated : array-like of shape (n_draws, ...)
        Simulated data sets.
    statistics : dict of str to callable, default=None
        Each maps a data set to a number. By default mean, std, min and max.
    random_state : int, RandomState instance or None, default=None
        Breaks ties.

    Returns
    -------
    check : PredictiveCheck
        Statistics and p-values.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.diagnostics import predictive_check
    >>> rng = np.random.default_rng(0)
    >>> check = predictive_check(
    ...     rng.normal(size=20), rng.normal(size=(500, 20)),
    ...     statistics={"range": np.ptp}, random_state=0)
    >>> check.p_values["range"] > 0.05
    True
    """
    observed, replicated = np.asarray(observed), np.asarray(replicated)
    if replicated.shape[1:] != observed.shape:
        raise ValueError(
            f"Simulated data sets have the shape {replicated.shape[1:]}, the observed "
            f"one has {observed.shape}."
        )
    if statistics is None:
        statistics = {"mean": np.mean, "std": np.std, "min": np.min, "max": np.max}
    rng = check_random_state(random_state)
    true, simulated, p_values = {}, {}, {}
    for name, statistic in statistics.items():
        own = float(statistic(observed))
        values = np.array([float(statistic(row)) for row in replicated])
        if not (np.isfinite(own) and np.isfinite(values).all()):
            raise ValueError(f"The statistic {name!r} is not finite.")
        ties = rng.randint(0, (values == own).sum() + 1)
        share = (1.0 + (values < own).sum() + ties) / (2.0 + len(values))
        true[name], simulated[name] = own, values
        p_values[name] = float(2.0 * min(share, 1.0 - share))
    distance = np.square(replicated - observed).reshape(len(replicated), -1).sum(1)
    return PredictiveCheck(
        true, simulated, p_values, float(np.median(np.sqrt(distance)))
    )
