"""Pareto-smoothed weights against arviz-stats and known tails."""

import numpy as np
import pytest
import torch

from skmdn.covering.pareto import fit_generalized_pareto, pareto_smoothed
from tests.helpers import tensor


def log_weights(k, n_draws=10_000):
    return tensor(np.log1p(np.random.RandomState(0).pareto(1.0 / k, size=n_draws)))


@pytest.mark.parametrize("k", [0.1, 0.5, 0.7, 1.0, 1.5])
def test_it_is_what_arviz_finds(k):
    arviz = pytest.importorskip("arviz_stats.base")
    values = log_weights(k)
    expected, khat = arviz.array_stats.psislw(-values.numpy())
    smoothed, found = pareto_smoothed(values)
    assert np.isclose(found, khat, atol=1e-10)
    smoothed = smoothed - torch.logsumexp(smoothed, 0)
    np.testing.assert_allclose(smoothed.numpy(), expected, atol=1e-10)


# From arviz-stats 0.8.0, for whoever does not have it.
@pytest.mark.parametrize(
    ("k", "khat"), [(0.1, 0.229932), (0.5, 0.644928), (1.0, 1.150415), (1.5, 1.652611)]
)
def test_it_is_what_arviz_found(k, khat):
    assert np.isclose(pareto_smoothed(log_weights(k))[1], khat, atol=1e-5)


@pytest.mark.parametrize("k", [-0.3, 0.2, 0.8])
def test_the_fit_finds_shape_and_scale(k):
    uniform = (torch.arange(5000, dtype=torch.float64) + 0.5) / 5000
    excess = 2.0 * torch.expm1(-k * torch.log1p(-uniform)) / k
    shape, scale = fit_generalized_pareto(excess)
    assert abs(shape - k) < 0.02
    assert abs(scale - 2.0) < 0.05


def test_the_unit_of_the_weights_does_not_matter():
    values = log_weights(0.8)
    first, second = pareto_smoothed(values), pareto_smoothed(values - 10_000.0)
    assert np.isclose(first[1], second[1], atol=1e-6)
    torch.testing.assert_close(first[0], second[0] + 10_000.0, atol=1e-6, rtol=0)


def test_degenerate_weights():
    assert pareto_smoothed(torch.zeros(10).double())[1] != 0.0
    assert pareto_smoothed(torch.zeros(1000).double())[1] == -np.inf
    nothing = torch.full((1000,), -np.inf).double()
    assert pareto_smoothed(nothing)[1] == np.inf
