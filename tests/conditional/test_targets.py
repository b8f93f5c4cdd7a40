"""What is read from y and y_upper, and what is measured on it."""

import numpy as np
import pandas as pd
import pytest

from skmdn.base import Standardizer, marginal_start
from skmdn.composition import Composition
from skmdn.conditional.targets import (
    Targets,
    check_intervals,
    check_support,
    found_resolution,
    log_volume,
    marginal_components,
    read_targets,
    target_units,
)
from skmdn.families import PointMass
from tests.helpers import randn

NAN, INF = np.nan, np.inf


def composition(family="normal", n_components=2, **kwargs):
    return Composition.make(family, n_components, **kwargs)


def columns(*values):
    return np.array(values, dtype=float).T


# Reading.


@pytest.mark.parametrize(
    "y", [[1.0, 2.0], [[1.0], [2.0]], [[1, 2], [3, 4]], np.ones(3), None, "no numbers"]
)
def test_plain_targets_are_left_to_scikit_learn(y):
    stand_in, targets = read_targets(y, None)
    assert stand_in is y
    assert targets is None


@pytest.mark.parametrize("y", [[1.0, NAN], [1.0, INF], [[1.0, INF], [0.0, 1.0]]])
def test_what_scikit_learn_refuses_is_left_to_it(y):
    assert read_targets(y, None) == (y, None)


