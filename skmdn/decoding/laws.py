r"""What a decoder's outputs say about columns of data: a class for each law.

An output :math:`\eta` is a number of the whole line. Every law gives its log density,
the first two derivatives by :math:`\eta`, which Newton's method and the evidence need
for each row, and the gradient by its own parameters, which all rows share.
"""

from .class_laws import Bernoulli, Categorical
from .column_law import ColumnLaw
from .count_laws import NegativeBinomial, Poisson
from .real_laws import Gaussian, SphericalGaussian

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Categorical",
    "ColumnLaw",
    "Gaussian",
    "NegativeBinomial",
    "Poisson",
    "SphericalGaussian",
]

LIKELIHOODS: dict[str, type[ColumnLaw]] = {
    law.name: law
    for law in (
        Bernoulli,
        Categorical,
        Gaussian,
        NegativeBinomial,
        Poisson,
        SphericalGaussian,
    )
}
