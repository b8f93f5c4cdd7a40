"""The whole predictive distribution for scikit-learn users."""

from ._version import __version__
from .regression import MixtureDensityRegressor

__all__ = ["MixtureDensityRegressor", "__version__"]
