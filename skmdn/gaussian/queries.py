"""What a fitted Gaussian mixture can be asked: densities, components, draws."""

import math

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from skmdn import em
from skmdn.base import StampedEstimator, resolve_device
from skmdn.bridge import centred_columns, to_numpy, to_tensor

__all__ = ["GaussianMixtureQueries", "GaussianQueries"]


class GaussianQueries(StampedEstimator):
    """Queries of mixtures that live in scikit-learn's fitted attributes.

    They read ``weights_``, ``means_``, ``covariances_`` and ``precisions_cholesky_``
    each time, so that these can be set by hand.
    """

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def score_samples(self, X):
        """Return the log density of every row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; missing numbers (NaN) are integrated out.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,)
            In nats.
        """
        parameters, rows, X = self._asked(X)
        return self._like(X, em.log_density(parameters, rows)[0])

    def log_component_prob(self, X):
        """Return the log density of every row under each component by itself.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        log_prob : ndarray of shape (n_samples, n_components)
            In nats, without the weights.
        """
        parameters, rows, X = self._asked(X)
        values = em.responsibilities(parameters, rows, "conditional")[0]
        return self._like(X, values.T)

    def impute(self, X):
        """Return rows with expected values in place of missing numbers.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN is missing.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            A copy, in which each NaN is replaced by its expectation given the other
            numbers of its row.
        """
        parameters, rows, X = self._asked(X)
        filled = self._like(X, em.impute(parameters, rows).T) + self._offset()
        return np.where(np.isnan(X), filled.astype(X.dtype), X)

    def sample_components(self, n_samples=1, random_state=None):
        """Draw rows from every component, whatever its weight.

        Parameters
        ----------
        n_samples : int, default=1
            How many from each.
        random_state : int, RandomState instance or None, default=None
            The source of chance; None takes that of the estimator.

        Returns
        -------
        X : ndarray of shape (n_samples, n_components, n_features)
            Rows.
        """
        check_is_fitted(self)
        n_components, n_features = self.means_.shape
        components = np.tile(np.arange(n_components), n_samples)
        drawn = self._draws(components, self._chance(random_state))
        return drawn.reshape(n_samples, n_components, n_features)

    def _likeliest(self, X):
        """Return the most probable component of each row."""
        parameters, rows, _ = self._asked(X)
        joint = em.responsibilities(parameters, rows, "joint")[0]
        return to_numpy(joint.argmax(0))

    def _component_draws(self, n_samples, rng):
        """Draw components by their weights; return them in order."""
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(
                f"Invalid value for 'n_samples': {n_samples}. At least one row has to "
                "be drawn."
            )
        weights = np.asarray(self.weights_, dtype=np.float64)
        n_each = rng.multinomial(n_samples, weights / weights.sum())
        return np.repeat(np.arange(len(n_each)), n_each)

    def _draws(self, components, rng):
        """Draw a row from each of these components."""
        noise = rng.standard_normal((len(components), self.means_.shape[1]))
        means = np.asarray(self.means_, dtype=np.float64)
        covariances = np.asarray(self.covariances_, dtype=np.float64)
        if self.covariance_type == "tied":
            return means[components] + noise @ np.linalg.cholesky(covariances).T
        if self.covariance_type == "full":
            drawn = np.empty_like(noise)
            for k, root in enumerate(np.linalg.cholesky(covariances)):
                drawn[components == k] = noise[components == k] @ root.T
            return means[components] + drawn
        scale = np.sqrt(covariances)
        if self.covariance_type != "diag":
            scale = scale[:, np.newaxis]
        return means[components] + noise * scale[components]

    def _chance(self, random_state):
        if random_state is None:
            random_state = self.random_state
        return check_random_state(random_state)

    def _asked(self, X):
        """Return the mixture, rows in columns, and the checked array."""
        check_is_fitted(self)
        X = validate_data(
            self,
            X,
            reset=False,
            dtype=[np.float64, np.float32],
            ensure_all_finite="allow-nan",
        )
        offset, device = self._offset(), resolve_device(self.device)
        rows = em.Rows(centred_columns(X, offset, device=device))
        return self._parameters(offset, device), rows, X

    def _offset(self):
        """Return the mixture's mean: near it the arithmetic is exact."""
        return np.asarray(self.weights_ @ self.means_, dtype=np.float64)

    def _parameters(self, offset, device="cpu"):
        """Return the mixture as tensors, moved by the offset."""

        def one(values):
            return to_tensor(
                np.asarray(values, dtype=np.float64), device=device
            ).unsqueeze(0)

        whitening = one(self.precisions_cholesky_)
        if self.covariance_type in ("full", "tied"):
            whitening = whitening.mT
        return em.Parameters(
            self.covariance_type,
            one(self.weights_).log(),
            one(self.means_ - offset),
            one(self.covariances_),
            whitening.contiguous(),
        )

    def _take(self, parameters, offset, dtype=np.float64):
        """Write one run into the fitted attributes."""

        def array(tensor):
            return to_numpy(tensor[0]).astype(dtype)

        factor = parameters.whitening
        self.weights_ = array(parameters.log_weights.exp())
        self.means_ = (to_numpy(parameters.means[0]) + offset).astype(dtype)
        self.covariances_ = array(parameters.covariances)
        self.precisions_cholesky_ = array(factor.mT if parameters.matrices else factor)
        self.precisions_ = array(parameters.precisions())

    @staticmethod
    def _like(X, tensor):
        """Return an answer in the precision of the question."""
        return to_numpy(tensor).astype(X.dtype, copy=False)


