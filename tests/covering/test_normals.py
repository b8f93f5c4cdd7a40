"""Mixtures of normals by matrix products, against scipy and the Mixture class."""

import numpy as np
import torch
from scipy import stats

from skmdn.covering.merging import merge_cheapest
from skmdn.covering.normals import Normals, em_step, features, log_normal
from tests.covering.densities import random_normals
from tests.helpers import generator, randn, tensor


def test_the_density_is_scipys():
    normals, u = random_normals(), randn(40, 2, seed=9)
    density = sum(
        weight * stats.multivariate_normal(mean, covariance).pdf(u.numpy())
        for weight, mean, covariance in zip(
            normals.log_weights.exp().numpy(),
            normals.means.numpy(),
            normals.covariances.numpy(),
            strict=True,
        )
    )
    torch.testing.assert_close(normals.log_prob(u), tensor(np.log(density)))
    torch.testing.assert_close(normals.mixture().log_prob(u), normals.log_prob(u))
    standard = Normals.standard(2).log_prob(u)
    torch.testing.assert_close(standard, log_normal(u))


def test_a_widened_share_is_a_mixture_of_twice_the_components():
    normals, u = random_normals(), randn(40, 2, seed=9)
    wide = Normals(normals.log_weights, normals.means, 1.6 * normals.roots)
    expected = normals.joined(wide, 0.1).log_prob(u)
    torch.testing.assert_close(normals.log_prob_widened(u, 0.1, 1.6), expected)


def test_draws_have_the_moments():
    normals = random_normals()
    u, chosen = normals.draw(200_000, generator())
    mixture = normals.mixture()
    se = (mixture.variance() / len(u)).sqrt()
    assert bool(((u.mean(0) - mixture.mean()).abs() < 4 * se).all())
    shares = chosen.bincount(minlength=3) / len(u)
    torch.testing.assert_close(
        shares.double(), normals.log_weights.exp(), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        torch.cov(u.mT), mixture.covariance(), atol=0.05, rtol=0.05
    )


def test_many_components_draw_as_few_do():
    few = random_normals(2)
    many = few
    for _ in range(6):
        many = many.joined(many, 0.5)
    u, chosen = many.draw(50_000, generator())
    assert many.n_components == 128
    z = torch.linalg.solve_triangular(
        many.roots[chosen], (u - many.means[chosen]).unsqueeze(-1), upper=False
    )
    assert stats.kstest(z.flatten().numpy(), "norm").statistic < 0.01


def test_a_step_of_em_is_the_weighted_one():
    normals, u = random_normals(), randn(500, 2, seed=5)
    weights = torch.softmax(randn(500, seed=6), 0)
    moved, kept, score = em_step(normals, features(u), weights)
    assert kept.tolist() == [0, 1, 2]
    assert np.isclose(score, float(weights @ normals.log_prob(u)))
    resp = normals.mixture().responsibilities(u) * weights.unsqueeze(1)
    mass = resp.sum(0)
    means = resp.mT @ u / mass.unsqueeze(1)
    torch.testing.assert_close(moved.log_weights.exp(), mass)
    torch.testing.assert_close(moved.means, means)
    n_each = mass.square() / resp.square().sum(0)
    share = (4.0 / (n_each + 4.0))[:, None, None]
    gaps = u - means.unsqueeze(1)
    second = (resp.mT.unsqueeze(-1) * gaps).mT @ gaps / mass[:, None, None]
    expected = (1 - share) * second + share * normals.covariances
    torch.testing.assert_close(moved.covariances, expected)


def test_components_without_points_are_dropped():
    normals = random_normals()
    far = Normals(normals.log_weights, normals.means + 100.0, normals.roots)
    moved, kept, _ = em_step(
        normals.joined(far, 0.5),
        features(randn(100, 2)),
        torch.full((100,), 0.01).double(),
    )
    assert set(kept.tolist()) <= {0, 1, 2}
    assert moved.n_components == len(kept)


def test_mergers_keep_mean_and_covariance():
    normals = random_normals(6)
    before = normals.mixture()
    for n_wanted in (4, 1):
        after = merge_cheapest(normals, n_wanted).mixture()
        assert after.n_components == n_wanted
        torch.testing.assert_close(after.mean(), before.mean())
        torch.testing.assert_close(after.covariance(), before.covariance())
    single = normals.moment_matched().mixture()
    torch.testing.assert_close(single.covariance(), before.covariance())


def test_equal_components_are_merged_first():
    normals = random_normals(2)
    doubled = normals.joined(normals, 0.5)
    merged = merge_cheapest(doubled, 2)
    u = randn(20, 2, seed=8)
    torch.testing.assert_close(merged.log_prob(u), normals.log_prob(u))
