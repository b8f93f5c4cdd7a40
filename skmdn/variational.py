"""VariationalPosterior: a mixture for an unnormalised density, and how good it is."""

import warnings
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
from sklearn.base import DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from ._sklearn import Interval, StrOptions, _fit_context
from .base import TorchEstimator, unchanged_on_error
from .bridge import generator_from, to_numpy, to_tensor
from .covering import Covering, LinkedNormals, Normals, Settings, Target, cover
from .covering.pareto import pareto_smoothed
from .covering.quality import coverage, fresh_draws, measure
from .covering.summits import summits
from .parameter_space import ParameterSpace
from .posterior_density import PosteriorDensity
from .potentials import Potential, takes_observation

__all__ = ["VariationalPosterior"]

# Fewer evaluations than this make the fit frugal.
_FRUGAL = 50_000
_FEWEST_EVALS = 5_000
# A shape of the weights' tail above this: estimates by them cannot be trusted.
_MAX_KHAT = 0.7
_MIN_EFFICIENCY = 0.05
# Draws for each that sample keeps after resampling.
_OVERSAMPLING = 10
_MODE_STARTS = 60
_MODE_EVALS = 200_000


@dataclass
class _Fit:
    """What is known about the posterior of one observation."""

    observation: np.ndarray | None
    covering: Covering
    report: Bunch
    density: PosteriorDensity
    modes: tuple[np.ndarray, np.ndarray] | None = None


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
    n_components : int or "auto", default="auto"
        The largest number of components. "auto" is 100, or 30 in a frugal fit.
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
    n_potential_evals_ : int
        How many points the potential has been asked for, of all rows together.
    n_features_in_ : int
        The number of columns of X, if fit was given one.

    See Also
    --------
    skmdn.MixtureDensityRegressor : Learns a conditional density from data.

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
    >>> vp.map(return_all=True)[0].round(3).ravel()
    array([ 2., -2.])
    """

    _parameter_constraints = {
        "potential": [callable],
        "prior": "no_validation",
        "n_components": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
        ],
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
        n_components="auto",
        add_prior=False,
        quality_control="warn",
        max_potential_evals=400_000,
        random_state=None,
    ):
        self.potential = potential
        self.prior = prior
        self.n_components = n_components
        self.add_prior = add_prior
        self.quality_control = quality_control
        self.max_potential_evals = max_potential_evals
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X=None, y=None):
        """Fit the mixture to the posterior of every row of X.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features), default=None
            Observations, one posterior for each row; not needed by a potential of
            ``theta`` alone.
        y : None
            Ignored.

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
            observations = self._observations(X)
            self._space = self._parse_prior()
            rng = check_random_state(self.random_state)
            self.n_potential_evals_ = 0
            self._fits = [self._fit_row(x, generator_from(rng)) for x in observations]
            self.posteriors_ = [fit.density for fit in self._fits]
            self.posterior_ = self.posteriors_[0]
            self.report_ = self._fits[0].report
            evidence = np.array([fit.report.log_evidence for fit in self._fits])
            self.log_evidence_ = evidence if len(evidence) > 1 else float(evidence[0])
        self._warn()
        return self

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
        draws = [
            self._draws(fit, int(n_samples), method, generator)
            for fit in self._chosen(X)
        ]
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
        found = [self._modes(fit) for fit in self._chosen(X)]
        if not return_all:
            return self._joined([modes[0] for modes, _ in found], X)
        if len(found) == 1:
            return found[0]
        return [modes for modes, _ in found], [heights for _, heights in found]

    def evaluate(self, X=None, n_samples=10_000, random_state=None):
        """Judge the mixture by fresh draws, and keep the report.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features), default=None
            Rows that fit was given; by default all of them.
        n_samples : int, default=10000
            How many draws.
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
            coverage check), ``suspicious`` (whether it found something), ``doubts``
            (in words) and ``n_evals``.
        """
        check_is_fitted(self)
        if random_state is None:
            random_state = self.random_state
        generator = generator_from(random_state)
        reports = []
        for fit in self._chosen(X):
            target = self._target(fit.observation, n_samples)
            covering = fit.covering
            u, log_p = fresh_draws(target, covering.normals, n_samples, generator)
            n_evals = fit.report.n_evals + target.n_evals
            quality = measure(covering.normals, u, log_p)
            check = coverage(covering.normals, u, log_p, covering.batches)
            fit.report = _report(quality, check, covering.power, n_evals, target.n_nan)
            reports.append(fit.report)
        self.report_ = self._fits[0].report
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

    def _target(self, observation, max_evals, heights=False):
        """Return the target of an observation in the coordinates of the prior."""
        space = self._space
        middle = torch.zeros(2, space.n_features, dtype=torch.float64)
        probe = space.coordinates.forward(middle)
        potential = Potential(self.potential, observation, probe)
        function, differentiable = potential, potential.differentiable
        if self.add_prior and not space.exact:
            function = _Sum(potential, space.log_prob)
            differentiable = differentiable and space.differentiable
        return Target(
            function,
            space.coordinates,
            max_evals=max_evals,
            differentiable=differentiable,
            base="prior" if self.add_prior and space.exact else "parameters",
            heights=heights,
        )

    def _fit_row(self, observation, generator):
        fit = self._attempt(observation, generator, 1)
        if self.quality_control == "retry" and fit.report.doubts:
            second = self._attempt(observation, generator, 2)
            keys = [(len(f.report.doubts), f.report.divergence) for f in (fit, second)]
            fit = fit if keys[0] <= keys[1] else second
        return fit

    def _attempt(self, observation, generator, effort):
        """Fit once; an effort of 2 draws and allows twice as much."""
        target = self._target(observation, effort * self.max_potential_evals)
        frugal = self.max_potential_evals < _FRUGAL
        most = None if self.n_components == "auto" else self.n_components
        settings = Settings.for_dimension(
            target.n_features, frugal=frugal, max_components=most, effort=effort
        )
        covering = cover(target, settings, generator)
        self.n_potential_evals_ += target.n_evals
        report = _report(
            covering.quality,
            covering.coverage,
            covering.power,
            target.n_evals,
            target.n_nan,
        )
        linked = LinkedNormals(self._space.coordinates, covering.normals)
        return _Fit(observation, covering, report, PosteriorDensity(linked))

    def _warn(self):
        if self.quality_control == "off":
            return
        for fit in self._fits:
            if fit.report.doubts:
                warnings.warn(
                    "The mixture may not be good enough: "
                    + "; ".join(fit.report.doubts)
                    + ". sample(method='psir') corrects small errors; more "
                    "max_potential_evals or a narrower prior help against large ones.",
                    ConvergenceWarning,
                    stacklevel=3,
                )
                return

    def _chosen(self, X):
        """Return the fits of rows that fit was given."""
        if X is None or self._fits[0].observation is None:
            return self._fits
        X = validate_data(self, X, dtype=np.float64, reset=False)
        chosen = []
        for row in X:
            same = [f for f in self._fits if np.array_equal(f.observation, row)]
            if not same:
                raise ValueError(
                    f"This {type(self).__name__} was not fitted to the observation "
                    f"{row.tolist()}; fit answers for the rows of its X only."
                )
            chosen.append(same[0])
        return chosen

    def _joined(self, parts, X):
        if len(self._fits) == 1 and (X is None or self._fits[0].observation is None):
            return parts[0]
        return np.stack(parts)

    def _checked_theta(self, theta):
        theta = check_array(theta, dtype=np.float64, input_name="theta")
        if theta.shape[1] != self._space.n_features:
            raise ValueError(
                f"theta has {theta.shape[1]} columns; the prior has "
                f"{self._space.n_features} parameters."
            )
        return theta

    def _draws(self, fit, n_samples, method, generator):
        linked = LinkedNormals(self._space.coordinates, fit.covering.normals)
        if method == "q":
            return to_numpy(linked.draw(n_samples, generator))
        n_draws = _OVERSAMPLING * n_samples
        target = self._target(fit.observation, n_draws)
        u, log_p = fresh_draws(target, fit.covering.normals, n_draws, generator)
        self.n_potential_evals_ += n_draws
        log_w = log_p - fit.covering.normals.log_prob(u)
        if method == "psir":
            log_w, _ = pareto_smoothed(log_w)
        chosen = torch.multinomial(
            torch.softmax(log_w, 0), n_samples, replacement=True, generator=generator
        )
        return to_numpy(self._space.coordinates.forward(u[chosen]))

    def _modes(self, fit):
        if fit.modes is None:
            target = self._target(fit.observation, _MODE_EVALS, heights=True)
            generator = generator_from(check_random_state(0))
            u, log_p = summits(target, fit.covering.normals, _MODE_STARTS, generator)
            self.n_potential_evals_ += target.n_evals
            theta = self._space.coordinates.forward(u)
            fit.modes = to_numpy(theta), to_numpy(log_p)
        return fit.modes


