"""The fit of a Gaussian mixture with classes: labels, beginning, and what is kept."""

import math
import numbers
from dataclasses import replace

import numpy as np
from sklearn.utils import (
    check_array,
    check_consistent_length,
    check_random_state,
    column_or_1d,
)

from skmdn.base import resolve_device
from skmdn.labels import UNKNOWN, read_labels

from .class_queries import GaussianClassQueries
from .class_starts import find_class_starts
from .fit import ILL_DEFINED, GaussianFit, center_of, with_weight
from .parameters import checked_priors

__all__ = ["GaussianClassFit"]


class GaussianClassFit(GaussianFit, GaussianClassQueries):
    """What an estimator of classes does to fit a Gaussian mixture."""

    def _fit_classes(self, X, y, weights, goes_on):
        """Fit to checked rows and write the fitted attributes."""
        y = column_or_1d(y, warn=True)
        check_consistent_length(X, y)
        X, y, weights = with_weight(weights, X, y)
        classes, codes = read_labels(y, self.unlabeled_label)
        member = np.repeat(np.arange(len(classes)), self._components_of(classes))
        _expect_rows(classes, np.bincount(member), codes)
        if goes_on:
            self._expect_same(classes, member)
        shares = self._class_shares(classes, codes, weights)
        self.classes_, self.component_class_ = classes, member
        self.n_unlabeled_ = int((codes == UNKNOWN).sum())
        X, codes, weights = self._weighted(X, codes, weights)

        offset, device = center_of(X, weights), resolve_device(self.device)
        priors = checked_priors(self, offset, len(member))
        priors = replace(priors, classes=self._membership(shares, device))
        if goes_on:
            parameters, before = self._parameters(offset, device), self.lower_bound_
        else:
            before = -math.inf
            parameters = find_class_starts(
                self.covariance_type,
                np.bincount(member),
                self.n_init,
                X,
                codes,
                weights,
                offset,
                priors,
                check_random_state(self.random_state),
                device,
            )
            if not len(parameters.means):
                raise ValueError(ILL_DEFINED)
        # The last line of the table is that of rows without label.
        lines = np.where(codes == UNKNOWN, len(classes), codes)
        self._fit_rows(X, weights, offset, priors, parameters, before, lines)

    def _components_of(self, classes):
        """Return the number of components of each class."""
        asked, names = self.n_components, classes.tolist()
        if isinstance(asked, dict):
            if set(asked) != set(names):
                raise ValueError(
                    f"n_components has the classes {list(asked)}, y has {names}: give "
                    "a number for each."
                )
            asked = [asked[name] for name in names]
        elif isinstance(asked, numbers.Integral):
            asked = [asked] * len(names)
        counts = np.asarray(asked)
        if counts.shape != (len(names),):
            raise ValueError(
                f"n_components has shape {counts.shape} for {len(names)} classes: give "
                "one number for all, or one for each."
            )
        if counts.dtype.kind not in "iu" or (counts < 1).any():
            raise ValueError(
                f"n_components must hold integers of at least 1, got {counts.tolist()}."
            )
        return counts

    def _class_shares(self, classes, codes, weights):
        """Return the weights of the classes, or None to learn them."""
        if self.class_prior is None:
            return None
        if isinstance(self.class_prior, str):
            known = codes != UNKNOWN
            shares = np.bincount(
                codes[known], None if weights is None else weights[known]
            )
            return shares / shares.sum()
        shares = check_array(
            self.class_prior,
            dtype=np.float64,
            ensure_2d=False,
            input_name="class_prior",
        )
        if shares.shape != (len(classes),):
            raise ValueError(
                f"class_prior has shape {shares.shape} for {len(classes)} classes: "
                f"give one number for each of {classes.tolist()}."
            )
        if (shares <= 0.0).any() or abs(shares.sum() - 1.0) > 1e-6:
            raise ValueError(
                f"class_prior must be positive with sum 1, got {shares.tolist()}."
            )
        return shares / shares.sum()

    def _weighted(self, X, codes, weights):
        """Give rows without label their weight; those of weight 0 are left out."""
        unknown, factor = codes == UNKNOWN, float(self.unlabeled_weight)
        if factor == 1.0 or not unknown.any():
            return X, codes, weights
        if factor == 0.0:
            weights = None if weights is None else weights[~unknown]
            return X[~unknown], codes[~unknown], weights
        weights = np.ones(len(X)) if weights is None else weights
        return X, codes, np.where(unknown, factor * weights, weights)

    def _expect_same(self, classes, member):
        """Say so if a fit cannot go on from the last one."""
        same = np.array_equal(classes, self.classes_)
        if not same or not np.array_equal(member, self.component_class_):
            raise ValueError(
                f"warm_start=True goes on with the classes {self.classes_.tolist()} "
                f"and their components; y has {classes.tolist()}. Set it to False to "
                "begin anew."
            )


def _expect_rows(classes, counts, codes):
    """Say which class has too few rows for its components."""
    n_free = (codes == UNKNOWN).sum()
    available = np.bincount(codes[codes != UNKNOWN]) + n_free
    for name, count, most in zip(classes.tolist(), counts, available, strict=True):
        if most < count:
            raise ValueError(
                f"Class {name!r} has at most {most} rows for {count} components: lower "
                "n_components for it, or add rows."
            )
