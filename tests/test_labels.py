"""Labels, some of which are not known."""

import numpy as np
import pandas as pd
import pytest

from skmdn.labels import codes_of, read_labels


def read(y, marker="auto"):
    classes, codes = read_labels(np.asarray(y), marker)
    return classes.tolist(), codes.tolist()


@pytest.mark.parametrize(
    ("y", "classes", "codes"),
    [
        ([0, 2, -1, 0], [0, 2], [0, 1, -1, 0]),
        ([-1, 1, -1], [-1, 1], [0, 1, 0]),
        ([-1, 1], [-1, 1], [0, 1]),
        ([-1, -1], [-1], [0, 0]),
        (np.array([-1, 0, 1], dtype=np.int8), [0, 1], [-1, 0, 1]),
        (np.array([-1, 0, 1], dtype=object), [0, 1], [-1, 0, 1]),
        ([3, 3], [3], [0, 0]),
        ([-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0], [0, 1, 2]),
        ([-1.0, np.nan, 1.0], [-1.0, 1.0], [0, -1, 1]),
        (np.array([-1, 0, 1, None]), [-1, 0, 1], [0, 1, 2, -1]),
        (np.array(["b", None, "a", np.nan, pd.NA], dtype=object), ["a", "b"], None),
        (["-1", "0", "1"], ["-1", "0", "1"], [0, 1, 2]),
        ([True, False], [False, True], [1, 0]),
        (pd.Series([1, None, 0], dtype="Int64"), [0, 1], [1, -1, 0]),
        (pd.Series(["x", None, "y"], dtype="category"), ["x", "y"], [0, -1, 1]),
        (pd.Series(["x", None, "y"], dtype="string"), ["x", "y"], [0, -1, 1]),
    ],
)
def test_what_is_a_label(y, classes, codes):
    assert read(y) == (classes, [1, -1, 0, -1, -1] if codes is None else codes)


@pytest.mark.parametrize(
    ("y", "marker", "classes", "codes"),
    [
        ([-1, 0, 1], None, [-1, 0, 1], [0, 1, 2]),
        ([-1, 1, 999], 999, [-1, 1], [0, 1, -1]),
        ([-1, 1], -1, [1], [-1, 0]),
        (["a", "?", "b"], "?", ["a", "b"], [0, -1, 1]),
        (["a", "auto", "b"], "auto", ["a", "auto", "b"], [0, 1, 2]),
        ([0.0, 1.0, np.nan], np.nan, [0.0, 1.0], [0, 1, -1]),
        ([0.0, 9.0, np.nan], 9, [0.0], [0, -1, -1]),
    ],
)
def test_a_marker_of_the_users_own(y, marker, classes, codes):
    assert read(y, marker) == (classes, codes)


def test_classes_keep_their_type():
    assert read_labels(np.array(["b", None], dtype=object))[0].dtype.kind == "U"
    assert read_labels(np.array([1, None], dtype=object))[0].dtype.kind == "i"


@pytest.mark.parametrize("y", [[np.nan, np.nan], [None, None]])
def test_without_labels_nothing_is_read(y):
    with pytest.raises(ValueError, match="at least one row needs a label"):
        read(y)


@pytest.mark.parametrize("y", [[0.5, 1.5, 0.25], [np.inf, 1.0], [1, "a"]])
def test_what_is_no_label_is_refused(y):
    y = np.array(y, dtype=object) if "a" in y else y
    with pytest.raises(ValueError, match=r"Unknown label type|infinity"):
        read(y)


def test_codes_of_known_classes():
    classes = np.array([0, 2])
    assert codes_of([2, 0, -1], classes).tolist() == [1, 0, -1]
    assert codes_of([2.0, np.nan], classes).tolist() == [1, -1]
    assert codes_of([2, None], classes).tolist() == [1, -1]
    assert codes_of([-1, 1], np.array([-1, 1])).tolist() == [0, 1]
    assert codes_of([2, 7], classes, 7).tolist() == [1, -1]
    assert codes_of([2, 7], classes, strict=False).tolist() == [1, -2]
    assert codes_of(["b", None], np.array(["a", "b"])).tolist() == [1, -1]
    with pytest.raises(ValueError, match=r"7, which is none of the classes \[0, 2\]"):
        codes_of([2, 7], classes)
    with pytest.raises(ValueError, match="-1, which is none of the classes"):
        codes_of([2, -1], classes, None)
