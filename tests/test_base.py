"""What the estimators share."""

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from skmdn.base import (
    Standardizer,
    marginal_start,
    resolve_device,
    unchanged_on_error,
    warn_about,
)
from skmdn.training import History


def sample(n=200, d=2, seed=0):
    rng = np.random.RandomState(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)), rng.randint(1, 4, n)


def test_weights_standardise_like_repetition():
    values, weights = sample()
    weighted = Standardizer.fit(values, weights.astype(float))
    repeated = np.repeat(values, weights, axis=0)
    np.testing.assert_allclose(weighted.mean, repeated.mean(0), rtol=1e-12)
    np.testing.assert_allclose(weighted.scale, repeated.std(0), rtol=1e-12)
    moved = weighted.transform(repeated)
    np.testing.assert_allclose(moved.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(moved.std(0), 1, rtol=1e-12)


@pytest.mark.parametrize("constant", [0.0, 3.0, 1e9, -1e-9])
def test_a_column_without_spread_is_only_centred(constant):
    values = np.full((10, 1), constant)
    scaler = Standardizer.fit(values, np.ones(10))
    assert scaler.scale == 1.0
    np.testing.assert_allclose(scaler.transform(values), 0.0, atol=1e-6)


def test_a_column_and_its_mirror_image_become_the_same_numbers():
    values = np.random.RandomState(0).gamma(2.0, size=(50, 1))
    moved = [
        Standardizer.fit(v, np.ones(50), orient=True).transform(v)
        for v in (values, -values)
    ]
    np.testing.assert_allclose(moved[0], moved[1])
    symmetric = Standardizer.fit(np.c_[[-1.0, 0, 1]], np.ones(3), orient=True)
    assert symmetric.scale > 0


def test_huge_values_do_not_overflow():
    values = np.array([[1e200], [-1e200], [3e200]])
    scaler = Standardizer.fit(values, np.ones(3))
    np.testing.assert_allclose(scaler.transform(values).std(), 1.0)


@pytest.mark.parametrize("d", [1, 2, 4])
@pytest.mark.parametrize("n_components", [1, 3, 300])
def test_the_start_has_the_targets_mean_and_variance(d, n_components):
    values, weights = sample(d=d)
    values = Standardizer.fit(values, weights.astype(float)).transform(values)
    centers, spreads, shares = marginal_start(
        values, weights.astype(float), n_components
    )
    mean = shares @ centers
    variance = shares @ (spreads**2 + centers**2) - mean**2
    np.testing.assert_allclose(mean, 0.0, atol=1e-12)
    np.testing.assert_allclose(variance, 1.0, rtol=1e-10)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_weights_start_like_repetition(d):
    values, weights = sample(30, d)
    weighted = marginal_start(values, weights.astype(float), 4)
    repeated = np.repeat(values, weights, axis=0)
    for a, b in zip(
        weighted, marginal_start(repeated, np.ones(len(repeated)), 4), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_the_start_follows_the_order_of_the_target():
    values = np.linspace(-1, 1, 100)[:, None]
    centers, spreads, _ = marginal_start(values, np.ones(100), 5)
    assert (np.diff(centers[:, 0]) > 0).all()
    np.testing.assert_allclose(spreads, spreads[0, 0])


def test_ties_start_wide_enough_to_move():
    _, spreads, _ = marginal_start(np.zeros((50, 1)), np.ones(50), 5)
    assert (spreads >= 0.5).all()


def test_the_processor_is_always_a_device_and_others_are_explained():
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(ValueError, match="device='abacus' cannot be used here"):
        resolve_device("abacus")


def test_a_failure_takes_back_what_it_set():
    class Thing:
        pass

    thing = Thing()
    thing.kept_, thing.parameter = 1, 2

    def fail():
        with unchanged_on_error(thing):
            thing.kept_, thing.new_, thing._private = 5, 6, 7
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert vars(thing) == {"kept_": 1, "parameter": 2}
    with unchanged_on_error(thing):
        thing.new_ = 6
    assert thing.new_ == 6


def test_warnings_say_what_happened():
    warn_about(History())
    with pytest.warns(ConvergenceWarning, match=r"2 time\(s\)"):
        warn_about(History(n_recoveries=2))
    with pytest.warns(ConvergenceWarning, match="kept being"):
        warn_about(History(n_recoveries=9, gave_up=True))
