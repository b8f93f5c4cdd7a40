"""Whether posteriors learned from simulations can be believed."""

from skmdn.exports import to_arviz

from .displays import (
    ContractionDisplay,
    CoverageDisplay,
    MisspecificationDisplay,
    PredictiveCheckDisplay,
    RankEcdfDisplay,
    RankHistogramDisplay,
    RecoveryDisplay,
)
from .predictive import PredictiveCheck, predictive_check
from .ranks import sample_crps, simulation_ranks, tarp_values
from .report import CalibrationReport, calibration_report, sbc
from .two_samples import (
    MisspecificationTest,
    c2st,
    misspecification_test,
    squared_mmd,
)
from .uniformity import ecdf_band, uniformity_test

__all__ = [
    "CalibrationReport",
    "ContractionDisplay",
    "CoverageDisplay",
    "MisspecificationDisplay",
    "MisspecificationTest",
    "PredictiveCheck",
    "PredictiveCheckDisplay",
    "RankEcdfDisplay",
    "RankHistogramDisplay",
    "RecoveryDisplay",
    "c2st",
    "calibration_report",
    "ecdf_band",
    "misspecification_test",
    "predictive_check",
    "sample_crps",
    "sbc",
    "simulation_ranks",
    "squared_mmd",
    "tarp_values",
    "to_arviz",
    "uniformity_test",
]
