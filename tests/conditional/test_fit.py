"""Fits whose components are not all normal: units, supports, order and names."""

import numpy as np
import pytest
from scipy import stats

from skmdn import MixtureDensityRegressor
from skmdn.families import FAMILIES, PointMass, StudentT, TruncatedNormal

QUERIES = ("mean", "var", "std")


def features(n_samples=240, seed=0):
    rng = np.random.RandomState(seed)
    return rng.normal(size=(n_samples, 2)), rng


def targets(family, X, rng):
    """Return a target that lies in the support of a family."""
    level = np.exp(0.4 * X[:, 0])
    if family in ("lognormal", "gamma", "weibull", "exponential"):
        return level * rng.gamma(2.0, size=len(X))
    if family == "beta":
        return rng.beta(2.0 * level, 2.0)
    if family in ("poisson", "negative_binomial"):
        return rng.negative_binomial(2, 1.0 / (1.0 + level)).astype(float)
    if family == "bernoulli":
        return (rng.uniform(size=len(X)) < level / (1.0 + level)).astype(float)
    return X[:, 0] + rng.standard_t(4, size=len(X))


def quick(family, **kwargs):
    params = {
        "n_components": 2,
        "n_estimators": 1,
        "embedding": "none",
        "hidden_layer_sizes": (16,),
        "max_iter": 20,
        "random_state": 0,
    }
    return MixtureDensityRegressor(family=family, **{**params, **kwargs})


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_fits_and_answers(family):
    X, rng = features()
    y = targets(family, X, rng)
    model = quick(family).fit(X, y)
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    dist = model.predict_distribution(X[:20])
    for name in QUERIES:
        assert np.isfinite(getattr(dist, name)()).all(), name
    assert np.isfinite(dist.log_prob(y[:20])).all()
    np.testing.assert_allclose(dist.cdf(y[:20]) + dist.sf(y[:20]), 1.0)
    low, middle, high = dist.ppf([0.05, 0.5, 0.95]).T
    assert (low <= middle).all()
    assert (middle <= high).all()
    assert (dist.cdf(middle) >= 0.5 - 1e-9).all()
    draws = dist.sample(4_000, random_state=0)
    error = draws.std(1) / np.sqrt(draws.shape[1])
    assert (np.abs(draws.mean(1) - dist.mean()) < 5.0 * error + 1e-12).all()
    # The energy form of the score, estimated from the draws.
    pairs = np.abs(draws[:, :2_000] - draws[:, 2_000:])
    energy = np.abs(draws - y[:20, None]).mean(1) - 0.5 * pairs.mean(1)
    spread = 4.5 * (draws.std(1) + pairs.std(1)) / np.sqrt(2_000)
    assert (np.abs(dist.crps(y[:20]) - energy) < spread + 1e-12).all()


@pytest.mark.parametrize(
    ("family", "bad", "where"),
    [
        ("gamma", -1.0, "the positive numbers"),
        ("beta", 1.2, "the open interval"),
        ("poisson", 0.5, "non-negative integers"),
        ("bernoulli", 2.0, "0 and 1"),
        (TruncatedNormal(0.0, 9.0), 10.0, "9"),
    ],
    ids=str,
)
def test_targets_outside_the_support_are_refused_and_impossible(family, bad, where):
    X, rng = features(60)
    name = "beta" if isinstance(family, TruncatedNormal) else family
    y = targets(name, X, rng)
    model = quick(family, max_iter=3).fit(X, y)
    assert model.log_prob(X[:1], [bad])[0] == -np.inf
    y[[3, 7]] = bad
    with pytest.raises(ValueError, match=rf"{where}.*2 of 60 rows.*{bad}"):
        quick(family).fit(X, y)


def test_a_fit_that_goes_on_and_noise_respect_the_support():
    X, rng = features(60)
    y = targets("poisson", X, rng)
    model = quick("poisson", max_iter=3).fit(X, y)
    with pytest.raises(ValueError, match="non-negative integers: 1 of 2 rows"):
        model.partial_fit(X[:2], [1.0, 0.5])
    with pytest.raises(ValueError, match="needs y_noise=0"):
        quick("poisson", y_noise=0.1).fit(X, y)


@pytest.mark.parametrize("family", ["lognormal", "gamma", "weibull", "exponential"])
def test_positive_families_follow_the_units(family):
    X, rng = features(100)
    y = targets(family, X, rng)
    one, other = quick(family).fit(X, y), quick(family).fit(X, 1000.0 * y)
    np.testing.assert_allclose(other.predict(X), 1000.0 * one.predict(X), rtol=1e-6)
    expected = one.score(X, y) - np.log(1000.0)
    assert other.score(X, 1000.0 * y) == pytest.approx(expected, abs=1e-6)


