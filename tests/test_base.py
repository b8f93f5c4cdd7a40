"""What the estimators share."""

import numpy as np
import pytest
from scipy import stats
from sklearn.exceptions import ConvergenceWarning

from skmdn import bridge
from skmdn.base import (
    Standardizer,
    lattice_width,
    marginal_start,
    repeated_share,
    resolve_device,
    unchanged_on_error,
    warn_about,
)
from skmdn.learning.training import History


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


@pytest.mark.parametrize("rows_at_a_time", [1, 7, 64, 1000])
@pytest.mark.parametrize("orient", [False, True])
def test_columns_are_measured_some_rows_at_a_time(monkeypatch, rows_at_a_time, orient):
    monkeypatch.setattr(bridge, "_ROWS_AT_A_TIME", rows_at_a_time)
    rng = np.random.RandomState(0)
    values = np.c_[rng.normal(5.0, 2.0, 200), -rng.gamma(2.0, size=200), np.ones(200)]
    weights = rng.uniform(0.1, 2.0, 200)
    scaler = Standardizer.fit(values, weights, orient=orient)
    mean = np.average(values, axis=0, weights=weights)
    std = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights))
    np.testing.assert_allclose(scaler.mean, mean, rtol=1e-13)
    np.testing.assert_allclose(np.abs(scaler.scale), [*std[:2], 1.0], rtol=1e-12)
    assert stats.skew(values[:, 1]) < 0.0
    assert (scaler.scale[1] < 0.0) == orient


def test_single_precision_is_measured_in_double(monkeypatch):
    monkeypatch.setattr(bridge, "_ROWS_AT_A_TIME", 64)
    values = np.random.RandomState(0).normal(1e4, 1.0, size=(1000, 2))
    values = values.astype(np.float32)
    scaler = Standardizer.fit(values, np.ones(1000))
    double = values.astype(np.float64)
    np.testing.assert_allclose(scaler.mean, double.mean(0), rtol=1e-12)
    np.testing.assert_allclose(scaler.scale, double.std(0), rtol=1e-9)
    assert scaler.transform(values).dtype == np.float64


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


def test_a_lattice_is_told_from_its_spacing():
    rng = np.random.RandomState(0)
    whole = rng.randint(0, 8, 1000).astype(float)
    assert lattice_width(whole) == 1.0
    assert lattice_width(0.25 * whole - 3.0) == 0.25
    assert lattice_width(whole[:, None] * 1e-6) == pytest.approx(1e-6)
    assert lattice_width(0.1 * whole) == pytest.approx(0.1)
    # Points of the lattice may be missing.
    assert lattice_width(np.repeat([0.0, 1.0, 4.0, 9.0], 100)) == 1.0
    assert lattice_width(np.repeat([0.0, 2.0], 100)) == 2.0


def test_what_is_no_lattice():
    rng = np.random.RandomState(0)
    assert lattice_width(rng.normal(size=1000)) == 0.0
    assert lattice_width(np.full(1000, 3.0)) == 0.0
    # Rounded, but to as good as continuous numbers.
    assert lattice_width(np.round(rng.normal(size=1000), 2)) == 0.0
    assert lattice_width(np.arange(10.0)) == 0.0
    # Few values, at no common spacing.
    assert lattice_width(np.repeat([0.0, 1.0, 2.5], 100)) == 0.0
    assert lattice_width(np.repeat([0.0, 1.0, np.pi], 100)) == 0.0


def test_the_share_of_repeated_rows_counts_all_but_the_first():
    rng = np.random.RandomState(0)
    values = rng.normal(size=(100, 4))
    assert repeated_share(values) == 0.0
    assert repeated_share(np.r_[values, values]) == 0.5
    assert repeated_share(np.r_[values, values[:25]]) == pytest.approx(0.2)
    assert repeated_share(np.zeros((10, 3))) == pytest.approx(0.9)
    order = rng.permutation(200)
    assert repeated_share(np.r_[values, values][order]) == 0.5


def test_rows_that_share_entries_are_not_repeated():
    rng = np.random.RandomState(0)
    grid = np.stack(np.meshgrid(*[np.arange(6.0)] * 3), -1).reshape(-1, 3)
    assert repeated_share(grid) == 0.0
    swapped = rng.normal(size=(50, 2))
    assert repeated_share(np.r_[swapped, swapped[:, ::-1]]) == 0.0
    categories = rng.randint(0, 3, size=(1000, 5)).astype(float)
    expected = 1.0 - len(np.unique(categories, axis=0)) / 1000
    assert repeated_share(categories) == pytest.approx(expected)
    single = rng.normal(size=(100, 3)).astype(np.float32)
    assert repeated_share(np.r_[single, single[:50]]) == pytest.approx(1 / 3)
