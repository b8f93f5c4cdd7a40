"""Inference tasks whose likelihood is a formula."""

import numpy as np
from scipy import special, stats

from skmdn.simulation import Prior

from .task import InferenceTask, library

__all__ = [
    "SLCP",
    "BernoulliGLM",
    "GaussianLinear",
    "GaussianLinearUniform",
    "GaussianMixtureTask",
    "TwoMoons",
]

_LOG_2PI = np.log(2.0 * np.pi)


def log_normal(x, mean, variance):
    """Return the log density of independent normals of one variance."""
    return -0.5 * (((x - mean) ** 2).sum(-1) / variance) - 0.5 * x.shape[-1] * (
        _LOG_2PI + np.log(variance)
    )


class BoxTask(InferenceTask):
    """A task with a uniform prior on a cube around 0."""

    size = 1.0

    def __init__(self):
        low = np.full(self.n_parameters, -self.size)
        super().__init__(Prior({"theta": stats.uniform(low, 2.0 * self.size)}))

    def _log_prior(self, theta):
        return 0.0 * theta[..., 0] - self.n_parameters * np.log(2.0 * self.size)

    def _inside(self, theta):
        return (theta >= -self.size).all(-1) & (theta <= self.size).all(-1)

    def _cube(self, x, std):
        """Return the ends of the cube in units of a normal around x."""
        return (-self.size - x) / std, (self.size - x) / std

    def _truncated(self, x, std, n, rng):
        """Draw from a normal around x inside the cube."""
        law = stats.truncnorm(*self._cube(x, std), loc=x, scale=std)
        return law.rvs((n, len(x)), random_state=rng)

    def _log_mass(self, x, std):
        """Return the log probability of the cube under a normal around x."""
        low, high = self._cube(x, std)
        # The smaller tails keep their digits.
        flip = low > 0
        low, high = np.where(flip, -high, low), np.where(flip, -low, high)
        larger, smaller = special.log_ndtr(high), special.log_ndtr(low)
        return (larger + np.log1p(-np.exp(smaller - larger))).sum()


class TwoMoons(BoxTask):
    r"""Two crescents, one for each sign of the parameters' sum.

    .. math:: x = (r \cos a + 0.25 - |\theta_1 + \theta_2| / \sqrt 2, \;
        r \sin a + (\theta_2 - \theta_1) / \sqrt 2)

    with a uniform between -pi/2 and pi/2 and r normal around 0.1.
    """

    name = "two_moons"
    n_parameters = 2
    n_features = 2

    def _simulate(self, theta, rng):
        return self._crescent(len(theta), rng) + self._shift(theta)

    def _crescent(self, n, rng):
        angle = rng.uniform(-0.5 * np.pi, 0.5 * np.pi, size=n)
        radius = rng.normal(0.1, 0.01, size=n)
        crescent = [radius * np.cos(angle) + 0.25, radius * np.sin(angle)]
        return np.stack(crescent, axis=-1)

    def _shift(self, theta):
        first, second = theta[..., 0], theta[..., 1]
        parts = [-abs(first + second), second - first]
        return library(theta).stack(parts, -1) / np.sqrt(2.0)

    def _log_likelihood(self, X, theta):
        xp = library(theta)
        place = X - self._shift(theta)
        right, up = place[..., 0] - 0.25, place[..., 1]
        inside = right > 0
        right = xp.where(inside, right, xp.ones_like(right))
        radius = xp.sqrt(right**2 + up**2)
        z = (radius - 0.1) / 0.01
        log_norm = 0.5 * _LOG_2PI + np.log(0.01 * np.pi)
        return xp.where(inside, -0.5 * z**2 - xp.log(radius) - log_norm, -np.inf)

    def _draw_posterior(self, x, n, rng):
        found, n_found, n_tried = [], 0, 0
        while n_found < n:
            # Under the uniform prior the crescent is where it would be simulated.
            place = self._crescent(4 * n + 100, rng) - x
            total = np.where(rng.uniform(size=len(place)) < 0.5, 1, -1) * place[:, 0]
            first, second = total + place[:, 1], total - place[:, 1]
            theta = np.stack([first, second], axis=1) / np.sqrt(2.0)
            theta = theta[(place[:, 0] >= 0) & self._inside(theta)]
            found.append(theta)
            n_found, n_tried = n_found + len(theta), n_tried + len(place)
            if n_tried > 1e6 and n_found < 1e-4 * n_tried:
                raise ValueError(f"x={x} cannot come from this simulator.")
        return np.concatenate(found)[:n]

    def _log_evidence(self, x):
        log_prior = -self.n_parameters * np.log(2.0 * self.size)
        # A rectangle that holds the crescent but for 1e-15 of it.
        corners = np.array([[0.25, 0.43]]), np.array([[-0.18], [0.18]])
        if self._inside_share(*corners, x) == 2.0:
            return np.log(2.0) + log_prior
        angle = np.pi * ((np.arange(1000) + 0.5) / 1000 - 0.5)
        radius = stats.norm.ppf((np.arange(100) + 0.5) / 100, 0.1, 0.01)[:, None]
        place = radius * np.cos(angle) + 0.25, radius * np.sin(angle)
        with np.errstate(divide="ignore"):
            return np.log(self._inside_share(*place, x)) + log_prior

    def _inside_share(self, right, up, x):
        """Return which share of places comes from the cube, summed over both signs."""
        right, up = np.broadcast_arrays(right - x[0], up - x[1])
        share = 0.0
        for total in (-right, right):
            theta = np.stack([total - up, total + up], -1) / np.sqrt(2.0)
            share += ((right >= 0) & self._inside(theta)).mean()
        return share


