"""Inference tasks whose likelihood solves differential equations."""

import numpy as np
from scipy import special, stats

from skmdn.bridge import to_numpy
from skmdn.simulation import Prior

from .task import InferenceTask, library

__all__ = ["LotkaVolterra", "SIR", "solve"]


def solve(slope, state, step, n_steps, every):
    """Integrate by the classical Runge-Kutta rule; return every so manieth state."""
    kept = [state]
    for i in range(1, n_steps + 1):
        first = slope(state)
        second = slope(_moved(state, first, 0.5 * step))
        third = slope(_moved(state, second, 0.5 * step))
        fourth = slope(_moved(state, third, step))
        state = tuple(
            y + step / 6.0 * (a + 2.0 * b + 2.0 * c + d)
            for y, a, b, c, d in zip(state, first, second, third, fourth, strict=True)
        )
        if i % every == 0:
            kept.append(state)
    return kept


def _moved(state, slope, step):
    return tuple(y + step * a for y, a in zip(state, slope, strict=True))


class PositiveTask(InferenceTask):
    """A task with independent lognormal parameters."""

    location = ()
    scale = ()

    def __init__(self):
        law = stats.lognorm(np.array(self.scale), scale=np.exp(self.location))
        super().__init__(Prior({"theta": law}))

    def _inside(self, theta):
        return (theta > 0).all(-1)

    def _log_prior(self, theta):
        xp, total = library(theta), 0.0
        for j, (location, scale) in enumerate(
            zip(self.location, self.scale, strict=True)
        ):
            log = xp.log(theta[..., j])
            z = (log - location) / scale
            total = total - 0.5 * z**2 - log - np.log(scale * np.sqrt(2.0 * np.pi))
        return total


class SIR(PositiveTask):
    r"""An epidemic of which ten samples of a thousand people are seen.

    .. math:: \dot S = -\beta S I / N, \quad \dot I = \beta S I / N - \gamma I, \quad
        x_j \sim \mathrm{Binomial}(1000, I(t_j) / N)

    for a million people of whom one is infected, every 17 days from the first.
    """

    name = "sir"
    n_parameters = 2
    n_features = 10
    location = (np.log(0.4), np.log(0.125))
    scale = (0.5, 0.2)

    def _log_share(self, theta):
        """Return the logarithm of the infected share at the ten times."""
        xp = library(theta)
        contact, recovery = theta[..., 0], theta[..., 1]

        def slope(state):
            susceptible, infected = state
            return -contact * xp.exp(infected), contact * xp.exp(susceptible) - recovery

        # In logarithms nothing becomes negative.
        start = xp.zeros_like(contact)
        state = (start + np.log1p(-1e-6), start + np.log(1e-6))
        states = solve(slope, state, 0.25, 9 * 68, 68)
        return xp.stack([infected for _, infected in states], -1)

    def _simulate(self, theta, rng):
        share = np.exp(np.minimum(self._log_share(theta), 0.0))
        return rng.binomial(1000, share).astype(float)

    def _log_likelihood(self, X, theta):
        xp = library(theta)
        log_share = self._log_share(theta)
        counts = X if xp is np else to_numpy(X)
        ways = special.gammaln(1001.0) - special.gammaln(counts + 1.0)
        ways = (ways - special.gammaln(1001.0 - counts)).sum(-1)
        if xp is not np:
            ways = theta.new_tensor(ways)
        none = xp.log1p(-xp.exp(log_share))
        return (X * log_share + (1000.0 - X) * none).sum(-1) + ways


class LotkaVolterra(PositiveTask):
    r"""Prey and predators, both seen ten times with a relative error of 10 %.

    .. math:: \dot u = \alpha u - \beta u v, \quad \dot v = -\gamma v + \delta u v,
        \quad x \sim \mathrm{LogNormal}(\log (u, v), 0.1)

    from 30 prey and 1 predator on, every 2.1 units of time.
    """

    name = "lotka_volterra"
    n_parameters = 4
    n_features = 20
    location = (-0.125, -3.0, -0.125, -3.0)
    scale = (0.5, 0.5, 0.5, 0.5)

    def _log_counts(self, theta):
        """Return the logarithms of prey at ten times, then of predators."""
        xp = library(theta)
        birth, eaten, death, fed = (theta[..., j] for j in range(4))

        def slope(state):
            prey, predators = state
            return birth - eaten * xp.exp(predators), fed * xp.exp(prey) - death

        start = xp.zeros_like(birth)
        state = (start + np.log(30.0), start)
        states = solve(slope, state, 0.02, 945, 105)
        prey = [prey for prey, _ in states]
        return xp.stack(prey + [predators for _, predators in states], -1)

    def _simulate(self, theta, rng):
        with np.errstate(over="ignore", invalid="ignore"):
            return np.exp(rng.normal(self._log_counts(theta), 0.1))

    def _log_likelihood(self, X, theta):
        xp = library(theta)
        log = xp.log(X)
        z = (log - self._log_counts(theta)) / 0.1
        return (-0.5 * z**2 - log - np.log(0.1 * np.sqrt(2.0 * np.pi))).sum(-1)
