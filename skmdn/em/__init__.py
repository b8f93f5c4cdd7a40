r"""Expectation maximisation for Gaussian mixtures: maximum a posteriori, exactly.

.. math:: \max_\theta \; \sum_i w_i \log \sum_k \pi_k \, \mathcal{N}(x_i \mid \mu_k,
    \Sigma_k) + \log p(\theta)

Several runs are fitted side by side: every tensor of parameters has a leading axis of
runs. Data lie in columns, ``(n_features, n_samples)``, so that all the work on a block
of rows is a few products of matrices.
"""

from .exchange import exchanges
from .expectation import e_step, impute, log_density, moments_of, responsibilities
from .iteration import Fit, Online, Past, run
from .maximization import Priors, log_prior, m_step, start_step
from .parameters import COVARIANCE_TYPES, Parameters
from .rows import Rows
from .statistics import Statistics

__all__ = [
    "COVARIANCE_TYPES",
    "Fit",
    "Online",
    "Parameters",
    "Past",
    "Priors",
    "Rows",
    "Statistics",
    "e_step",
    "exchanges",
    "impute",
    "log_density",
    "log_prior",
    "m_step",
    "moments_of",
    "responsibilities",
    "run",
    "start_step",
]
