"""What a fitted decoder can be asked: codes, densities, components, rows."""

import numpy as np
import torch
from sklearn.base import (
    ClassNamePrefixFeaturesOutMixin,
    DensityMixin,
    TransformerMixin,
)
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted

from skmdn.bridge import generator_from, to_numpy, to_tensor
from skmdn.decoding.codes import Search, row_chunks
from skmdn.decoding.evidence import importance_evidence, laplace_evidence
from skmdn.decoding.guess import candidates
from skmdn.decoding.modes import expected_rows

from .fit import expect_counts
from .places import DecoderPlaces
from .rows import FOREIGN, covariate_numbers, read_exposure

__all__ = ["DecoderQueries"]

# Candidates that are followed for the mean of missing values.
_MODES = 4


class DecoderQueries(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, DecoderPlaces
):
    """Queries of a decoder that lives in fitted attributes."""

    def transform(self, X, covariates=None, exposure=None):
        """Return the most probable code of every row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; missing values (NaN) count for nothing.
        covariates : array-like of shape (n_samples,) or (n_samples, n_covariates), \
                default=None
            What is known of the rows' covariates; by default they are inferred. A
            class that was not seen in fit gets a component of its own, from the rows
            that have it, for this query; :meth:`add_covariate_classes` keeps it.
        exposure : array-like of shape (n_samples,), default=None
            The sizes of rows of counts, where they are known; by default they are
            found as ``size_factors`` says.

        Returns
        -------
        codes : ndarray of shape (n_samples, n_latent)
            Without the part that belongs to covariates.
        """
        *_, placed, X = self._placed(X, covariates, exposure)
        codes = to_numpy(placed.codes[:, : self.n_latent])
        return codes.astype(X.dtype, copy=False)

    def inverse_transform(self, X, covariates=None, exposure=None):
        """Return the expected row of every code.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_latent)
            Codes, as :meth:`transform` returns them.
        covariates : array-like of shape (n_samples,) or (n_samples, n_covariates), \
                default=None
            The classes that the rows are to have, whatever they had; -1, and by
            default all, stand for the average over the classes' codes.
        exposure : array-like of shape (n_samples,), default=None
            The sizes of rows of counts, 1 by default.

        Returns
        -------
        rows : ndarray of shape (n_samples, n_features)
            Expected values in the units of the data; of categories the most probable
            one.
        """
        check_is_fitted(self)
        codes = check_array(X, dtype=[np.float64, np.float32])
        if codes.shape[1] != self.n_latent:
            raise ValueError(
                f"X has {codes.shape[1]} features, but {type(self).__name__} has codes "
                f"of n_latent={self.n_latent}."
            )
        labels = covariate_numbers(covariates, self._group_classes(), len(codes))
        if (labels == FOREIGN).any():
            raise ValueError(
                "covariates has a class that was not seen in fit; known are "
                f"{[classes.tolist() for classes in self.covariate_classes_]}. "
                "add_covariate_classes learns others from rows that have them."
            )
        parts = [to_tensor(codes)]
        for block, known in zip(self._latent_blocks()[1:], labels.T[1:], strict=True):
            parts.append(block.class_means()[to_tensor(known, dtype=torch.int64)])
        module = self.module_.cpu()
        exposure = expect_counts(module.blocks, read_exposure(exposure, len(codes)))
        with torch.no_grad():
            rows = to_numpy(module(torch.cat(parts, 1), exposure))
        return rows.astype(codes.dtype, copy=False)

    def reconstruct(self, X, covariates=None, exposure=None):
        """Return what the decoder makes of the rows' own codes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; values may be missing.
        covariates : array-like, default=None
            As in :meth:`transform`.
        exposure : array-like of shape (n_samples,), default=None
            As in :meth:`transform`.

        Returns
        -------
        rows : ndarray of shape (n_samples, n_features)
            Expected values, for counts at the rows' own sizes or exposures.
        """
        joint, table, _, placed, X = self._placed(X, covariates, exposure)
        with torch.no_grad():
            mean = joint.blocks.mean(joint.network(placed.codes), table.log_sizes())
            rows = to_numpy(joint.blocks.values(mean))
        return rows.astype(X.dtype, copy=False)

    def impute(self, X, covariates=None, exposure=None):
        """Return rows with expected values in place of missing ones.

        The expectation, which has the least squared error, is over all codes that have
        been found, each with the mass around it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN is missing.
        covariates : array-like, default=None
            As in :meth:`transform`.
        exposure : array-like of shape (n_samples,), default=None
            As in :meth:`transform`.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            A copy without NaN.
        """
        joint, table, labels, X = self._asked(X, covariates, exposure)
        result = X.copy()
        search = Search(_MODES, self.transform_max_iter, self.transform_tol)
        holed = np.flatnonzero(np.isnan(X).any(axis=1))
        wide = row_chunks(joint, len(holed), joint.prior.n_latent * _MODES)
        for chunk in wide:
            rows = holed[to_numpy(chunk)]
            places = to_tensor(rows, dtype=torch.int64)
            part, known = table.of(places), labels[places]
            starts = candidates(joint, self._guess.to(joint), part, known)
            expected = to_numpy(expected_rows(joint, starts, part, known, search))
            result[rows] = np.where(np.isnan(X[rows]), expected, X[rows])
        return result

    def score_samples(self, X, covariates=None, exposure=None):
        """Return the log density of every row, its code integrated out.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; the density is that of what is not missing.
        covariates : array-like, default=None
            As in :meth:`transform`.
        exposure : array-like of shape (n_samples,), default=None
            As in :meth:`transform`.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,)
            In nats, by Laplace's method or by importance sampling, as ``evidence``
            says; of counts given the size of the row, and together with those
            covariates that are known.
        """
        joint, table, labels, placed, X = self._placed(X, covariates, exposure)
        if self.evidence == "laplace":
            values = laplace_evidence(joint, placed, table, labels)
        else:
            generator = generator_from(_seed_of(self.random_state), self.device)
            values = importance_evidence(
                joint, placed, table, labels, self.n_draws, generator
            )
        return to_numpy(values).astype(X.dtype, copy=False)

    def score(self, X, y=None, covariates=None, exposure=None):
        """Return the mean log density of the rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : None
            Ignored.
        covariates : array-like, default=None
            As in :meth:`transform`.
        exposure : array-like of shape (n_samples,), default=None
            As in :meth:`transform`.

        Returns
        -------
        log_likelihood : float
            In nats per row; higher is better.
        """
        return float(np.mean(self.score_samples(X, covariates, exposure)))

    def predict_proba(self, X, covariates=None, exposure=None):
        """Return the posterior probability of each component, or class, of each code.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        covariates : array-like, default=None
            As in :meth:`transform`.
        exposure : array-like of shape (n_samples,), default=None
            As in :meth:`transform`.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_components or n_classes)
            Rows sum to 1. Columns are classes if there was y in fit.
        """
        *_, placed, X = self._placed(X, covariates, exposure)
        codes = to_numpy(placed.codes[:, : self.n_latent])
        proba = self.mixture_.predict_proba(codes)
        return proba.astype(X.dtype, copy=False)

    def predict(self, X, covariates=None, exposure=None):
        """Return the most probable component of each row, or class after fit with y.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        covariates : array-like, default=None
            As in :meth:`transform`.
        exposure : array-like of shape (n_samples,), default=None
            As in :meth:`transform`.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Numbers of components, or labels.
        """
        *_, placed, _ = self._placed(X, covariates, exposure)
        return self.mixture_.predict(to_numpy(placed.codes[:, : self.n_latent]))

    def sample(self, n_samples=1, component=None, random_state=None):
        """Draw rows: codes from the mixtures, values from the columns' laws.

        Parameters
        ----------
        n_samples : int, default=1
            How many.
        component : int, default=None
            The component of all codes; by default they follow the weights.
        random_state : int, RandomState instance or None, default=None
            The source of chance; None takes that of the estimator.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Rows, for counts of size 1.
        y : ndarray of shape (n_samples,)
            The codes' components, or their classes after fit with y.
        """
        check_is_fitted(self)
        if random_state is None:
            random_state = self.random_state
        rng = check_random_state(random_state)
        if component is not None and not 0 <= component < self.n_components_:
            raise ValueError(
                f"component={component} is not among the {self.n_components_} "
                "components, counted from 0."
            )
        mixture = self.mixture_
        if component is None:
            codes, y = mixture.sample(n_samples, random_state=rng)
        else:
            drawn = mixture.sample_components(n_samples, random_state=rng)
            codes, y = drawn[:, component], np.full(n_samples, component)
            if hasattr(self, "classes_"):
                y = self.classes_[mixture.component_class_[y]]
        others = []
        for mixture in self.covariate_mixtures_:
            drawn, _ = mixture.sample(n_samples, random_state=rng)
            others.append(rng.permutation(drawn))
        together = to_tensor(np.hstack([codes, *others]))
        module = self.module_.cpu()
        with torch.no_grad():
            rows = module.blocks.sample(module.network(together), generator_from(rng))
        return to_numpy(rows), y


def _seed_of(random_state):
    """Return a seed that two calls share, as far as the user wants it."""
    return random_state if isinstance(random_state, int | np.integer) else 0
