"""Potentials of all kinds: tensors, arrays, single precision, wrong shapes."""

import numpy as np
import pytest
import torch

from skmdn.variational import potentials
from skmdn.variational.potentials import (
    Potential,
    takes_many_observations,
    takes_observation,
)
from skmdn.variational.side_by_side import run_side_by_side
from tests.helpers import randn, tensor

PROBE = torch.zeros(2, 3, dtype=torch.float64)


def test_tensors_carry_gradients():
    potential = Potential(lambda theta: -theta.square().sum(1), None, PROBE)
    assert potential.differentiable
    assert potential(randn(5, 3)).dtype == torch.float64


def test_arrays_do_not():
    potential = Potential(lambda t: -np.square(np.array(t)).sum(axis=1), None, PROBE)
    assert not potential.differentiable
    theta = randn(5, 3)
    torch.testing.assert_close(potential(theta), -theta.square().sum(1))


def test_single_precision_is_found_out():
    slope = randn(3).float()
    potential = Potential(lambda theta: theta @ slope, None, PROBE)
    assert potential.way == "single"
    assert potential.differentiable
    assert potential(randn(5, 3)).dtype == torch.float64


def test_the_observation_follows():
    x = np.array([1.0, 2.0, 3.0])
    potential = Potential(lambda theta, x: -(theta - x).square().sum(1), x, PROBE)
    assert float(potential(tensor(x).unsqueeze(0))) == 0.0
    arrays = Potential(lambda t, x: -np.abs(np.array(t) - x).sum(1), x, PROBE)
    assert float(arrays(tensor(x).unsqueeze(0))) == 0.0


def two(theta, x):
    return theta


def optional(theta, x=None):
    return theta


@pytest.mark.parametrize(
    ("function", "answer"),
    [(two, True), (optional, True), (lambda theta: theta, False), (np.sin, False)],
)
def test_whether_there_is_an_observation(function, answer):
    assert takes_observation(function) is answer


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda theta: theta, r"shape \(2, 3\)"),
        (lambda theta: theta.sum(), r"shape \(\)"),
        (lambda theta: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_what_is_no_potential_is_refused(function, match):
    with pytest.raises(ValueError, match=match):
        Potential(function, None, PROBE)


# Several observations.


def by_row(theta, x):
    return -(x[0] - theta[:, 0]).square() - (x[1] - theta[:, 1]).square()


def by_table(theta, x):
    return -(x[:, 0] - theta[:, 0]).square() - (x[:, 1] - theta[:, 1]).square()


def broadcast(theta, x):
    return -(x - theta[:, :2]).square().sum(1)


def arrays(theta, x):
    return -np.square(x - theta[:, :2]).sum(axis=1)


def mixed_up(theta, x):
    return -(x.reshape(-1, 2).mean(0) - theta[:, :2]).square().sum(1)


def blind(theta, x):
    return -theta.square().sum(1)


@pytest.mark.parametrize("function", [by_row, by_table, broadcast, arrays])
def test_the_observation_is_a_row_or_a_table_of_one(function):
    potential = Potential(function, np.array([1.0, 2.0]), PROBE)
    theta = randn(5, 3)
    expected = -((theta[:, 0] - 1.0) ** 2 + (theta[:, 1] - 2.0) ** 2)
    torch.testing.assert_close(potential(theta), expected)


@pytest.mark.parametrize(
    ("function", "able"),
    [
        (by_row, False),
        (by_table, True),
        (broadcast, True),
        (arrays, True),
        (mixed_up, False),
        (blind, False),
    ],
)
def test_whether_it_takes_many_observations(function, able):
    rows = np.array([[1.0, 2.0], [0.0, -1.0]])
    assert takes_many_observations(function, rows, randn(6, 3))[0] is able


@pytest.mark.parametrize("most", [5, 50_000])
def test_rows_together_get_their_own_answers(monkeypatch, most):
    monkeypatch.setattr(potentials, "_MOST_POINTS", most)

    def partly(theta, x):
        values = -(x - theta[:, :2]).square().sum(1) * theta[:, 2].exp()
        values = torch.where(theta[:, 0] > 1.0, torch.nan, values)
        return torch.where(theta[:, 1] > 1.0, -torch.inf, values)

    points = [randn(4 + i, 3, seed=i) for i in range(3)]

    def task(i):
        potential = Potential(partly, np.array([i, 1.0]), PROBE)
        leaf = points[i].clone().requires_grad_()
        with torch.no_grad():
            values = potential(points[i])
        again = potential(leaf)
        total = (2.0 * again.masked_fill(~again.detach().isfinite(), 0.0)).sum()
        (slopes,) = torch.autograd.grad(total, leaf)
        return values, again.detach(), slopes

    together = run_side_by_side(
        [lambda i=i: task(i) for i in range(3)], potentials.answer_together, 3
    )
    for i, results in enumerate(together):
        for found, expected in zip(results, task(i), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
