"""Toy data with a known density, and inference tasks with a known likelihood."""

from .dynamics import SIR, LotkaVolterra
from .static import (
    SLCP,
    BernoulliGLM,
    GaussianLinear,
    GaussianLinearUniform,
    GaussianMixtureTask,
    TwoMoons,
)
from .task import ExactPosterior, InferenceTask
from .toy import branches_log_prob, make_branches, make_cardioid, make_inverse_sine

__all__ = [
    "ExactPosterior",
    "INFERENCE_TASKS",
    "InferenceTask",
    "branches_log_prob",
    "inference_task",
    "make_branches",
    "make_cardioid",
    "make_inverse_sine",
]

_TASKS = {
    "two_moons": TwoMoons,
    "slcp": SLCP,
    "gaussian_linear": GaussianLinear,
    "gaussian_linear_uniform": GaussianLinearUniform,
    "gaussian_mixture": GaussianMixtureTask,
    "bernoulli_glm": BernoulliGLM,
    "sir": SIR,
    "lotka_volterra": LotkaVolterra,
}

INFERENCE_TASKS = tuple(_TASKS)


def inference_task(name):
    """Return an inference problem of the benchmark of Lueckmann et al. [1]_.

    ====================================  ============  ========  ===================
    name                                  parameters    features  exact posterior
    ====================================  ============  ========  ===================
    ``"two_moons"``                       2             2         yes
    ``"slcp"``                            5             8         no
    ``"gaussian_linear"``                 10            10        yes
    ``"gaussian_linear_uniform"``         10            10        yes
    ``"gaussian_mixture"``                2             2         yes
    ``"bernoulli_glm"``                   10            10        no
    ``"sir"``                             2             10        no
    ``"lotka_volterra"``                  4             20        no
    ====================================  ============  ========  ===================

    All have a likelihood that can be evaluated. The stimulus of ``"bernoulli_glm"``
    is one of our own, so its posteriors are not those of the benchmark.

    Parameters
    ----------
    name : str
        One of ``INFERENCE_TASKS``.

    Returns
    -------
    task : InferenceTask
        Prior, simulator, likelihood and, where it is known, the posterior.

    References
    ----------
    .. [1] J.-M. Lueckmann, J. Boelts, D. Greenberg, P. Gonçalves and J. Macke,
       "Benchmarking simulation-based inference", AISTATS 2021.

    Examples
    --------
    >>> from skmdn.datasets import inference_task
    >>> task = inference_task("two_moons")
    >>> data = task.sample(1000, random_state=0)
    >>> data["theta"].shape, data["x"].shape
    ((1000, 2), (1000, 2))
    >>> task.posterior.sample(data["x"][:3], 5, random_state=0).shape
    (3, 5, 2)
    """
    if name not in _TASKS:
        raise ValueError(f"name must be one of {list(INFERENCE_TASKS)}, got {name!r}.")
    return _TASKS[name]()
