"""The display of calibration: what it computes and what it draws."""

import sys

import numpy as np
import pytest
from scipy import stats

from skmdn.plotting import PredictiveCalibrationDisplay


def test_the_coverage_curve_of_a_uniform_sample_is_the_diagonal():
    pit = np.random.RandomState(0).uniform(size=4000)
    display = PredictiveCalibrationDisplay(pit)
    nominal, observed = display.coverage_curve()
    distance = np.abs(nominal - observed).max()
    assert distance < stats.kstwo.isf(1e-4, len(pit))
    narrow = PredictiveCalibrationDisplay(np.r_[np.zeros(50), np.ones(50)])
    assert narrow.coverage_curve()[1][-2] == 0.0


def test_calibration_from_estimator_and_from_predictions_agree(fitted):
    model, X, y = fitted
    display = PredictiveCalibrationDisplay.from_estimator(model, X, y, n_bins=8)
    np.testing.assert_array_equal(display.pit, model.predict_distribution(X).pit(y))
    heights = [patch.get_height() for patch in display.axes_[0].patches[-8:]]
    assert np.mean(heights) == pytest.approx(1.0)
    again = PredictiveCalibrationDisplay.from_predictions(
        model.predict_distribution(X), y
    )
    np.testing.assert_array_equal(again.pit, display.pit)


def test_a_missing_matplotlib_is_explained(fitted, monkeypatch):
    model, X, y = fitted
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"skmdn\[plot\]"):
        PredictiveCalibrationDisplay.from_estimator(model, X, y)
