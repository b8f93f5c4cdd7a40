import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from skmdn.crps import normal_crps
from tests.helpers import randn, tensor


def random_parts(batch=(6,), n_components=4, n_outputs=2):
    weights = torch.softmax(randn(*batch, n_components, seed=1), -1)
    shape = (*batch, n_components, n_outputs)
    return weights, 3.0 * randn(*shape, seed=2), randn(*shape, seed=3).exp()


def mean_abs(mean, std):
    z = mean / std
    return mean * (2.0 * norm.cdf(z) - 1.0) + 2.0 * std * norm.pdf(z)


def by_pairs(weights, means, stds, y):
    """The formula, pair by pair, for one output of one mixture."""
    parts = list(zip(weights, means, stds, strict=True))
    near = sum(w * mean_abs(y - m, s) for w, m, s in parts)
    apart = sum(
        v * w * mean_abs(a - b, math.hypot(s, t))
        for v, a, s in parts
        for w, b, t in parts
    )
    return near - 0.5 * apart


@pytest.mark.parametrize("block", [1, 8, 2**15])
@pytest.mark.parametrize("batch", [(), (6,), (2, 3)], ids=str)
def test_crps_is_a_sum_over_pairs(batch, block, monkeypatch):
    monkeypatch.setattr("skmdn.crps._BLOCK", block)
    weights, means, stds = random_parts(batch)
    y = randn(*batch, 2, seed=4)
    result = normal_crps(weights, means, stds, y)
    assert result.shape == (*batch, 2)
    for *row, output in np.ndindex(*batch, 2):
        row = tuple(row)
        columns = [part[row][:, output].tolist() for part in (means, stds)]
        expected = by_pairs(weights[row].tolist(), *columns, y[row][output].item())
        np.testing.assert_allclose(result[row][output], expected, rtol=1e-12)


@pytest.mark.parametrize("unit", [1e-250, 1e-12, 1e12, 1e250])
def test_crps_has_the_units_of_y_however_large_they_are(unit):
    weights, means, stds = random_parts()
    y = randn(6, 2, seed=4)
    expected = normal_crps(weights, means, stds, y)
    result = normal_crps(weights, unit * means, unit * stds, unit * y) / unit
    torch.testing.assert_close(result, expected, rtol=1e-13, atol=0)


def test_crps_of_one_component_is_the_known_formula():
    y = tensor([[-1.0], [0.3], [40.0]])
    two = tensor([[[2.0]]] * 3)
    result = normal_crps(tensor([[1.0]] * 3), two, two, y)
    z = (y.numpy() - 2.0) / 2.0
    expected = 2.0 * (
        z * (2.0 * norm.cdf(z) - 1.0) + 2.0 * norm.pdf(z) - 1.0 / math.sqrt(math.pi)
    )
    np.testing.assert_allclose(result, expected, rtol=1e-14)


def test_crps_can_be_differentiated():
    parts = [part.requires_grad_() for part in random_parts((3,))]
    assert torch.autograd.gradcheck(
        lambda *some: normal_crps(*some, torch.zeros(3, 2, dtype=torch.float64)), parts
    )
