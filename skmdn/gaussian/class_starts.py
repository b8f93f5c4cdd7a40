"""Where expectation maximisation begins if components belong to classes."""

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_argmin

from skmdn import em
from skmdn.bridge import centred_columns, to_tensor

from .starts import sound_runs

__all__ = ["find_class_starts"]

# Labels among which the nearest is sought; the first step sees all of them.
_NEIGHBOURS = 5_000


def find_class_starts(
    covariance_type: str,
    counts: np.ndarray,
    n_init: int,
    values: np.ndarray,
    codes: np.ndarray,
    weights: np.ndarray | None,
    offset: np.ndarray,
    priors: em.Priors,
    rng: np.random.RandomState,
    device: str = "cpu",
) -> em.Parameters:
    """Return parameters to begin with for components that belong to classes.

    Rows without label join the class of the nearest row with one, and k-means divides
    each class.

    Parameters
    ----------
    covariance_type : str
        One of ``em.COVARIANCE_TYPES``.
    counts : ndarray of shape (n_classes,)
        The number of components of each class.
    n_init : int
        How many runs are to be started, which differ where k-means does.
    values : ndarray of shape (n_samples, n_features)
        The data; NaN is missing.
    codes : ndarray of shape (n_samples,)
        The class of each row; negative where it is not known.
    weights : ndarray of shape (n_samples,) or None
        The rows' weights.
    offset : ndarray of shape (n_features,)
        What the parameters are relative to.
    priors : em.Priors
        What is known beforehand, relative to the offset.
    rng : RandomState
        The source of chance.
    device : str, default="cpu"
        Where torch computes.

    Returns
    -------
    parameters : em.Parameters
        Of the sound runs; there may be none.
    """
    # Missing numbers begin at the mean.
    filled = np.where(np.isnan(values), offset, values)
    row_weights = None if weights is None else to_tensor(weights, device=device)
    rows = em.Rows(centred_columns(filled, offset, device=device), row_weights)
    assigned = _nearest_classes(filled, codes, rng)
    first = np.cumsum(counts) - counts
    candidates = []
    for _ in range(n_init if counts.max() > 1 else 1):
        component = first[assigned]
        for c in np.flatnonzero(counts > 1):
            members = _members(filled, assigned, codes < 0, c, counts[c])
            component[members] = first[c] + _divided(
                filled[members],
                None if weights is None else weights[members],
                counts[c],
                rng,
            )
        shares = np.zeros((counts.sum(), len(values)))
        shares[component, np.arange(len(values))] = 1.0
        moments = em.moments_of(
            rows,
            to_tensor(shares, device=device),
            matrices=covariance_type in ("full", "tied"),
        )
        candidates.append(
            sound_runs(*em.start_step(covariance_type, moments, priors, None))
        )
    return em.Parameters.concatenate(candidates)


def _nearest_classes(
    values: np.ndarray, codes: np.ndarray, rng: np.random.RandomState
) -> np.ndarray:
    """Return the class of each row, that of the nearest label where it has none."""
    known = np.flatnonzero(codes >= 0)
    if len(known) == len(codes):
        return codes
    if len(known) > _NEIGHBOURS:
        known = rng.choice(known, _NEIGHBOURS, replace=False)
    unknown = codes < 0
    nearest = pairwise_distances_argmin(values[unknown], values[known])
    assigned = codes.copy()
    assigned[unknown] = codes[known[nearest]]
    return assigned


def _members(
    values: np.ndarray,
    assigned: np.ndarray,
    movable: np.ndarray,
    c: int,
    n_components: int,
) -> np.ndarray:
    """Return the rows of a class, with the nearest others if they are too few."""
    members = np.flatnonzero(assigned == c)
    lacking = n_components - len(members)
    if lacking <= 0:
        return members
    others = np.flatnonzero(movable & (assigned != c))
    gap = np.square(values[others] - values[members].mean(axis=0)).sum(axis=1)
    return np.concatenate([members, others[np.argsort(gap)[:lacking]]])


def _divided(
    values: np.ndarray,
    weights: np.ndarray | None,
    n_groups: int,
    rng: np.random.RandomState,
) -> np.ndarray:
    """Return the groups of k-means, in which a row of weight 2 is two rows."""
    # Any tolerance is one of the variance of the rows as they are, without weights.
    model = KMeans(n_groups, n_init=1, tol=0.0, random_state=rng)
    return model.fit(values, sample_weight=weights).labels_