def test_missing_entries_are_nan_in_both_ends():
    y = [[1.0, NAN], [NAN, 2.0], [3.0, 4.0]]
    stand_in, targets = read_targets(y, None)
    np.testing.assert_array_equal(stand_in, [[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(targets.lower, y)
    np.testing.assert_array_equal(targets.upper, y)
    assert targets.known.tolist() == [[True, False], [False, True], [True, True]]
    assert not targets.between.any()
    assert not targets.plain


def test_ends_may_be_infinite_or_equal():
    y, y_upper = [-INF, 1.0, 2.0, 3.0], [0.5, INF, 2.0, 4.0]
    stand_in, targets = read_targets(y, y_upper)
    np.testing.assert_array_equal(stand_in, [0.0, 1.0, 2.0, 3.0])
    np.testing.assert_array_equal(targets.lower, np.c_[y])
    np.testing.assert_array_equal(targets.upper, np.c_[y_upper])
    assert targets.known[:, 0].tolist() == [False, False, True, False]
    assert targets.between[:, 0].tolist() == [True, True, False, True]


def test_an_interval_without_ends_is_a_missing_entry():
    _, targets = read_targets([[-INF, 1.0], [NAN, 2.0]], [[INF, 1.0], [NAN, 2.0]])
    np.testing.assert_array_equal(targets.lower, [[NAN, 1.0], [NAN, 2.0]])
    np.testing.assert_array_equal(targets.upper, targets.lower)


def test_equal_ends_everywhere_are_plain():
    y = np.arange(6.0).reshape(3, 2)
    stand_in, targets = read_targets(y, y.copy())
    np.testing.assert_array_equal(stand_in, y)
    assert targets.plain
    np.testing.assert_array_equal(targets.lower, y)


def test_tables_and_lists_are_read():
    frame = pd.DataFrame({"a": [1.0, None], "b": [2.0, 3.0]})
    _, targets = read_targets(frame, None)
    np.testing.assert_array_equal(targets.lower, [[1.0, 2.0], [NAN, 3.0]])
    _, targets = read_targets(pd.Series([1, 2]), pd.Series([1.0, INF]))
    assert targets.between[:, 0].tolist() == [False, True]


@pytest.mark.parametrize(
    ("y", "y_upper", "message"),
    [
        ([1.0, 2.0, 3.0], [0.5, 2.0, 2.5], "2 of 3 entries are.*y=1.0, y_upper=0.5"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], r"y_upper has shape \(3,\).*\(2,\)"),
        ([1.0, 2.0], [[1.0], [2.0]], r"y_upper has shape \(2, 1\)"),
        ([1.0, 2.0], [1.0, NAN], "1 entries are NaN in only one"),
        ([[1.0, 2.0], [NAN, 2.0]], [[1.0, 2.0], [3.0, 2.0]], "NaN in only one"),
        ([INF, 2.0], [INF, 2.0], "1 entries lie at infinity.*y=inf"),
        ([-INF, 2.0], [-INF, 2.0], "lie at infinity"),
        ([[NAN, NAN], [1.0, 2.0], [NAN, NAN]], None, "2 of 3 rows.*row 0"),
        ([1.0, -INF], [1.0, INF], "1 of 2 rows.*row 1.*Leave such rows out"),
        ([1.0, 2.0], ["a", "b"], "could not convert"),
    ],
)
def test_contradictions_are_refused(y, y_upper, message):
    with pytest.raises(ValueError, match=message):
        read_targets(y, y_upper)


def test_one_dimensional_holes_are_left_to_scikit_learn():
    stand_in, targets = read_targets([1.0, NAN], [2.0, 3.0])
    assert np.isnan(stand_in).any()
    assert targets is None


# Checks.


@pytest.mark.parametrize(
    ("family", "low", "high", "first"),
    [
        ("gamma", [1.0, -2.0, 0.0, -1.0], [1.0, -1.0, 0.5, INF], "y=-2.0, y_upper=-1"),
        ("gamma", [1.0, 0.0], [2.0, 0.0], "with 0.0"),
        ("beta", [0.5, 1.0, -1.0], [0.5, 1.5, 0.1], "y=1.0, y_upper=1.5"),
        ("poisson", [0.0, 0.2, 0.2], [0.0, 0.8, 1.2], "y=0.2, y_upper=0.8"),
        ("bernoulli", [0.0, 1.2], [1.0, INF], "y=1.2, y_upper=inf"),
    ],
)
def test_an_interval_needs_one_number_of_the_support(family, low, high, first):
    targets = Targets(columns(low), columns(high))
    with pytest.raises(ValueError, match=f"1 of {len(low)} rows do not.*{first}"):
        check_support(targets, composition(family), family, True)


def test_missing_entries_are_in_every_support():
    y = np.array([[1.0, NAN], [NAN, 2.0]])
    check_support(Targets(y, y), composition("gamma"), "gamma", False)
    y[0, 0] = -1.0
    with pytest.raises(ValueError, match=r"1 of 2 rows.*\[-1.0, nan\]"):
        check_support(Targets(y, y), composition("gamma"), "gamma", False)


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_boxes_are_refused_where_outputs_vary_together(covariance_type):
    parts = composition(covariance_type=covariance_type)
    y = np.zeros((3, 2))
    for targets, resolution in ((Targets(y, y + 1.0), None), (Targets(y), 0.5)):
        with pytest.raises(ValueError, match="Use covariance_type='diag'"):
            check_intervals(targets, parts, covariance_type, resolution=resolution)
    check_intervals(Targets(y), parts, covariance_type, resolution="auto")
    check_intervals(Targets(y[:, :1], y[:, :1] + 1.0), parts, covariance_type)


# Resolution.


def test_a_lattice_is_found_where_it_says_something():
    y = columns(np.arange(400) % 5 * 0.5)
    assert found_resolution("auto", Targets(y), composition()) == 0.5
    assert found_resolution(None, Targets(y), composition()) == 0.0
    assert found_resolution(2.0, Targets(y), composition()) == 2.0
    # Few rows, counts, several outputs, intervals: no.
    assert found_resolution("auto", Targets(y[:200]), composition()) == 0.0
    counts = Targets(2.0 * y)
    assert found_resolution("auto", counts, composition("poisson")) == 0.0
    assert found_resolution("auto", counts, composition(["normal", "poisson"])) == 1.0
    assert found_resolution("auto", Targets(np.c_[y, y]), composition()) == 0.0
    assert found_resolution("auto", Targets(y, y + 1.0), composition()) == 0.0


# Measures.


def test_an_interval_is_described_by_its_middle_or_an_end_that_is_allowed():
    targets = Targets(
        columns([1.0, 0.0, -INF, 2.0, -5.0, -INF]),
        columns([1.0, 3.0, 4.0, INF, 1.0, INF]),
    )
    targets.lower[5] = targets.upper[5] = NAN
    found = targets.values(composition("gamma"))[:, 0]
    np.testing.assert_array_equal(found, [1.0, 1.5, 4.0, 2.0, 1.0, NAN])
    found = targets.values(composition("poisson"))[:, 0]
    np.testing.assert_array_equal(found, [1.0, 0.0, 4.0, 2.0, 1.0, NAN])
    found = targets.values(composition())[:, 0]
    np.testing.assert_array_equal(found, [1.0, 1.5, 4.0, 2.0, -2.0, NAN])
    plain = Targets(columns([1.0, 2.0]))
    assert plain.values(composition()) is plain.lower


def test_an_output_of_which_nothing_is_known_is_refused():
    y = np.array([[1.0, NAN], [2.0, NAN]])
    with pytest.raises(ValueError, match="Nothing is known of output 1"):
        Targets(y, y).values(composition())


@pytest.mark.parametrize("family", ["normal", "gumbel", "gamma", "poisson"])
def test_columns_are_measured_on_the_rows_that_have_a_number(family):
    values = np.exp(randn(50, 2).numpy())
    weights = np.arange(1.0, 51.0)
    values[::3, 0] = NAN
    values[1::4, 1] = NAN
    found = target_units(values, weights, composition(family))
    for d in range(2):
        there = ~np.isnan(values[:, d])
        alone = target_units(
            values[there, d : d + 1], weights[there], composition(family)
        )
        np.testing.assert_allclose(found.mean[d], alone.mean[0])
        np.testing.assert_allclose(found.scale[d], alone.scale[0], rtol=1e-14)


@pytest.mark.parametrize("family", ["normal", "gamma"])
def test_the_start_has_the_units_that_are_asked_for(family):
    values = np.exp(randn(80, 1).numpy())
    weights = np.ones(80)
    units = Standardizer(np.array([0.5]), np.array([3.0]))
    if family == "normal":
        expected = marginal_start(units.transform(values), weights, 2)
    else:
        own = Standardizer.fit(values, weights)
        centers, spreads, shares = marginal_start(own.transform(values), weights, 2)
        centers = units.transform(centers * own.scale + own.mean)
        expected = centers, spreads * own.scale / units.scale, shares
    found = marginal_components(values, weights, composition(family), units)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b)


def test_rows_at_a_point_mass_start_its_weight_and_no_other_component():
    rest = np.exp(randn(60, 1).numpy())
    values, weights = np.concatenate([rest, np.zeros((40, 1))]), np.arange(1.0, 101.0)
    units = Standardizer(np.array([0.5]), np.array([3.0]))
    kinds = composition(["normal", PointMass(0.0), "normal"])
    centers, spreads, shares = marginal_components(values, weights, kinds, units)
    expected = marginal_start(units.transform(rest), weights[:60], 2)
    np.testing.assert_allclose(centers[[0, 2]], expected[0])
    np.testing.assert_allclose(spreads[[0, 2]], expected[1])
    share = weights[60:].sum() / weights.sum()
    assert shares[1] == pytest.approx(0.95 * share + 0.05 / 3.0)
    assert shares[0] == shares[2] == pytest.approx(0.5 * (1.0 - shares[1]))


@pytest.mark.parametrize("others", [[], ["gamma"], ["normal", "lognormal"]], ids=str)
def test_a_start_of_point_masses_alone_is_valid(others):
    values, weights = np.zeros((9, 1)), np.ones(9)
    kinds = composition([PointMass(0.0), PointMass(1.0), *others])
    units = target_units(values, weights, kinds)
    start = marginal_components(values, weights, kinds, units)
    assert all(np.isfinite(part).all() for part in start)
    assert (start[2] > 0.0).all()
    assert start[2].sum() == pytest.approx(1.0)


def test_only_known_numbers_have_units():
    units = Standardizer(np.zeros(2), np.array([2.0, -5.0]))
    weights = np.array([1.0, 3.0])
    y = np.array([[1.0, 2.0], [NAN, 4.0]])
    assert log_volume(Targets(y), weights, units, composition()) == pytest.approx(
        np.log(10.0)
    )
    expected = np.log(5.0) + 0.25 * np.log(2.0)
    found = log_volume(Targets(y, y), weights, units, composition())
    assert found == pytest.approx(expected)
    upper = np.array([[1.0, 3.0], [NAN, 4.0]])
    expected = 0.75 * np.log(5.0) + 0.25 * np.log(2.0)
    found = log_volume(Targets(y, upper), weights, units, composition())
    assert found == pytest.approx(expected)


def test_a_negative_unit_swaps_the_ends():
    units = Standardizer(np.zeros(2), np.array([2.0, -2.0]))
    low, high = np.array([[1.0, -INF]]), np.array([[3.0, 4.0]])
    found = Targets(low, high).tensors(units)
    np.testing.assert_array_equal(found[0], [[0.5, -2.0]])
    np.testing.assert_array_equal(found[1], [[1.5, INF]])
    plain = Targets(np.array([[1.0, 4.0]])).tensors(units)
    np.testing.assert_array_equal(plain[0], [[0.5, -2.0]])
    assert plain[1] is None
