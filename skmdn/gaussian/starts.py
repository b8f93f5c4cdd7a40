"""Where expectation maximisation begins, and which of several beginnings goes on."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import KMeans, kmeans_plusplus

from skmdn import em
from skmdn.bridge import centred_columns, to_tensor

__all__ = ["START_ROWS", "Start", "find_starts", "sound_runs"]

# More rows than these add nothing to a beginning but time.
START_ROWS = 20_000
_SPARE_CANDIDATES = 9
# Where all rows take long, a search on some of them costs little beside.
_MANY_SPARE_CANDIDATES = 19
# For spare candidates, which need to be different rather than good.
_KMEANS_ROWS = 4_000
_KMEANS_STEPS = 20
_TRIALS = 5
# Steps of the rounds of the race, each of which halves the field.
_ROUNDS = (15, 30)
_LONG_RUN = 60
# Of the tolerance: the last steps are on few rows, where they are cheap.
_FINE = 0.1
# Rounds in which components are moved from one place to another, and trials of each.
_EXCHANGES = 3
_PROPOSALS = 8


@dataclass(frozen=True)
class Start:
    """What the search for a beginning needs to know.

    Attributes
    ----------
    n_components : int
        The number of components.
    covariance_type : str
        One of ``em.COVARIANCE_TYPES``.
    init_params : str
        The method.
    n_init : int
        How many runs are to be started.
    tol : float
        How much better another candidate must be than the first.
    priors : em.Priors
        What is known beforehand, relative to the offset.
    weights, means, covariances : ndarray or None
        What the user has given; "fixed" covariances always are.
    """

    n_components: int
    covariance_type: str
    init_params: str
    n_init: int
    tol: float
    priors: em.Priors
    weights: np.ndarray | None = None
    means: np.ndarray | None = None
    covariances: np.ndarray | None = None

    @property
    def matrices(self) -> bool:
        """Whether covariances are matrices."""
        return self.covariance_type in ("full", "tied")

    @property
    def given(self) -> bool:
        """Whether the user has given all there is."""
        return not any(
            part is None for part in (self.weights, self.means, self.covariances)
        )


def find_starts(
    start: Start,
    values: np.ndarray,
    weights: np.ndarray | None,
    offset: np.ndarray,
    rng: np.random.RandomState,
    device: str = "cpu",
) -> em.Parameters:
    """Return parameters to begin with, for up to ``n_init + 1`` runs.

    k-means makes more candidates than are needed. Short runs on at most
    ``START_ROWS`` rows judge them, and the best are chosen. On few rows these begin
    where k-means left them; on many they go on from where the search ended.

    Parameters
    ----------
    start : Start
        What is asked for.
    values : ndarray of shape (n_samples, n_features)
        The data; NaN is missing.
    weights : ndarray of shape (n_samples,) or None
        Their weights.
    offset : ndarray of shape (n_features,)
        What the parameters are relative to.
    rng : RandomState
        The source of chance.
    device : str, default="cpu"
        Where torch computes.

    Returns
    -------
    parameters : em.Parameters
        Of the sound runs; there may be none.
    """
    if start.given:
        return sound_runs(*_with_given(start, None, device))
    many = len(values) >= START_ROWS
    if len(values) > START_ROWS:
        chosen = np.sort(rng.choice(len(values), START_ROWS, replace=False))
        values = values[chosen]
        weights = None if weights is None else weights[chosen]
    row_weights = None if weights is None else to_tensor(weights, device=device)
    rows = em.Rows(centred_columns(values, offset, device=device), row_weights)
    # Missing numbers begin at the mean, which is the origin.
    filled_rows = em.Rows(rows.columns.nan_to_num(nan=0.0), row_weights)
    filled = np.where(np.isnan(values), offset, values)
    free = start.weights is None and start.means is None
    race = start.init_params == "kmeans" and start.n_components > 1 and free
    race = race and (start.covariances is None or start.covariance_type == "fixed")
    candidates = []
    n_spare = (_MANY_SPARE_CANDIDATES if many else _SPARE_CANDIDATES) * race
    for place in range(start.n_init + n_spare):
        # Of the spare ones every second tries hard to find far-off groups.
        spare = place - start.n_init
        trials = 0 if spare < 0 else _TRIALS + start.n_components * (spare % 2 == 0)
        shares = _shares(start, filled, weights, rng, trials)
        moments = em.moments_of(
            filled_rows, to_tensor(shares.T, device=device), matrices=start.matrices
        )
        candidates.append(sound_runs(*_with_given(start, moments, device)))
    parameters = em.Parameters.concatenate(candidates)
    if not race or not len(parameters.means):
        return parameters
    # Matrices are dear where rows miss many different features.
    judges = filled_rows if start.matrices else rows
    return _winners(start, parameters, judges, go_on=many)


def _shares(
    start: Start,
    values: np.ndarray,
    weights: np.ndarray | None,
    rng: np.random.RandomState,
    trials: int,
) -> np.ndarray:
    """Return the share of every row that each component begins with."""
    n_samples, n_components = len(values), start.n_components
    if start.init_params == "random":
        shares = rng.uniform(size=(n_samples, n_components))
        return shares / shares.sum(axis=1, keepdims=True)
    shares = np.zeros((n_samples, n_components))
    if start.init_params == "kmeans":
        if n_components == 1:
            return shares + 1.0
        labels = _kmeans_labels(values, weights, n_components, rng, trials)
        shares[np.arange(n_samples), labels] = 1.0
        return shares
    if start.init_params == "random_from_data":
        chosen = rng.choice(n_samples, size=n_components, replace=False)
    else:
        _, chosen = kmeans_plusplus(
            values, n_components, sample_weight=weights, random_state=rng
        )
    shares[chosen, np.arange(n_components)] = 1.0
    return shares


def _kmeans_labels(
    values: np.ndarray,
    weights: np.ndarray | None,
    n_components: int,
    rng: np.random.RandomState,
    trials: int,
) -> np.ndarray:
    """Return the groups of k-means; with a number of trials, from fewer rows."""
    if trials == 0:
        model = KMeans(n_components, n_init=1, random_state=rng)
        return model.fit(values, sample_weight=weights).labels_
    few, some = max(_KMEANS_ROWS, 20 * n_components), slice(None)
    if len(values) > few:
        some = rng.choice(len(values), few, replace=False)
    weights = None if weights is None else weights[some]
    centers, _ = kmeans_plusplus(
        values[some],
        n_components,
        sample_weight=weights,
        random_state=rng,
        n_local_trials=trials,
    )
    model = KMeans(n_components, init=centers, n_init=1, max_iter=_KMEANS_STEPS)
    model.fit(values[some], sample_weight=weights)
    return model.predict(values)


def _with_given(
    start: Start, moments: em.Statistics | None, device: str
) -> tuple[em.Parameters, torch.Tensor]:
    """Return parameters from moments, except for those that are given."""

    def given(values: np.ndarray) -> torch.Tensor:
        return to_tensor(values, device=device).unsqueeze(0)

    if moments is None:
        assert start.weights is not None
        assert start.means is not None
        log_weights, means = given(start.weights).log(), given(start.means)
    else:
        fixed = None
        if start.covariance_type == "fixed":
            fixed = given(start.covariances)[0]
        made, sound = em.start_step(start.covariance_type, moments, start.priors, fixed)
        nothing_given = start.weights is None and start.means is None
        if nothing_given and (start.covariances is None or fixed is not None):
            return made, sound
        log_weights = made.log_weights
        if start.weights is not None:
            log_weights = given(start.weights).log()
        means = made.means if start.means is None else given(start.means)
        if start.covariances is None:
            covariances = made.covariances
            both = em.Parameters.from_covariances(
                start.covariance_type, log_weights, means, covariances
            )
            return both[0], both[1] & sound
    assert start.covariances is not None
    return em.Parameters.from_covariances(
        start.covariance_type, log_weights, means, given(start.covariances)
    )


def sound_runs(parameters: em.Parameters, sound: torch.Tensor) -> em.Parameters:
    """Return the runs whose covariances are positive definite."""
    return parameters[sound.nonzero().view(-1)]


def _winners(
    start: Start, candidates: em.Parameters, rows: em.Rows, *, go_on: bool
) -> em.Parameters:
    """Return the best candidates after short runs; of nearly equals the first.

    If they begin anew, the first candidate goes along, which is where scikit-learn
    would begin: short runs do not always tell who wins in the end.
    """
    places = list(range(len(candidates.means)))
    current, total = candidates, max(start.n_init, 1)
    for n_steps in _ROUNDS:
        if len(places) <= total:
            break
        fit = em.run(current, rows, start.priors, tol=start.tol, max_iter=n_steps)
        first = places.index(0) if 0 in places else -1
        kept = fit.order(margin=start.tol, favourite=first)
        kept = kept[: max(total, math.ceil(len(places) / 2))]
        if not kept:
            return candidates.chosen([])
        places = [places[r] for r in kept]
        current = fit.parameters.chosen(kept)
    if not go_on:
        others = [place for place in places[:total] if place != 0]
        return candidates.chosen([0, *others])
    fit = em.run(current, rows, start.priors, tol=start.tol, max_iter=_LONG_RUN)
    best = fit.parameters.chosen(fit.order()[:total])
    if rows.complete and len(best.means):
        best = _after_exchanges(start, best, rows)
    fit = em.run(best, rows, start.priors, tol=_FINE * start.tol, max_iter=_LONG_RUN)
    return fit.parameters.chosen(fit.order())


def _after_exchanges(
    start: Start, parameters: em.Parameters, rows: em.Rows
) -> em.Parameters:
    """Return the runs with a better first one, if moving a component finds one.

    k-means puts two centres into one group and one between two others; no small step
    leads out of that.
    """
    best, others = parameters.chosen([0]), range(1, len(parameters.means))
    fixed = None
    if start.covariance_type == "fixed":
        fixed = to_tensor(start.covariances, device=str(best.means.device))
    for _ in range(_EXCHANGES):
        runs = [best]
        for shares in em.exchanges(best, rows, _PROPOSALS):
            moments = em.moments_of(rows, shares, matrices=start.matrices)
            runs.append(
                sound_runs(
                    *em.start_step(start.covariance_type, moments, start.priors, fixed)
                )
            )
        current = em.Parameters.concatenate(runs)
        fit = em.run(current, rows, start.priors, tol=start.tol, max_iter=_ROUNDS[0])
        ahead = [r for r in fit.order() if r != 0][:2]
        current = fit.parameters.chosen([0, *ahead])
        fit = em.run(current, rows, start.priors, tol=start.tol, max_iter=_LONG_RUN)
        order = fit.order(margin=start.tol)
        if not order or order[0] == 0:
            break
        best = fit.parameters.chosen(order[:1])
    return em.Parameters.concatenate([best, parameters.chosen(list(others))])
