"""Pictures of a report: drawn once each, closed again."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from skmdn import diagnostics

DISPLAYS = [name for name in diagnostics.__all__ if name.endswith("Display")]


class Standard:
    def sample(self, X, n_samples, random_state=None):
        rng = np.random.default_rng(random_state)
        return rng.normal(size=(len(X), n_samples, 2))


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return np.zeros((60, 1)), rng.normal(size=(60, 2))


@pytest.mark.parametrize("name", DISPLAYS)
def test_a_panel_for_each_parameter(name, data):
    display = getattr(diagnostics, name).from_estimator(
        Standard(), data, n_samples=50, random_state=0
    )
    assert len(display.axes_) == 2
    assert display.axes_[1].get_title() == "theta[1]"
    assert display.axes_[0].get_xlabel()
    _, axes = plt.subplots(1, 2)
    assert display.plot(axes).axes_[0] is axes[0]
    with pytest.raises(ValueError, match="1 axes for 2 parameters"):
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