class GaussianLinear(InferenceTask):
    r"""The mean of a normal distribution with a normal prior.

    .. math:: \theta \sim \mathcal{N}(0, 0.1 I), \quad
        x \sim \mathcal{N}(\theta, 0.1 I)
    """

    name = "gaussian_linear"
    n_parameters = 10
    n_features = 10

    def __init__(self):
        super().__init__(Prior({"theta": stats.norm(np.zeros(10), np.sqrt(0.1))}))

    def _simulate(self, theta, rng):
        return rng.normal(theta, np.sqrt(0.1))

    def _log_prior(self, theta):
        return log_normal(theta, 0.0, 0.1)

    def _log_likelihood(self, X, theta):
        return log_normal(X, theta, 0.1)

    def _draw_posterior(self, x, n, rng):
        return rng.normal(0.5 * x, np.sqrt(0.05), size=(n, len(x)))

    def _log_evidence(self, x):
        return log_normal(x, 0.0, 0.2)


class GaussianLinearUniform(BoxTask):
    r"""The mean of a normal distribution with a uniform prior.

    .. math:: \theta \sim U(-1, 1)^{10}, \quad x \sim \mathcal{N}(\theta, 0.1 I)
    """

    name = "gaussian_linear_uniform"
    n_parameters = 10
    n_features = 10

    def _simulate(self, theta, rng):
        return rng.normal(theta, np.sqrt(0.1))

    def _log_likelihood(self, X, theta):
        return log_normal(X, theta, 0.1)

    def _draw_posterior(self, x, n, rng):
        return self._truncated(x, np.sqrt(0.1), n, rng)

    def _log_evidence(self, x):
        return self._log_mass(x, np.sqrt(0.1)) - 10 * np.log(2.0)


class GaussianMixtureTask(BoxTask):
    r"""The common mean of a wide and a narrow normal distribution.

    .. math:: \theta \sim U(-10, 10)^2, \quad
        x \sim \tfrac12 \mathcal{N}(\theta, I) + \tfrac12 \mathcal{N}(\theta, 0.01 I)
    """

    name = "gaussian_mixture"
    n_parameters = 2
    n_features = 2
    size = 10.0

    def _simulate(self, theta, rng):
        std = np.where(rng.uniform(size=len(theta)) < 0.5, 1.0, 0.1)
        return rng.normal(theta, std[:, None])

    def _log_likelihood(self, X, theta):
        wide, narrow = log_normal(X, theta, 1.0), log_normal(X, theta, 0.01)
        return library(theta).logaddexp(wide, narrow) - np.log(2.0)

    def _draw_posterior(self, x, n, rng):
        masses = self._log_masses(x)
        share = special.expit(masses[0] - masses[1])
        wide = rng.uniform(size=n) < share
        draws = np.empty((n, 2))
        for chosen, std in ((wide, 1.0), (~wide, 0.1)):
            draws[chosen] = self._truncated(x, std, chosen.sum(), rng)
        return draws

    def _log_evidence(self, x):
        return np.logaddexp(*self._log_masses(x)) - np.log(2.0) - 2 * np.log(20.0)

    def _log_masses(self, x):
        return self._log_mass(x, 1.0), self._log_mass(x, 0.1)


