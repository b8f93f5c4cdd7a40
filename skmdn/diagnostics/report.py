"""Simulation-based calibration and what belongs beside it, in one report."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special, stats
from sklearn.utils import check_random_state

from skmdn.items import with_padding

from .displays import draw_report
from .ranks import (
    checked_draws,
    prior_crps,
    randomized,
    sample_crps,
    simulation_ranks,
    tarp_values,
)
from .uniformity import uniformity_test

__all__ = ["CalibrationReport", "calibration_report", "sbc"]


@dataclass(frozen=True)
class CalibrationReport:
    """What posterior draws for simulated data say about a posterior.

    :func:`sbc` and :func:`calibration_report` make it. Print it for a table.

    Parameters
    ----------
    names : tuple of str
        Names of the parameters and of further quantities.
    n_draws : int
        Number of posterior draws for each simulation.
    theta : ndarray of shape (n_simulations, n_parameters)
        The parameters that the data were simulated with.
    ranks : ndarray of shape (n_simulations, n_parameters)
        Their ranks among the draws.
    pit : ndarray of shape (n_simulations, n_parameters)
        The ranks, spread over the unit interval: uniform for the exact posterior.
    tarp : ndarray of shape (n_simulations,)
        What :func:`tarp_values` returns; uniform too.
    posterior_mean, posterior_std : ndarray of shape (n_simulations, n_parameters)
        Of the draws.
    prior_std : ndarray of shape (n_parameters,)
        Of the parameters over all simulations.
    crps, prior_crps : ndarray of shape (n_simulations, n_parameters)
        The score of the draws, and of the other simulations' parameters as draws
        from the prior. Lower is better.
    log_score : float or None
        Mean log density of the parameters, where the estimator has one.

    See Also
    --------
    sbc : Makes it for an estimator and a simulator.

    Notes
    -----
    Calibration alone is no proof: the prior is calibrated, too, and so is any
    posterior that forgets a part of the data. The CRPS and the log score are proper
    and have the exact posterior as their best; compare them between estimators.
    Contraction and the accuracy of draws say how much was learned only if the ranks
    are uniform: a posterior that is too narrow looks better in both.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.diagnostics import calibration_report
    >>> rng = np.random.default_rng(0)
    >>> theta = rng.normal(size=300)
    >>> x = theta + rng.normal(size=300)
    >>> draws = rng.normal(x[:, None] / 2, np.sqrt(0.5), size=(300, 200))
    >>> report = calibration_report(draws, theta, names=["mu"], random_state=0)
    >>> report.flags()
    {}
    >>> narrow = rng.normal(x[:, None] / 2, 0.35, size=(300, 200))
    >>> calibration_report(narrow, theta, names=["mu"], random_state=0).flags()
    {'ranks': ['mu'], 'coverage': ['mu'], 'spread': ['mu'], 'tarp': ['joint']}
    """

    names: tuple
    n_draws: int
    theta: np.ndarray
    ranks: np.ndarray
    pit: np.ndarray
    tarp: np.ndarray
    posterior_mean: np.ndarray
    posterior_std: np.ndarray
    prior_std: np.ndarray
    crps: np.ndarray
    prior_crps: np.ndarray
    log_score: float | None = None

    @cached_property
    def rank_test(self):
        """Log gamma and p-value of the ranks, by :func:`uniformity_test`."""
        return uniformity_test(self.pit)

    @cached_property
    def coverage_test(self):
        """The same of central intervals' coverage, which sees wrong widths."""
        return uniformity_test(self.coverage_values)

    @cached_property
    def tarp_test(self):
        """The same of the joint coverage: two numbers."""
        return uniformity_test(self.tarp)

    @property
    def coverage_values(self):
        """Levels at which central intervals begin to cover, uniform if exact."""
        return np.abs(2.0 * self.pit - 1.0)

    @property
    def z_scores(self):
        """Posterior z-scores: (posterior mean - theta) / posterior std."""
        safe = np.where(self.posterior_std > 0, self.posterior_std, np.nan)
        return (self.posterior_mean - self.theta) / safe

    @property
    def contraction(self):
        """Posterior contraction of each simulation: 1 - variance / prior variance."""
        return 1.0 - np.square(self.posterior_std / self.prior_std)

    @property
    def bias(self):
        """Mean normal score of the ranks: how many stds the truth lies above."""
        return special.ndtri(self.pit).mean(0)

    @property
    def spread(self):
        """Root mean square normal score: by how much posteriors are too narrow."""
        return np.sqrt(np.square(special.ndtri(self.pit)).mean(0))

    @property
    def bias_p_value(self):
        """Two-sided p-value of the bias; exact, as the normal scores are normal."""
        return 2.0 * stats.norm.sf(np.abs(self.bias) * np.sqrt(len(self.pit)))

    @property
    def spread_p_value(self):
        """Two-sided p-value of the spread."""
        n = len(self.pit)
        total = n * np.square(self.spread)
        tails = np.minimum(stats.chi2.cdf(total, n), stats.chi2.sf(total, n))
        return np.minimum(1.0, 2.0 * tails)

    @property
    def skill(self):
        """One minus the CRPS over that of the prior: 0 if nothing was learned."""
        return 1.0 - self.crps.mean(0) / self.prior_crps.mean(0)

    @property
    def no_information_p_value(self):
        """One-sided p-value of the posterior scoring no better than the prior."""
        gain = self.prior_crps - self.crps
        error = gain.std(0, ddof=1) / np.sqrt(len(gain))
        return stats.norm.sf(gain.mean(0) / np.where(error > 0, error, np.inf))

    @property
    def recovery(self):
        """Correlation of posterior mean and truth over the simulations."""
        a = self.posterior_mean - self.posterior_mean.mean(0)
        b = self.theta - self.theta.mean(0)
        norm = np.sqrt(np.square(a).sum(0) * np.square(b).sum(0))
        return (a * b).sum(0) / np.where(norm > 0, norm, np.inf)

    def coverage(self, levels=(0.5, 0.8, 0.9, 0.95)):
        """Return the share of parameters inside their central intervals.

        Parameters
        ----------
        levels : sequence of float, default=(0.5, 0.8, 0.9, 0.95)
            Nominal coverage of the intervals.

        Returns
        -------
        coverage : ndarray of shape (n_levels, n_parameters)
            What was observed.
        """
        levels = np.asarray(levels)[:, None, None]
        return (self.coverage_values <= levels).mean(1)

    def flags(self, alpha=0.01):
        """Return what looks wrong.

        Parameters
        ----------
        alpha : float, default=0.01
            Level of each check, divided by the number of parameters.

        Returns
        -------
        flags : dict of str to list of str
            The parameters that each check flags; checks without any are left out.
            ``"ranks"`` and ``"coverage"`` see any departure, ``"bias"`` and
            ``"spread"`` shifts and wrong widths in particular, ``"tarp"`` the joint
            posterior. ``"information"`` lists parameters whose posterior scores no
            better than the prior; that is right if the data say nothing.
        """
        level = alpha / len(self.names)
        found = {
            "ranks": self.rank_test[1] < level,
            "coverage": self.coverage_test[1] < level,
            "bias": self.bias_p_value < level,
            "spread": self.spread_p_value < level,
            "information": self.no_information_p_value > level,
        }
        # A quantity is no parameter: nothing has to be learned about it.
        found["information"][self.n_parameters :] = False
        flags = {
            check: [
                name for name, is_bad in zip(self.names, bad, strict=True) if is_bad
            ]
            for check, bad in found.items()
        }
        if self.tarp_test[1] < alpha:
            flags["tarp"] = ["joint"]
        return {check: names for check, names in flags.items() if names}

    @property
    def n_parameters(self):
        """Number of parameters, without further quantities."""
        return len(self.prior_std) - int(np.isnan(self.prior_std).sum())

    def __str__(self):
        columns = {
            "log gamma": self.rank_test[0],
            "bias": self.bias,
            "spread": self.spread,
            "cover 90": self.coverage([0.9])[0],
            "skill": self.skill,
            "contraction": np.mean(self.contraction, 0),
            "recovery": self.recovery,
        }
        width = max(9, *(len(name) for name in self.names))
        lines = [" " * width + "".join(f"{name:>12}" for name in columns)]
        for j, name in enumerate(self.names):
            numbers = "".join(f"{column[j]:12.3f}" for column in columns.values())
            lines.append(f"{name:<{width}}{numbers}")
        lines.append(f"{'joint':<{width}}{self.tarp_test[0]:12.3f} (TARP)")
        if self.log_score is not None:
            lines.append(f"log score {self.log_score:.3f}")
        flags = self.flags()
        listed = "; ".join(f"{check}: {', '.join(n)}" for check, n in flags.items())
        return "\n".join([*lines, f"flagged: {listed or 'nothing'}"])

    def plot(self):
        """Draw all displays, a row for each parameter.

        Returns
        -------
        figure : matplotlib Figure
            Rank histogram, ECDF, coverage, recovery and contraction.
        """
        return draw_report(self)


