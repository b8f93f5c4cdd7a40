r"""Priors on the parameters of a mixture, as small objects.

A :class:`Prior` has parameters that a search can set, a normalised ``log_prob`` and
a ``sample``. It knows tensors only: how often it counts against the rows is decided
where it is used.
"""

from .base import Prior
from .scales import InverseGamma, LogNormalScale, ScalesPrior
from .softball import Softball
from .weights import Dirichlet
from .wishart import InverseWishart

__all__ = [
    "Dirichlet",
    "InverseGamma",
    "InverseWishart",
    "LogNormalScale",
    "Prior",
    "ScalesPrior",
    "Softball",
]
