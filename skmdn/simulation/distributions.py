"""Priors given as distributions of scipy or torch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from skmdn.bridge import to_numpy

from .functions import Function, entropy_from, row_generators

__all__ = ["Prior", "is_distribution"]

# How distributions of torch are called in scipy, by the name of their class.
_TORCH = {
    "Beta": lambda d: stats.beta(_get(d, "concentration1"), _get(d, "concentration0")),
    "Cauchy": lambda d: stats.cauchy(_get(d, "loc"), _get(d, "scale")),
    "Exponential": lambda d: stats.expon(scale=1.0 / _get(d, "rate")),
    "Gamma": lambda d: stats.gamma(
        _get(d, "concentration"), scale=1.0 / _get(d, "rate")
    ),
    "Gumbel": lambda d: stats.gumbel_r(_get(d, "loc"), _get(d, "scale")),
    "HalfCauchy": lambda d: stats.halfcauchy(scale=_get(d, "scale")),
    "HalfNormal": lambda d: stats.halfnorm(scale=_get(d, "scale")),
    "Independent": lambda d: _from_torch(d.base_dist),
    "InverseGamma": lambda d: stats.invgamma(
        _get(d, "concentration"), scale=_get(d, "rate")
    ),
    "Laplace": lambda d: stats.laplace(_get(d, "loc"), _get(d, "scale")),
    "LogNormal": lambda d: stats.lognorm(
        _get(d, "scale"), scale=np.exp(_get(d, "loc"))
    ),
    "MultivariateNormal": lambda d: stats.multivariate_normal(
        _get(d, "loc"), _get(d, "covariance_matrix")
    ),
    "Normal": lambda d: stats.norm(_get(d, "loc"), _get(d, "scale")),
    "Pareto": lambda d: stats.pareto(_get(d, "alpha"), scale=_get(d, "scale")),
    "StudentT": lambda d: stats.t(_get(d, "df"), _get(d, "loc"), _get(d, "scale")),
    "Uniform": lambda d: stats.uniform(
        _get(d, "low"), _get(d, "high") - _get(d, "low")
    ),
    "Weibull": lambda d: stats.weibull_min(
        _get(d, "concentration"), scale=_get(d, "scale")
    ),
}


class Prior:
    r"""Independent variables with known distributions, by name.

    .. math:: p(\theta) = \prod_j p_j(\theta_j)

    It can stand in :func:`make_simulator`, as can the dict itself.

    Parameters
    ----------
    distributions : dict of str to distribution
        Frozen distributions of :mod:`scipy.stats`, also multivariate ones and
        arrays of univariate ones, or common distributions of
        :mod:`torch.distributions`.

    Raises
    ------
    TypeError
        If a distribution is none of these.

    See Also
    --------
    make_simulator : Where it can stand first.

    Examples
    --------
    >>> from scipy import stats
    >>> from skmdn.simulation import Prior
    >>> prior = Prior({"mu": stats.norm(), "p": stats.uniform([0, 0], [1, 2])})
    >>> draws = prior.sample(5, random_state=0)
    >>> draws["mu"].shape, draws["p"].shape
    ((5,), (5, 2))
    >>> prior.log_prob({"mu": [0.0], "p": [[0.5, 0.5]]}).round(3)
    array([-1.612])
    >>> prior.support()["mu"]
    (array(-inf), array(inf))
    """

    def __init__(self, distributions: Mapping[str, Any]) -> None:
        self.distributions = {}
        for name, distribution in distributions.items():
            if not isinstance(name, str) or not name.isidentifier():
                raise TypeError(f"{name!r} cannot be the name of a variable.")
            if not is_distribution(distribution):
                raise TypeError(
                    f"{name!r} must be a frozen distribution of scipy or a "
                    f"distribution of torch, got {distribution!r}."
                )
            if _is_torch(distribution):
                distribution = _from_torch(distribution)
            self.distributions[name] = distribution
        if not self.distributions:
            raise ValueError("A prior needs at least one distribution.")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.distributions)})"

    def sample(self, n_samples: int, *, random_state: Any = None) -> dict[str, Any]:
        """Draw.

        Parameters
        ----------
        n_samples : int
            Number of draws.
        random_state : int, Generator, RandomState instance or None, default=None
            Determines the draws.

        Returns
        -------
        variables : dict of str to ndarray of shape (n_samples, ...)
            The draws.
        """
        rng = row_generators(entropy_from(random_state), 0)(0)
        return self._draw(n_samples, rng)

    def log_prob(self, variables: Mapping[str, Any]) -> np.ndarray:
        """Return the log density.

        Parameters
        ----------
        variables : dict of str to array-like of shape (n_samples, ...)
            Values of all the prior's variables.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,)
            In nats; minus infinity outside the support.
        """
        total: Any = 0.0
        for name, distribution in self.distributions.items():
            if name not in variables:
                raise ValueError(f"The prior's variable {name!r} is missing.")
            value = np.asarray(variables[name], dtype=float)
            if _is_joint(distribution):
                total = total + np.reshape(distribution.logpdf(value), len(value))
                continue
            log = getattr(distribution, "logpdf", None) or distribution.logpmf
            if _is_discrete(distribution):
                log = distribution.logpmf
            total = total + log(value).reshape(len(value), -1).sum(1)
        return np.asarray(total)

    def support(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return between which bounds each variable lies.

        Returns
        -------
        bounds : dict of str to tuple of ndarray
            Lower and upper bounds, of the shape of the variable; they can be
            infinite.
        """
        bounds = {}
        for name, distribution in self.distributions.items():
            shape = _shape(distribution)
            if not _is_joint(distribution):
                low, high = distribution.support()
            elif type(distribution).__name__.startswith("multivariate_"):
                low, high = -np.inf, np.inf
            else:
                raise TypeError(
                    f"The support of {name!r} is not a box; give the space of the "
                    "parameters by hand."
                )
            low, high = (np.broadcast_to(end, shape).copy() for end in (low, high))
            bounds[name] = (low, high)
        return bounds

    def as_function(self) -> Function:
        """Return the prior as a step of a simulator.

        Returns
        -------
        function : Function
            What a simulator calls.
        """
        names = tuple(self.distributions)
        arguments = {"n_samples": True, "rng": True}
        label = names[0] if len(names) == 1 else "prior"
        return Function(self._draw, label, arguments, vectorized=True, outputs=names)

    def _draw(self, n_samples: int, rng: np.random.Generator) -> dict[str, Any]:
        draws = {}
        for name, distribution in self.distributions.items():
            shape = (n_samples, *_shape(distribution))
            size = n_samples if _is_joint(distribution) else shape
            # scipy drops axes of length 1 of multivariate draws.
            draws[name] = np.reshape(distribution.rvs(size, random_state=rng), shape)
        return draws


