import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_ndtr, logsumexp
from torch.overrides import TorchFunctionMode

from skmdn.queries.quantiles import normal_quantiles
from tests.helpers import algebra, tensor

# Two or three levels are solved one by one, hundreds by interpolation.
LEVELS = {
    "few": [1e-12, 1e-5, 0.3, 0.5, 1 - 1e-9],
    "many": np.concatenate(
        [
            np.geomspace(1e-12, 0.5, 200),
            1.0 - np.geomspace(1e-9, 0.5, 200),
            np.linspace(0.0, 1.0, 301)[1:-1],
        ]
    ),
}


def random_parts(n_rows, n_components, smallest=1e-3, seed=0, spread=3.0):
    rng = np.random.RandomState(seed)
    size = (n_rows, n_components)
    weights = rng.dirichlet(np.ones(n_components), n_rows)
    stds = np.exp(rng.uniform(math.log(smallest), 0.0, size))
    return weights, spread * rng.normal(size=size), stds


def identical(weights, means, stds):
    return weights, np.ones_like(means), np.full_like(stds, 2.0)


def half_off(weights, means, stds):
    weights, means = weights.copy(), means.copy()
    weights[:, ::2], means[:, ::2] = 0.0, 1e9 * means[:, ::2]
    return weights / weights.sum(1, keepdims=True), means, stds


def scaled(weights, means, stds, scale):
    return weights, scale * means, scale * stds


ROWS = {
    "easy": random_parts(30, 25, 0.05),
    "hard": random_parts(30, 25, 1e-3),
    "two": random_parts(30, 2, 1e-2),
    "one": random_parts(30, 1, 1e-2),
    "three hundred": random_parts(2, 300),
    "scales over 1e6": random_parts(30, 25, 1e-6),
    "far apart": random_parts(30, 5, 1e-2, spread=1e3),
    "identical": identical(*random_parts(5, 8)),
    "half of weight 0": half_off(*random_parts(10, 8, 1e-2)),
    "rare": (
        np.array([[1 - 1e-9, 1e-9], [1 - 1e-13, 1e-13]]),
        [[0, 50.0]] * 2,
        [[1.0] * 2] * 2,
    ),
    "huge": scaled(*random_parts(10, 4, 1e-2), 1e200),
    "tiny": scaled(*random_parts(10, 4, 1e-2), 1e-200),
}


def quantiles(parts, levels):
    return normal_quantiles(*map(tensor, parts), tensor(levels)).numpy()


def relative_errors(parts, levels, x):
    """How far the tail probability at x is from the level's, beyond rounding of x."""
    weights, means, stds = (np.asarray(part)[:, None] for part in parts)
    upper = np.asarray(levels) > 0.5
    z = (x[:, :, None] - means) / stds * np.where(upper, -1.0, 1.0)[:, None]
    with np.errstate(divide="ignore", under="ignore"):
        log_tail = logsumexp(log_ndtr(z), -1, weights)
        log_pdf = logsumexp(
            -0.5 * z**2 - np.log(stds) - 0.5 * math.log(2 * math.pi), -1, weights
        )
    tail = np.where(upper, 1.0 - np.asarray(levels), levels)
    error = np.abs(np.expm1(log_tail - np.log(tail)))
    rounding = np.finfo(float).eps * np.abs(x) * np.exp(log_pdf - np.log(tail))
    return error - 1.1 * rounding


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("rows", ROWS)
def test_quantiles_reach_their_levels_in_both_tails(rows, levels):
    x = quantiles(ROWS[rows], LEVELS[levels])
    assert relative_errors(ROWS[rows], LEVELS[levels], x).max() < 1e-9


def test_levels_reach_down_to_the_smallest_numbers():
    levels = [1e-300, 1e-100, 1e-30]
    x = quantiles(ROWS["hard"], levels)
    assert relative_errors(ROWS["hard"], levels, x).max() < 1e-9


@pytest.mark.parametrize("n_levels", [1, 3, 15, 16, 40, 200, 1000])
def test_any_number_of_levels_is_answered_alike(n_levels):
    levels = np.linspace(0.0, 1.0, n_levels + 2)[1:-1]
    x = quantiles(ROWS["hard"], levels)
    assert relative_errors(ROWS["hard"], levels, x).max() < 1e-9


@algebra
@given(st.integers(0, 999), st.sampled_from([1, 2, 3, 25]), st.data())
def test_quantiles_never_cross(seed, n_components, data):
    smallest = data.draw(st.sampled_from([1e-6, 1e-3, 1.0]))
    parts = random_parts(3, n_components, smallest, seed)
    n_levels = data.draw(st.integers(1, 400))
    rng = np.random.RandomState(seed)
    levels = 0.5 * (1.0 + np.tanh(rng.standard_cauchy(n_levels))).clip(1e-12, 2 - 1e-9)
    # Neighbours as close as numbers can be are where rounding would show.
    levels = np.sort(np.concatenate([levels, np.nextafter(levels, 0.5)]))
    assert (np.diff(quantiles(parts, levels)) >= 0).all()


def test_levels_may_come_in_any_order_and_twice():
    levels = np.array(LEVELS["many"])
    order = np.random.RandomState(0).permutation(np.repeat(np.arange(len(levels)), 2))
    x = quantiles(ROWS["hard"], levels[order])
    np.testing.assert_array_equal(
        x,
        quantiles(ROWS["hard"], np.repeat(levels, 2))[
            :, np.argsort(np.argsort(order, kind="stable"))
        ],
    )


def test_levels_between_two_separate_modes_are_solved():
    parts = [[0.5, 0.5]], [[-1e6, 1e6]], [[1e-3, 1e-3]]
    levels = 0.5 + np.array([-1e-3, -1e-6, -1e-12, 0.0, 1e-12, 1e-6, 1e-3])
    for some in (levels, np.linspace(0.4, 0.6, 201)):
        x = quantiles(parts, some)
        assert relative_errors(parts, some, x).max() < 1e-9
        assert (np.diff(x) >= 0).all()


def test_single_precision_is_answered_in_single_precision():
    parts = [tensor(part).float() for part in ROWS["easy"]]
    levels = np.linspace(0.0, 1.0, 102)[1:-1]
    x = normal_quantiles(*parts, tensor(levels).float())
    assert x.dtype == torch.float32
    assert relative_errors(ROWS["easy"], levels, x.double().numpy()).max() < 1e-4


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_nothing_asked_is_nothing_answered(shape):
    n_rows, n_levels = shape
    x = quantiles(random_parts(n_rows, 3), np.full(n_levels, 0.3))
    assert x.shape == shape


class Largest(TorchFunctionMode):
    """Remember the size of the largest tensor that any function returns."""

    size = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.untyped_storage().nbytes() > 0:
            self.size = max(self.size, result.untyped_storage().nbytes() // 8)
        return result


@pytest.mark.parametrize(
    ("n_rows", "n_levels"), [(20_000, 3), (200, 1000), (1, 60_000)]
)
def test_memory_does_not_grow_with_rows_times_levels_times_components(n_rows, n_levels):
    parts = [tensor(part) for part in random_parts(n_rows, 12)]
    levels = torch.linspace(0.001, 0.999, n_levels, dtype=torch.float64)
    with Largest() as largest:
        normal_quantiles(*parts, levels)
    assert largest.size <= max(n_rows * max(12, n_levels), 2**18)
