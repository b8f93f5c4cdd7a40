"""Chains of transforms, and the one that a prior asks for."""

import numpy as np
from sklearn.base import clone

from skmdn.simulation import Prior

from .elementwise import Constrain
from .structural import Concatenate
from .transform import Transform, checked

__all__ = ["Space", "space_from_prior"]


class Space(Transform):
    r"""Named variables, transformed one step after the other.

    .. math:: \log p(\theta) = \log q(z) + \sum_i \log |\det J_i|, \quad
        z = f_k(\dots f_1(\theta))

    It maps what a simulator returns to arrays without constraints, and back. Like
    every estimator of scikit-learn it is cloned with its parameters and changed by
    ``fit`` only. Arrays give arrays; tensors give tensors, with gradients.

    Parameters
    ----------
    steps : list of transforms
        Applied in this order.

    Attributes
    ----------
    steps_ : list of transforms
        Fitted copies of the steps.

    See Also
    --------
    space_from_prior : The space of a prior.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.spaces import Concatenate, Constrain, Space
    >>> space = Space([
    ...     Constrain("sigma", low=0.0),
    ...     Concatenate(["mu", "sigma"], into="theta"),
    ... ])
    >>> variables = {"mu": np.array([0.0, 2.0]), "sigma": np.array([1.0, 0.5])}
    >>> z = space.fit(variables).transform(variables)
    >>> z["theta"].round(3)
    array([[ 0.   ,  0.   ],
           [ 2.   , -0.693]])
    >>> space.inverse_transform(z)["sigma"]
    array([1. , 0.5])
    >>> space.log_det_jacobian(variables).round(3)
    array([0.   , 0.693])
    """

    def __init__(self, steps):
        self.steps = steps

    def _fit(self, variables):
        steps = []
        for step in self.steps:
            step = clone(step).fit(variables)
            variables = step.transform(variables)
            steps.append(step)
        self.steps_ = steps

    def _forward(self, variables):
        for step in self._fitted():
            variables = step.transform(variables)
        return variables

    def _inverse(self, variables):
        for step in reversed(self._fitted()):
            variables = step.inverse_transform(variables)
        return variables

    def _log_det(self, variables):
        total = 0.0
        for step in self._fitted():
            total = total + step._log_det(variables)
            variables = step._forward(checked(variables))
        return total

    def _inverse_log_det(self, variables):
        total = 0.0
        for step in reversed(self._fitted()):
            total = total + step._inverse_log_det(variables)
            variables = step._inverse(checked(variables))
        return total

    def _fitted(self):
        if not hasattr(self, "steps_"):
            raise ValueError("This space is not fitted: call fit with variables first.")
        return self.steps_


def space_from_prior(prior, *, link="probit", into="theta"):
    """Return the space without bounds that belongs to a prior.

    Parameters
    ----------
    prior : Prior, or dict of str to distribution
        Distributions of scipy or torch, as :class:`skmdn.simulation.Prior` takes
        them. Their supports are the bounds.
    link : {"probit", "logit"}, default="probit"
        What maps an interval to the line. By the probit link a uniform prior becomes
        standard normal.
    into : str, default="theta"
        The name of the matrix that holds all variables side by side.

    Returns
    -------
    space : Space
        To be fitted to draws of the prior.

    Examples
    --------
    >>> from scipy import stats
    >>> from skmdn.simulation import Prior
    >>> from skmdn.spaces import space_from_prior
    >>> prior = Prior({"rate": stats.gamma(2.0), "p": stats.uniform(0, 1)})
    >>> draws = prior.sample(1000, random_state=0)
    >>> space = space_from_prior(prior).fit(draws)
    >>> z = space.transform(draws)["theta"]
    >>> z.shape, bool(abs(z[:, 1].std() - 1.0) < 0.1)
    ((1000, 2), True)
    """
    prior = prior if isinstance(prior, Prior) else Prior(prior)
    steps = []
    for name, (low, high) in prior.support().items():
        if low.ndim > 1:
            raise ValueError(f"{name!r} is neither a number nor a vector.")
        if np.isfinite(low).any() or np.isfinite(high).any():
            ends = low.tolist(), high.tolist()
            if low.ndim:
                ends = tuple(map(tuple, ends))
            steps.append(Constrain(name, low=ends[0], high=ends[1], link=link))
    return Space([*steps, Concatenate(list(prior.distributions), into=into)])
