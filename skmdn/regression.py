"""Mixture density networks as a scikit-learn regressor."""

import numbers

from sklearn.utils.validation import check_consistent_length

from ._sklearn import Interval, StrOptions, _fit_context
from .base import unchanged_on_error, warn_about
from .conditional.fit import ConditionalMixture
from .conditional.views import EMBEDDINGS
from .families import FAMILIES, Family
from .learning.networks import ACTIVATIONS
from .priors import Dirichlet, ScalesPrior

__all__ = ["MixtureDensityRegressor"]


class MixtureDensityRegressor(ConditionalMixture):
    r"""Mixture density network: the whole predictive distribution p(y | x).

    .. math:: p(y \mid x) = \sum_v w_v \frac1M \sum_{m=1}^M \sum_{k=1}^K
        \pi_{vmk}(x) \, \mathcal{N}(y \mid \mu_{vmk}(x), \Sigma_{vmk}(x))

    Networks map x to Gaussian mixtures [1]_, M of them for each *view* v of the
    features, and are trained by maximum likelihood. The rows that they hold out decide
    what each view weighs and how wide the mixture is. Features and targets are
    standardised inside; every number you see is in your units.

    Parameters
    ----------
    n_components : int, default=5
        Number of components K of each network, unless ``family`` lists them.
    family : str, Family, or list or dict of these, default="normal"
        What a component is: a name or an object of :mod:`skmdn.families`. A list tells
        it of every component, a dict gives them names.
    covariance_type : {"diag", "full", "spherical", "tied"}, default="diag"
        How several outputs vary together within a component: independently, with
        a covariance matrix of its own, independently with one scale, or with one
        matrix shared by all components (which still depends on x).
    hidden_layer_sizes : tuple of int, int or "auto", default="auto"
        Width of each hidden layer; ``()`` makes the parameters linear in the view.
        "auto" is (48, 48, 48) below 5 000 rows, (64, 64, 64) below 20 000 and (96, 96)
        from there on, but (128,) for networks that see bins (see ``embedding``) of a
        table with fewer than 2 000 rows.
    activation : {"silu", "relu", "gelu", "tanh", "logistic"}, default="silu"
        Activation of the hidden layers.
    embedding : {"auto", "none", "ple", "ple+cos"} or sequence of these, default="auto"
        What the networks see beside the standardised features: nothing,
        piecewise-linear bins (16 per feature, 48 from 5 000 rows on), or these and 8
        cosines per feature with learned frequencies; fewer for many features, of which
        all have at most about 1 024 bins and 512 cosines. A sequence names the views
        (see Notes) of the networks. "auto" is all three, but only the first where no
        rows are held out.
    n_estimators : int, default=4
        Number of networks M of each view. Those of a view start differently, hold out
        different rows and shuffle by themselves.
    temperature : float or (float, float), default=1.0
        Divides the logits of the mixture weights. Of a pair, fit begins with the first
        number and falls to the second over a fifth of the steps of each network; all
        else is at the second.
    weights_prior : float, Dirichlet or None, default=None
        Dirichlet prior on the mixture weights, counted once for all rows. Above 1 it
        keeps components alive, below 1 it prunes them. A
        :class:`~skmdn.priors.Dirichlet` may have a number for each component.
    scales_prior : "auto", ScalesPrior or None, default="auto"
        Prior on the scales of the components, counted once for all rows: an object of
        :mod:`skmdn.priors` in units of the standardised target. "auto" is an inverse
        gamma law, weak but for few rows and where ``resolution_`` is positive; None
        leaves only ``min_scale``.
    min_scale : float or "auto", default="auto"
        Smallest standard deviation of a component, as a share of the target's.
        "auto" is 0.001.
    support : pair of float, or list of pairs, default=None
        Ends (low, high) of an open interval that holds the target, of all outputs or
        of each; None for no end. Components of the real line are taken onto it by a
        change of variables: exponential towards one end, logistic between two.
    resolution : float, "auto" or None, default="auto"
        What the targets were rounded to. :meth:`log_prob` and :meth:`score` are then
        log probabilities of cells of this width. "auto" finds it for one output that
        takes few values (at most one in fifty rows) at multiples of a number; None
        always takes densities.
    x_noise : float, default=0.0
        Standard deviation of the noise added to standardised features, drawn
        afresh for every batch.
    y_noise : float, default=0.0
        The same for standardised targets. It is about a floor on the predicted spread.
        Both ends of an interval move alike.
    weight_decay : float or "auto", default="auto"
        Decoupled weight decay; biases, frequencies and phases are spared. "auto" is
        0.01, but 0.1 for networks that see the features alone where rows are held out.
    learning_rate_init : float, default=0.01
        Largest step of AdamW. The rate rises over the first tenth of training and
        then falls to 0 along a cosine.
    batch_size : int or "auto", default="auto"
        Rows per step. "auto" takes 64 below 2 000 training rows, 128 below
        20 000 and 256 from there on, and never more than there are.
    max_iter : int or "auto", default="auto"
        Number of passes over the training rows, before the finish and what a race may
        add (see Notes). "auto" makes 36, within 1 300 to 6 000 steps, counted as if no
        rows were held out; and 200 where no rows are held out.
    early_stopping : bool or "auto", default="auto"
        Whether each network holds out rows, keeps its state with the best
        held-out likelihood and stops when that no longer improves. "auto" does
        so from 50 rows on.
    validation_fraction : float, default=0.1
        Share of the rows that each network holds out, at most 10 000 rows.
    n_iter_no_change : int or "auto", default="auto"
        Passes without a better held-out likelihood after which a network stops;
        "auto" waits for a quarter of them, but at least for 30.
    tol : float, default=0.0
        What counts as better, in nats.
    warm_start : bool, default=False
        Whether ``fit`` goes on from the last fit, with the same scaling and the same
        networks: parameters that shape them must not change in between.
    device : str, default="cpu"
        Where torch computes, for instance "cuda". Pickles always hold CPU tensors.
    random_state : int, RandomState instance or None, default=None
        Determines initial weights, held-out rows, shuffles and noise; and the
        draws of :meth:`sample` unless it is given its own.
    verbose : int, default=0
        1 prints some twenty lines during training, 2 one per pass.

    Attributes
    ----------
    n_features_in_ : int
        Number of features seen in fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if they are all strings.
    n_outputs_ : int
        Number of outputs.
    resolution_ : float
        What the targets were rounded to; 0 if nothing says so.
    n_iter_ : int
        Number of passes made, of the view that made most; without the finish.
    loss_curve_ : list of float
        Training loss of each pass, averaged over every eighth step and over the
        networks: nats per row in the units of y, with the priors' share.
    validation_loss_curve_ : list of float or None
        Held-out negative log-likelihood of each pass as last judged, every network
        at the width that suits it best; None without early stopping.
    best_validation_loss_ : float or None
        Best held-out negative log-likelihood, averaged over the networks.
    module_ : MixtureEnsemble
        The networks: from standardised features to standardised mixtures.

    See Also
    --------
    sklearn.neural_network.MLPRegressor : Predicts the mean only.
    sklearn.mixture.GaussianMixture : The unconditional mixture.

    Notes
    -----
    The j-th networks of all views hold out the same rows. Each time these judge a
    network, its scales may get a common factor of at least 1. After a third of the
    passes, in fits of 12 passes and 1 500 steps or more, views whose networks are 0.15
    nats worse than those of the best are dropped; the others share two thirds of the
    passes these had left. In the end views get the weights, and all scales one factor,
    that make the held-out rows most likely [2]_ [3]_. If there is a resolution, their
    cells count, and no view is dropped. The loss is the density even then. Unless there
    is a ``weights_prior``, the same rows say which share of its weight every network
    divides equally among its components. A network that is sure of one would otherwise
    leave nothing for a target elsewhere.

    Then comes the finish: a view whose networks were best, on average, after a third of
    its passes or later makes a fifth more at a fifth of the rate, with three quarters
    of the held-out rows. The rest, if they are enough (from 375 rows on with the
    defaults), set the factor of the scales again; ten rows are granted to the one
    before.

    Where more than a tenth of the rows of X occur again, only held-out rows that are
    not among a network's training rows judge it. Instead of a finish, copies of the
    networks of the last view learn by heart, for half as many passes again. They count
    for rows of X that were there in fit, as much as held-out rows of this kind tell.

    With rows held out, networks of one normal target ("diag" or "spherical") that is
    known in all rows, with the default activation, hidden layers, no noise and no other
    prior than Dirichlet and inverse gamma are trained in float32 on the CPU. All
    others, and all queries, are computed in float64.

    The prior on the scales keeps the likelihood bounded. Priors are counted once for
    all rows seen; weights below 1 count as one row each there.

    Rows of weight 0 are dropped. A row of weight 2 equals the row repeated as long
    as training is full-batch without held-out rows and noise (below 50 rows with the
    defaults); otherwise about so: splits, shuffles and the rules above see rows.
    A constant target or feature is only centred: its scale counts as 1.

    References
    ----------
    .. [1] C. M. Bishop, "Mixture density networks", Technical report
       NCRG/94/004, Aston University, 1994, equations (22) and (23).
    .. [2] Y. Yao, A. Vehtari, D. Simpson and A. Gelman, "Using stacking to average
       Bayesian predictive distributions", Bayesian Analysis 13(3), 2018.
    .. [3] R. Ranjan and T. Gneiting, "Combining probability forecasts", Journal of
       the Royal Statistical Society B 72(1), 2010.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn import MixtureDensityRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-1, 1, size=(300, 1))
    >>> y = np.sign(rng.normal(size=300)) * (1 + X[:, 0]) + rng.normal(0, 0.1, 300)
    >>> model = MixtureDensityRegressor(random_state=0, max_iter=50).fit(X, y)
    >>> model.predict_quantiles([[0.9]], [0.25, 0.75]).round(0)
    array([[-2.,  2.]])
    >>> model.predict_distribution([[0.5]]).weights.shape
    (1, 60)
    """

    _parameter_constraints: dict = {
        "n_components": [Interval(numbers.Integral, 1, None, closed="left")],
        "family": [StrOptions(set(FAMILIES)), Family, list, tuple, dict],
        "covariance_type": [StrOptions({"full", "diag", "spherical", "tied"})],
        "hidden_layer_sizes": [
            StrOptions({"auto"}),
            "array-like",
            Interval(numbers.Integral, 1, None, closed="left"),
        ],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "embedding": [StrOptions(set(EMBEDDINGS)), list, tuple],
        "n_estimators": [Interval(numbers.Integral, 1, None, closed="left")],
        "temperature": [Interval(numbers.Real, 0, None, closed="neither"), tuple, list],
        "weights_prior": [
            Dirichlet,
            Interval(numbers.Real, 0, None, closed="neither"),
            None,
        ],
        "scales_prior": [StrOptions({"auto"}), ScalesPrior, None],
        "min_scale": [
            StrOptions({"auto"}),
            Interval(numbers.Real, 0, None, closed="neither"),
        ],
        "support": [list, tuple, None],
        "resolution": [
            StrOptions({"auto"}),
            Interval(numbers.Real, 0, None, closed="neither"),
            None,
        ],
        "x_noise": [Interval(numbers.Real, 0, None, closed="left")],
        "y_noise": [Interval(numbers.Real, 0, None, closed="left")],
        "weight_decay": [
            StrOptions({"auto"}),
            Interval(numbers.Real, 0, None, closed="left"),
        ],
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
        "tol": [Interval(numbers.Real, 0, None, closed="left")],
        "warm_start": ["boolean"],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_components=5,
        *,
        family="normal",
        covariance_type="diag",
        hidden_layer_sizes="auto",
        activation="silu",
        embedding="auto",
        n_estimators=4,
        temperature=1.0,
        weights_prior=None,
        scales_prior="auto",
        min_scale="auto",
        support=None,
        resolution="auto",
        x_noise=0.0,
        y_noise=0.0,
        weight_decay="auto",
        learning_rate_init=0.01,
        batch_size="auto",
        max_iter="auto",
        early_stopping="auto",
        validation_fraction=0.1,
        n_iter_no_change="auto",
        tol=0.0,
        warm_start=False,
        device="cpu",
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.family = family
        self.covariance_type = covariance_type
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.embedding = embedding
        self.n_estimators = n_estimators
        self.temperature = temperature
        self.weights_prior = weights_prior
        self.scales_prior = scales_prior
        self.min_scale = min_scale
        self.support = support
        self.resolution = resolution
        self.x_noise = x_noise
        self.y_noise = y_noise
        self.weight_decay = weight_decay
        self.learning_rate_init = learning_rate_init
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        # The score is a log-likelihood: no fixed number is a good one.
        tags.regressor_tags.poor_score = True
        tags.target_tags.positive_only = self._needs_positive_targets()
        return tags

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, *, y_upper=None):
        """Fit the networks.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets; predictions take the same form. Of several outputs, some may be
            missing (NaN): the others are learned from.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights; a row of weight 0 is as good as absent.
        y_upper : array-like, shaped like y, default=None
            Upper ends where y has lower ends: the target lies between, ends included.
            Ends may be -inf and inf; equal ones are a number that is known.

        Returns
        -------
        self : MixtureDensityRegressor
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data or a parameter cannot be used; the estimator is then what
            it was before.
        """
        with unchanged_on_error(self):
            goes_on = self._goes_on()
            rows = self._checked_rows(X, y, y_upper, sample_weight, reset=not goes_on)
            hold_out = self._held_out_share(len(rows.y))
            generator = self._prepare(rows, keep=goes_on, hold_out=hold_out)
            history, _ = self._train(
                rows,
                generator,
                self._settings(rows),
                hold_out=hold_out,
                cools=not goes_on,
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

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, sample_weight=None, *, y_upper=None):
        """Make one pass over a batch of rows.

        The first call fixes the scaling and the start of the components; it should
        see rows that resemble all of the data. The rate stays at
        ``learning_rate_init`` and no rows are held out. After :meth:`fit`, its
        networks are trained further.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights.
        y_upper : array-like, shaped like y, default=None
            Upper ends; see :meth:`fit`.

        Returns
        -------
        self : MixtureDensityRegressor
            The estimator.
        """
        goes_on = hasattr(self, "module_")
        with unchanged_on_error(self):
            rows = self._checked_rows(X, y, y_upper, sample_weight, reset=not goes_on)
            n_calls = getattr(self, "n_iter_", 0)
            generator = self._prepare(rows, keep=goes_on, n_calls=n_calls)
            history, states = self._train(
                rows,
                generator,
                self._settings(rows, one_pass=True),
                n_seen=getattr(self, "_n_seen", 0.0),
                states=getattr(self, "_optimizer_states", ()),
            )
            self.loss_curve_ = [*getattr(self, "loss_curve_", []), *history.loss]
            self.validation_loss_curve_ = None
            self.best_validation_loss_ = None
            self.n_iter_ = len(self.loss_curve_)
            self._optimizer_states = states
        warn_about(history)
        return self

    # Queries; the others are inherited.

    def predict_distribution(self, X, *, temperature=None):
        """Return the whole conditional distribution.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        temperature : float, default=None
            Replaces the estimator's: it divides the logits of the weights.

        Returns
        -------
        dist : PredictiveDistribution
            Its ``weights``, ``means`` and ``stds`` are the mixture's parameters in
            the units of y; the components of the networks stand side by side.
        """
        return self._distribution(self._checked_X(X), temperature)

    def log_prob(self, X, y, *, y_upper=None):
        """Return the log-likelihood of each target, in nats.

        It is a log density, of the outputs that are not missing. With a resolution it
        is the log probability of the cell ``y - resolution_ / 2`` to
        ``y + resolution_ / 2`` instead, which no spike can raise above 0, and with
        ``y_upper`` that of the interval. For densities of rounded targets there is
        ``predict_distribution(X).log_prob(y)``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        y_upper : array-like, shaped like y, default=None
            Upper ends; see :meth:`fit`.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,)
            Log-likelihoods in the units of y.

        Raises
        ------
        ValueError
            If the data cannot be used.
        """
        X = self._checked_X(X)
        targets = self._checked_targets(y, y_upper)
        check_consistent_length(X, targets)
        return self._log_likelihood(X, targets)
