"""The grid of pictures: its lines, and what it refuses."""

import numpy as np
import pytest

from skmdn.plotting import ReconstructionDisplay


class Decoder:
    """Halves what it is given, and fills holes with ones."""

    def reconstruct(self, X):
        return X / 2.0

    def impute(self, X):
        return np.where(np.isnan(X), 1.0, X)


X = np.arange(24.0).reshape(2, 12)


def test_the_lines_are_rows_and_reconstructions():
    display = ReconstructionDisplay.from_estimator(Decoder(), X, shape=(3, 4))
    assert list(display.images) == ["given", "decoded"]
    np.testing.assert_array_equal(display.images["decoded"], X.reshape(2, 3, 4) / 2)
    assert display.axes_.shape == (2, 2)
    drawn = display.axes_[0, 1].images[0].get_array()
    np.testing.assert_array_equal(drawn, X[1].reshape(3, 4))


def test_missing_pixels_are_imputed_and_compared():
    holed = np.where(X > 20.0, np.nan, X)
    display = ReconstructionDisplay.from_estimator(
        Decoder(), holed, shape=(3, 4), truth=X
    )
    assert list(display.images) == ["given", "imputed", "truth"]
    assert display.images["imputed"][1, 2, 3] == 1.0


def test_a_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="does not hold the 12 features"):
        ReconstructionDisplay.from_estimator(Decoder(), X)
