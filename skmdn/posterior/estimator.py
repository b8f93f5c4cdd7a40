"""The posterior for every observation at once, learned from simulations."""

import numbers

import numpy as np
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted

from skmdn._sklearn import Interval, StrOptions, _fit_context
from skmdn.base import unchanged_on_error, warn_about
from skmdn.predictive import row_chunks
from skmdn.variational import VariationalPosterior

from .flows import AMORTIZED_FLOWS
from .simulated import Source, online_parts
from .training import AmortizedTraining

__all__ = ["AmortizedPosterior"]


class AmortizedPosterior(AmortizedTraining):
    r"""The posterior of a simulator's parameters, for all observations at once.

    Networks learn from simulated pairs how the posterior depends on the data:

    .. math::
        q(\theta \mid x) = \sum_k w_k(x)\, \mathcal{N}(u(\theta) \mid \mu_k(x),
        \Sigma_k(x)) \left| \frac{\partial u}{\partial \theta} \right|, \qquad
        \max_q \sum_i \log q(\theta_i \mid x_i)

    in coordinates u without bounds, in which the prior is about standard normal. A
    posterior can therefore never leave the prior's support and always integrates to 1.
    Once fitted, any observation is answered by one pass through the networks.

    In the language of scikit-learn it is a regressor whose features are the simulated
    data and whose targets are the parameters. With the two exchanged it learns the
    likelihood :math:`p(x \mid \theta)`; see :ref:`the guide <amortized>`.

    Parameters
    ----------
    prior : sequence, distribution, dict, Prior or None, default=None
        Where the parameters come from, as :class:`skmdn.VariationalPosterior` takes it:
        one entry for each parameter, a frozen distribution of scipy or a pair
        (low, high), or a joint distribution of scipy or torch. Only its support and its
        quantiles are used, never its density: that is in the simulations. None, for all
        parameters or as an entry, stands for a parameter without bounds that is
        measured by the simulations' mean and standard deviation.
    density : {"mixture", "nsf", "maf", "nice", "naf", "sospf", "gf"}, default="mixture"
        The family of posteriors in the coordinates: mixtures of correlated normals, or
        flows of zuko (extra ``flows``), which learn from simulated pairs only. The last
        three take the networks one by one and draw by a search.
    n_components : int, default=10
        Components of each network; of mixtures only.
    summary : str, Summary, callable or None, default=None
        What summarises data that are sets or series of items: "deep_set",
        "set_transformer", "recurrent" or "mlp", an object of :mod:`skmdn.summaries`, or
        a function that returns one. X then has the shape (n_samples, n_items[,
        n_features]), padded by NaN, or is a list of rows of different lengths.
    objective : {"log_score", "elbo", "mixed"}, default="log_score"
        What is maximised: the log density of the simulated parameters; the evidence
        lower bound of ``potential``; or half of each.
    potential : callable, default=None
        For the bound: maps tensors of parameters ``(..., n_parameters)`` and data
        ``(..., n_features)``, in double precision, to the log joint density ``(...)``,
        up to a constant; gradients have to flow through it.
    hidden_layer_sizes : int or sequence of int, default=(50, 50, 50)
        Widths of the hidden layers.
    activation : {"auto", "relu", "silu"}, default="auto"
        "silu" suits posteriors that change smoothly with the data, "relu" those whose
        width follows the data over orders of magnitude. "auto" begins with both; after
        some 450 steps held-out simulations choose one of them. Where none are held out
        both stay.
    n_estimators : int, default=4
        Networks of each kind whose posteriors are averaged.
    dropout : float or "auto", default="auto"
        Share of the hidden units that a training step leaves out; "auto" takes 0.05
        with "relu" and none with "silu". Without held-out rows none is left out, and
        none of a flow.
    learning_rate_init : float, default=0.003
        Largest step of AdamW, reached after 120 steps. What counts is a running average
        of the parameters.
    batch_size : int or "auto", default="auto"
        Simulations per step; "auto" takes 200, below 4000 simulations 100, and never
        more than there are.
    max_iter : int or "auto", default="auto"
        Number of passes over the simulations. "auto" makes at most as many as hold 9000
        steps with "relu" and 4320 with "silu"; a third of that below 4000 simulations.
    early_stopping : bool or "auto", default="auto"
        Whether each network holds out simulations, keeps its state with the best
        held-out likelihood and stops when that no longer improves. "auto" does so
        from 50 simulations on.
    validation_fraction : float, default=0.1
        Share of the simulations that each network holds out.
    n_iter_no_change : int or "auto", default="auto"
        Passes without a better held-out likelihood after which a network stops;
        "auto" takes as many as hold 900 steps, or as it took to find the best state if
        those are fewer, but at least as many as hold 120 steps.
    check_observations : bool, default=False
        Whether answers for observations far outside of the simulations come with a
        warning; see :meth:`observation_pvalues`.
    warm_start : bool, default=False
        Whether ``fit`` goes on from the last fit, with the same scaling and the same
        networks: parameters that shape them must not change in between.
    device : str, default="cpu"
        Where torch computes, for instance "cuda". Pickles always hold CPU tensors.
    random_state : int, RandomState instance or None, default=None
        Determines initial weights, held-out rows, shuffles and what is left out; and
        the draws of :meth:`sample` unless it is given its own.
    verbose : int, default=0
        1 prints some twenty lines during training, 2 one per pass.

    Attributes
    ----------
    n_features_in_ : int
        Number of features of the data, or of their items.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if they are all strings.
    n_outputs_ : int
        Number of parameters.
    n_failed_ : int
        Simulations with NaN or infinity that were left out.
    n_iter_ : int
        Number of passes made.
    loss_curve_ : list of float
        Training loss of each pass, in nats and in the parameters' own units.
    validation_loss_curve_ : list of float or None
        Held-out negative log density of each pass; None without early stopping.
    best_validation_loss_ : float or None
        Best held-out negative log density, averaged over the networks.
    module_ : MixtureEnsemble or FlowEnsemble
        The networks: from standardised data to densities of the coordinates.

    See Also
    --------
    skmdn.VariationalPosterior : The posterior of one observation, from a potential.
    skmdn.MixtureDensityRegressor : Densities of measured rather than simulated data.
    skmdn.simulation.make_simulator : Where simulations come from.

    Notes
    -----
    The precision of each component has a triangular factor whose diagonal is the image
    of raw numbers under softplus ("relu") or the exponential ("silu"), times a
    parameter for each component that does not depend on the data. Means are around a
    line in the data that starts at a ridge regression. Small initial weights matter:
    with large ones networks memorise simulations before they find what matters.

    Flows are zuko's, around the same line. Their means, quantiles and intervals are
    those of 4000 draws, always the same, and modes the best of climbs from these: both
    are drawn for each row, and are slower than the closed forms of mixtures.

    Simulations with NaN or infinity are counted and left out with a warning, which
    makes the posterior one given success; where fewer than 20 would be left they are
    an error. Gradients are computed by hand on the CPU, in single precision from 50
    simulations on; queries are computed in double precision.

    Examples
    --------
    >>> from skmdn import AmortizedPosterior
    >>> from skmdn.datasets import inference_task
    >>> task = inference_task("gaussian_linear_uniform")
    >>> data = task.sample(1000, random_state=0)
    >>> model = AmortizedPosterior([(-1, 1)] * 10, max_iter=10, random_state=0)
    >>> model = model.fit(data["x"], data["theta"])
    >>> draws = model.sample(data["x"][:3], 500)
    >>> draws.shape, bool(abs(draws).max() < 1)
    ((3, 500, 10), True)
    """

    _parameter_constraints: dict = {
        "prior": "no_validation",
        "density": [StrOptions({"mixture", *AMORTIZED_FLOWS})],
        "n_components": [Interval(numbers.Integral, 1, None, closed="left")],
        "summary": "no_validation",
        "objective": [StrOptions({"log_score", "elbo", "mixed"})],
        "potential": [callable, None],
        "hidden_layer_sizes": [
            "array-like",
            Interval(numbers.Integral, 1, None, closed="left"),
        ],
        "activation": [StrOptions({"auto", "relu", "silu"})],
        "n_estimators": [Interval(numbers.Integral, 1, None, closed="left")],
        "dropout": [
            StrOptions({"auto"}),
            Interval(numbers.Real, 0, 1, closed="left"),
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
        "check_observations": ["boolean"],
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
        potential=None,
        hidden_layer_sizes=(50, 50, 50),
        activation="auto",
        n_estimators=4,
        dropout="auto",
        learning_rate_init=0.003,
        batch_size="auto",
        max_iter="auto",
        early_stopping="auto",
        validation_fraction=0.1,
        n_iter_no_change="auto",
        check_observations=False,
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
        self.potential = potential
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
        self.check_observations = check_observations
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
            self._check_objective()
            goes_on = self.warm_start and hasattr(self, "module_")
            rows = self._checked_rows(X, y, sample_weight, reset=not goes_on)
            generator = self._prepare(rows, keep=goes_on)
            history, _ = self._train(
                rows,
                generator,
                self._settings(len(rows)),
                hold_out=self._hold_out(len(rows)),
            )
            self._measure_outlyingness(rows)
            self._keep(history, [])
            self._optimizer_states = ()
        warn_about(history)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, sample_weight=None):
        """Make one pass over some simulations.

        The first call fixes the scaling and the line that the networks start from; it
        should see simulations that resemble all of them, a thousand or more. The rate
        stays at ``learning_rate_init``, no rows are held out and both activations of
        "auto" stay. After :meth:`fit`, its networks are trained further.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Simulated data.
        y : array-like of shape (n_samples,) or (n_samples, n_parameters)
            The parameters they were simulated with.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights.

        Returns
        -------
        self : AmortizedPosterior
            The estimator.
        """
        with unchanged_on_error(self):
            self._check_objective()
            history = self._pass(X, y, sample_weight, self.learning_rate_init)
        warn_about(history)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_online(
        self, simulator, n_batches=6000, *, parameters="theta", data="x", weigh=1000
    ):
        """Learn from simulations that are made while the networks are trained.

        Every simulation is seen once, so that nothing can be memorised. The rate stays
        for half of the time and then falls.

        Parameters
        ----------
        simulator : object or callable
            Has a method ``sample(n_samples, random_state=...)`` that returns a dict of
            arrays, as those of :mod:`skmdn.simulation` and
            :mod:`skmdn.datasets`; or is called with a number and a
            :class:`numpy.random.RandomState` and returns data and parameters.
        n_batches : int, default=6000
            Number of steps, each with ``batch_size`` fresh simulations.
        parameters, data : str, default="theta", "x"
            Their names in the dict. If there is a mask, ``data + "_mask"``, it is
            applied.
        weigh : int, default=1000
            Further simulations on which networks are weighed in the end; flows all
            count alike.

        Returns
        -------
        self : AmortizedPosterior
            The fitted estimator.
        """
        source = Source(simulator, parameters, data)
        size = 200 if self.batch_size == "auto" else self.batch_size
        with unchanged_on_error(self):
            self._check_objective()
            self._forget()
            rng = check_random_state(self.random_state)
            histories = []
            for n_steps, share in online_parts(n_batches):
                X, y = source.draw(n_steps * size, rng)
                rate = self.learning_rate_init * share
                histories.append(self._pass(X, y, None, rate))
            if weigh and self.density == "mixture":
                X, y = source.draw(weigh, rng)
                self._weigh(self._checked_rows(X, y, None, reset=False))
        for history in histories:
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

        Raises
        ------
        AttributeError
            If the posteriors are flows, which have no components.
        """
        X = self._checked_X(X)
        if self._has_flows():
            raise AttributeError(
                "Flows have no predictive distribution in closed form; use sample, "
                "log_prob, predict, predict_quantiles or map, or density='mixture'."
            )
        return self._distribution(X)

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

    def observation_pvalues(self, X):
        """Return how usual observations are among the simulations.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Observations.

        Returns
        -------
        p_values : ndarray of shape (n_samples,)
            The share of the simulations that lie as far from their mean, measured by
            the covariance of the data or of what the first network makes of them. An
            answer for an observation that no simulation resembles is a guess.
        """
        X = self._checked_X(X, quietly=True)
        return self._outlyingness.p_values(self._summaries(X))

    def refine(self, x, potential=None, **params):
        """Fit the posterior of one observation, beginning with the amortized one.

        Parameters
        ----------
        x : array-like of shape (n_features,) or (1, n_features)
            The observation.
        potential : callable, default=None
            ``potential(theta, x)`` or ``potential(theta)``, the log joint density up
            to a constant; the estimator's own by default.
        **params : dict
            Parameters of :class:`skmdn.VariationalPosterior`.

        Returns
        -------
        posterior : VariationalPosterior
            Fitted to x, with a report of its quality.
        """
        potential = self.potential if potential is None else potential
        if potential is None:
            raise ValueError("refine needs a potential: the log joint density.")
        check_is_fitted(self, "module_")
        x = np.asarray(x, dtype=np.float64)
        X = self._checked_X(x[None] if self.summary is not None or x.ndim == 1 else x)
        if len(X) != 1:
            raise ValueError(f"refine takes one observation, got {len(X)}.")
        known = {"q": self._density(X), "random_state": self.random_state}
        known["prior"] = self._prior
        posterior = VariationalPosterior(potential, **(known | params))
        return posterior.fit(X.reshape(1, -1))
