"""VariationalPosterior: a mixture for an unnormalised density, and how good it is."""

import sys
import warnings
from functools import partial
from numbers import Integral, Real

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from skmdn._sklearn import HasMethods, Interval, StrOptions, _fit_context
from skmdn.base import resolve_device, unchanged_on_error
from skmdn.bridge import generator_from
from skmdn.covering.objectives import METHODS
from skmdn.flows import FLOWS
from skmdn.parameter_space import ParameterSpace

from .family import NORMALS, Start
from .fit import Descent, PosteriorFit, Problem, in_company, of_each
from .potentials import takes_observation
from .queries import PosteriorQueries

__all__ = ["VariationalPosterior"]

_FEWEST_EVALS = 5_000


class VariationalPosterior(PosteriorQueries):
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
        can, or arrays. ``x`` is a row of the X of fit, shape ``(n_features,)``, or
        ``(1, n_features)`` if it does not take that; and, if fit is given several rows
        and the potential takes it, ``(n_points, n_features)``, one row for each point.
    prior : sequence or distribution, default=None
        Where the search begins, and the bounds of the parameters: a sequence with one
        entry per parameter, each a frozen distribution of scipy or a pair
        ``(low, high)``; or ``scipy.stats.multivariate_normal``; or a distribution of
        torch. By default the potential's attribute ``prior``.
    q : str, callable or fitted density, default="mixture"
        The family: "mixture" of normals; "gaussian", one normal; "gaussian_diag", one
        with independent coordinates; or a flow of zuko over the mixture, "maf", "nsf",
        "naf", "unaf", "nice", "sospf" or "gf" (the extra ``flows``). A callable is a
        factory: ``q(n_parameters)`` returns a ``torch.nn.Module`` whose call returns a
        distribution of torch over vectors with ``rsample`` and ``log_prob``. A fitted
        VariationalPosterior gives its family and where the fit starts; another density
        with ``sample``, such as ``posterior_`` or a
        :class:`skmdn.mixture.Mixture`, gives a mixture its start.
    n_components : int or "auto", default="auto"
        The largest number of components. "auto" is 100, or 30 in a frugal fit. Also
        for a single normal or a flow a mixture comes first, from which it starts.
    vi_method : {"auto", "rKL", "fKL", "IW", "alpha"}, default="auto"
        What is minimised. "auto" judges candidates from both sides, by KL(q || p) and
        KL(p || q); those of a flow are where it starts, a fit to weighted draws, and a
        descent of "rKL" from there. The others follow it by a stochastic descent: on
        the reverse or forward divergence, the importance-weighted bound, or Renyi's.
        All but "auto" and "fKL" need gradients of the potential.
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
        Whether gradients of "IW" and "alpha" are doubly reparametrised; not for
        ``q="mixture"``.
    weight_transform : callable, default=None
        Applied to the normalised weights of "fKL", a tensor.
    n_transforms : int, default=3
        Transforms of a flow, one after the other.
    hidden_layer_sizes : sequence of int, default=(50, 50)
        The networks of a flow's transforms.
    max_iter : int, default=300
        Steps of a descent.
    learning_rate_init : float or "auto", default="auto"
        Its first rate: for normals, 0.03, in standard deviations of the start; for the
        weights of flows 0.005. After a loss that is not finite the last good state is
        restored and the rate halved.
    max_grad_norm : float, default=10.0
        Longer gradients are shortened.
    tol : float, default=1e-4
        When the mean loss of ``n_iter_no_change`` steps has not fallen by more than
        this, or not by more than its noise, the rate falls to 0 within as many steps.
        0 takes all steps.
    n_iter_no_change : int, default=50
        See ``tol``.
    warm_start : bool, default=False
        Whether another call of fit starts from the last one.
    device : str, default="cpu"
        Where the potential gets its tensors. What is fitted is small and stays on the
        CPU.
    max_batch_size : int, default=None
        The most points that the potential is given at a time.
    add_prior : bool, default=False
        Whether the potential is a log likelihood, to which the log density of the
        prior has to be added.
    quality_control : {"warn", "retry", "off"}, default="warn"
        What follows if the report has doubts: a warning; a second fit with more draws
        from the prior and more components, then a warning; nothing.
    max_potential_evals : int, default=400000
        How many points the potential may be asked for in a fit, for each row of X.
        Below 50 000 the fit is frugal: it draws less, and may miss more.
    verbose : int, default=0
        Whether the losses of descents are printed: some of them, or from 2 on all.
    random_state : int, RandomState instance or None, default=None
        The seed of all draws and of a flow's weights.

    Attributes
    ----------
    posterior_ : PosteriorDensity
        The fitted density, of a mixture with marginals and conditionals; with several
        rows of X that of the first.
    posteriors_ : list of PosteriorDensity
        One for each row of X.
    report_ : Bunch
        What :meth:`evaluate` returns; of the first row.
    losses_ : list of list of float
        The losses of each descent, of the first row.
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
        "q": [StrOptions({*NORMALS, *FLOWS}), callable, HasMethods("sample")],
        "vi_method": [StrOptions({"auto", *METHODS})],
        "alpha_order": [Interval(Real, 0, None, closed="left")],
        "n_particles": [Interval(Integral, 1, None, closed="left")],
        "n_importance": [Interval(Integral, 1, None, closed="left")],
        "stick_the_landing": ["boolean"],
        "dreg": ["boolean"],
        "weight_transform": [callable, None],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "n_transforms": [Interval(Integral, 1, None, closed="left")],
        "hidden_layer_sizes": ["array-like"],
        "learning_rate_init": [
            Interval(Real, 0, None, closed="neither"),
            StrOptions({"auto"}),
        ],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 2, None, closed="left")],
        "warm_start": ["boolean"],
        "device": [str],
        "max_batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "verbose": ["verbose"],
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
        n_transforms=3,
        hidden_layer_sizes=(50, 50),
        max_iter=300,
        learning_rate_init="auto",
        max_grad_norm=10.0,
        tol=1e-4,
        n_iter_no_change=50,
        warm_start=False,
        device="cpu",
        max_batch_size=None,
        add_prior=False,
        quality_control="warn",
        max_potential_evals=400_000,
        verbose=0,
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
        self.n_transforms = n_transforms
        self.hidden_layer_sizes = hidden_layer_sizes
        self.max_iter = max_iter
        self.learning_rate_init = learning_rate_init
        self.max_grad_norm = max_grad_norm
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.device = device
        self.max_batch_size = max_batch_size
        self.add_prior = add_prior
        self.quality_control = quality_control
        self.max_potential_evals = max_potential_evals
        self.verbose = verbose
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X=None, y=None):
        """Fit the mixture to the posterior of every row of X.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features), default=None
            Observations, one posterior for each row; not needed by a potential of
            ``theta`` alone. The posterior of a row does not depend on the others.
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
            q, earlier = self._family()
            params = dict(self.get_params(deep=False), q=q, report=self._reporter())
            descent = Descent.from_params(**params)
            observations = self._observations(X)
            space = ParameterSpace.of(self.prior, self.potential, self.add_prior)
            places = resolve_device(self.device), self.max_batch_size
            problems = [
                Problem(self.potential, space, x, self.add_prior, *places)
                for x in observations
            ]
            seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
            self._together, n_evals = in_company(problems)
            tasks = [
                partial(
                    self._fit_row,
                    problem,
                    descent,
                    problem.generator(seed),
                    earlier[i % len(earlier)],
                )
                for i, problem in enumerate(problems)
            ]
            self._fits = of_each(tasks, self._together)
            self._fits[0].n_evals += n_evals
            self.posteriors_ = [fit.density for fit in self._fits]
            self.posterior_ = self.posteriors_[0]
            self.report_ = Bunch(**self._fits[0].report)
            self.losses_ = [record.losses for record in self._fits[0].records]
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
        rng = check_random_state(random_state)
        tasks = [
            partial(fit.draw, int(n_samples), method, generator_from(rng))
            for fit in self._chosen(X)
        ]
        return self._joined(of_each(tasks, self._together), X)

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
        rng = check_random_state(random_state)
        tasks = [
            partial(fit.evaluate, n_samples, generator_from(rng))
            for fit in self._chosen(X)
        ]
        reports = [Bunch(**report) for report in of_each(tasks, self._together)]
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

    def _family(self):
        """Return the name or the factory, and the densities that fits start from."""
        q, earlier = self.q, None
        while isinstance(q, VariationalPosterior):
            check_is_fitted(q)
            earlier = earlier or q.posteriors_
            q = q.q
        if not isinstance(q, str) and hasattr(q, "sample"):
            q, earlier = "mixture", earlier or [q]
        if self.warm_start and hasattr(self, "posteriors_"):
            earlier = self.posteriors_
        return q, earlier or [None]

    def _reporter(self):
        """Return what prints the losses, None if nothing does."""
        if not self.verbose:
            return None
        every = 1 if self.verbose > 1 else max(1, self.max_iter // 20)

        def report(step, loss):
            if step % every == 0:
                name = type(self).__name__
                done = f"step {step}/{self.max_iter}"
                sys.stdout.write(f"[{name}] {done}  loss {loss:.4f}\n")

        return report

    def _fit_row(self, problem, descent, generator, earlier):
        auto = self.n_components == "auto"
        start = None
        if earlier is not None:
            start = Start.of(earlier, problem.space.coordinates, generator)

        def attempt(effort):
            return PosteriorFit.fit(
                problem,
                descent,
                max_evals=self.max_potential_evals,
                max_components=None if auto else self.n_components,
                effort=effort,
                generator=generator,
                start=start,
            )

        first = attempt(1)
        if self.quality_control != "retry" or not first.report["doubts"]:
            return first
        second = attempt(2)
        n_evals = first.n_evals + second.n_evals
        both = (second, first)
        best = min(
            both, key=lambda f: (len(f.report["doubts"]), f.report["divergence"])
        )
        best.n_evals = n_evals
        return best

    def _warn(self):
        records = [record for fit in self._fits for record in fit.records]
        n_recoveries = sum(record.n_recoveries for record in records)
        if n_recoveries:
            end = any(record.gave_up for record in records)
            warnings.warn(
                f"The loss was infinite or NaN {n_recoveries} time(s); each time the "
                "last good state was restored and the rate halved"
                f"{', until the descent was given up' if end else ''}. A lower "
                "learning_rate_init may help.",
                ConvergenceWarning,
                stacklevel=4,
            )
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
