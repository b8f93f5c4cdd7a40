"""VariationalPosterior: a mixture for an unnormalised density, and how good it is."""

import warnings
from numbers import Integral, Real

import numpy as np
from sklearn.base import DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from ._sklearn import Interval, StrOptions, _fit_context
from .base import TorchEstimator, unchanged_on_error
from .bridge import generator_from
from .covering.objectives import METHODS
from .parameter_space import ParameterSpace
from .posterior_fit import Descent, PosteriorFit, Problem
from .potentials import takes_observation

__all__ = ["VariationalPosterior"]

_FEWEST_EVALS = 5_000


class VariationalPosterior(DensityMixin, TorchEstimator):
    r"""A mixture of normals fitted to an unnormalised log density.

    .. math:: q(\theta) = \sum_k w_k \, \mathcal{N}(u(\theta) \mid \mu_k, \Sigma_k)
        \left| \frac{\partial u}{\partial \theta} \right|
        \approx \frac{p(\theta)}{Z}

    in coordinates u in which the prior is standard normal, so that bounds are kept.
    The fit starts from draws of the prior and follows them to the target, so that it
    covers all modes that these draws have seen; climbs from those that stand out find
    narrower ones; components are added where the mixture falls short.

    Parameters
    ----------
    potential : callable
        ``potential(theta)`` or ``potential(theta, x)``: the log density of every row
        of ``theta``, shape ``(n_points, n_parameters)``, up to a constant; -inf where
        it is 0. It may take and return tensors, through which gradients flow if they
        can, or arrays. ``x`` is a row of the X of fit.
    prior : sequence or distribution, default=None
        Where the search begins, and the bounds of the parameters: a sequence with one
        entry per parameter, each a frozen distribution of scipy or a pair
        ``(low, high)``; or ``scipy.stats.multivariate_normal``; or a distribution of
        torch. By default the potential's attribute ``prior``.
    q : {"mixture", "gaussian", "gaussian_diag"}, default="mixture"
        The family: a mixture of normals; one normal; one with independent
        coordinates.
    n_components : int or "auto", default="auto"
        The largest number of components. "auto" is 100, or 30 in a frugal fit. Also
        for a single normal a mixture comes first, from which it starts.
    vi_method : {"auto", "rKL", "fKL", "IW", "alpha"}, default="auto"
        What is minimised. "auto" judges candidates from both sides, by KL(q || p) and
        KL(p || q). The others follow it by a stochastic descent: on the reverse or
        forward divergence, the importance-weighted bound, or Renyi's. All but "auto"
        and "fKL" need gradients of the potential.
    alpha_order : float, default=0.5
        The order of Renyi's bound; 1 is the evidence lower bound.
    n_particles : int, default=256
        Draws in a step of the descent.
    n_importance : int, default=8
        Draws in each group of "IW".
    stick_the_landing : bool, default=False
        Whether the parameters of log q are held fixed in gradients, which is unbiased
        for "rKL" only.
    dreg : bool, default=False
        Whether gradients of "IW" and "alpha" are doubly reparametrised; not for a
        mixture.
    weight_transform : callable, default=None
        Applied to the normalised weights of "fKL", a tensor.
    max_iter : int, default=300
        Steps of the descent.
    learning_rate_init : float, default=0.03
        Its first rate, in standard deviations of the start.
    max_grad_norm : float, default=10.0
        Longer gradients are shortened.
    add_prior : bool, default=False
        Whether the potential is a log likelihood, to which the log density of the
        prior has to be added.
    quality_control : {"warn", "retry", "off"}, default="warn"
        What follows if the report has doubts: a warning; a second fit with more draws
        from the prior and more components, then a warning; nothing.
    max_potential_evals : int, default=400000
        How many points the potential may be asked for in a fit, for each row of X.
        Below 50 000 the fit is frugal: it draws less, and may miss more.
    random_state : int, RandomState instance or None, default=None
        The seed of all draws.

    Attributes
    ----------
    posterior_ : PosteriorDensity
        The fitted density, with moments, marginals and conditionals; with several
        rows of X that of the first.
    posteriors_ : list of PosteriorDensity
        One for each row of X.
    report_ : Bunch
        What :meth:`evaluate` returns; of the first row.
    log_evidence_ : float or ndarray of shape (n_rows,)
        The logarithm of the integral of the target.
    n_features_in_ : int
        The number of columns of X, if fit was given one.

    Notes
    -----
    The coverage check of the report compares the evidence under q with that under q
    and all draws on the way from the prior. It sees a mode that was visited and lost.
    A narrow mode that no draw from the prior came near cannot be seen by any check:
    then only a better prior, or more evaluations, help.

    Examples
    --------
    >>> from skmdn import VariationalPosterior
    >>> def potential(theta):
    ...     return -10 * ((theta ** 2).sum(1) - 4) ** 2
    >>> vp = VariationalPosterior(
    ...     potential, [(-5, 5)], max_potential_evals=20_000, random_state=0).fit()
    >>> modes, heights = vp.map(return_all=True)
    >>> sorted(modes.round(3).ravel().tolist())
    [-2.0, 2.0]
    """

    _parameter_constraints = {
        "potential": [callable],
        "prior": "no_validation",
        "n_components": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "q": [StrOptions({"mixture", "gaussian", "gaussian_diag"})],
        "vi_method": [StrOptions({"auto", *METHODS})],
        "alpha_order": [Interval(Real, 0, None, closed="left")],
        "n_particles": [Interval(Integral, 1, None, closed="left")],
        "n_importance": [Interval(Integral, 1, None, closed="left")],
        "stick_the_landing": ["boolean"],
        "dreg": ["boolean"],
        "weight_transform": [callable, None],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither")],
        "add_prior": ["boolean"],
        "quality_control": [StrOptions({"warn", "retry", "off"})],
        "max_potential_evals": [Interval(Integral, _FEWEST_EVALS, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        potential,
        prior=None,
        *,
        q="mixture",
        n_components="auto",
        vi_method="auto",
        alpha_order=0.5,
        n_particles=256,
        n_importance=8,
        stick_the_landing=False,
        dreg=False,
        weight_transform=None,
        max_iter=300,
        learning_rate_init=0.03,
        max_grad_norm=10.0,
        add_prior=False,
        quality_control="warn",
        max_potential_evals=400_000,
        random_state=None,
    ):
        self.potential = potential
        self.prior = prior
        self.q = q
        self.n_components = n_components
        self.vi_method = vi_method
        self.alpha_order = alpha_order
        self.n_particles = n_particles
        self.n_importance = n_importance
        self.stick_the_landing = stick_the_landing
        self.dreg = dreg
        self.weight_transform = weight_transform
        self.max_iter = max_iter
        self.learning_rate_init = learning_rate_init
        self.max_grad_norm = max_grad_norm
        self.add_prior = add_prior
        self.quality_control = quality_control
        self.max_potential_evals = max_potential_evals
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X=None, y=None, *, start=None):
        """Fit the mixture to the posterior of every row of X.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features), default=None
            Observations, one posterior for each row; not needed by a potential of
            ``theta`` alone.
        y : None
            Ignored.
        start : PosteriorDensity, default=None
            An approximation from which the search draws as well as from the prior, for
            example that of an earlier fit; in the coordinates of this prior.

        Returns
        -------
        self : VariationalPosterior
            The fitted estimator.

        Raises
        ------
        ValueError
            If the potential fails, or is finite nowhere among the prior's draws.
        """
        with unchanged_on_error(self):
            descent = Descent.from_params(**self.get_params())
            observations = self._observations(X)
            space = self._parse_prior()
            rng = check_random_state(self.random_state)
            self._fits = [
                self._fit_row(
                    Problem(self.potential, space, x, self.add_prior),
                    descent,
                    generator_from(rng),
                    start,
                )
                for x in observations
            ]
            self.posteriors_ = [fit.density for fit in self._fits]
            self.posterior_ = self.posteriors_[0]
            self.report_ = Bunch(**self._fits[0].report)
            evidence = np.array([fit.report["log_evidence"] for fit in self._fits])
            self.log_evidence_ = evidence if len(evidence) > 1 else float(evidence[0])
        self._warn()
        return self

    @property
    def n_potential_evals_(self):
        """How many points the potential has been asked for, of all rows together."""
        check_is_fitted(self)
        return sum(fit.n_evals for fit in self._fits)

    def sample(self, n_samples=1, X=None, *, method="q", random_state=None):
        """Draw parameters.

        Parameters
        ----------
        n_samples : int, default=1
            How many, of each posterior.
        X : array-like of shape (n_rows, n_features), default=None
            Rows that fit was given; by default all of them.
        method : {"q", "sir", "psir"}, default="q"
            From the mixture; or resampled by importance from ten times as many draws,
            for which the potential is asked, with raw or with Pareto-smoothed weights.
        random_state : int, RandomState instance or None, default=None
            The seed of the draws; None uses the estimator's ``random_state``.

        Returns
        -------
        draws : ndarray of shape (n_samples, n_parameters) or \
                (n_rows, n_samples, n_parameters)
            Without the first axis if there is a single posterior and no X.
        """
        check_is_fitted(self)
        if not isinstance(n_samples, Integral) or n_samples < 1:
            raise ValueError(
                f"n_samples must be a positive integer, got {n_samples!r}."
            )
        if method not in ("q", "sir", "psir"):
            raise ValueError(f"method={method!r} must be 'q', 'sir' or 'psir'.")
        if random_state is None:
            random_state = self.random_state
        generator = generator_from(random_state)
        draws = [fit.draw(int(n_samples), method, generator) for fit in self._chosen(X)]
        return self._joined(draws, X)

    def score_samples(self, theta, X=None):
        """Return the log density of parameters under the mixture.

        Parameters
        ----------
        theta : array-like of shape (n_points, n_parameters)
            Points.
        X : array-like of shape (n_rows, n_features), default=None
            Rows that fit was given; by default all of them.

        Returns
        -------
        log_prob : ndarray of shape (n_points,) or (n_rows, n_points)
            In nats; -inf outside of the prior's support.
        """
        check_is_fitted(self)
        theta = self._checked_theta(theta)
        return self._joined([f.density.log_prob(theta) for f in self._chosen(X)], X)

    def score(self, theta, y=None):
        """Return the mean log density of parameters under the mixture.

        Parameters
        ----------
        theta : array-like of shape (n_points, n_parameters)
            Points.
        y : None
            Ignored.

        Returns
        -------
        score : float
            In nats per point; higher is better.
        """
        return float(np.mean(self.score_samples(theta)))

    def predict(self, X=None, return_std=False):
        """Return the posterior mean.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features), default=None
            Rows that fit was given; by default all of them.
        return_std : bool, default=False
            Whether to return standard deviations as well.

        Returns
        -------
        mean : ndarray of shape (n_parameters,) or (n_rows, n_parameters)
            Under the mixture.
        std : ndarray, shaped like mean
            Only if ``return_std``.
        """
        check_is_fitted(self)
        chosen = self._chosen(X)
        mean = self._joined([fit.density.mean() for fit in chosen], X)
        if not return_std:
            return mean
        stds = [np.sqrt(np.diag(fit.density.cov())) for fit in chosen]
        return mean, self._joined(stds, X)

    def map(self, X=None, return_all=False):
        """Return where the target itself is highest.

        Climbs begin at draws and components of the mixture; they follow the density of
        the parameters, without the Jacobian of the links. The answer is kept.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features), default=None
            Rows that fit was given; by default all of them.
        return_all : bool, default=False
            Whether to return all modes that were found, with their heights.

        Returns
        -------
        modes : ndarray of shape (n_parameters,), or (n_modes, n_parameters)
            The highest first; with several rows a list of these if ``return_all``.
        log_density : ndarray of shape (n_modes,)
            What the target is there; only if ``return_all``.
        """
        check_is_fitted(self)
        found = [fit.modes() for fit in self._chosen(X)]
        if not return_all:
            return self._joined([modes[0] for modes, _ in found], X)
        if len(found) == 1:
            return found[0]
        return [modes for modes, _ in found], [heights for _, heights in found]

    def evaluate(self, n_samples=10_000, X=None, *, random_state=None):
        """Judge the mixture by fresh draws, and keep the report.

        Parameters
        ----------
        n_samples : int, default=10000
            How many draws.
        X : array-like of shape (n_rows, n_features), default=None
            Rows that fit was given; by default all of them.
        random_state : int, RandomState instance or None, default=None
            The seed of the draws; None uses the estimator's ``random_state``.

        Returns
        -------
        report : Bunch, or list of Bunch
            ``khat`` (the shape of the weights' tail: doubtful above 0.7), ``ess`` and
            ``efficiency``, ``log_evidence`` and ``log_evidence_se``, ``elbo`` and
            ``truncated_elbo`` (of q without the share ``cut`` of its draws),
            ``divergence`` (an estimate of KL(p || q)), ``prop`` (how well the density
            is proportional to q), ``log_evidence_defensive`` and ``missed`` (the
            coverage check), ``suspicious`` (whether it found something) and
            ``doubts`` (in words).
        """
        check_is_fitted(self)
        if random_state is None:
            random_state = self.random_state
        generator = generator_from(random_state)
        reports = [
            Bunch(**fit.evaluate(n_samples, generator)) for fit in self._chosen(X)
        ]
        self.report_ = Bunch(**self._fits[0].report)
        return reports if len(reports) > 1 else reports[0]

    # What is below.

    def _observations(self, X):
        """Return the rows of X, or None for a potential of theta alone."""
        wanted = takes_observation(self.potential)
        if X is None:
            if wanted:
                raise ValueError("potential(theta, x) has two arguments: fit needs X.")
            return [None]
        X = validate_data(self, X, dtype=np.float64)
        return list(X) if wanted else [None]

    def _parse_prior(self):
        prior = self.prior
        if prior is None:
            prior = getattr(self.potential, "prior", None)
        if prior is None:
            raise ValueError(
                "prior=None and the potential has none: the search has to begin "
                "somewhere, for example prior=[(-1, 1), scipy.stats.norm(0, 10)]."
            )
        space = ParameterSpace.parse(prior)
        if self.add_prior and not space.exact and space.log_prob is None:
            raise ValueError(
                "add_prior=True needs a prior with a density; a half-line has none."
            )
        return space

    def _fit_row(self, problem, descent, generator, start):
        auto = self.n_components == "auto"

        def attempt(effort):
            return PosteriorFit.fit(
                problem,
                descent,
                max_evals=self.max_potential_evals,
                max_components=None if auto else self.n_components,
                effort=effort,
                generator=generator,
                start=None if start is None else start.normals,
            )

        first = attempt(1)
        if self.quality_control != "retry" or not first.report["doubts"]:
            return first
        second = attempt(2)
        second.n_evals += first.n_evals
        both = (first, second)
        keys = [(len(f.report["doubts"]), f.report["divergence"]) for f in both]
        return second if keys[1] <= keys[0] else first

    def _warn(self):
        if self.quality_control == "off":
            return
        doubtful = [f.report["doubts"] for f in self._fits if f.report["doubts"]]
        if doubtful:
            warnings.warn(
                f"The fit may not be good enough: {'; '.join(doubtful[0])}. "
                "sample(method='psir') corrects small errors; more max_potential_evals "
                "or a narrower prior help against large ones.",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _chosen(self, X):
        """Return the fits of rows that fit was given."""
        if X is None:
            return self._fits
        X = validate_data(self, X, dtype=np.float64, reset=False)
        if self._fits[0].problem.observation is None:
            return self._fits * len(X)
        chosen = []
        for row in X:
            same = [f for f in self._fits if np.array_equal(f.problem.observation, row)]
            if not same:
                raise ValueError(
                    f"This {type(self).__name__} was not fitted to the observation "
                    f"{row.tolist()}; fit answers for the rows of its X only."
                )
            chosen.append(same[0])
        return chosen

    def _joined(self, parts, X):
        return parts[0] if X is None and len(self._fits) == 1 else np.stack(parts)

    def _checked_theta(self, theta):
        theta = check_array(theta, dtype=np.float64, input_name="theta")
        if theta.shape[1] != self.posterior_.n_features:
            raise ValueError(
                f"theta has {theta.shape[1]} columns; the prior has "
                f"{self.posterior_.n_features} parameters."
            )
        return theta