def calibration_report(
    draws,
    theta,
    *,
    names=None,
    quantities=None,
    log_score=None,
    random_state=None,
):
    """Judge posterior draws by the parameters that the data were simulated with.

    Parameters
    ----------
    draws : array-like of shape (n_simulations, n_draws[, n_parameters])
        Posterior draws given the data of each simulation.
    theta : array-like of shape (n_simulations[, n_parameters])
        The true parameters.
    names : sequence of str, default=None
        Names of the parameters.
    quantities : dict, default=None
        Further test quantities: pairs of arrays ``(draws, truth)`` of shapes
        ``(n_simulations, n_draws)`` and ``(n_simulations,)``.
    log_score : float, default=None
        Mean log density of the true parameters, to be shown with the rest.
    random_state : int, RandomState instance or None, default=None
        Spreads ranks and chooses the points of TARP.

    Returns
    -------
    report : CalibrationReport
        The report.

    See Also
    --------
    sbc : Does it for an estimator and a simulator.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.diagnostics import calibration_report
    >>> rng = np.random.default_rng(0)
    >>> report = calibration_report(
    ...     rng.normal(size=(200, 99)), rng.normal(size=200), random_state=0)
    >>> report.flags()
    {'information': ['theta']}
    """
    draws, theta = checked_draws(draws, theta)
    if len(theta) < 2:
        raise ValueError("At least two simulations are needed.")
    rng = check_random_state(random_state)
    tarp = tarp_values(draws, theta, random_state=rng)
    n_parameters = theta.shape[1]
    if names is None:
        names = [f"theta[{j}]" for j in range(n_parameters)]
        names = ["theta"] if n_parameters == 1 else names
    names = list(names)
    if len(names) != n_parameters:
        raise ValueError(f"{len(names)} names for {n_parameters} parameters.")
    for name, (of_draws, of_truth) in (quantities or {}).items():
        of_draws, of_truth = checked_draws(of_draws, of_truth)
        if of_draws.shape[:2] != draws.shape[:2] or of_draws.shape[2] != 1:
            raise ValueError(f"The quantity {name!r} must be one number per draw.")
        draws = np.concatenate([draws, of_draws], axis=2)
        theta = np.concatenate([theta, of_truth], axis=1)
        names.append(name)
    ranks = simulation_ranks(draws, theta, random_state=rng)
    prior_std = theta.std(0, ddof=1)
    # The truth of a quantity is no draw from a prior.
    prior_std[n_parameters:] = np.nan
    return CalibrationReport(
        names=tuple(names),
        n_draws=draws.shape[1],
        theta=theta,
        ranks=ranks,
        pit=randomized(ranks, draws, rng),
        tarp=tarp,
        posterior_mean=draws.mean(1),
        posterior_std=draws.std(1, ddof=1),
        prior_std=prior_std,
        crps=sample_crps(draws, theta),
        prior_crps=prior_crps(theta),
        log_score=log_score,
    )