class _Sum:
    """The sum of two log densities."""

    def __init__(self, first, second):
        self.first, self.second = first, second

    def __call__(self, theta):
        return self.first(theta) + self.second(theta)


def _report(quality, check, power, n_evals, n_nan):
    """Put together what is known about a fit."""
    _, khat = pareto_smoothed(quality.log_weights)
    doubts = []
    if power < 1.0:
        doubts.append("the evaluations ended before the target was reached")
    if check.suspicious:
        doubts.append("the coverage check sees mass that the mixture has lost")
    if khat > _MAX_KHAT:
        doubts.append(f"the weights have a heavy tail, khat = {khat:.2f}")
    if quality.efficiency < _MIN_EFFICIENCY:
        doubts.append(f"{quality.efficiency:.1%} of the draws are effective")
    return Bunch(
        khat=khat,
        ess=quality.efficiency * len(quality.log_weights),
        efficiency=quality.efficiency,
        log_evidence=quality.log_evidence,
        log_evidence_se=quality.log_evidence_se,
        elbo=quality.elbo,
        truncated_elbo=quality.truncated_elbo,
        cut=quality.cut,
        impossible=quality.impossible,
        divergence=quality.divergence,
        prop=quality.proportionality,
        log_evidence_defensive=check.log_evidence_defensive,
        log_evidence_defensive_se=check.log_evidence_defensive_se,
        missed=check.missed,
        suspicious=check.suspicious,
        doubts=doubts,
        n_evals=n_evals,
        n_nan=n_nan,
    )
