"""Pictures, as scikit-learn's Display objects: computed once, drawn where you like."""

from .calibration import PredictiveCalibrationDisplay
from .criteria import InformationCriterionDisplay
from .density import PredictiveDensityDisplay
from .mixtures import GaussianMixtureDisplay, ResponsibilityDisplay
from .reconstruction import ReconstructionDisplay

__all__ = [
    "GaussianMixtureDisplay",
    "InformationCriterionDisplay",
    "PredictiveCalibrationDisplay",
    "PredictiveDensityDisplay",
    "ReconstructionDisplay",
    "ResponsibilityDisplay",
]
