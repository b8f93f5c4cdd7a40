"""A decoder, a code for each row, and a mixture over the codes."""

from numbers import Integral, Real

from skmdn import em
from skmdn._sklearn import Interval, StrOptions, _fit_context
from skmdn.base import unchanged_on_error
from skmdn.decoding.network import SMOOTH_ACTIVATIONS
from skmdn.priors import Dirichlet, InverseWishart, ScalesPrior, Softball

from .queries import DecoderQueries

__all__ = ["DeepGenerativeDecoder"]


class DeepGenerativeDecoder(DecoderQueries):
    r"""A network that decodes rows from codes, with a mixture over the codes [1]_.

    .. math:: \max_{\theta, z, \text{mixture}} \; \sum_i \log p_\theta(x_i \mid z_i)
        + \sum_i \log p(z_i \mid \text{mixture}) + \log p(\text{mixture})

    There is no encoder: the code z of a row is the most probable one. Those of the
    training rows are learned together with the decoder, those of other rows are found
    by Newton's method. The mixture over codes makes components into clusters, codes
    into densities, and draws into rows.

    Parameters
    ----------
    n_latent : int, default=10
        Number of features of a code.
    n_components : int, default=10
        Number of components of the mixture over codes. With y they are shared out
        among the classes, at least one for each.
    likelihood : str or list of (str, columns, str), default="gaussian"
        The law of the columns given the code: "gaussian", with a learned scale for
        each; "spherical_gaussian", with one for all, if they have the same units;
        "bernoulli"; "poisson"; "negative_binomial", with a learned dispersion for
        each; or "categorical", with values 0, 1, ... Or several blocks, each with a
        name, its columns (a slice, numbers, a mask, or names) and its law.
    hidden_layer_sizes : int or array-like of int, default=(100, 100)
        Widths of the decoder's hidden layers; ``()`` is a linear decoder.
    activation : {"gelu", "logistic", "silu", "tanh"}, default="silu"
        Smooth, since codes and their densities need second derivatives.
    covariance_type : {"full", "tied", "diag", "spherical", "fixed"}, default="full"
        Covariances of the components, as in :class:`MAPGaussianMixture`; "fixed" ones
        have the scale that the default of ``scales_prior`` expects.
    weights_prior : Dirichlet, "auto" or None, default="auto"
        Prior on the components' weights; "auto" is ``Dirichlet(2.0)``, None is flat.
    means_prior : Softball, "auto" or None, default="auto"
        Prior on their means; "auto" is a ball of radius ``sqrt(n_latent + 2)``, which
        has the variance 1 in each direction, as the first codes do.
    scales_prior : ScalesPrior, InverseWishart, "auto" or None, default="auto"
        Prior on their scales; "auto" is explained in the Notes.
    column_scales : {"joint", "evidence"}, default="joint"
        How scales and dispersions of the columns are found. The joint density above is
        largest where they are too sure, as codes explain a part of the noise;
        "evidence" lets two steps of EM follow, which integrate over the codes.
    size_factors : {"total", "none"}, default="total"
        Whether the means of counts are multiplied by the size of the row, its total
        relative to what is usual, where ``exposure`` is not given.
    init : {"pca", "random", "zero"}, float or array-like, default="pca"
        Codes to begin with: principal components with variance 1; standard normal
        ones; all 0; all the same number; or an array ``(n_samples, n_latent)``, which
        is copied.
    max_iter : int, default=100
        Number of passes over the rows.
    batch_size : int or "auto", default="auto"
        Rows per step; "auto" is a tenth of the rows, from 8 to 128.
    learning_rate_init : float, default=1e-3
        Largest step of the decoder's weights.
    code_learning_rate : float, default=1e-2
        Largest step of a code.
    weight_decay : float, default=0.0
        Decay of the decoder's weights, as in AdamW; 0 is the objective above.
    code_noise : float, default=0.0
        Standard deviation of the noise in the codes that the decoder is trained on,
        which makes it smoother; 0 is the objective above.
    early_stopping : bool, default=False
        Whether rows are held out, which do not teach the decoder and say which pass
        was best.
    validation_fraction : float, default=0.1
        Their share.
    n_iter_no_change : int or None, default=None
        Passes without a better held-out loss after which the fit ends; a quarter of
        all, but at least 30, by default.
    tol : float, default=0.0
        What counts as better, in nats per row.
    n_latent_covariate : int, default=2
        Number of features of the code of each covariate.
    n_starts : int, default=2
        How many candidates a search for a code follows: means of components, and what
        a linear map says of the row.
    transform_max_iter : int, default=200
        Most steps of a search.
    transform_tol : float, default=1e-8
        A code has been found when Newton's step moves no feature by more.
    evidence : {"laplace", "importance"}, default="laplace"
        How ``score_samples`` integrates over codes.
    n_draws : int, default=100
        Draws for each row with "importance".
    unlabeled_label : "auto", None or label, default="auto"
        What marks a row without class in y, beside None, NaN and NA; "auto" is -1 as
        in :class:`GaussianMixtureClassifier`.
    random_state : int, RandomState instance or None, default=None
        Determines weights, shuffles, held-out rows and draws.
    device : str, default="cpu"
        Where torch computes, for instance "cuda".
    verbose : int, default=0
        1 prints some twenty lines, 2 every pass.

    Attributes
    ----------
    embedding_ : ndarray of shape (n_samples, n_latent)
        Codes of the training rows.
    labels_ : ndarray of shape (n_samples,)
        Their components, or classes after fit with y.
    mixture_ : MAPGaussianMixture or GaussianMixtureClassifier
        The mixture over codes; after fit with y that of the classes.
    covariate_mixtures_ : list of GaussianMixtureClassifier
        Those over the codes of the covariates.
    module_ : torch.nn.Module
        The decoder: codes, with those of covariates, to expected rows.
    classes_ : ndarray of shape (n_classes,)
        Labels, after fit with y.
    covariate_classes_ : list of ndarray
        The classes of each covariate.
    n_components_ : int
        Number of components of ``mixture_``.
    block_names_ : list of str
        Names of the blocks of ``likelihood``.
    loss_curve_ : dict of str to ndarray
        For every pass "reconstruction", "latent" and "prior", the parts of minus the
        objective in nats per row, and "held_out".
    n_iter_ : int
        Number of passes.
    best_iter_ : int
        The pass whose state was kept.
    n_features_in_ : int
        Number of features seen in fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if they are all strings.

    See Also
    --------
    MAPGaussianMixture : The mixture without a decoder.
    GaussianMixtureClassifier : The mixture of classes.

    Notes
    -----
    The scale of the codes is a matter of convention: a decoder with larger weights
    makes the same rows from smaller codes, which a mixture with smaller scales finds
    more probable, without end. So the scales need a prior that is not outvoted by the
    rows. "auto" expects the standard deviation :math:`s = K^{-1/L}`, with which K
    components fill a ball together, and is as strong as the rows: the log variances
    have the standard deviation :math:`2 \sqrt{K / n}`. A prior that is given counts
    once, whatever the number of rows.

    With covariates, a part of the code belongs to each of them, with a mixture whose
    components are its classes; ``transform`` returns the rest.

    References
    ----------
    .. [1] V. Schuster and A. Krogh, "The deep generative decoder: MAP estimation of
       representations improves modelling of single-cell RNA data", Bioinformatics
       39(9), 2023.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skmdn import DeepGenerativeDecoder
    >>> X = load_iris().data
    >>> model = DeepGenerativeDecoder(2, 3, random_state=0).fit(X)
    >>> codes = model.transform(X[:5])
    >>> model.inverse_transform(codes).shape
    (5, 4)
    """

    _parameter_constraints: dict = {
        "n_latent": [Interval(Integral, 1, None, closed="left")],
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "likelihood": [str, list, tuple],
        "hidden_layer_sizes": [
            "array-like",
            Interval(Integral, 1, None, closed="left"),
        ],
        "activation": [StrOptions(set(SMOOTH_ACTIVATIONS))],
        "covariance_type": [StrOptions(set(em.COVARIANCE_TYPES))],
        "weights_prior": [Dirichlet, StrOptions({"auto"}), None],
        "means_prior": [Softball, StrOptions({"auto"}), None],
        "scales_prior": [ScalesPrior, InverseWishart, StrOptions({"auto"}), None],
        "column_scales": [StrOptions({"joint", "evidence"})],
        "size_factors": [StrOptions({"total", "none"})],
        "init": [StrOptions({"pca", "random", "zero"}), Real, "array-like"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "learning_rate_init": [Interval(Real, 0.0, None, closed="neither")],
        "code_learning_rate": [Interval(Real, 0.0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0.0, None, closed="left")],
        "code_noise": [Interval(Real, 0.0, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0.0, 1.0, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), None],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "n_latent_covariate": [Interval(Integral, 1, None, closed="left")],
        "n_starts": [Interval(Integral, 1, None, closed="left")],
        "transform_max_iter": [Interval(Integral, 1, None, closed="left")],
        "transform_tol": [Interval(Real, 0.0, None, closed="neither")],
        "evidence": [StrOptions({"laplace", "importance"})],
        "n_draws": [Interval(Integral, 1, None, closed="left")],
        # Any label may be the mark.
        "unlabeled_label": "no_validation",
        "random_state": ["random_state"],
        "device": [str],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_latent=10,
        n_components=10,
        *,
        likelihood="gaussian",
        hidden_layer_sizes=(100, 100),
        activation="silu",
        covariance_type="full",
        weights_prior="auto",
        means_prior="auto",
        scales_prior="auto",
        column_scales="joint",
        size_factors="total",
        init="pca",
        max_iter=100,
        batch_size="auto",
        learning_rate_init=1e-3,
        code_learning_rate=1e-2,
        weight_decay=0.0,
        code_noise=0.0,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=None,
        tol=0.0,
        n_latent_covariate=2,
        n_starts=2,
        transform_max_iter=200,
        transform_tol=1e-8,
        evidence="laplace",
        n_draws=100,
        unlabeled_label="auto",
        random_state=None,
        device="cpu",
        verbose=0,
    ):
        self.n_latent = n_latent
        self.n_components = n_components
        self.likelihood = likelihood
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.covariance_type = covariance_type
        self.weights_prior = weights_prior
        self.means_prior = means_prior
        self.scales_prior = scales_prior
        self.column_scales = column_scales
        self.size_factors = size_factors
        self.init = init
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.code_learning_rate = code_learning_rate
        self.weight_decay = weight_decay
        self.code_noise = code_noise
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.n_latent_covariate = n_latent_covariate
        self.n_starts = n_starts
        self.transform_max_iter = transform_max_iter
        self.transform_tol = transform_tol
        self.evidence = evidence
        self.n_draws = n_draws
        self.unlabeled_label = unlabeled_label
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self):
        return self.n_latent

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, covariates=None, exposure=None):
        """Fit decoder, codes and mixture.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; missing values (NaN) count for nothing.
        y : array-like of shape (n_samples,), default=None
            Classes, of which components are to know; -1, None or NaN where one is not
            known.
        covariates : array-like of shape (n_samples,) or (n_samples, n_covariates), \
                default=None
            Classes that codes are to be free of, such as batches; -1, None or NaN
            where one is not known.
        exposure : array-like of shape (n_samples,), default=None
            What the means of counts are proportional to in each row, such as a time or
            a sequencing depth; the decoder learns those at 1. By default it is found
            as ``size_factors`` says.

        Returns
        -------
        self : DeepGenerativeDecoder
            The fitted estimator.

        Raises
        ------
        ValueError
            If data or parameters cannot be used; the estimator is then what it was
            before.
        """
        with unchanged_on_error(self):
            self._fit_decoder(X, y, covariates, exposure)
        return self

    def fit_transform(self, X, y=None, covariates=None, exposure=None):
        """Fit, and return the most probable codes of the rows.

        These are those of :meth:`transform`, which begins anew for every row;
        ``embedding_`` has those that were learned.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,), default=None
            Classes.
        covariates : array-like, default=None
            As in :meth:`fit`.
        exposure : array-like of shape (n_samples,), default=None
            As in :meth:`fit`.

        Returns
        -------
        codes : ndarray of shape (n_samples, n_latent)
            Without the part that belongs to covariates.
        """
        return self.fit(X, y, covariates, exposure).transform(X, covariates, exposure)

    def fit_predict(self, X, y=None, covariates=None, exposure=None):
        """Fit, and return the components of the rows, or their classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,), default=None
            Classes.
        covariates : array-like, default=None
            As in :meth:`fit`.
        exposure : array-like of shape (n_samples,), default=None
            As in :meth:`fit`.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            ``labels_``.
        """
        return self.fit(X, y, covariates, exposure).labels_
