"""The whole predictive distribution for scikit-learn users."""

from ._version import __version__
from .regression import MixtureDensityRegressor
from .variational import VariationalPosterior

__all__ = ["MixtureDensityRegressor", "VariationalPosterior", "__version__"]
