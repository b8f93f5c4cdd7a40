"""Data larger than memory: nothing as large as the rows on disk is allocated."""

import tracemalloc

import numpy as np
import pytest
import torch

from skmdn import MixtureDensityRegressor
from skmdn.base import ChosenRows
from skmdn.bridge import mapped_tensor
from skmdn.learning.embeddings import FeatureEmbedding
from skmdn.learning.training import split_rows


def on_disk(tmp_path, X):
    """The same numbers as a file that is only read."""
    X.tofile(tmp_path / "rows")
    return np.memmap(tmp_path / "rows", X.dtype, "r", shape=X.shape)


def quick(**params):
    params = {"n_estimators": 2, "hidden_layer_sizes": (8,), "max_iter": 2, **params}
    return MixtureDensityRegressor(2, batch_size=64, random_state=0, **params)


@pytest.fixture
def table():
    rng = np.random.RandomState(0)
    X = rng.randint(-128, 128, size=(300, 3))
    return X, X[:, 0] + rng.normal(size=300)


@pytest.mark.parametrize("dtype", ["f8", "f4", ">f8", "f2", "i1", "i8"])
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_on_disk_and_in_memory_give_the_same_fit(tmp_path, table, dtype, weighted):
    X, y = table
    X = X.astype(dtype)
    weights = np.arange(300) % 3 if weighted else None
    plain = quick().fit(X.astype(float), y, sample_weight=weights)
    streamed = quick().fit(on_disk(tmp_path, X), y, sample_weight=weights)
    assert plain.loss_curve_ == streamed.loss_curve_
    np.testing.assert_array_equal(plain.predict(X), streamed.predict(X))


def test_partial_fit_streams_too(tmp_path, table):
    X, y = table
    X = X.astype(float)
    windows = on_disk(tmp_path, X)
    plain, streamed = quick(), quick()
    for first in range(0, 300, 100):
        rows = slice(first, first + 100)
        plain.partial_fit(X[rows], y[rows])
        streamed.partial_fit(windows[rows], y[rows])
    np.testing.assert_array_equal(plain.predict(X), streamed.predict(X))


def test_chosen_rows_are_those_of_a_copy():
    values, chosen = np.arange(40.0).reshape(10, 4), np.array([7, 1, 4])
    rows, copy = ChosenRows(values, chosen), values[chosen]
    assert (len(rows), rows.shape) == (3, (3, 4))
    np.testing.assert_array_equal(rows[1:], copy[1:])
    np.testing.assert_array_equal(rows[np.array([2, 0])], copy[[2, 0]])
    np.testing.assert_array_equal(rows[::2, 1:3], copy[::2, 1:3])
    np.testing.assert_array_equal(np.asarray(rows), copy)


def test_wide_passes_in_parts_are_those_of_the_whole(monkeypatch, table):
    X, y = table
    whole = quick(max_iter=1).fit(X, y)
    expected = whole.log_prob(X, y)
    monkeypatch.setattr("skmdn.learning.networks._FORWARD_BYTES", 2000)
    network = whole.module_.networks[-1]
    assert network.n_rows_together() < 10
    np.testing.assert_allclose(whole.log_prob(X, y), expected, rtol=1e-12)
    parts = quick(max_iter=1).fit(X, y)
    np.testing.assert_allclose(parts.log_prob(X, y), expected, rtol=1e-3)


def test_numbers_of_rows_are_small():
    generator = torch.Generator().manual_seed(0)
    rows, held_out = split_rows(2, 30, 0.1, generator)
    assert rows.dtype == held_out.dtype == torch.int32
    assert split_rows(2, 30, 0.0, generator)[0].dtype == torch.int32


def test_constant_columns_are_written_where_they_are_wanted():
    edges = [torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)] * 2
    block = FeatureEmbedding(1, 2, edges=edges)
    x = torch.linspace(-1, 2, 12, dtype=torch.float64).view(6, 2)
    out = torch.empty(6, block.n_constant, dtype=torch.float64)
    block.constant(x, out=out)
    torch.testing.assert_close(out, block.constant(x), rtol=0, atol=0)


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_on_disk_are_never_copied_as_a_whole(tmp_path, monkeypatch, weighted):
    X = on_disk(tmp_path, np.random.RandomState(0).normal(size=(4000, 1500)))
    y, weights = X[:, 0] * 1.0, np.arange(4000) % 5 if weighted else None
    copied = []

    def recording(values, *args, **kwargs):
        copied.append(values.shape)
        return mapped_tensor(values, *args, **kwargs)

    monkeypatch.setattr("skmdn.conditional.fit.mapped_tensor", recording)
    tracemalloc.start()
    try:
        quick(embedding="none", max_iter=1).fit(X, y, sample_weight=weights)
        # numpy tells of its memory, torch does not.
        assert tracemalloc.get_traced_memory()[1] < 0.7 * X.nbytes
    finally:
        tracemalloc.stop()
    assert copied
    assert all(np.prod(shape) <= 4000 for shape in copied)
