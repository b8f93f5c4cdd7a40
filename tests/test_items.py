"""Every form of rows of items is the same padded array."""

import numpy as np
import pytest

from skmdn.items import padded_items, whole_rows, with_padding

ROWS = [[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [[7.0, 8.0]], [[9.0, 1.0], [2.0, 3.0]]]
MASK = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0]], dtype=bool)


def expected():
    items = np.full((3, 3, 2), np.nan)
    for i, row in enumerate(ROWS):
        items[i, : len(row)] = row
    return items


def ragged_objects():
    rows = np.empty(3, dtype=object)
    rows[:] = [np.array(row) for row in ROWS]
    return rows


@pytest.mark.parametrize(
    ("X", "mask"),
    [
        (expected(), None),
        (np.where(MASK[..., None], expected(), 99.0), MASK),
        (np.where(MASK[..., None], expected(), np.inf), MASK.astype(int)),
        (np.ma.array(expected(), mask=np.isnan(expected())), None),
        (ROWS, None),
        (tuple(np.array(row) for row in ROWS), None),
        (ragged_objects(), None),
    ],
    ids=["nan", "mask", "mask of ints", "masked array", "lists", "arrays", "objects"],
)
def test_all_forms_are_the_same(X, mask):
    items = padded_items(X, mask)
    np.testing.assert_array_equal(items, expected())
    assert items.dtype == np.float64


def test_numbers_are_items_with_one_feature():
    items = padded_items(np.ma.masked_greater([[1, 2, 9], [3, 4, 5]], 8))
    np.testing.assert_array_equal(items[..., 0], [[1, 2, np.nan], [3, 4, 5]])
    items = padded_items([[1, 2], [], [3]])
    np.testing.assert_array_equal(items[..., 0], [[1, 2], [np.nan] * 2, [3, np.nan]])
    masked = [np.ma.array([1.0, 2.0], mask=[True, False]), [5.0]]
    np.testing.assert_array_equal(
        padded_items(masked)[..., 0], [[np.nan, 2], [5, np.nan]]
    )


def test_a_row_without_items_does_not_decide_the_features():
    assert padded_items([np.zeros((2, 3)), []]).shape == (2, 2, 3)


def test_what_was_given_is_not_changed():
    X = np.ones((3, 3, 2))
    padded_items(X, MASK)
    assert (X == 1.0).all()
    assert not np.shares_memory(padded_items(X), X)


def test_padding_takes_any_axes_behind_the_items():
    padded = with_padding(np.ones((3, 3, 2, 4), dtype=int), MASK)
    np.testing.assert_array_equal(np.isnan(padded).all((2, 3)), ~MASK)


@pytest.mark.parametrize(
    ("X", "mask", "message"),
    [
        (np.zeros(3), None, r"must have the shape .* got \(3,\)"),
        (np.zeros((3, 2, 0)), None, r"got \(3, 2, 0\)"),
        ([[[1.0, np.nan]]], None, r"1 item\(s\) of X lack some of their features"),
        ([[1.0, np.inf]], None, "X contains infinity"),
        ([["a"], ["b", "c"]], None, "X must hold numbers"),
        ([np.zeros((1, 2)), np.zeros((1, 3))], None, "differ in their numbers of feat"),
        ([np.zeros((1, 2, 3))], None, r"A row of X .* got \(1, 2, 3\)"),
        (np.zeros((3, 2)), MASK, r"the shape \(3, 3\)"),
        (np.zeros((3, 3)), 2 * MASK, "must be true or false"),
    ],
)
def test_wrong_input_is_named(X, mask, message):
    with pytest.raises(ValueError, match=message):
        padded_items(X, mask)
    if isinstance(X, np.ndarray) and mask is None:
        with pytest.raises(ValueError, match=r"^x_obs "):
            padded_items(X, name="x_obs")


def test_rows_that_are_not_whole_are_told_apart():
    items = np.tile(expected()[:2], (3, 1, 1))
    items[0, 1, 0] = np.inf
    items[2, 0, 1] = np.nan
    items[3] = np.nan
    found = whole_rows(padded_items(items, failed=True))
    assert found.tolist() == [False, True, False, True, True, True]
    with pytest.raises(ValueError, match="lack some"):
        padded_items(items)


def test_a_real_item_that_is_nan_does_not_pass_for_padding():
    padded = with_padding([[1.0, np.nan, np.nan]], [[True, True, False]])
    np.testing.assert_array_equal(padded, [[1.0, np.inf, np.nan]])
    assert not whole_rows(padded[..., None]).any()
    with pytest.raises(ValueError, match="NaN in an item that is no padding"):
        padded_items([[1.0, np.nan]], [[True, True]])
