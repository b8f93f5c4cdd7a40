"""Pictures of a report: drawn once each, closed again."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from skmdn import diagnostics

OF_REPORTS = (
    "ContractionDisplay",
    "CoverageDisplay",
    "RankEcdfDisplay",
    "RankHistogramDisplay",
    "RecoveryDisplay",
)


class Standard:
    def sample(self, X, n_samples, random_state=None):
        rng = np.random.default_rng(random_state)
        return rng.normal(size=(len(X), n_samples, 2))


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return np.zeros((60, 1)), rng.normal(size=(60, 2))


@pytest.mark.parametrize("name", OF_REPORTS)
def test_a_panel_for_each_parameter(name, data):
    display = getattr(diagnostics, name).from_estimator(
        Standard(), data, n_samples=50, random_state=0
    )
    assert len(display.axes_) == 2
    assert display.axes_[1].get_title() == "theta[1]"
    assert display.axes_[0].get_xlabel()
    _, axes = plt.subplots(1, 2)
    assert display.plot(axes).axes_[0] is axes[0]
    with pytest.raises(ValueError, match="1 axes for 2 panels"):
        display.plot(axes[:1])
    plt.close("all")


def test_all_pictures_in_one_call(data):
    report = diagnostics.sbc(Standard(), data, n_samples=50, random_state=0)
    figure = report.plot()
    assert len(figure.axes) == 10
    plt.close(figure)


def test_the_curve_is_inside_the_band(data):
    display = diagnostics.RankEcdfDisplay.from_estimator(
        Standard(), data, n_samples=50, random_state=0
    )
    (curve, _) = display.axes_[0].lines
    points, low, high = diagnostics.ecdf_band(60, n_points=60)
    values = np.sort(display.report.pit[:, 0])
    shares = np.searchsorted(values, points) / 60
    np.testing.assert_array_equal(
        ((shares >= low) & (shares <= high)).all(), display.report.rank_test[0][0] > 0
    )
    np.testing.assert_allclose(curve.get_xdata()[1:-1], values)
    np.testing.assert_allclose(curve.get_ydata()[[0, -1]], 0.0)
    plt.close("all")


def test_what_was_observed_stands_in_what_was_expected():
    rng = np.random.default_rng(0)
    check = diagnostics.predictive_check(
        np.full(9, 2.0), rng.normal(size=(200, 9)), random_state=0
    )
    display = diagnostics.PredictiveCheckDisplay(check).plot()
    assert [ax.get_xlabel() for ax in display.axes_] == ["mean", "std", "min", "max"]
    assert [ax.lines[0].get_xdata()[0] for ax in display.axes_] == [2.0, 0.0, 2.0, 2.0]
    heights = [patch.get_height() for patch in display.axes_[0].patches]
    assert sum(heights) == 200
    with pytest.raises(ValueError, match="1 axes for 4 panels"):
        display.plot(display.axes_[:1])
    result = diagnostics.misspecification_test(
        [[6.0]], rng.normal(size=(100, 1)), n_null=50, random_state=0
    )
    (ax,) = diagnostics.MisspecificationDisplay(result).plot().axes_
    assert ax.lines[0].get_xdata()[0] == result.statistic
    assert ax.get_title() == f"p = {result.p_value:.3f}"
    plt.close("all")
