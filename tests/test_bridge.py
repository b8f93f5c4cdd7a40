import numpy as np
import pytest
import torch

from skmdn import bridge
from skmdn.bridge import (
    StreamedRows,
    cpu_copy,
    generator_from,
    mapped_tensor,
    to_numpy,
    to_tensor,
)


def read_only(array):
    array.flags.writeable = False
    return array


ARRAYS = {
    "ordinary": np.arange(6.0).reshape(2, 3),
    "read-only": read_only(np.arange(6.0).reshape(2, 3)),
    "negative strides": np.arange(6.0).reshape(2, 3)[::-1, ::-1],
    "Fortran order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "every other column": np.arange(12.0).reshape(2, 6)[:, ::2],
    "big-endian": np.arange(6.0).reshape(2, 3).astype(">f8"),
    "big-endian integers": np.arange(6).reshape(2, 3).astype(">i4"),
    "integers": np.arange(6).reshape(2, 3),
    "half precision": np.arange(6.0).reshape(2, 3).astype(np.float16),
    "booleans": np.array([[True, False, True]]),
    "no rows": np.empty((0, 3)),
}


def draws(generator):
    return torch.rand(8, generator=generator)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ARRAYS)
def test_to_tensor_copies_any_array(name):
    array = ARRAYS[name]
    before = array.copy()
    result = to_tensor(array)
    assert result.dtype == torch.float64
    assert result.shape == array.shape
    np.testing.assert_array_equal(result.numpy(), array.astype(np.float64))
    result.zero_()
    np.testing.assert_array_equal(array, before)


def test_to_tensor_takes_lists_and_gives_the_dtype_asked_for():
    rows = to_tensor([0, 2], dtype=torch.long)
    assert rows.dtype == torch.long
    assert rows.tolist() == [0, 2]
    assert to_tensor([[0.5]], dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_to_numpy_gives_float64(dtype):
    array = to_numpy(torch.tensor([[0.5, -2.0]], dtype=dtype))
    assert array.dtype == np.float64
    np.testing.assert_array_equal(array, [[0.5, -2.0]])


def test_to_numpy_keeps_integers_and_detaches():
    assert to_numpy(torch.tensor([1, 2])).dtype == np.int64
    assert to_numpy(torch.ones(2, requires_grad=True)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("seed", [0, 7, np.int64(7), 2**32 - 1])
def test_generator_from_a_seed_gives_the_same_draws_every_time(seed):
    assert torch.equal(draws(generator_from(seed)), draws(generator_from(seed)))


def test_generator_from_different_seeds_gives_different_draws():
    assert not torch.equal(draws(generator_from(0)), draws(generator_from(1)))


def test_generator_from_none_gives_fresh_draws_without_global_state():
    numpy_state, torch_state = np.random.get_state()[1], torch.get_rng_state()
    assert not torch.equal(draws(generator_from(None)), draws(generator_from(None)))
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_generator_from_a_random_state_advances_it_by_one_draw():
    state, again = np.random.RandomState(3), np.random.RandomState(3)
    first, second = draws(generator_from(state)), draws(generator_from(state))
    assert not torch.equal(first, second)
    again.randint(np.iinfo(np.int32).max)
    assert torch.equal(draws(generator_from(again)), second)
    assert state.randint(1000) == again.randint(1000)


def test_cpu_copy_returns_a_module_on_the_cpu_itself():
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.PReLU())
    assert cpu_copy(module) is module
    assert cpu_copy(torch.nn.Identity()) is not None


@pytest.mark.parametrize("rows_at_a_time", [1, 4, 10, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mapped_tensor_is_the_function_of_the_whole(
    monkeypatch, rows_at_a_time, dtype
):
    monkeypatch.setattr(bridge, "_ROWS_AT_A_TIME", rows_at_a_time)
    values = np.random.RandomState(0).normal(size=(10, 3))
    before, sizes = values.copy(), []

    def function(part):
        sizes.append(len(part))
        return 2.0 * part + 1.0

    result = mapped_tensor(values, function, dtype=dtype)
    assert result.dtype == dtype
    assert torch.equal(result, to_tensor(2.0 * values + 1.0, dtype=dtype))
    assert max(sizes) <= rows_at_a_time
    assert sum(sizes) == 10
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("name", sorted(set(ARRAYS) - {"integers"}))
def test_mapped_tensors_of_any_array(name):
    result = mapped_tensor(ARRAYS[name], lambda part: part)
    np.testing.assert_array_equal(result.numpy(), ARRAYS[name].astype(float))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_streamed_rows_are_those_of_a_tensor(tmp_path, dtype):
    values = np.random.RandomState(0).normal(size=(20, 3))
    disk = np.memmap(tmp_path / "rows", dtype="f8", mode="w+", shape=values.shape)
    disk[:] = values
    taken = []

    def function(part):
        taken.append(len(part))
        return part - 1.0

    streamed = StreamedRows(disk, function, dtype=dtype)
    whole = mapped_tensor(values, lambda part: part - 1.0, dtype=dtype)
    assert len(streamed) == 20
    assert taken == []
    for rows in (
        torch.tensor([3, 3, 0]),
        torch.tensor([[0, 19], [5, 7]]),
        torch.arange(20),
    ):
        assert torch.equal(streamed[rows], whole[rows])
        assert streamed[rows].dtype == dtype
    assert streamed.device == torch.device("cpu")