def is_distribution(value: Any) -> bool:
    """Tell whether something is a distribution that a prior can have."""
    family = type | stats.rv_continuous | stats.rv_discrete
    return _is_torch(value) or (hasattr(value, "rvs") and not isinstance(value, family))


def _is_torch(value: Any) -> bool:
    return any(
        cls.__module__ == "torch.distributions.distribution"
        for cls in type(value).__mro__
    )


def _from_torch(value: Any) -> Any:
    """Return the distribution of scipy that a distribution of torch is.

    Those of torch draw from the process's generator, which is not ours to seed.
    """
    for cls in type(value).__mro__:
        if cls.__name__ in _TORCH:
            return _TORCH[cls.__name__](value)
    raise TypeError(
        f"{type(value).__name__} of torch is not among those that a prior knows: "
        f"{', '.join(sorted(_TORCH))}. Write a function that draws from it."
    )


def _get(distribution: Any, name: str) -> np.ndarray:
    return to_numpy(getattr(distribution, name))


def _is_joint(distribution: Any) -> bool:
    """Tell whether one draw is a vector."""
    return not hasattr(distribution, "support")


def _is_discrete(distribution: Any) -> bool:
    return isinstance(getattr(distribution, "dist", None), stats.rv_discrete)


def _shape(distribution: Any) -> tuple[int, ...]:
    """Return the shape of one draw."""
    if not _is_joint(distribution):
        return np.shape(distribution.support()[0])
    draw = distribution.rvs(2, random_state=np.random.default_rng(0))
    return np.shape(draw)[1:]
