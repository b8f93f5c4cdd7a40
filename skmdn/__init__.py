"""The whole predictive distribution for scikit-learn users."""

from ._version import __version__
from .decoder import DeepGenerativeDecoder
from .gaussian_classifier import GaussianMixtureClassifier
from .gaussian_mixture import MAPGaussianMixture
from .posterior import AmortizedPosterior
from .regression import MixtureDensityRegressor
from .variational import VariationalPosterior

__all__ = [
    "AmortizedPosterior",
    "DeepGenerativeDecoder",
    "GaussianMixtureClassifier",
    "MAPGaussianMixture",
    "MixtureDensityRegressor",
    "VariationalPosterior",
    "__version__",
]
