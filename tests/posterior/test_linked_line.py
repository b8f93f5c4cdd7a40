"""Features that follow bounded parameters to the ends of their prior."""

import warnings

import numpy as np
import pytest
from scipy import optimize, special, stats
from sklearn.linear_model import Ridge

from skmdn import AmortizedPosterior
from skmdn.posterior.linked_line import LinkedFeatures, ridge, scale_regression
from skmdn.posterior.simulated import coordinates_of, to_coordinates

BOX = [(-10.0, 10.0)] * 2


def copies(n_samples, noise=1.0, seed=0):
    """Return parameters in a box and noisy copies of them."""
    rng = np.random.default_rng(seed)
    theta = rng.uniform(-10.0, 10.0, size=(n_samples, 2))
    return theta + rng.normal(0.0, noise, size=theta.shape), theta


def fitted(X, theta, prior=BOX, weights=None):
    coordinates = coordinates_of(prior, theta.shape[1])
    weights = np.ones(len(X)) if weights is None else weights
    u = to_coordinates(theta, coordinates)
    return LinkedFeatures.fit(X, theta, u, weights, coordinates)


def test_ridge_is_that_of_sklearn():
    rng = np.random.default_rng(0)
    X, y, w = rng.normal(size=(50, 3)), rng.normal(size=(50, 2)), rng.uniform(1, 2, 50)
    X = X - np.average(X, axis=0, weights=w)
    intercept, slopes, residual = ridge(lambda x: x, X, y, w)
    # The penalty counts as one row of the mean weight.
    expected = Ridge(alpha=1.0).fit(X, y, sample_weight=w)
    np.testing.assert_allclose(slopes.T, expected.coef_, rtol=1e-10)
    np.testing.assert_allclose(intercept, expected.intercept_, rtol=1e-10)
    rest = (y - expected.predict(X)) ** 2
    np.testing.assert_allclose(residual**2, np.average(rest, axis=0, weights=w))


def test_scales_are_the_most_likely_ones():
    rng = np.random.default_rng(0)
    feature, weights = rng.exponential(size=200), rng.uniform(1, 2, 200)
    residuals = rng.normal(size=(200, 2)) * np.exp(np.outer(feature, [-0.7, 0.4]) + 1)
    found = np.stack(scale_regression(feature, residuals, weights), axis=1)

    def loss(line, column):
        scale = np.exp(line[0] + line[1] * feature)
        return -weights @ stats.norm(0.0, scale).logpdf(residuals[:, column])

    for column in range(2):
        best = optimize.minimize(loss, [0.0, 0.0], args=(column,), tol=1e-10)
        np.testing.assert_allclose(found[column], best.x, atol=1e-5)
    # A feature that never changes tells nothing.
    level, change = scale_regression(np.full(200, 0.1), residuals, weights)
    np.testing.assert_array_equal(change, 0.0)
    rms = np.sqrt(np.average(residuals**2, axis=0, weights=weights))
    np.testing.assert_allclose(level, np.log(rms))


def test_noisy_copies_get_their_coordinates_as_features():
    X, theta = copies(4000, noise=0.3)
    features = fitted(X, theta)
    assert features.n_features == 4
    z = features.transform(X)
    np.testing.assert_allclose(z.mean(0), 0.0, atol=1e-10)
    np.testing.assert_allclose(z.std(0), 1.0, rtol=1e-10)
    np.testing.assert_array_equal(z[:, :2], features.data.transform(X))
    # Inside of the box the line is x itself, and the coordinates are those of theta.
    inner = np.linspace(-8.0, 8.0, 9)[:, None].repeat(2, axis=1)
    said = features.line(features.data.transform(inner))
    np.testing.assert_allclose(said, special.ndtri((inner + 10) / 20), atol=0.05)


def test_far_data_have_finite_features_that_rise():
    X, theta = copies(1000)
    features = fitted(X, theta)
    wild = np.array([-1e8, -30.0, -11.0, -9.9, 0.0, 9.9, 11.0, 30.0, 1e8])
    with warnings.catch_warnings(action="error"):
        said = features.line(features.data.transform(wild[:, None].repeat(2, axis=1)))
    assert (np.abs(said) <= 5.0).all()
    assert (np.diff(said, axis=0) >= 0.0).all()
    assert (np.diff(said[2:7], axis=0) > 0.0).all()


@pytest.mark.parametrize(
    ("prior", "sign"),
    [(stats.expon(), 1.0), ((-np.inf, 0.0), -1.0)],
    ids=["above", "below"],
)
def test_half_lines(prior, sign):
    rng = np.random.default_rng(0)
    theta = sign * rng.exponential(size=(2000, 1))
    X = theta + rng.normal(0.0, 0.05, size=theta.shape)
    features = fitted(X, theta, [prior])
    assert features.n_features == 2
    middle = sign * np.linspace(0.5, 3.0, 6)[:, None]
    coordinates = features.line.coordinates
    said = features.line(features.data.transform(middle))
    expected = to_coordinates(middle, coordinates)
    np.testing.assert_allclose(said, expected, atol=0.05)


def test_there_are_none_where_they_tell_nothing():
    rng = np.random.default_rng(0)
    X, theta = copies(1000)
    # No bounds, no link.
    assert fitted(X, theta, [stats.norm(0, 6)] * 2).n_features == 2
    # So much noise that the line stays in the middle of the box.
    assert fitted(copies(1000, noise=30.0)[0], theta).n_features == 2
    # One of two parameters.
    X[:, 1] = rng.normal(size=1000)
    features = fitted(X, theta)
    assert features.line.shown.tolist() == [0]
    assert features.transform(X).shape == (1000, 3)


def test_rows_without_weight_do_not_matter():
    X, theta = copies(500)
    weights = np.ones(600)
    weights[500:] = 1e-12
    other_X, other_theta = copies(100, noise=5.0, seed=1)
    X, theta = np.concatenate([X, other_X]), np.concatenate([theta, other_theta])
    found = fitted(X, theta, weights=weights)
    alone = fitted(X[:500], theta[:500])
    np.testing.assert_allclose(found.transform(X), alone.transform(X), atol=0.01)


def test_scale_free_networks_see_the_data_alone():
    X, theta = copies(500)
    for activation, n_features in (("silu", 4), ("relu", 2)):
        model = AmortizedPosterior(
            BOX, activation=activation, n_estimators=1, max_iter=2, random_state=0
        ).fit(X, theta)
        (network,) = model.module_.networks
        assert network.block.n_out == network.head.line.shape[2] == n_features
