"""Gaussian mixtures with priors, as a scikit-learn estimator."""

import numbers

import numpy as np
from sklearn.base import DensityMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from . import em
from ._sklearn import Interval, StrOptions, _fit_context
from .base import unchanged_on_error
from .bridge import generator_from
from .gaussian.fit import GaussianFit
from .gaussian.parameters import (
    given_parameters,
    module_arguments,
    module_parameters,
    prior_draws,
)
from .gaussian.stream import GaussianMixtureStream
from .latent import GaussianMixture

__all__ = ["MAPGaussianMixture"]


class MAPGaussianMixture(DensityMixin, GaussianMixtureStream):
    r"""Gaussian mixture whose parameters are the most probable ones.

    .. math:: \max_\theta \; \sum_i w_i \log \sum_k \pi_k \, \mathcal{N}(x_i \mid
        \mu_k, \Sigma_k) + \log p(\pi) + \sum_k \log p(\mu_k) + \sum_k \log p(\Sigma_k)

    Without priors this is :class:`sklearn.mixture.GaussianMixture`, whose parameters,
    attributes and methods it has. Beside priors it takes weights of rows, missing
    values, and data in batches.

    Parameters
    ----------
    n_components : int, default=1
        Number of components K.
    covariance_type : {"full", "tied", "diag", "spherical", "fixed"}, default="full"
        A matrix for each component, one for all, a variance for each feature of each
        component, or one variance for each component: learned, or given by
        ``precisions_init`` (1 by default).
    tol : float, default=1e-3
        A run has converged when a step raises the log posterior, in nats per unit of
        weight, by less.
    reg_covar : float, default=1e-6
        Added to the variances where ``scales_prior`` is flat.
    max_iter : int, default=100
        Largest number of steps, or of passes with ``batch_size``.
    n_init : int, default=1
        Number of runs, side by side; the best is kept.
    init_params : str, default="kmeans"
        How a run begins: "kmeans", with spare candidates (see Notes), "k-means++",
        "random" or "random_from_data".
    weights_init : array-like of shape (n_components,), default=None
        First weights.
    means_init : array-like of shape (n_components, n_features), default=None
        First means.
    precisions_init : array-like, default=None
        First inverse covariances, in the shape of ``precisions_``.
    random_state : int, RandomState instance or None, default=None
        Determines the beginning, the order of batches, and draws.
    warm_start : bool, default=False
        Whether ``fit`` goes on from the last fit.
    verbose : int, default=0
        1 prints the steps, 2 also the changes.
    verbose_interval : int, default=10
        Steps between two lines.
    weights_prior : Dirichlet or None, default=None
        Prior on the weights; None is flat.
    means_prior : Softball or None, default=None
        Prior on each mean.
    scales_prior : InverseGamma, LogNormalScale, InverseWishart or None, default=None
        Prior on each scale: a standard deviation, or a principal one of a matrix. The
        inverse-Wishart law is one of matrices.
    batch_size : int or None, default=None
        Rows at a time. None takes all of them into memory; a number fits by stepwise
        EM, which reads the rows of ``X`` as they are needed, perhaps from disk.
    device : str, default="cpu"
        Where torch computes, for instance "cuda".

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
        Weights; 0 for components that a small concentration has switched off.
    means_ : ndarray of shape (n_components, n_features)
        Means.
    covariances_ : ndarray
        ``(n_components, n_features, n_features)`` if "full", ``(n_features,
        n_features)`` if "tied", ``(n_components, n_features)`` if "diag", otherwise
        ``(n_components,)``.
    precisions_ : ndarray
        Their inverses.
    precisions_cholesky_ : ndarray
        Upper triangular factors of the precisions, or their roots.
    converged_ : bool
        Whether the best run has converged.
    n_iter_ : int
        Steps of the best run.
    lower_bound_ : float
        Log posterior before its last step, in nats per unit of weight. Without priors
        this is the mean log-likelihood.
    lower_bounds_ : list of float
        The same before each step.
    log_prior_ : float
        Log density of the parameters; flat priors add nothing.
    log_posterior_ : float
        Log-likelihood of all rows, with their weights, plus ``log_prior_``. After
        ``partial_fit`` only as long as all rows are at hand.
    n_features_in_ : int
        Number of features seen in fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if they are all strings.

    See Also
    --------
    sklearn.mixture.GaussianMixture : Maximum likelihood.
    sklearn.mixture.BayesianGaussianMixture : A variational posterior of the parameters.

    Notes
    -----
    NaN is a missing value, supposed to be missing at random: a row counts with the
    marginal density of what it has.

    With "kmeans" and nothing given, ``n_init + 9`` candidates make short runs, and the
    best ``n_init`` are fitted; from 20 000 rows on there are ``n_init + 19``, on so
    many of the rows. On fewer rows the first candidate, which is where scikit-learn
    would begin, is fitted too, and wins unless another one is better by ``tol``.

    The prior is counted once, against all rows. Every step raises the log posterior.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn import MAPGaussianMixture
    >>> from skmdn.priors import Dirichlet, LogNormalScale
    >>> X = np.array([[1, 2], [1, 4], [1, np.nan], [10, 2], [10, 4], [10, 0]])
    >>> model = MAPGaussianMixture(
    ...     n_components=2,
    ...     covariance_type="diag",
    ...     weights_prior=Dirichlet(2.0),
    ...     scales_prior=LogNormalScale(sd_mean=1.0),
    ...     random_state=0,
    ... ).fit(X)
    >>> model.means_.round(1)
    array([[10.,  2.],
           [ 1.,  3.]])
    >>> model.impute([[10.0, np.nan]]).round(1)
    array([[10.,  2.]])
    """

    _parameter_constraints: dict = {
        **GaussianFit._parameter_constraints,
        "n_components": [Interval(numbers.Integral, 1, None, closed="left")],
        "covariance_type": [StrOptions(set(em.COVARIANCE_TYPES))],
        "init_params": [
            StrOptions({"kmeans", "random", "random_from_data", "k-means++"})
        ],
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", None],
        "batch_size": [Interval(numbers.Integral, 1, None, closed="left"), None],
    }

    def __init__(
        self,
        n_components=1,
        *,
        covariance_type="full",
        tol=1e-3,
        reg_covar=1e-6,
        max_iter=100,
        n_init=1,
        init_params="kmeans",
        weights_init=None,
        means_init=None,
        precisions_init=None,
        random_state=None,
        warm_start=False,
        verbose=0,
        verbose_interval=10,
        weights_prior=None,
        means_prior=None,
        scales_prior=None,
        batch_size=None,
        device="cpu",
    ):
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.weights_prior = weights_prior
        self.means_prior = means_prior
        self.scales_prior = scales_prior
        self.batch_size = batch_size
        self.device = device

    @classmethod
    def from_params(
        cls, weights, means, covariances, *, covariance_type="full", **params
    ):
        """Make a fitted mixture from its parameters.

        Parameters
        ----------
        weights : array-like of shape (n_components,)
            Weights; they sum to 1.
        means : array-like of shape (n_components, n_features)
            Means.
        covariances : array-like
            In the shape of ``covariances_``.
        covariance_type : str, default="full"
            The type of covariances.
        **params : dict
            Other parameters of the estimator.

        Returns
        -------
        model : MAPGaussianMixture
            The mixture, without having seen data.
        """
        means = check_array(means, dtype=np.float64, input_name="means")
        model = cls(len(means), covariance_type=covariance_type, **params)
        parameters = given_parameters(covariance_type, weights, means, covariances)
        model._take_given(parameters, means)
        return model

    @classmethod
    def from_torch(cls, module, **params):
        """Make a fitted mixture from a torch module.

        Parameters
        ----------
        module : skmdn.latent.GaussianMixture
            The module; its parameters are copied, and its priors are taken over.
        **params : dict
            Other parameters of the estimator.

        Returns
        -------
        model : MAPGaussianMixture
            The mixture, without having seen data.
        """
        parameters, known = module_parameters(module)
        return cls.from_params(*parameters, **(known | params))

    def to_torch(self):
        """Return the fitted mixture as a torch module, to be trained further.

        Returns
        -------
        module : skmdn.latent.GaussianMixture
            In double precision, with copies of the parameters and the same priors.
        """
        check_is_fitted(self)
        return GaussianMixture.from_params(**module_arguments(self))

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None):
        """Fit the mixture.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN is a missing value.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights: a row of weight 2 counts as two rows.

        Returns
        -------
        self : MAPGaussianMixture
            The fitted estimator.

        Raises
        ------
        ValueError
            If data or parameters cannot be used, or the covariances of all runs
            collapse; the estimator is then what it was before.
        """
        goes_on = self.warm_start and hasattr(self, "converged_")
        with unchanged_on_error(self):
            X, weights = self._checked(X, sample_weight, reset=not goes_on)
            self._fit_mixture(X, weights, goes_on)
        self._warn_unless_converged()
        return self

    def fit_predict(self, X, y=None, sample_weight=None):
        """Fit the mixture and return the most probable component of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Numbers of components.
        """
        return self.fit(X, sample_weight=sample_weight).predict(X)

    def score(self, X, y=None, sample_weight=None):
        """Return the mean log density of the rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            Their weights in the mean.

        Returns
        -------
        log_likelihood : float
            In nats per row; higher is better.
        """
        return float(np.average(self.score_samples(X), weights=sample_weight))

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, sample_weight=None):
        """Learn from a batch.

        The first 20 000 rows are kept, and fitted as a whole in each call: they find
        the beginning, and should resemble all of the data. From then on each batch, or
        each ``batch_size`` rows of it, makes one step of stepwise EM and is forgotten.
        After :meth:`fit` its result is the past.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN is a missing value.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights.

        Returns
        -------
        self : MAPGaussianMixture
            The estimator.
        """
        first = not hasattr(self, "_past")
        with unchanged_on_error(self):
            X, weights = self._checked(X, sample_weight, reset=first, begin=first)
            self._learn(X, weights)
        return self

    def sample_prior(self, n_samples=1, random_state=None):
        """Draw parameters of mixtures from the priors, all of which have to be given.

        Parameters
        ----------
        n_samples : int, default=1
            How many mixtures.
        random_state : int, RandomState instance or None, default=None
            The source of chance; None takes that of the estimator.

        Returns
        -------
        weights : ndarray of shape (n_samples, n_components)
            Weights.
        means : ndarray of shape (n_samples, n_components, n_features)
            Means.
        covariances : ndarray of shape (n_samples, ...)
            Covariances, in the shape of ``covariances_``.
        """
        check_is_fitted(self)
        generator = generator_from(self._chance(random_state))
        return prior_draws(self, n_samples, self.means_.shape[1], generator)
