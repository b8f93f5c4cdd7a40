"""Ranks, scores and joint coverage from draws."""

import numpy as np
import pytest
from scipy import stats

from skmdn.diagnostics import sample_crps, simulation_ranks, tarp_values
from skmdn.diagnostics.ranks import prior_crps
from tests.helpers import within_standard_errors


def test_ranks_count_smaller_draws():
    draws = np.array([[[0.0, 5.0], [1.0, 6.0], [2.0, 7.0]]])
    np.testing.assert_array_equal(simulation_ranks(draws, [[1.5, 4.0]]), [[2, 0]])


def test_ties_are_broken_at_random():
    rng = np.random.default_rng(0)
    theta = rng.integers(0, 3, size=4000).astype(float)
    draws = rng.integers(0, 3, size=(4000, 9)).astype(float)
    ranks = simulation_ranks(draws, theta, random_state=0)[:, 0]
    counts = np.bincount(ranks, minlength=10)
    assert stats.chisquare(counts).statistic < stats.chi2.isf(1e-4, 9)
    np.testing.assert_array_equal(
        ranks, simulation_ranks(draws, theta, random_state=0)[:, 0]
    )


def test_crps_is_its_definition():
    rng = np.random.default_rng(0)
    draws, theta = rng.normal(size=(3, 6, 2)), rng.normal(size=(3, 2))
    far = np.abs(draws - theta[:, None]).mean(1)
    pairs = np.abs(draws[:, :, None] - draws[:, None]).sum((1, 2))
    np.testing.assert_allclose(sample_crps(draws, theta), far - pairs / (2 * 6 * 5))


def test_crps_is_unbiased():
    draws = np.random.default_rng(0).normal(size=(20_000, 3))
    z = 0.7
    exact = z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi)
    assert within_standard_errors(sample_crps(draws, np.full(20_000, z)), exact, 0)


def test_the_prior_scores_by_the_other_simulations():
    theta = np.random.default_rng(0).normal(size=(12, 2))
    other = np.array([np.delete(theta, i, axis=0) for i in range(12)])
    expected = np.abs(other - theta[:, None]).mean(1)
    spread = np.abs(theta[:, None] - theta[None]).sum((0, 1)) / (12 * 11)
    np.testing.assert_allclose(prior_crps(theta), expected - 0.5 * spread)


def test_tarp_is_uniform_for_the_exact_posterior_whatever_the_points():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 2))
    theta = x + rng.normal(size=x.shape)
    draws = x[:, None] + rng.normal(size=(1000, 99, 2))
    for references in (None, x + 3.0, np.zeros_like(x)):
        u = tarp_values(draws, theta, references=references, random_state=0)
        assert stats.kstest(u, "uniform").pvalue > 1e-4


def test_tarp_with_points_of_the_data_sees_the_prior():
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(1000, 1))
    x = theta + 0.3 * rng.normal(size=theta.shape)
    draws = rng.normal(size=(1000, 99, 1))
    assert stats.kstest(tarp_values(draws, theta, random_state=0), "uniform")[1] > 1e-4
    u = tarp_values(draws, theta, references=x, random_state=0)
    assert stats.kstest(u, "uniform").pvalue < 1e-10


def test_tarp_never_compares_a_simulation_with_itself():
    # With itself every distance is 0, and the value is uniform on the first cell.
    theta = np.arange(5.0)
    draws = np.tile(theta, (5, 1))
    for seed in range(20):
        u = tarp_values(draws, theta, random_state=seed)
        assert (u >= 1 / 6).all()
    with pytest.raises(ValueError, match="needs references"):
        tarp_values(draws[:1], theta[:1])
