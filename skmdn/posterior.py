"""The posterior for every observation at once, learned from simulations."""

import numbers

import numpy as np
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_is_fitted

from ._sklearn import Interval, StrOptions, _fit_context
from .amortized_fit import AmortizedFit
from .base import unchanged_on_error, warn_about

__all__ = ["AmortizedPosterior"]


class AmortizedPosterior(AmortizedFit):
    r"""The posterior of a simulator's parameters, for all observations at once.

    Networks learn from simulated pairs how the posterior depends on the data:

    .. math::
        q(\theta \mid x) = \sum_k w_k(x)\, \mathcal{N}(u(\theta) \mid \mu_k(x),
        \Sigma_k(x)) \left| \frac{\partial u}{\partial \theta} \right|, \qquad
        \max_q \sum_i \log q(\theta_i \mid x_i)

    in coordinates u without bounds, in which the prior is about standard normal. A
    posterior can therefore never leave the prior's support and always integrates to 1.
    Once fitted, any observation is answered by one pass through the networks.
    """

    _parameter_constraints: dict = {
        "prior": "no_validation",
        "density": [StrOptions({"mixture"})],
        "n_components": [Interval(numbers.Integral, 1, None, closed="left")],
        "summary": "no_validation",
        "objective": [StrOptions({"log_score"})],
        "hidden_layer_sizes": [
            "array-like",
            Interval(numbers.Integral, 1, None, closed="left"),
        ],
        "activation": [StrOptions({"auto", "relu", "silu"})],
        "n_estimators": [Interval(numbers.Integral, 1, None, closed="left")],
        "dropout": [Interval(numbers.Real, 0, 1, closed="left")],
        "learning_rate_init": [Interval(numbers.Real, 0, None, closed="neither")],
        "batch_size": [
            StrOptions({"auto"}),
            Interval(numbers.Integral, 1, None, closed="left"),
        ],
        "max_iter": [
            StrOptions({"auto"}),
            Interval(numbers.Integral, 1, None, closed="left"),
        ],
        "early_stopping": ["boolean", StrOptions({"auto"})],
        "validation_fraction": [Interval(numbers.Real, 0, 1, closed="neither")],
        "n_iter_no_change": [
            StrOptions({"auto"}),
            Interval(numbers.Integral, 1, None, closed="left"),
        ],
        "warm_start": ["boolean"],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        prior=None,
        *,
        density="mixture",
        n_components=10,
        summary=None,
        objective="log_score",
        hidden_layer_sizes=(50, 50, 50),
        activation="auto",
        n_estimators=3,
        dropout=0.02,
        learning_rate_init=0.003,
        batch_size="auto",
        max_iter="auto",
        early_stopping="auto",
        validation_fraction=0.1,
        n_iter_no_change="auto",
        warm_start=False,
        device="cpu",
        random_state=None,
        verbose=0,
    ):
        self.prior = prior
        self.density = density
        self.n_components = n_components
        self.summary = summary
        self.objective = objective
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.n_estimators = n_estimators
        self.dropout = dropout
        self.learning_rate_init = learning_rate_init
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        # The score is a log-likelihood: no fixed number is a good one.
        tags.regressor_tags.poor_score = True
        return tags

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Learn from simulations.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Simulated data.
        y : array-like of shape (n_samples,) or (n_samples, n_parameters)
            The parameters they were simulated with.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, for example of simulations that were not drawn from the prior.

        Returns
        -------
        self : AmortizedPosterior
            The fitted estimator.

        Raises
        ------
        ValueError
            If the simulations or a parameter cannot be used; the estimator is then
            what it was before.
        """
        with unchanged_on_error(self):
            goes_on = self.warm_start and hasattr(self, "module_")
            rows = self._checked_rows(X, y, sample_weight, reset=not goes_on)
            generator = self._prepare(rows, keep=goes_on)
            history, _ = self._train(
                rows,
                generator,
                self._settings(len(rows)),
                hold_out=self._hold_out(len(rows)),
            )
            self.loss_curve_ = history.loss
            self.validation_loss_curve_ = history.held_out or None
            self.best_validation_loss_ = None
            if history.best is not None:
                self.best_validation_loss_ = float(history.best.mean())
            self.n_iter_ = len(history.loss)
            self._optimizer_states = ()
        warn_about(history)
        return self

    # Queries; the others are inherited.

    def predict_distribution(self, X):
        """Return the posterior of every observation.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Observations.

        Returns
        -------
        dist : PredictiveDistribution
            Mixtures of normals behind the prior's links.
        """
        return self._distribution(self._checked_X(X))

    def log_prob(self, X, y):
        """Return the log density of parameters given data, in nats.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Observations.
        y : array-like of shape (n_samples,) or (n_samples, n_parameters)
            Parameters.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,)
            With respect to the parameters' own units; -inf outside of the prior's
            support.
        """
        X = self._checked_X(X)
        theta = self._columns(y)
        check_consistent_length(X, theta)
        theta = theta[:, 0] if self._univariate else theta
        from .predictive import row_chunks

        parts = [
            self._distribution(X[rows]).log_prob(theta[rows])
            for rows in row_chunks(len(X))
        ]
        return np.concatenate(parts)

    def map(self, X):
        """Return where each posterior is highest.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Observations.

        Returns
        -------
        mode : ndarray of shape (n_samples,) or (n_samples, n_parameters)
            The highest point of the density of the parameters themselves.
        """
        return self._query(X, lambda dist: dist.mode())
