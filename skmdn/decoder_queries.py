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

from . import em
from .base import resolve_device
from .bridge import generator_from, to_numpy, to_tensor
from .decoder_fit import DecoderFit, covariate_columns
from .decoder_start import class_table
from .decoding.codes import Placed, Search, place, row_chunks
from .decoding.evidence import importance_evidence, laplace_evidence
from .decoding.guess import candidates
from .decoding.modes import expected_rows
from .decoding.objective import Joint
from .decoding.prior import CodePrior, LatentBlock

__all__ = ["DecoderQueries"]


class DecoderQueries(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, DecoderFit
):
    """Queries of a decoder that lives in fitted attributes."""

    def _placed(self, X, covariates):
        """Return the model, rows, their classes, and where their codes are."""
        joint, table, labels, X = self._asked(X, covariates)
        codes, values, found = [], [], []
        search = Search(self.n_starts, self.transform_max_iter, self.transform_tol)
        for rows in self._chunks(joint, len(X)):
            placed = self._place(joint, table.of(rows), labels[rows], search)
            codes.append(placed.codes)
            values.append(placed.values)
            found.append(placed.found)
        placed = Placed(torch.cat(codes), torch.cat(values), torch.cat(found))
        self._warn_unless_found(placed.found)
        return joint, table, labels, placed, X

    def _place(self, joint, table, labels, search):
        starts = candidates(joint, self._guess.to(joint), table, labels)
        return place(joint, starts, table, labels, search)

    def _chunks(self, joint, n_rows):
        """Yield the numbers of rows that are placed together."""
        yield from row_chunks(joint, n_rows, joint.prior.n_latent * self.n_starts)

    def _asked(self, X, covariates):
        """Return the model, rows and their classes, and the checked array."""
        check_is_fitted(self)
        X = self._checked_rows(X, reset=False)
        device = resolve_device(self.device)
        self.module_.to(device)
        blocks = self.module_.blocks
        rows = to_tensor(X, device=device)
        self._expect_allowed(blocks, rows)
        table = blocks.table(rows)
        joint = Joint(
            self.module_.network, blocks, CodePrior(self._latent_blocks(device))
        )
        labels = self._numbers(covariates, len(X))
        if (labels == -2).any():
            joint = self._with_new_classes(joint, table, labels, covariates)
        return joint, table, to_tensor(labels, dtype=torch.int64, device=device), X

    def _latent_blocks(self, device="cpu"):
        """Return the mixtures over groups of the code's features as tensors."""
        result, start = [], 0
        mixtures = [self.mixture_, *self.covariate_mixtures_]
        for mixture, classes in zip(mixtures, self._classes, strict=True):
            n_components, n_latent = mixture.means_.shape
            parameters = mixture._parameters(np.zeros(n_latent))
            table = None
            if classes is not None:
                table = class_table(len(classes.values), n_components)
            priors = em.Priors(
                mixture.weights_prior, mixture.means_prior, mixture.scales_prior
            )
            block = LatentBlock(start, start + n_latent, parameters, priors, table)
            result.append(block.to(device))
            start += n_latent
        return result

    def _numbers(self, covariates, n_samples):
        """Return the classes of rows in each group; those of y are asked, not told."""
        numbers = np.full((n_samples, len(self._classes)), -1)
        if covariates is None:
            return numbers
        columns = covariate_columns(covariates, n_samples)
        if len(columns) != len(self._classes) - 1:
            raise ValueError(
                f"covariates has {len(columns)} column(s); the decoder was fitted with "
                f"{len(self._classes) - 1}."
            )
        for place_, column in enumerate(columns, start=1):
            numbers[:, place_] = self._classes[place_].numbers(column, n_samples)
        return numbers

    def transform(self, X, covariates=None):
        """Return the most probable code of every row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; missing values (NaN) count for nothing.
        covariates : array-like of shape (n_samples,) or (n_samples, n_covariates), \
                default=None
            What is known of the rows' covariates; by default they are inferred. A
            class that was not seen in fit gets a component of its own, from the rows
            that have it.

        Returns
        -------
        codes : ndarray of shape (n_samples, n_latent)
            Without the part that belongs to covariates.
        """
        *_, placed, X = self._placed(X, covariates)
        codes = to_numpy(placed.codes[:, : self.n_latent])
        return codes.astype(X.dtype, copy=False)

    def inverse_transform(self, X, covariates=None):
        """Return the expected row of every code.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_latent)
            Codes, as :meth:`transform` returns them.
        covariates : array-like of shape (n_samples,) or (n_samples, n_covariates), \
                default=None
            The classes that the rows are to have, whatever they had; -1, and by
            default all, stand for the average over the classes' codes.

        Returns
        -------
        rows : ndarray of shape (n_samples, n_features)
            In the units of the data, for counts at size 1; of categories the most
            probable one.
        """
        check_is_fitted(self)
        codes = check_array(X, dtype=[np.float64, np.float32])
        if codes.shape[1] != self.n_latent:
            raise ValueError(
                f"X has {codes.shape[1]} features, but {type(self).__name__} has codes "
                f"of n_latent={self.n_latent}."
            )
        labels = self._numbers(covariates, len(codes))
        if (labels == -2).any():
            raise ValueError(
                "covariates has a class that was not seen in fit; known are "
                f"{[classes.tolist() for classes in self.covariate_classes_]}."
            )
        parts = [to_tensor(codes)]
        for block, known in zip(self._latent_blocks()[1:], labels.T[1:], strict=True):
            parts.append(block.class_means()[to_tensor(known, dtype=torch.int64)])
        rows = self._decoded(torch.cat(parts, 1))
        return rows.astype(codes.dtype, copy=False)

    def _decoded(self, codes):
        with torch.no_grad():
            return to_numpy(self.module_.cpu()(codes.cpu()))

    def reconstruct(self, X, covariates=None):
        """Return what the decoder makes of the rows' own codes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; values may be missing.
        covariates : array-like, default=None
            As in :meth:`transform`.

        Returns
        -------
        rows : ndarray of shape (n_samples, n_features)
            Expected values, for counts at the rows' own sizes.
        """
        joint, table, _, placed, X = self._placed(X, covariates)
        with torch.no_grad():
            mean = joint.blocks.mean(joint.network(placed.codes), table)
            rows = to_numpy(joint.blocks.values(mean))
        return rows.astype(X.dtype, copy=False)

    def impute(self, X, covariates=None):
        """Return rows with expected values in place of missing ones.

        The expectation is over all codes that have been found, each with the mass
        around it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN is missing.
        covariates : array-like, default=None
            As in :meth:`transform`.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            A copy without NaN.
        """
        joint, table, labels, X = self._asked(X, covariates)
        result = X.copy()
        search = Search(0, self.transform_max_iter, self.transform_tol)
        holed = np.flatnonzero(np.isnan(X).any(axis=1))
        n_starts = self._guess_count(joint)
        wide = row_chunks(joint, len(holed), joint.prior.n_latent * n_starts)
        for chunk in wide:
            rows = holed[to_numpy(chunk)]
            places = to_tensor(rows, dtype=torch.int64)
            part, known = table.of(places), labels[places]
            starts = candidates(joint, self._guess.to(joint), part, known)
            expected = to_numpy(expected_rows(joint, starts, part, known, search))
            result[rows] = np.where(np.isnan(X[rows]), expected, X[rows])
        return result

    @staticmethod
    def _guess_count(joint):
        return 2 + sum(block.parameters.shape[1] for block in joint.prior.blocks)

    def score_samples(self, X, covariates=None):
        """Return the log density of every row, its code integrated out.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; the density is that of what is not missing.
        covariates : array-like, default=None
            As in :meth:`transform`.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,)
            In nats, by Laplace's method or by importance sampling, as ``evidence``
            says; of counts given the size of the row.
        """
        joint, table, labels, placed, X = self._placed(X, covariates)
        if self.evidence == "laplace":
            values = laplace_evidence(joint, placed, table, labels)
        else:
            generator = generator_from(_seed_of(self.random_state), self.device)
            values = importance_evidence(
                joint, placed, table, labels, self.n_draws, generator
            )
        return to_numpy(values).astype(X.dtype, copy=False)

    def score(self, X, y=None, covariates=None):
        """Return the mean log density of the rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : None
            Ignored.
        covariates : array-like, default=None
            As in :meth:`transform`.

        Returns
        -------
        log_likelihood : float
            In nats per row; higher is better.
        """
        return float(np.mean(self.score_samples(X, covariates)))

    def predict_proba(self, X, covariates=None):
        """Return the posterior probability of each component, or class, of each code.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        covariates : array-like, default=None
            As in :meth:`transform`.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_components or n_classes)
            Rows sum to 1. Columns are classes if there was y in fit.
        """
        joint, _, _, placed, X = self._placed(X, covariates)
        proba = self._class_proba(joint.prior.blocks[0].joint(placed.codes, None))
        return proba.astype(X.dtype, copy=False)

    def _class_proba(self, log_joint):
        """Return probabilities of classes, or of components where there are none."""
        share = to_numpy(torch.softmax(log_joint, 1))
        if self._classes[0] is None:
            return share
        owner = np.arange(share.shape[1]) % len(self.classes_)
        return share @ (owner[:, np.newaxis] == np.arange(len(self.classes_)))

    def predict(self, X, covariates=None):
        """Return the most probable component of each row, or class after fit with y.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        covariates : array-like, default=None
            As in :meth:`transform`.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Numbers of components, or labels.
        """
        best = self.predict_proba(X, covariates).argmax(axis=1)
        return best if self._classes[0] is None else self.classes_[best]

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
            The codes' components.
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
        codes, y = self.mixture_.sample(n_samples, random_state=rng)
        if component is not None:
            drawn = self.mixture_.sample_components(n_samples, random_state=rng)
            codes, y = drawn[:, component], np.full(n_samples, component)
        others = []
        for mixture in self.covariate_mixtures_:
            drawn, _ = mixture.sample(n_samples, random_state=rng)
            others.append(rng.permutation(drawn))
        together = to_tensor(np.hstack([codes, *others]))
        module = self.module_.cpu()
        with torch.no_grad():
            rows = module.blocks.sample(module.network(together), generator_from(rng))
        return to_numpy(rows), y

    def _with_new_classes(self, joint, table, labels, covariates):
        """Give every class of a covariate that is new a component of its own.

        Its mean is that of the codes that its rows have under a wide normal law.
        ``labels`` is changed in place.
        """
        search = Search(self.n_starts, self.transform_max_iter, self.transform_tol)
        columns = covariate_columns(covariates, len(labels))
        for place_ in range(1, labels.shape[1]):
            new = labels[:, place_] == -2
            if not new.any():
                continue
            values = columns[place_ - 1]
            wide = joint.prior.with_block(place_, joint.prior.blocks[place_].widened())
            unknown = np.where(labels < 0, -1, labels)
            for value in np.unique(values[new]):
                rows = np.flatnonzero(new & (values == value))
                part = table.of(to_tensor(rows, dtype=torch.int64))
                known = to_tensor(unknown[rows], dtype=torch.int64)
                placed = self._place(
                    Joint(joint.network, joint.blocks, wide), part, known, search
                )
                block = joint.prior.blocks[place_]
                mean = placed.codes[:, block.start : block.stop].mean(0)
                labels[rows, place_] = len(block.table) - 1
                prior = joint.prior.with_block(place_, block.extended(mean))
                joint = Joint(joint.network, joint.blocks, prior)
        return joint


def _seed_of(random_state):
    """Return a seed that two calls share, as far as the user wants it."""
    return random_state if isinstance(random_state, int | np.integer) else 0
