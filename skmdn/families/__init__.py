r"""Component families: the densities a mixture is made of.

A :class:`Family` is mathematics without state. Its parameters travel beside it,
in a dictionary of tensors whose shapes read ``batch + (n_components,) + event``;
a component axis of length 1 means that all components share the parameter.
Adding a family means adding one class here: nothing else in the package knows
what a component is made of.

Two kinds of methods make up the protocol. *Joint* ones take a point
``y (..., 1, n_outputs)`` and describe the component as a whole; *marginal* ones
work on every output by itself and keep the output axis. Families whose outputs are
independent derive from :class:`IndependentFamily`, which has most of them.
"""

from .base import Family, IndependentFamily, Params, inverse_softplus
from .bounded import Beta, TruncatedNormal
from .counts import Bernoulli, NegativeBinomial, Poisson
from .gaussian import MultivariateNormal, Normal
from .point_mass import PointMass
from .positive import Exponential, Gamma, LogNormal, Weibull
from .real import Gumbel, Laplace, Logistic, StudentT
from .transformed import Transformed

__all__ = [
    "Bernoulli",
    "FAMILIES",
    "Beta",
    "Exponential",
    "Family",
    "Gamma",
    "Gumbel",
    "IndependentFamily",
    "Laplace",
    "LogNormal",
    "Logistic",
    "MultivariateNormal",
    "NegativeBinomial",
    "Normal",
    "Params",
    "PointMass",
    "Poisson",
    "StudentT",
    "Transformed",
    "TruncatedNormal",
    "Weibull",
    "inverse_softplus",
    "make_family",
]

# What the names of the parameter ``family`` stand for, beside "normal".
_NAMED: dict[str, type[Family]] = {
    "bernoulli": Bernoulli,
    "beta": Beta,
    "exponential": Exponential,
    "gamma": Gamma,
    "gumbel": Gumbel,
    "laplace": Laplace,
    "logistic": Logistic,
    "lognormal": LogNormal,
    "negative_binomial": NegativeBinomial,
    "poisson": Poisson,
    "student_t": StudentT,
    "weibull": Weibull,
}

FAMILIES = ("normal", *_NAMED)


def make_family(family: "str | Family", covariance_type: str = "diag") -> Family:
    """Return the family that a name stands for; an object is returned as it is.

    Parameters
    ----------
    family : str or Family
        One of :data:`FAMILIES`, or a family.
    covariance_type : {"full", "diag", "spherical", "tied"}, default="diag"
        How the outputs of normal components vary together; those of other families
        are independent, and an object brings its own.

    Returns
    -------
    family : Family
        The family.

    Raises
    ------
    ValueError
        If the name is not known.
    """
    if isinstance(family, Family):
        return family
    if family not in FAMILIES:
        known = ", ".join(repr(name) for name in sorted(FAMILIES))
        raise ValueError(
            f"family={family!r} is not known: use one of {known}, or a Family object."
        )
    if covariance_type not in ("full", "diag", "spherical", "tied"):
        raise ValueError(
            f"covariance_type={covariance_type!r} is not known: use one of 'full', "
            "'diag', 'spherical', 'tied'."
        )
    if family != "normal":
        return _NAMED[family]()
    if covariance_type in ("diag", "spherical"):
        return Normal(covariance_type)
    return MultivariateNormal(covariance_type)