def test_components_come_in_the_order_in_which_they_were_named():
    X, rng = features()
    y = X[:, 0] + rng.standard_t(3, size=len(X))
    family = {"bulk": "normal", "far__out": StudentT(df=3.0), "more": "normal"}
    model = quick(family, n_estimators=2).fit(X, y)
    dist = model.predict_distribution(X[:5])
    assert "far__out" in repr(dist)
    assert dist.weights.shape == (5, 6)
    np.testing.assert_allclose((dist.weights * dist.means).sum(1), dist.mean())
    part = dist.component("far__out")
    np.testing.assert_allclose(part.means, dist.means[:, 1::3])
    weights = dist.weights[:, 1::3]
    np.testing.assert_allclose(part.weights, weights / weights.sum(1, keepdims=True))
    shares = dist.responsibilities(y[:5])
    np.testing.assert_allclose(shares.sum(1), 1.0)
    density = np.exp(part.log_prob(y[:5])) * weights.sum(1)
    expected = shares[:, 1::3].sum(1) * dist.pdf(y[:5])
    np.testing.assert_allclose(density, expected)
    with pytest.raises(ValueError, match="No component is called 'tail'"):
        dist.component("tail")


def test_a_point_mass_takes_the_zeros():
    X, rng = features(600)
    chance = stats.norm.cdf(X[:, 0])
    y = 3.0 + X[:, 1] + rng.normal(size=600)
    y[rng.uniform(size=600) < chance] = 0.0
    model = quick(["normal", PointMass(0.0)], max_iter=60).fit(X, y)
    dist = model.predict_distribution(X)
    mass = dist.pdf(np.zeros(600))
    np.testing.assert_allclose(mass, dist.weights[:, 1])
    assert np.abs(mass - chance).mean() < 0.08
    # Beside the mass the density is that of the normal component alone.
    alone = stats.norm.pdf(1.0, dist.means[:, 0], dist.stds[:, 0])
    expected = dist.weights[:, 0] * alone
    np.testing.assert_allclose(dist.pdf(np.ones(600)), expected)
    assert (dist.sample(50, random_state=0) == 0.0).any()
    likely = chance > 0.9
    assert (dist[likely].ppf(0.5) == 0.0).all()


def test_a_temperature_per_query():
    X, rng = features()
    y = targets("normal", X, rng)
    model = quick("normal", n_components=3, temperature=2.0).fit(X, y)
    as_fitted = model.predict_distribution(X)
    same = model.predict_distribution(X, temperature=2.0)
    np.testing.assert_allclose(same.weights, as_fitted.weights)
    cold = model.predict_distribution(X, temperature=1e-8).weights
    np.testing.assert_allclose(cold.max(1), 1.0)
    np.testing.assert_array_equal(cold.argmax(1), as_fitted.weights.argmax(1))
    hot = model.predict_distribution(X, temperature=1e8).weights
    np.testing.assert_allclose(hot, 1 / 3, atol=1e-6)
    logits = 2.0 * np.log(as_fitted.weights)
    once = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(
        model.predict_distribution(X, temperature=1.0).weights, once
    )
    for wrong in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="temperature must be positive"):
            model.predict_distribution(X, temperature=wrong)


def better_by(one, other):
    """Return the mean difference of log-likelihoods row by row, in standard errors."""
    difference = one - other
    return difference.mean() / (difference.std() / np.sqrt(len(difference)))


def test_student_components_beat_a_normal_one_where_there_are_outliers():
    X, rng = features(3_000)
    y = X[:, 0] + 0.3 * rng.normal(size=3_000)
    outliers = rng.uniform(size=3_000) < 0.02
    y[outliers] += 10.0 * rng.normal(size=outliers.sum())
    student, normal = (
        quick(family, n_components=1, max_iter=40)
        .fit(X[:1_000], y[:1_000])
        .log_prob(X[1_000:], y[1_000:])
        for family in ("student_t", "normal")
    )
    assert better_by(student, normal) > 4.0


def test_negative_binomials_beat_others_where_counts_scatter():
    X, rng = features(3_000)
    chance = 1.0 / (1.0 + np.exp(0.5 * X[:, 0]))
    y = rng.negative_binomial(1.0, chance).astype(float)
    X, X_new, y, y_new = X[:1_000], X[1_000:], y[:1_000], y[1_000:]
    scores = {}
    for family in ("negative_binomial", "poisson", "normal"):
        model = quick(family, n_components=1, max_iter=40).fit(X, y)
        scores[family] = model.log_prob(X_new, y_new)
    dist = model.predict_distribution(X_new)
    # The cell of a count, and to the normal's advantage all below 1/2 for none at all.
    cell = dist.cdf(y_new + 0.5) - np.where(y_new > 0.0, dist.cdf(y_new - 0.5), 0.0)
    far = dist.sf(y_new - 0.5) - dist.sf(y_new + 0.5)
    near = (dist.cdf(y_new) < 0.5) | (y_new == 0.0)
    cell = np.where(near, cell, far)
    scores["normal"] = np.log(np.maximum(cell, 1e-300))
    for other in ("poisson", "normal"):
        assert better_by(scores["negative_binomial"], scores[other]) > 4.0, other


@pytest.mark.parametrize("size", [0.3, 3_000.0])
def test_counts_of_any_size_are_learned(size):
    X, rng = features(1_000)
    mean = size * np.exp(0.7 * X[:, 0])
    y = rng.negative_binomial(3, 3.0 / (3.0 + mean)).astype(float)
    model = quick("negative_binomial", n_components=1, max_iter=40).fit(
        X[:500], y[:500]
    )
    truth = stats.nbinom.logpmf(y, 3, 3.0 / (3.0 + mean))[500:]
    assert truth.mean() - model.score(X[500:], y[500:]) < 0.1
