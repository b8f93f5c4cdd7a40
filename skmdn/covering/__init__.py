"""Gaussian mixtures that cover an unnormalised density, all modes of it.

:func:`cover` is the algorithm. Its steps are modules: the path from the prior
(``annealing``), the climbs from prior draws (``hunt``), components where the mixture
falls short (``growth``), natural gradients (``natural``), and the comparison of the
candidates (``judging``). ``quality`` says how good the result is. ``descent`` and
``flowing`` go on from there, for mixtures and for flows.
"""

from .fit import Covering, cover
from .linked import LinkedNormals
from .normals import Normals
from .settings import Settings
from .target import Density, Target

__all__ = [
    "Covering",
    "Density",
    "LinkedNormals",
    "Normals",
    "Settings",
    "Target",
    "cover",
]
