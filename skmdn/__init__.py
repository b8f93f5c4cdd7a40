"""The whole predictive distribution for scikit-learn users."""

from ._version import __version__
from .decoder import DeepGenerativeDecoder
from .gaussian_mixture import MAPGaussianMixture
from .regression import MixtureDensityRegressor
from .variational import VariationalPosterior

__all__ = [
    "DeepGenerativeDecoder",
    "MAPGaussianMixture",
    "MixtureDensityRegressor",
    "VariationalPosterior",
    "__version__",
]
