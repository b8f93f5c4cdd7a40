"""Data larger than memory: nothing as large as the rows on disk is allocated."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from skmdn import MixtureDensityRegressor
from skmdn.base import ChosenRows
from skmdn.embeddings import FeatureEmbedding
from skmdn.training import split_rows

ROOT = Path(__file__).parents[1]


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
    monkeypatch.setattr("skmdn.networks._FORWARD_BYTES", 2000)
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


@pytest.mark.skipif(sys.platform != "linux", reason="limits are those of Linux")
def test_a_file_larger_than_the_memory_allowed_is_fitted(tmp_path):
    # Private memory is limited to what the process has and 3/4 of the file.
    code = """
import resource, sys
import numpy as np
from skmdn import MixtureDensityRegressor

model = MixtureDensityRegressor(
    2, n_estimators=1, hidden_layer_sizes=(4,), batch_size=512, max_iter=1,
    early_stopping=False, random_state=0)
model.fit(np.random.RandomState(0).normal(size=(60, 2)), np.arange(60.0))
shape = (16_000, 1500)
X = np.memmap(sys.argv[1], "f8", "w+", shape=shape)
X[:] = np.arange(shape[0])[:, None] % 7
y, weights = np.sin(np.arange(shape[0])), np.arange(shape[0]) % 5
X.flush()
X = np.memmap(sys.argv[1], "f8", "r", shape=shape)
(line,) = (line for line in open("/proc/self/status") if line.startswith("VmData"))
limit = int(line.split()[1]) * 1024 + X.nbytes * 3 // 4
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    np.ones(shape)
except MemoryError:
    model.set_params(embedding="none").fit(X, y, sample_weight=weights)
    print(model.predict(X).shape)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "rows")]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stdout == "(16000,)\n", result.stderr
