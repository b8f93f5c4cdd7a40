"""The fit of a Gaussian mixture: checks, beginning, runs, and what is kept."""

import math
import numbers
import sys
import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils.validation import validate_data

from skmdn import em
from skmdn._sklearn import Interval, _check_sample_weight
from skmdn.base import resolve_device
from skmdn.bridge import centred_columns, row_parts, to_tensor
from skmdn.priors import Dirichlet, InverseWishart, ScalesPrior, Softball

from .parameters import (
    checked_means,
    checked_precisions,
    checked_priors,
    checked_weights,
)
from .queries import GaussianMixtureQueries, GaussianQueries
from .starts import START_ROWS, Start, find_starts

__all__ = [
    "ILL_DEFINED",
    "GaussianFit",
    "GaussianMixtureFit",
    "center_of",
    "with_weight",
]


# On the rows that a fit in batches begins with.
_FIRST_STEPS = 100


class GaussianFit(GaussianQueries):
    """What estimators of Gaussian mixtures do to fit one to all rows at once."""

    _parameter_constraints: dict = {
        "tol": [Interval(numbers.Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(numbers.Real, 0.0, None, closed="left")],
        "max_iter": [Interval(numbers.Integral, 0, None, closed="left")],
        "n_init": [Interval(numbers.Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(numbers.Integral, 1, None, closed="left")],
        "weights_prior": [Dirichlet, None],
        "means_prior": [Softball, None],
        "scales_prior": [ScalesPrior, InverseWishart, None],
        "device": [str],
    }

    def _warn_unless_converged(self):
        if not self.converged_ and self.max_iter > 0:
            warnings.warn(NOT_CONVERGED, ConvergenceWarning, stacklevel=3)

    def _checked_rows(self, X, sample_weight, *, reset, n_least):
        """Return rows and their weights, None if all are 1."""
        X = validate_data(
            self,
            X,
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_min_samples=n_least,
            ensure_all_finite="allow-nan",
        )
        if sample_weight is not None:
            sample_weight = _check_sample_weight(
                sample_weight, X, dtype=np.float64, ensure_non_negative=True
            )
        return X, sample_weight

    def _rows(self, X, weights, offset, part=slice(None), labels=None):
        """Return rows and what is beside them as tensors."""
        device = resolve_device(self.device)
        if weights is not None:
            weights = to_tensor(weights[part], device=device)
        if labels is not None:
            labels = to_tensor(labels[part], dtype=torch.int64, device=device)
        return em.Rows(centred_columns(X, offset, device=device), weights, labels)

    def _fit_rows(self, X, weights, offset, priors, parameters, before, labels=None):
        """Fit to all rows at once; return what a fit to more rows needs of them."""
        rows = self._rows(X, weights, offset, labels=labels)
        table = None if labels is None else priors.classes.table()
        fit = em.run(
            parameters,
            rows,
            priors,
            tol=self.tol,
            max_iter=self.max_iter,
            before=before,
            table=table,
            report=self._report if self.verbose else None,
        )
        order = fit.order(margin=self.tol)
        if not order:
            raise ValueError(ILL_DEFINED)
        best = order[0]
        chosen = fit.parameters.chosen([best])
        log_likelihood, statistics = em.e_step(chosen, rows, table)
        self._finish(chosen, offset, priors, float(log_likelihood), X.dtype)
        self._record(fit.bounds[best], fit.converged[best], before)
        return em.Past().with_batch(statistics, rows.total)

    def _finish(self, parameters, offset, priors, log_likelihood, dtype):
        """Write the fitted attributes."""
        self._take(parameters, offset, dtype)
        self.log_prior_ = float(em.log_prior(parameters, priors)[0])
        self.log_posterior_ = log_likelihood + self.log_prior_

    def _take_given(self, parameters, means):
        """Write the attributes of a mixture that was not fitted but given."""
        self._take(parameters, np.zeros(means.shape[1]))
        self.n_features_in_ = means.shape[1]
        self._record([], True, -math.inf)

    def _record(self, bounds, converged, before):
        """Write how the fit went."""
        self.converged_ = converged
        self.n_iter_ = len(bounds)
        self.lower_bounds_ = bounds
        self.lower_bound_ = bounds[-1] if bounds else before

    def _report(self, iteration, changes):
        """Print a line now and then."""
        if iteration % self.verbose_interval == 0:
            line = f"  Iteration {iteration}"
            if self.verbose > 1:
                line += f"\t change {max(changes):.5f}\t active runs {len(changes)}"
            sys.stdout.write(line + "\n")


class GaussianMixtureFit(GaussianFit, GaussianMixtureQueries):
    """The same without classes; also a batch of rows at a time."""

    def _fit_mixture(self, X, weights, goes_on):
        """Fit to checked rows and write the fitted attributes."""
        rng = check_random_state(self.random_state)
        offset = center_of(X, weights)
        priors = checked_priors(self, offset, self.n_components)
        if goes_on:
            parameters = self._parameters(offset, resolve_device(self.device))
            before = self.lower_bound_
        else:
            parameters = self._begin(X, weights, offset, priors, rng)
            before = -math.inf
        if self.batch_size is None:
            past = self._fit_rows(X, weights, offset, priors, parameters, before)
        else:
            past = self._fit_batches(
                X, weights, offset, priors, parameters, before, rng
            )
        self._past, self._kept_rows = (offset, past), None

    def _checked(self, X, sample_weight, *, reset, begin=True):
        """Return rows that have a weight, and the weights unless all are 1."""
        X, weights = self._checked_rows(
            X, sample_weight, reset=reset, n_least=2 if begin else 1
        )
        X, weights = with_weight(weights, X)
        if begin and len(X) < self.n_components:
            raise ValueError(
                f"Expected n_samples >= n_components but got n_components = "
                f"{self.n_components}, n_samples = {len(X)}"
            )
        return X, weights

    def _begin(self, X, weights, offset, priors, rng):
        """Return the runs' first parameters."""
        K, kind = self.n_components, self.covariance_type
        given = {"weights": None, "means": None, "covariances": None}
        if self.weights_init is not None:
            given["weights"] = checked_weights(self.weights_init, K)
        if self.means_init is not None:
            means = checked_means(self.means_init, K, len(offset))
            given["means"] = means - offset
        if self.precisions_init is not None:
            given["covariances"] = checked_precisions(
                self.precisions_init, kind, K, len(offset)
            )
        elif kind == "fixed":
            given["covariances"] = np.ones(K)
        start = Start(K, kind, self.init_params, self.n_init, self.tol, priors, **given)
        device = resolve_device(self.device)
        parameters = find_starts(start, X, weights, offset, rng, device)
        if not len(parameters.means):
            raise ValueError(ILL_DEFINED)
        return parameters

    def _fit_batches(self, X, weights, offset, priors, parameters, before, rng):
        """Fit to shuffled rows, a batch at a time; return the past."""
        total = float(len(X) if weights is None else weights.sum())
        parameters, past = self._first_past(X, weights, offset, priors, parameters, rng)
        online = em.Online(parameters, priors, total=total, past=past)
        alive = torch.ones(len(parameters.means), dtype=torch.bool)
        history, converged = [], False
        for n_pass in range(1, self.max_iter + 1):
            order = rng.permutation(len(X))
            reached = torch.zeros(len(alive), dtype=torch.float64)
            for part in gen_batches(len(X), self.batch_size):
                chosen = np.sort(order[part])
                rows = self._rows(X[chosen], weights, offset, chosen)
                bounds, sound = online.step(rows)
                alive &= sound.cpu()
                reached += bounds.cpu() * (rows.total / total)
            if not bool(alive.any()):
                raise ValueError(ILL_DEFINED)
            history.append(reached.masked_fill(~alive, -math.inf))
            now = float(history[-1].max())
            change = now - (float(history[-2].max()) if n_pass > 1 else before)
            if self.verbose:
                self._report(n_pass, [change])
            converged = abs(change) < self.tol
            if converged:
                break
        best = int(history[-1].argmax()) if history else 0
        chosen = online.parameters.chosen([best])
        log_likelihood = 0.0
        for part in gen_batches(len(X), max(self.batch_size, START_ROWS)):
            rows = self._rows(X[part], weights, offset, part)
            log_density = em.log_density(chosen, rows)[0]
            if rows.weights is not None:
                log_density = log_density * rows.weights
            log_likelihood += float(log_density.sum())
        self._finish(chosen, offset, priors, log_likelihood, X.dtype)
        self._record([float(b[best]) for b in history], converged, before)
        return online.past.of(best)

    def _first_past(self, X, weights, offset, priors, parameters, rng):
        """Return the sound runs after a fit to some rows, and what these rows say.

        The first batches would otherwise decide alone, and undo a good beginning.
        """
        chosen = np.sort(rng.permutation(len(X))[:START_ROWS])
        rows = self._rows(X[chosen], weights, offset, chosen)
        fit = em.run(parameters, rows, priors, tol=self.tol, max_iter=_FIRST_STEPS)
        if not fit.order():
            raise ValueError(ILL_DEFINED)
        parameters = fit.parameters.chosen(fit.order())
        return parameters, em.Past().with_batch(
            em.e_step(parameters, rows)[1], rows.total
        )


NOT_CONVERGED = (
    "Best performing initialization did not converge. Try different init parameters, "
    "or increase max_iter, tol, or check for degenerate data."
)
ILL_DEFINED = (
    "Fitting the mixture model failed because some components have ill-defined "
    "empirical covariance (for instance caused by singleton or collapsed samples). Try "
    "to decrease the number of components, increase reg_covar, or scale the input "
    "data. A scales_prior prevents it."
)


def center_of(X, weights):
    """Return the weighted mean of what is there of each feature."""
    total, there = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    for rows in row_parts(X.shape):
        part = np.asarray(X[rows], dtype=np.float64)
        seen = ~np.isnan(part)
        weight = np.ones(len(part)) if weights is None else weights[rows]
        total += weight @ np.where(seen, part, 0.0)
        there += weight @ seen
    if (there == 0).any():
        raise ValueError(
            f"Feature {int(np.flatnonzero(there == 0)[0])} has no observed value: drop "
            "it."
        )
    return total / there


def with_weight(weights, *arrays):
    """Return the rows of arrays that have a weight, and their weights."""
    if weights is None or weights.all():
        return (*arrays, weights)
    kept = weights > 0
    return (*(array[kept] for array in arrays), weights[kept])
