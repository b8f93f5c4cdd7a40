"""Classes as Gaussian mixtures, as a scikit-learn estimator."""

import numbers

import numpy as np
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from ._sklearn import Interval, StrOptions, _fit_context
from .base import unchanged_on_error
from .gaussian.class_fit import GaussianClassFit
from .gaussian.fit import GaussianFit
from .gaussian.parameters import given_parameters, module_arguments, module_parameters
from .latent import SupervisedGaussianMixture

__all__ = ["GaussianMixtureClassifier"]


class GaussianMixtureClassifier(GaussianClassFit):
    r"""Classifier whose classes are Gaussian mixtures, also from few labels.

    .. math:: \max_\theta \; \sum_{i \text{ labelled}} w_i \log \sum_{k \in c_i} \pi_k
        \, \mathcal{N}(x_i \mid \mu_k, \Sigma_k) + \lambda \sum_{i \text{ unlabelled}}
        w_i \log \sum_k \pi_k \, \mathcal{N}(x_i \mid \mu_k, \Sigma_k)
        + \log p(\theta)

    With one component for each class and without priors this is Gaussian naive Bayes
    ("diag"), linear ("tied") or quadratic ("full") discriminant analysis. Several
    components make a class of any shape, and rows without label count with the density
    of all classes.

    Parameters
    ----------
    n_components : int, dict or array-like of shape (n_classes,), default=1
        Number of components of each class; a dict by class, an array in the order of
        ``classes_``.
    covariance_type : {"full", "tied", "diag", "spherical"}, default="full"
        A matrix for each component, one for all, a variance for each feature of each
        component, or one variance for each component.
    tol : float, default=1e-3
        A run has converged when a step raises the log posterior, in nats per unit of
        weight, by less.
    reg_covar : float, default=1e-6
        Added to the variances where ``scales_prior`` is flat.
    max_iter : int, default=100
        Largest number of steps.
    n_init : int, default=1
        Number of runs, side by side; the best is kept. They differ where a class has
        several components.
    class_prior : None, "empirical" or array-like of shape (n_classes,), default=None
        The probabilities of the classes. None learns them from all rows, "empirical"
        takes the shares of the labels; an array in the order of ``classes_`` is given.
    unlabeled_label : "auto", None or label, default="auto"
        What marks a row without label, beside None, NaN and NA, which always do.
        "auto" is -1 if ``y`` has an integer type and at least two other labels, so that
        -1 and 1 are two classes. None is nothing else, a label is this one.
    unlabeled_weight : float, default=1.0
        The number :math:`\lambda` by which the weights of rows without label are
        multiplied; 0 leaves them out.
    random_state : int, RandomState instance or None, default=None
        Determines the beginning, and draws.
    warm_start : bool, default=False
        Whether ``fit`` goes on from the last fit, which had the same classes.
    verbose : int, default=0
        1 prints the steps, 2 also the changes.
    verbose_interval : int, default=10
        Steps between two lines.
    weights_prior : Dirichlet or None, default=None
        Prior on the weights of all components; None is flat. Where the probabilities of
        the classes are given it is one on the weights within each.
    means_prior : Softball or None, default=None
        Prior on each mean.
    scales_prior : InverseGamma, LogNormalScale, InverseWishart or None, default=None
        Prior on each scale: a standard deviation, or a principal one of a matrix. The
        inverse-Wishart law is one of matrices. With few labels and many features it is
        what keeps a covariance sensible.
    device : str, default="cpu"
        Where torch computes, for instance "cuda".

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Classes, in ascending order.
    class_prior_ : ndarray of shape (n_classes,)
        Probabilities of the classes.
    component_class_ : ndarray of shape (n_components,)
        The class of each component, as a place in ``classes_``. Components stand class
        by class.
    weights_ : ndarray of shape (n_components,)
        Weights of all components, with sum 1.
    class_component_weights_ : ndarray of shape (n_classes, n_components_per_class)
        Weights within classes, with sum 1 in each row; a class with fewer components
        than another has zeros at the end.
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
    n_unlabeled_ : int
        Number of rows without label, of those with a weight.
    converged_ : bool
        Whether the best run has converged.
    n_iter_ : int
        Steps of the best run.
    lower_bound_ : float
        Log posterior before its last step, in nats per unit of weight.
    lower_bounds_ : list of float
        The same before each step.
    log_prior_ : float
        Log density of the parameters; flat priors add nothing.
    log_posterior_ : float
        What is maximised: the log-likelihood above plus ``log_prior_``.
    n_features_in_ : int
        Number of features seen in fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if they are all strings.

    See Also
    --------
    MAPGaussianMixture : The mixture without classes.
    sklearn.discriminant_analysis.QuadraticDiscriminantAnalysis : One component each.
    sklearn.semi_supervised.SelfTrainingClassifier : Rows without label for others.

    Notes
    -----
    NaN is a missing value, supposed to be missing at random: a row counts with the
    marginal density of what it has.

    A row without label begins in the class of the nearest row with one, by the
    Euclidean distance, and k-means divides each class into its components.

    The prior is counted once, against all rows. Every step raises the log posterior.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn import GaussianMixtureClassifier
    >>> X = np.array([[0.0], [0.3], [0.9], [1.2], [5.0], [5.5], [6.0]])
    >>> y = [0, -1, -1, -1, -1, -1, 1]
    >>> model = GaussianMixtureClassifier(covariance_type="tied").fit(X, y)
    >>> model.predict([[2.0], [4.0]])
    array([0, 1])
    >>> model.n_unlabeled_
    5
    >>> model.class_prior_.round(2)
    array([0.57, 0.43])
    """

    _parameter_constraints: dict = {
        **GaussianFit._parameter_constraints,
        "n_components": [
            Interval(numbers.Integral, 1, None, closed="left"),
            dict,
            "array-like",
        ],
        "covariance_type": [StrOptions({"full", "tied", "diag", "spherical"})],
        "class_prior": [StrOptions({"empirical"}), "array-like", None],
        # Any label may be the mark.
        "unlabeled_label": "no_validation",
        "unlabeled_weight": [Interval(numbers.Real, 0.0, None, closed="left")],
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
        class_prior=None,
        unlabeled_label="auto",
        unlabeled_weight=1.0,
        random_state=None,
        warm_start=False,
        verbose=0,
        verbose_interval=10,
        weights_prior=None,
        means_prior=None,
        scales_prior=None,
        device="cpu",
    ):
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.class_prior = class_prior
        self.unlabeled_label = unlabeled_label
        self.unlabeled_weight = unlabeled_weight
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.weights_prior = weights_prior
        self.means_prior = means_prior
        self.scales_prior = scales_prior
        self.device = device

    @classmethod
    def from_params(
        cls,
        weights,
        means,
        covariances,
        component_class,
        *,
        classes=None,
        covariance_type="full",
        **params,
    ):
        """Make a fitted classifier from the parameters of its mixture.

        Parameters
        ----------
        weights : array-like of shape (n_components,)
            Weights of all components; they sum to 1.
        means : array-like of shape (n_components, n_features)
            Means.
        covariances : array-like
            In the shape of ``covariances_``.
        component_class : array-like of shape (n_components,)
            The class of each component, as a place in ``classes``.
        classes : array-like of shape (n_classes,), default=None
            The classes, in ascending order; by default numbers from 0.
        covariance_type : str, default="full"
            The type of covariances.
        **params : dict
            Other parameters of the estimator.

        Returns
        -------
        model : GaussianMixtureClassifier
            The classifier, without having seen data.
        """
        means = check_array(means, dtype=np.float64, input_name="means")
        member = np.asarray(component_class)
        classes = np.unique(member) if classes is None else np.asarray(classes)
        if member.shape != means.shape[:1] or not np.array_equal(
            np.unique(member), np.arange(len(classes))
        ):
            raise ValueError(
                f"component_class must give each of {len(means)} components a place in "
                f"the {len(classes)} classes, and each class a component; got "
                f"{member.tolist()}."
            )
        if not np.array_equal(np.unique(classes), classes):
            raise ValueError(f"classes must ascend, got {classes.tolist()}.")
        counts = np.bincount(member)
        same = int(counts[0]) if (counts == counts[0]).all() else counts
        model = cls(same, covariance_type=covariance_type, **params)
        parameters = given_parameters(covariance_type, weights, means, covariances)
        model._take_given(parameters, means)
        model.classes_, model.component_class_ = classes, member
        model.n_unlabeled_ = 0
        return model

    @classmethod
    def from_torch(cls, module, *, classes=None, **params):
        """Make a fitted classifier from a torch module.

        Parameters
        ----------
        module : skmdn.latent.SupervisedGaussianMixture
            The module; its parameters are copied, and its priors are taken over.
        classes : array-like of shape (n_classes,), default=None
            The classes, in ascending order; by default numbers from 0.
        **params : dict
            Other parameters of the estimator.

        Returns
        -------
        model : GaussianMixtureClassifier
            The classifier, without having seen data.
        """
        parameters, known = module_parameters(module)
        if known["covariance_type"] == "fixed":
            known["covariance_type"] = "spherical"
        member = np.repeat(np.arange(module.Nclass), module.Ncpc)
        return cls.from_params(*parameters, member, classes=classes, **(known | params))

    def to_torch(self):
        """Return the fitted mixture as a torch module, to be trained further.

        Returns
        -------
        module : skmdn.latent.SupervisedGaussianMixture
            In double precision, with copies of the parameters and the same priors.

        Raises
        ------
        ValueError
            If classes have different numbers of components, which the module cannot
            have.
        """
        check_is_fitted(self)
        counts = np.bincount(self.component_class_)
        if (counts != counts[0]).any():
            raise ValueError(
                f"Classes have {counts.tolist()} components; the module needs the same "
                "number for each."
            )
        arguments = module_arguments(self)
        arguments["alpha"] = arguments.pop("weight_alpha")
        arguments["weights"] = arguments["weights"].view(len(counts), -1)
        return SupervisedGaussianMixture.from_params(**arguments)

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Fit the mixtures of all classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN is a missing value.
        y : array-like of shape (n_samples,)
            Classes, and ``unlabeled_label``, None or NaN where they are not known.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights: a row of weight 2 counts as two rows.

        Returns
        -------
        self : GaussianMixtureClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            If data or parameters cannot be used, or the covariances of all runs
            collapse; the estimator is then what it was before.
        """
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but "
                "the target y is None."
            )
        goes_on = self.warm_start and hasattr(self, "converged_")
        with unchanged_on_error(self):
            X, weights = self._checked_rows(
                X, sample_weight, reset=not goes_on, n_least=2
            )
            self._fit_classes(X, y, weights, goes_on)
        self._warn_unless_converged()
        return self
