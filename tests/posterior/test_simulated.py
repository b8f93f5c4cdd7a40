"""Simulations as they come: failures, coordinates, scales, outlying observations."""

import math
import warnings

import numpy as np
import pytest
from scipy import stats

from skmdn.bridge import to_numpy, to_tensor
from skmdn.items import padded_items
from skmdn.posterior.simulated import (
    DataScaler,
    Outlyingness,
    Source,
    coordinates_of,
    filled_prior,
    online_parts,
    to_coordinates,
    usable_rows,
)

ONES = np.ones(30)


def test_failed_rows_are_counted():
    X, theta = np.ones((30, 2)), np.ones((30, 1))
    X[3, 1], X[4, 0], theta[5, 0] = np.nan, np.inf, np.nan
    weights = ONES.copy()
    weights[4] = 0.0
    with pytest.warns(UserWarning, match="2 of 30 simulations"):
        good, n_failed = usable_rows(X, theta, weights, padded=False)
    assert n_failed == 2
    assert np.flatnonzero(~good).tolist() == [3, 4, 5]


def test_padding_is_no_failure():
    X = np.full((30, 4, 2), np.nan)
    with warnings.catch_warnings(record=True) as caught:
        good, n_failed = usable_rows(X, np.ones((30, 1)), ONES, padded=True)
    assert good.all()
    assert n_failed == len(caught) == 0


def test_a_small_table_with_gaps_is_an_error():
    X = np.ones((19, 1))
    X[0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 19 rows"):
        usable_rows(X, np.ones((19, 1)), np.ones(19), padded=False)


def test_gaps_of_a_prior_are_measured():
    theta = np.random.default_rng(0).normal(3.0, 2.0, size=(1000, 3))
    prior = filled_prior([None, (0, 9), (None, math.inf)], theta, np.ones(1000))
    assert prior[1] == (0, 9)
    assert prior[0].mean() == pytest.approx(theta[:, 0].mean())
    assert prior[2].std() == pytest.approx(theta[:, 2].std())
    u = to_coordinates(theta[:, :1], coordinates_of(prior[:1], 1))
    np.testing.assert_allclose([u.mean(), u.std()], [0.0, 1.0], atol=1e-10)
    joint = stats.multivariate_normal([0, 0], np.eye(2))
    assert filled_prior(joint, theta, np.ones(1000)) is joint
    with pytest.raises(ValueError, match="describes 2 parameter"):
        filled_prior([None, (0, 1)], theta, np.ones(1000))


def test_parameters_on_an_end_are_taken_and_those_beyond_refused():
    coordinates = coordinates_of([(-1, 1)], 1)
    u = to_coordinates(np.array([[-1.0], [0.0], [1.0]]), coordinates)
    assert np.isfinite(u).all()
    back = to_numpy(coordinates.forward(to_tensor(u)))
    np.testing.assert_allclose(back[:, 0], [-1.0, 0.0, 1.0], atol=1e-12)
    with pytest.raises(ValueError, match="outside of the prior's support"):
        to_coordinates(np.array([[0.0], [1.5]]), coordinates)
    with pytest.raises(ValueError, match="describes 1 parameter"):
        coordinates_of([(-1, 1)], 2)


def test_columns_with_far_tails_are_squashed():
    rng = np.random.default_rng(0)
    X = np.stack([rng.normal(5.0, 2.0, 2000), np.exp(3 * rng.normal(size=2000))], 1)
    scaler = DataScaler.fit(X, np.ones(2000))
    z = scaler.transform(X)
    assert np.isinf(scaler.units[0])
    assert np.isfinite(scaler.units[1])
    np.testing.assert_allclose(z[:, 0], (X[:, 0] - X[:, 0].mean()) / X[:, 0].std())
    np.testing.assert_allclose(z.std(axis=0), 1.0)
    assert np.abs(z).max() < 6.0
    order = np.argsort(X[:, 1])
    assert (np.diff(z[order, 1]) > 0).all()
    # A column with a zero in most rows.
    X[:1900, 1] = 0.0
    assert np.isfinite(DataScaler.fit(X, np.ones(2000)).transform(X)).all()


def test_distances_are_those_of_mahalanobis():
    rng = np.random.default_rng(0)
    summaries = rng.multivariate_normal([1.0, 2.0], [[2.0, 1.0], [1.0, 3.0]], 5000)
    measured = Outlyingness.fit(summaries)
    point = np.array([[4.0, -1.0]])
    offset = point[0] - summaries.mean(axis=0)
    exact = offset @ np.linalg.inv(np.cov(summaries.T, bias=True)) @ offset
    assert measured.squares(point)[0] == pytest.approx(exact, rel=1e-5)
    expected = stats.chi2(2).sf(exact)
    assert measured.p_values(point)[0] == pytest.approx(expected, abs=0.01)
    with pytest.warns(UserWarning, match="1 of 2 observation"):
        measured.warn(np.array([[1.0, 2.0], [40.0, 2.0]]))


def test_constant_summaries_can_be_measured():
    measured = Outlyingness.fit(np.ones((50, 2)))
    assert measured.p_values(np.ones((1, 2)))[0] == 1.0
    assert measured.p_values(np.full((1, 2), 9.0))[0] == pytest.approx(1 / 51)


def test_sources():
    def pair(n_samples, rng):
        theta = rng.normal(size=n_samples)
        return theta[:, None] + 1.0, theta

    X, theta = Source(pair, "theta", "x").draw(3, np.random.RandomState(0))
    np.testing.assert_allclose(X[:, 0], theta + 1.0)

    class Padded:
        def sample(self, n_samples, random_state):
            x = np.zeros((n_samples, 2))
            return {"a": np.ones(n_samples), "b": x, "b_mask": x < [[1.0, 0.0]]}

    X, theta = Source(Padded(), "a", "b").draw(2, np.random.RandomState(0))
    np.testing.assert_array_equal(padded_items(X)[0, :, 0], [0.0, np.nan])
    with pytest.raises(ValueError, match="no 'theta'"):
        Source(Padded(), "theta", "b").draw(2, np.random.RandomState(0))


def test_online_parts_make_all_steps():
    parts = list(online_parts(130))
    assert sum(n for n, _ in parts) == 130
    rates = [rate for _, rate in parts]
    assert rates[0] == 1.0
    assert rates == sorted(rates, reverse=True)
    assert 0.0 < rates[-1] < 0.2
    with pytest.raises(ValueError, match="n_batches"):
        list(online_parts(0))
