"""Gaussian mixtures of rows that come in batches, each of which is seen once."""

import math

import numpy as np
from sklearn.utils import check_random_state, gen_batches

from skmdn import em
from skmdn.base import resolve_device

from .fit import ILL_DEFINED, GaussianMixtureFit, center_of
from .parameters import checked_priors
from .starts import START_ROWS

__all__ = ["GaussianMixtureStream"]


class GaussianMixtureStream(GaussianMixtureFit):
    """What estimators of Gaussian mixtures do to learn from a stream.

    A beginning found in one small batch decides which optimum is reached. So the first
    ``START_ROWS`` rows are kept and fitted as a whole, and what they say is the past of
    the steps that follow.
    """

    def _learn(self, X, weights):
        """Learn from checked rows and write the fitted attributes."""
        history = list(getattr(self, "lower_bounds_", []))
        kept = self._kept_rows if hasattr(self, "_past") else _KeptRows()
        n_early = 0 if kept is None else START_ROWS - len(kept)
        if n_early > 0:
            part = slice(n_early)
            kept = kept.extended(X[part], None if weights is None else weights[part])
            self._fit_kept(kept)
        rest = slice(n_early, None)
        if len(X[rest]):
            self._step(X[rest], None if weights is None else weights[rest])
        self.lower_bounds_ = [*history, self.lower_bound_]
        self.n_iter_ = len(self.lower_bounds_)
        self.converged_ = False

    def _fit_kept(self, kept):
        """Fit to the first rows; look for a new beginning once they have doubled."""
        X, weights = kept.X, kept.weights
        offset = center_of(X, weights)
        priors = checked_priors(self, offset, self.n_components)
        runs = []
        if kept.n_searched:
            runs.append(self._parameters(offset, resolve_device(self.device)))
        if len(X) >= min(2 * kept.n_searched, START_ROWS):
            rng = check_random_state(self.random_state)
            runs.append(self._begin(X, weights, offset, priors, rng))
            kept.n_searched = len(X)
        parameters = em.Parameters.concatenate(runs)
        past = self._fit_rows(X, weights, offset, priors, parameters, -math.inf)
        self._past = (offset, past)
        self._kept_rows = kept if len(X) < START_ROWS else None

    def _step(self, X, weights):
        """Take one step, or one for every ``batch_size`` rows."""
        offset, past = self._past
        priors = checked_priors(self, offset, self.n_components)
        parameters = self._parameters(offset, resolve_device(self.device))
        online = em.Online(parameters, priors, past=past)
        for part in gen_batches(len(X), self.batch_size or len(X)):
            bounds, sound = online.step(self._rows(X[part], weights, offset, part))
            if not bool(sound.all()):
                raise ValueError(ILL_DEFINED)
        self._take(online.parameters, offset, X.dtype)
        self._past = (offset, online.past.of(0))
        self.lower_bound_ = float(bounds[0])
        self.log_prior_ = float(em.log_prior(online.parameters, priors)[0])
        # The likelihood of rows that are gone is not known any more.
        vars(self).pop("log_posterior_", None)


class _KeptRows:
    """Rows that are still at hand.

    Attributes
    ----------
    X : ndarray of shape (n_samples, n_features) or None
        The rows; None at first.
    weights : ndarray of shape (n_samples,) or None
        Their weights; None means 1.
    n_searched : int
        How many there were when a beginning was last looked for.
    """

    def __init__(self, X=None, weights=None, n_searched=0):
        self.X = X
        self.weights = weights
        self.n_searched = n_searched

    def __len__(self):
        return 0 if self.X is None else len(self.X)

    def extended(self, X, weights):
        """Return a copy with more rows."""
        if self.X is None:
            return _KeptRows(np.array(X), weights)
        parts = [(self.X, self.weights), (X, weights)]
        both = None
        if any(part[1] is not None for part in parts):
            both = np.concatenate(
                [np.ones(len(x)) if w is None else w for x, w in parts]
            )
        return _KeptRows(np.concatenate([self.X, X]), both, self.n_searched)