class GaussianMixtureQueries(GaussianQueries):
    """Queries of mixtures that are about their components."""

    def predict_proba(self, X):
        """Return the posterior probability of each component for each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        resp : ndarray of shape (n_samples, n_components)
            Rows sum to 1.
        """
        parameters, rows, X = self._asked(X)
        return self._like(X, em.responsibilities(parameters, rows)[0].T)

    def predict(self, X):
        """Return the most probable component of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Numbers of components.
        """
        return self._likeliest(X)

    def bic(self, X):
        """Return the Bayesian information criterion.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        bic : float
            The lower the better.
        """
        scores = self.score_samples(X)
        penalty = self._n_parameters() * math.log(len(scores))
        return float(-2.0 * scores.sum() + penalty)

    def aic(self, X):
        """Return the Akaike information criterion.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        aic : float
            The lower the better.
        """
        return float(-2.0 * self.score_samples(X).sum() + 2 * self._n_parameters())

    def icl(self, X):
        r"""Return the integrated completed likelihood, on the scale of the BIC [1]_.

        .. math:: \mathrm{ICL} = \mathrm{BIC} - 2 \sum_i \log \max_k p(k \mid x_i)

        It counts components that can be told apart, where the BIC counts those that a
        density needs.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        icl : float
            The lower the better.

        References
        ----------
        .. [1] C. Biernacki, G. Celeux and G. Govaert, "Assessing a mixture model for
           clustering with the integrated completed likelihood", IEEE Transactions on
           Pattern Analysis and Machine Intelligence 22(7), 2000.
        """
        parameters, rows, _ = self._asked(X)
        joint = em.responsibilities(parameters, rows, "joint")[0]
        completed = float(joint.amax(0).sum())
        penalty = self._n_parameters() * math.log(rows.n_samples)
        return -2.0 * completed + penalty

    def sample(self, n_samples=1, random_state=None):
        """Draw rows.

        Parameters
        ----------
        n_samples : int, default=1
            How many.
        random_state : int, RandomState instance or None, default=None
            The source of chance; None takes that of the estimator.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Rows, ordered by component.
        y : ndarray of shape (n_samples,)
            Their components.
        """
        rng = self._chance(random_state)
        y = self._component_draws(n_samples, rng)
        return self._draws(y, rng), y

    def _n_parameters(self):
        return self._parameters(self._offset()).n_free()[0]