class SLCP(BoxTask):
    r"""Simple likelihood, complex posterior: four draws from a normal in the plane.

    Its mean is :math:`(\theta_1, \theta_2)`, its standard deviations are
    :math:`\theta_3^2` and :math:`\theta_4^2`, its correlation is
    :math:`\tanh \theta_5`; 1e-6 is added to the variances. The posterior has four
    equal modes, for the signs of :math:`\theta_3` and :math:`\theta_4`.
    """

    name = "slcp"
    n_parameters = 5
    n_features = 8
    size = 3.0

    def _covariance(self, theta):
        xp = library(theta)
        first, second = theta[..., 2] ** 2, theta[..., 3] ** 2
        joint = xp.tanh(theta[..., 4]) * first * second
        return first**2 + 1e-6, second**2 + 1e-6, joint

    def _simulate(self, theta, rng):
        first, second, joint = self._covariance(theta)
        noise = rng.normal(size=(len(theta), 4, 2))
        slope = joint / np.sqrt(first)
        rest = np.sqrt(second - slope**2)
        x = theta[:, None, 0] + np.sqrt(first)[:, None] * noise[..., 0]
        y = theta[:, None, 1] + slope[:, None] * noise[..., 0]
        y = y + rest[:, None] * noise[..., 1]
        return np.stack([x, y], axis=-1).reshape(len(theta), 8)

    def _log_likelihood(self, X, theta):
        first, second, joint = (part[..., None] for part in self._covariance(theta))
        determinant = first * second - joint**2
        a, b = X[..., 0::2] - theta[..., :1], X[..., 1::2] - theta[..., 1:2]
        square = (second * a**2 - 2.0 * joint * a * b + first * b**2) / determinant
        log_root = 0.5 * library(theta).log(determinant)
        return (-0.5 * square - log_root - _LOG_2PI).sum(-1)


class BernoulliGLM(InferenceTask):
    r"""Spikes of a neuron that filters a stimulus, summarised.

    .. math:: y_t \sim \mathrm{Bernoulli}(\mathrm{expit}(v_t^T \theta)), \quad
        x = \sum_t y_t v_t

    for 100 time steps: an offset and a filter of the last nine values of a white
    stimulus, with a prior under which the filter is smooth. The sums x are
    sufficient; the log-likelihood is known up to the logarithm of the number of
    spike trains with these sums, which does not depend on theta.
    """

    name = "bernoulli_glm"
    n_parameters = 10
    n_features = 10

    def __init__(self):
        stimulus = np.random.default_rng(42).normal(size=100)
        lagged = [np.concatenate([np.zeros(lag), stimulus])[:100] for lag in range(9)]
        self.design = np.stack([np.ones(100), *lagged], axis=1)
        steps = np.eye(9) - np.eye(9, k=-1)
        rough = steps @ steps + np.diag(np.sqrt(np.arange(9) / 9))
        self.precision = np.zeros((10, 10))
        self.precision[0, 0] = 0.5
        self.precision[1:, 1:] = rough.T @ rough
        covariance = np.linalg.inv(self.precision)
        law = stats.multivariate_normal(np.zeros(10), covariance)
        super().__init__(Prior({"theta": law}))

    def _simulate(self, theta, rng):
        chance = special.expit(theta @ self.design.T)
        return (rng.uniform(size=chance.shape) < chance) @ self.design

    def _log_prior(self, theta):
        precision, _ = self._matched_design(theta)
        square = ((theta @ precision) * theta).sum(-1)
        log_det = np.linalg.slogdet(self.precision)[1]
        return -0.5 * square + 0.5 * log_det - 5.0 * _LOG_2PI

    def _log_likelihood(self, X, theta):
        _, design = self._matched_design(theta)
        logits = theta @ design.T
        zero = library(theta).zeros_like(logits)
        log_norm = library(theta).logaddexp(logits, zero).sum(-1)
        return (X * theta).sum(-1) - log_norm

    def _matched_design(self, theta):
        if library(theta) is np:
            return self.precision, self.design
        return theta.new_tensor(self.precision), theta.new_tensor(self.design)
