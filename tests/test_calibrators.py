import numpy as np
import pytest
from scipy.special import softmax

from skmdn.calibrators import (
    HeldOut,
    ScoreCalibrator,
    TemperatureCalibrator,
    check_support,
    counted,
)
from skmdn.distribution import PredictiveDistribution

RNG = np.random.RandomState(0)
N_ROWS = 2000


def held_out(logits, means, stds, y):
    """One prediction for each row, whose rows all have one weight."""
    dist = PredictiveDistribution.from_params(softmax(logits, -1), means, stds)
    columns = y.reshape(len(y), -1)
    return HeldOut(dist, columns, np.ones(len(y)))


def two_peaks(sharpness, width, n_rows=N_ROWS):
    """Rows of a law whose logits and scales the model has wrong by these factors."""
    logits = RNG.normal(size=(n_rows, 2))
    means = RNG.normal([-4.0, 4.0], size=(n_rows, 2))
    dist = PredictiveDistribution.from_params(
        softmax(logits, -1), means, np.ones_like(means)
    )
    y = dist.sample(random_state=0)[:, 0]
    return held_out(sharpness * logits, means, width * np.ones_like(means), y)


@pytest.mark.parametrize(
    ("sharpness", "width"), [(1.0, 1.0), (3.0, 0.5), (0.5, 30.0), (1.0, 1 / 30)]
)
def test_factor_and_temperature_are_found(sharpness, width):
    found = TemperatureCalibrator.fit([two_peaks(sharpness, width)])
    assert abs(found.scale_factor * width - 1.0) < 4.0 / np.sqrt(2.0 * N_ROWS)
    assert abs(np.log(found.temperature / sharpness)) < 0.25


def test_a_tempered_law_is_a_mixture_with_other_weights_and_scales():
    group = two_peaks(1.0, 1.0, n_rows=5)
    dist = TemperatureCalibrator(2.0, 3.0)(group.dist)
    assert type(dist) is PredictiveDistribution
    np.testing.assert_allclose(dist.means, group.dist.means)
    np.testing.assert_allclose(dist.stds, 2.0 * group.dist.stds)
    expected = softmax(np.log(group.dist.weights) / 3.0, -1)
    np.testing.assert_allclose(dist.weights, expected)


def test_a_single_row_says_little():
    group = held_out(np.zeros((1, 1)), np.zeros((1, 1)), np.ones((1, 1)), np.ones(1))
    found = TemperatureCalibrator.fit([group])
    assert 0.9 < found.scale_factor < 1.1


def test_weights_are_repetitions():
    group = two_peaks(2.0, 0.7, n_rows=50)
    weights = RNG.randint(1, 4, size=50)
    rows = np.repeat(np.arange(50), weights)
    weighted = HeldOut(group.dist, group.y, weights.astype(float))
    repeated = HeldOut(group.dist[rows], group.y[rows], np.ones(len(rows)))
    first, second = (TemperatureCalibrator.fit([g]) for g in (weighted, repeated))
    assert abs(first.scale_factor - second.scale_factor) < 1e-3
    assert abs(first.temperature - second.temperature) < 1e-2


def test_missing_outputs_are_left_out():
    n_rows = 400
    means = np.zeros((n_rows, 1, 2))
    y = RNG.normal(size=(n_rows, 2)) * [2.0, 5.0]
    y[::2, 1] = np.nan
    group = held_out(np.zeros((n_rows, 1)), means, np.ones_like(means), y)
    calibrator = ScoreCalibrator.fit([group], "isotonic", np.random.RandomState(0))
    for one, scale in zip(calibrator.maps, (2.0, 5.0), strict=True):
        np.testing.assert_allclose(one(one.knots)[0], one.knots / scale, atol=0.2)
    only = held_out(np.zeros((n_rows, 1)), means, np.ones_like(means), y)
    low = TemperatureCalibrator.fit([only]).scale_factor
    assert 2.0 < low < 5.0
    y[:, 1] = np.nan
    with pytest.raises(ValueError, match="No calibration row knows output 1"):
        ScoreCalibrator.fit([group], "isotonic", np.random.RandomState(0))


def test_shares_count_as_rows():
    group = two_peaks(1.0, 1.0, n_rows=8)
    weights = np.array([0.0, 0.1, 0.1, 0.1, 0.2, 0.2, 0.2, 0.1])
    (shares,) = counted([HeldOut(group.dist, group.y, weights)])
    np.testing.assert_allclose(shares.weights, 7.0 * weights[1:])
    assert len(shares.dist) == len(shares.y) == 7
    (counts,) = counted([HeldOut(group.dist, group.y, 10.0 * weights)])
    np.testing.assert_allclose(counts.weights, 10.0 * weights[1:])
    with pytest.raises(ValueError, match="zero for all calibration rows"):
        counted([HeldOut(group.dist, group.y, np.zeros(8))])


def test_impossible_targets_are_refused():
    group = two_peaks(1.0, 1.0, n_rows=3)
    check_support([group])
    far = HeldOut(group.dist, np.array([[0.0], [1e200], [0.0]]), group.weights)
    with pytest.raises(ValueError, match="1 of 3 calibration rows do not"):
        check_support([far])
