"""Toy data: seeds, shapes and the densities they claim."""

import numpy as np
import pytest
from scipy import integrate, stats

from skmdn import datasets


@pytest.mark.parametrize(
    "make", [datasets.make_branches, datasets.make_cardioid, datasets.make_inverse_sine]
)
def test_seeds_determine_the_draws(make):
    X, y = make(50, random_state=3)
    assert X.shape == (50, 1)
    assert y.shape == (50,)
    np.testing.assert_array_equal(y, make(50, random_state=3)[1])
    assert (y != make(50, random_state=4)[1]).any()
    assert (y != make(50, noise=0.5, random_state=3)[1]).any() or make is (
        datasets.make_inverse_sine
    )


@pytest.mark.parametrize("x", [0.0, 0.01, 0.9])
@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_the_branches_density_integrates_to_one(x, noise):
    def density(y):
        return np.exp(datasets.branches_log_prob([[x]], [y], noise=noise))[0]

    branch = 2 * np.sqrt(x)
    total, _ = integrate.quad(density, -12, 12, points=[-branch, branch], limit=200)
    assert total == pytest.approx(1.0, abs=1e-8)


def test_the_branches_density_is_that_of_the_draws():
    X, y = datasets.make_branches(20_000, random_state=0)
    log_prob = datasets.branches_log_prob(X, y)
    # Away from x = 0 the entropy of two distant branches is known.
    far = X[:, 0] > 0.1
    expected = -(np.log(2.0) + stats.norm(scale=0.1).entropy())
    error = log_prob[far].std() / np.sqrt(far.sum())
    assert abs(log_prob[far].mean() - expected) < 4 * error


def test_the_cardioid_lies_on_its_curve():
    X, y = datasets.make_cardioid(500, noise=0.0, random_state=0)
    x = X[:, 0]
    np.testing.assert_allclose((x**2 + y**2 + 2 * y) ** 2, 4 * (x**2 + y**2))


def test_the_inverse_sine_is_a_function_the_other_way_round():
    X, y = datasets.make_inverse_sine(500, noise=0.0, random_state=0)
    np.testing.assert_allclose(X[:, 0], y + 0.3 * np.sin(2 * np.pi * y))