def sbc(
    estimator,
    simulator,
    *,
    n_simulations=300,
    n_samples=300,
    parameters="theta",
    data="x",
    quantities=None,
    random_state=None,
):
    """Simulate, draw from the estimator's posterior, and report calibration.

    Parameters
    ----------
    estimator : object
        Has ``sample(X, n_samples, random_state=...)``, which returns draws of
        shape (n_simulations, n_samples[, n_parameters]); if it also has
        ``log_prob(X, theta)``, its mean is reported.
    simulator : Simulator, or tuple of arrays (X, theta)
        Has ``sample(n, random_state=...)``, which returns a dict of arrays; or
        simulations that the estimator was not trained on.
    n_simulations : int, default=300
        Number of simulations, unless they are given.
    n_samples : int, default=300
        Number of posterior draws for each.
    parameters : str or list of str, default="theta"
        Names of the simulator's outputs that are the parameters; several are put
        side by side.
    data : str, list of str or callable, default="x"
        Names of those that are the data, or a function that makes X of the dict of
        simulations. Ragged data, which have a mask beside them, are padded by NaN.
    quantities : dict of str to callable, default=None
        Further test quantities ``f(X, theta)``, called with rows of both. One that
        depends on the data, such as the log-likelihood, sees posteriors that the
        parameters alone do not betray, the prior among them.
    random_state : int, RandomState instance or None, default=None
        Determines simulations and draws.

    Returns
    -------
    report : CalibrationReport
        Print it, ask it for ``flags()`` or ``plot()`` it.

    See Also
    --------
    calibration_report : The same from draws.

    References
    ----------
    .. [1] S. Talts, M. Betancourt, D. Simpson, A. Vehtari and A. Gelman,
       "Validating Bayesian inference algorithms with simulation-based
       calibration", arXiv 1804.06788, 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.diagnostics import sbc
    >>> from skmdn.simulation import make_simulator
    >>> def theta(rng):
    ...     return rng.normal()
    >>> def x(theta, rng):
    ...     return rng.normal(theta)
    >>> class Exact:
    ...     def sample(self, X, n_samples, random_state=None):
    ...         rng = np.random.default_rng(random_state)
    ...         scatter = rng.normal(size=(len(X), n_samples))
    ...         return X[:, :1] / 2 + np.sqrt(0.5) * scatter
    >>> report = sbc(Exact(), make_simulator([theta, x]), random_state=0)
    >>> report.flags()
    {}
    """
    rng = check_random_state(random_state)
    if isinstance(simulator, tuple):
        X, theta = (np.asarray(part) for part in simulator)
        names = None
    else:
        simulations = simulator.sample(n_simulations, random_state=rng)
        theta, names = _side_by_side(simulations, parameters)
        X = data(simulations) if callable(data) else _side_by_side(simulations, data)[0]
    seed = rng.randint(np.iinfo(np.int32).max)
    draws = np.asarray(estimator.sample(X, n_samples, random_state=seed))
    log_score = None
    if hasattr(estimator, "log_prob"):
        log_score = float(np.mean(estimator.log_prob(X, theta)))
    pairs = {
        name: _quantity(function, X, draws, theta)
        for name, function in (quantities or {}).items()
    }
    return calibration_report(
        draws,
        theta,
        names=names,
        quantities=pairs,
        log_score=log_score,
        random_state=rng,
    )


