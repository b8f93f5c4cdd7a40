"""Potentials of all kinds: tensors, arrays, single precision, wrong shapes."""

import numpy as np
import pytest
import torch

from skmdn.potentials import Potential, takes_observation
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
