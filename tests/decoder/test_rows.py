"""What comes with the rows of a decoder: classes, covariates, exposures."""

import numpy as np
import pandas as pd
import pytest

from skmdn.decoder.rows import (
    covariate_columns,
    covariate_numbers,
    read_exposure,
    read_groups,
)


def test_without_labels_there_is_one_group():
    classes, numbers = read_groups(None, None, "auto", 3)
    assert classes == [None]
    assert numbers.tolist() == [[-1], [-1], [-1]]


@pytest.mark.parametrize(
    ("y", "marker", "names", "numbers"),
    [
        ([0, 2, -1, 0], "auto", [0, 2], [0, 1, -1, 0]),
        ([[0], [2], [-1], [0]], "auto", [0, 2], [0, 1, -1, 0]),
        ([-1, 1, -1, 1], "auto", [-1, 1], [0, 1, 0, 1]),
        (["b", None, "a", np.nan], "auto", ["a", "b"], [1, -1, 0, -1]),
        ([1.5, np.nan, np.nan, 2.5], "auto", None, None),
        ([5, 5, 9, 9], 9, [5], [0, 0, -1, -1]),
    ],
)
def test_classes_are_read_as_those_of_the_classifier(y, marker, names, numbers):
    y = np.asarray(y, dtype=object if "b" in y else None)
    if names is None:
        with pytest.raises(ValueError, match="y must hold classes"):
            read_groups(y, None, marker, 4)
        return
    classes, found = read_groups(y, None, marker, 4)
    assert classes[0].tolist() == names
    assert found[:, 0].tolist() == numbers


@pytest.mark.parametrize(
    "covariates",
    [
        [["x", 1], ["y", -1], [None, 0], ["x", 1]],
        pd.DataFrame({"a": ["x", "y", None, "x"], "b": [1, -1, 0, 1]}),
    ],
    ids=["list", "frame"],
)
def test_every_covariate_has_a_group(covariates):
    if isinstance(covariates, list):
        covariates = np.array(covariates, dtype=object)
    classes, numbers = read_groups(None, covariates, "auto", 4)
    assert [None if c is None else c.tolist() for c in classes] == [
        None,
        ["x", "y"],
        [0, 1],
    ]
    assert numbers.tolist() == [[-1, 0, 1], [-1, 1, -1], [-1, -1, 0], [-1, 0, 1]]
    np.testing.assert_array_equal(covariate_numbers(covariates, classes, 4), numbers)


def test_minus_one_is_never_a_class_of_a_covariate():
    classes, numbers = read_groups(None, np.array([0.0, -1.0, 0.0]), "auto", 3)
    assert classes[1].tolist() == [0.0]
    assert numbers[:, 1].tolist() == [0, -1, 0]


def test_classes_that_fit_has_not_seen_are_marked():
    classes = [None, np.array(["x", "y"])]
    found = covariate_numbers(["y", "z", None], classes, 3)
    assert found.tolist() == [[-1, 1], [-1, -2], [-1, -1]]
    assert covariate_numbers(None, classes, 2).tolist() == [[-1, -1], [-1, -1]]


def test_labels_of_the_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"y has the shape \(2,\) for 3 rows"):
        read_groups([0, 1], None, "auto", 3)
    with pytest.raises(ValueError, match=r"covariates\[:, 1\] must hold classes"):
        read_groups(None, [[0, 0.5], [1, 0.7], [0, 0.1]], "auto", 3)
    with pytest.raises(ValueError, match=r"covariates\[:, 0\] contains NaN, None or"):
        read_groups(None, [-1, -1], "auto", 2)
    with pytest.raises(ValueError, match="covariates has the shape"):
        covariate_columns([0, 1], 3)
    with pytest.raises(ValueError, match="fitted with 1"):
        covariate_numbers([[0, 1]], [None, np.array([0])], 1)


def test_exposures_are_a_column_of_positive_numbers():
    assert read_exposure(None, 3) is None
    for given in ([1, 2.5, 3], [[1], [2.5], [3]], pd.Series([1, 2.5, 3])):
        np.testing.assert_array_equal(read_exposure(given, 3), [[1.0], [2.5], [3.0]])


@pytest.mark.parametrize(
    ("exposure", "message"),
    [
        ([1.0, 2.0], r"exposure has the shape \(2,\)"),
        ([[1.0, 2.0, 3.0]], r"exposure has the shape \(1, 3\)"),
        ([1.0, 0.0, 2.0], "exposure must be positive, got 0.0"),
        ([1.0, np.nan, 2.0], "exposure contains NaN"),
    ],
)
def test_other_exposures_are_refused(exposure, message):
    with pytest.raises(ValueError, match=message):
        read_exposure(exposure, 3)