def _side_by_side(
    simulations: Mapping[str, np.ndarray], names: str | list[str] | Callable
):
    """Return variables as one array, and the names of its columns."""
    listed = [names] if isinstance(names, str) else list(names)
    for name in listed:
        if name not in simulations:
            raise ValueError(
                f"The simulator returns no {name!r} but {sorted(simulations)}: name "
                "the parameters and the data."
            )
    values = [_padded(simulations, name) for name in listed]
    if len(listed) == 1 and values[0].ndim > 2:
        return values[0], None
    columns, labels = [], []
    for name, value in zip(listed, values, strict=True):
        columns.append(value.reshape(len(value), -1))
        n_columns = columns[-1].shape[1]
        labels += (
            [name] if value.ndim == 1 else [f"{name}[{j}]" for j in range(n_columns)]
        )
    return np.concatenate(columns, axis=1), labels


def _padded(simulations, name):
    """Return a variable, with NaN at its padding if there is any."""
    mask = simulations.get(f"{name}_mask")
    value = np.asarray(simulations[name])
    return value if mask is None else with_padding(value, mask, name=name)


def _quantity(function, X, draws, theta):
    """Return a test quantity of the draws and of the truth."""
    draws, theta = checked_draws(draws, theta)
    n, n_draws, n_parameters = draws.shape
    rows = np.repeat(np.arange(n), n_draws)
    of_draws = function(X[rows], draws.reshape(-1, n_parameters))
    return np.reshape(of_draws, (n, n_draws)), np.asarray(function(X, theta))
