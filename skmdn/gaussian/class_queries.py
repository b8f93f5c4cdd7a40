"""What a fitted Gaussian mixture with classes can be asked."""

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils import check_consistent_length

from skmdn import em
from skmdn.bridge import to_numpy, to_tensor
from skmdn.labels import UNKNOWN, codes_of

from .queries import GaussianQueries

__all__ = ["GaussianClassQueries"]


class GaussianClassQueries(ClassifierMixin, GaussianQueries):
    """Queries of mixtures whose components belong to classes.

    They read ``classes_`` and ``component_class_`` beside what a mixture has.
    """

    @property
    def class_prior_(self):
        """The weights of the classes."""
        self._expect_classes()
        weights = np.asarray(self.weights_, dtype=np.float64)
        return np.bincount(self.component_class_, weights, len(self.classes_))

    @property
    def class_component_weights_(self):
        """The weights within each class, in rows; 0 where it has fewer components."""
        self._expect_classes()
        counts = np.bincount(self.component_class_, minlength=len(self.classes_))
        table = np.zeros((len(counts), counts.max()))
        there = np.arange(counts.max()) < counts[:, np.newaxis]
        order = np.argsort(self.component_class_, kind="stable")
        table[there] = np.asarray(self.weights_, dtype=np.float64)[order]
        return table / table.sum(axis=1, keepdims=True)

    def predict(self, X):
        """Return the most probable class of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; missing numbers (NaN) are integrated out.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            Classes.
        """
        joint, _ = self._log_joint(X)
        return self.classes_[joint.argmax(axis=1)]

    def predict_log_proba(self, X):
        """Return the logarithm of the probability of each class for each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        log_prob : ndarray of shape (n_samples, n_classes)
            In the order of ``classes_``, in double precision.
        """
        joint, _ = self._log_joint(X)
        return joint - np.logaddexp.reduce(joint, axis=1, keepdims=True)

    def predict_proba(self, X):
        """Return the probability of each class for each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        prob : ndarray of shape (n_samples, n_classes)
            In the order of ``classes_``, in double precision; rows sum to 1.
        """
        return np.exp(self.predict_log_proba(X))

    def log_density(self, X, y):
        """Return the log density of every row together with its label.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,)
            Labels; a row without label gets log p(x).

        Returns
        -------
        log_prob : ndarray of shape (n_samples,)
            log p(x, y) in nats.

        Raises
        ------
        ValueError
            If a label is no class.
        """
        joint, X = self._log_joint(X)
        check_consistent_length(X, y)
        codes = codes_of(y, self.classes_, self.unlabeled_label)
        density = np.logaddexp.reduce(joint, axis=1)
        known = np.flatnonzero(codes != UNKNOWN)
        density[known] = joint[known, codes[known]]
        return density.astype(X.dtype, copy=False)

    def score(self, X, y, sample_weight=None):
        """Return the accuracy on the rows that have a label.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,)
            True labels; one that is no class of the fit is never right, and a row
            without label does not count.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        accuracy : float
            The share of rows whose class is predicted.
        """
        joint, X = self._log_joint(X)
        check_consistent_length(X, y, sample_weight)
        codes = codes_of(y, self.classes_, self.unlabeled_label, strict=False)
        known = codes != UNKNOWN
        if not known.any():
            raise ValueError("y has no labels: there is nothing to compare with.")
        if sample_weight is not None:
            sample_weight = np.asarray(sample_weight)[known]
        right = joint.argmax(axis=1)[known] == codes[known]
        return float(np.average(right, weights=sample_weight))

    def predict_component(self, X):
        """Return the most probable component of each row, of whatever class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        components : ndarray of shape (n_samples,)
            Their numbers.
        """
        return self._likeliest(X)

    def sample(self, n_samples=1, y=None, random_state=None):
        """Draw rows, of all classes or of given ones.

        Parameters
        ----------
        n_samples : int, default=1
            How many.
        y : label or array-like of shape (n_samples,), default=None
            The class of all draws, or of each. None draws classes as well.
        random_state : int, RandomState instance or None, default=None
            The source of chance; None takes that of the estimator.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Rows, ordered by component if no classes are given.
        y : ndarray of shape (n_samples,)
            Their classes.
        """
        rng = self._chance(random_state)
        components = self._component_draws(n_samples, rng)
        if y is not None:
            components = self._components_within(self._codes_for(y, n_samples), rng)
        labels = self.classes_[self.component_class_[components]]
        return self._draws(components, rng), labels

    def _components_within(self, codes, rng):
        """Draw a component from each of these classes."""
        components = np.empty(len(codes), dtype=np.int64)
        for code in np.unique(codes):
            own = np.flatnonzero(self.component_class_ == code)
            share = np.asarray(self.weights_, dtype=np.float64)[own]
            where = codes == code
            components[where] = rng.choice(own, where.sum(), p=share / share.sum())
        return components

    def _codes_for(self, y, n_samples):
        """Return the class of each of so many draws."""
        y = np.asarray(y)
        if y.ndim == 0:
            y = np.repeat(y, n_samples)
        if y.shape != (n_samples,):
            raise ValueError(
                f"y has shape {y.shape} for n_samples={n_samples}: give one label, or "
                "one for each row."
            )
        codes = codes_of(y, self.classes_, self.unlabeled_label)
        if (codes == UNKNOWN).any():
            raise ValueError("Every draw needs a class, and some have no label.")
        return codes

    def _log_joint(self, X):
        """Return log p(x, class) in double precision, and the checked rows."""
        parameters, rows, X = self._asked(X)
        values = em.responsibilities(parameters, rows, "joint")[0]
        return to_numpy(self._membership(device=values.device).log_sums(values).T), X

    def _membership(self, shares=None, device="cpu"):
        """Return the classes of the components as the mathematics wants them."""
        member = to_tensor(self.component_class_, dtype=torch.int64, device=device)
        if shares is not None:
            shares = to_tensor(shares, device=device)
        return em.Classes(member, len(self.classes_), shares)

    def _expect_classes(self):
        """Raise AttributeError before a fit, as an attribute that is not there."""
        if not hasattr(self, "component_class_"):
            raise AttributeError(f"This {type(self).__name__} is not fitted yet.")
