"""Targets of an interval: seen on the real line by the networks, in y by the user."""

import numpy as np
import pytest
from scipy.integrate import quad
from sklearn.base import clone

from skmdn import MixtureDensityRegressor
from skmdn.conditional.rows import Rows
from skmdn.conditional.targets import Targets
from skmdn.learning.closed_form import ClosedFormGradient
from skmdn.supports import Support


def model(**params):
    quick = {
        "n_components": 2,
        "n_estimators": 1,
        "embedding": "none",
        "hidden_layer_sizes": (16,),
        "max_iter": 30,
        "random_state": 0,
    }
    return MixtureDensityRegressor(**{**quick, **params})


@pytest.fixture(scope="module")
def table():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(400, 2))
    return X, np.exp(0.5 * X[:, 0] + 0.3 * rng.normal(size=400))


def test_rows_go_to_the_line_with_their_slopes():
    support = Support((0.0, -1.0), (None, 1.0))
    lower = np.array([[2.0, 0.5], [0.0, np.nan]])
    upper = np.array([[2.0, 0.5], [3.0, np.nan]])
    rows = Rows(np.zeros((2, 1)), Targets(lower, upper), np.array([1.0, 3.0]), False)
    line = rows.on_the_line(support)
    np.testing.assert_allclose(
        line.y.lower, [[np.log(2), np.log(3)], [-np.inf, np.nan]]
    )
    np.testing.assert_allclose(
        line.y.upper, [[np.log(2), np.log(3)], [np.log(3), np.nan]]
    )
    # Slopes y and (1 + y) (1 - y) / 2, of the first row, whose weight is a quarter.
    expected = (np.log(2.0) + np.log(0.375)) / 4.0
    assert line.log_slope(support) == pytest.approx(expected)
    assert rows.on_the_line(Support()) is rows


def test_normal_components_on_the_positive_numbers_are_lognormal(table):
    X, y = table
    one = model(n_components=1, support=(0.0, None)).fit(X, y)
    other = model(n_components=1, family="lognormal").fit(X, y)
    assert one.score(X, y) == pytest.approx(other.score(X, y), abs=0.02)
    dist = one.predict_distribution(X[:3])
    for row in dist:
        assert quad(row.pdf, 0.0, 80.0, limit=200)[0] == pytest.approx(1.0, abs=1e-8)
        mean = quad(lambda t, row=row: t * row.pdf(t), 0.0, 80.0, limit=200)[0]
        assert row.mean() == pytest.approx(mean, rel=1e-6)
    np.testing.assert_allclose(dist.cdf(dist.ppf(0.3)), 0.3)
    assert (one.sample(X[:50], 100) > 0.0).all()
    assert one.log_prob(X[:1], [-1.0])[0] == -np.inf
    assert one.log_prob(X[:1], [0.0])[0] == -np.inf


def test_the_units_of_the_target_do_not_matter(table):
    X, y = table
    one = model(support=(0.0, 40.0)).fit(X, y)
    other = model(support=(0.0, 4000.0)).fit(X, 100.0 * y)
    np.testing.assert_allclose(other.predict(X), 100.0 * one.predict(X), rtol=1e-6)
    expected = one.score(X, y) - np.log(100.0)
    assert other.score(X, 100.0 * y) == pytest.approx(expected, abs=1e-6)
    shift = other.best_validation_loss_ - one.best_validation_loss_
    assert shift == pytest.approx(np.log(100.0), abs=1e-5)


def test_networks_of_an_interval_are_trained_by_hand(table):
    X, y = table
    fitted = model(support=(0.0, 40.0), max_iter=2).fit(X, y)
    prior = fitted._prior()
    assert all(ClosedFormGradient.applies(n, prior) for n in fitted.module_.networks)


@pytest.mark.parametrize("covariance_type", ["diag", "full"])
def test_every_output_has_its_interval(table, covariance_type):
    X, y = table
    Y = np.stack([y, 1.0 / (1.0 + y)], axis=1)
    ends = [(0.0, None), (0.0, 1.0)]
    fitted = model(support=ends, covariance_type=covariance_type).fit(X, Y)
    dist = fitted.predict_distribution(X[:4])
    draws = dist.sample(4000, random_state=0)
    assert (draws > 0.0).all()
    assert (draws[..., 1] < 1.0).all()
    error = draws.std(1) / np.sqrt(4000)
    assert (np.abs(draws.mean(1) - dist.mean()) < 4.5 * error).all()
    np.testing.assert_allclose(dist.marginal(1).mean(), dist.mean()[:, 1])
    outside = np.stack([y[:4], 1.0 + y[:4]], axis=1)
    assert (dist.log_prob(outside) == -np.inf).all()
    correlation = [np.corrcoef(row.T)[0, 1] for row in draws]
    assert (np.array(correlation) < 0.1).all()


def test_censored_and_missing_targets_have_intervals_as_well(table):
    X, y = table
    capped = np.minimum(y, 1.5)
    upper = np.where(y > 1.5, np.inf, y)
    fitted = model(support=(0.0, None)).fit(X, capped, y_upper=upper)
    error = np.abs(fitted.predict_quantiles(X, [0.5])[:, 0] - np.exp(0.5 * X[:, 0]))
    assert error.mean() < 0.2
    known = model(support=(0.0, None)).fit(X, y)
    np.testing.assert_allclose(
        known.log_prob(X, y, y_upper=y), known.log_prob(X, y), rtol=1e-10
    )
    Y = np.stack([y, y], axis=1)
    Y[::3, 1] = np.nan
    assert np.isfinite(model(support=(0.0, None)).fit(X, Y).score(X, Y))


def test_a_fit_that_goes_on_keeps_the_interval(table):
    X, y = table
    fitted = model(support=(0.0, None), warm_start=True, max_iter=3).fit(X, y)
    with pytest.raises(ValueError, match="support changed since"):
        fitted.set_params(support=None).fit(X, y)
    fitted.set_params(support=(0.0, None)).partial_fit(X, y)
    with pytest.raises(ValueError, match="1 of 2 rows"):
        fitted.partial_fit(X[:2], [1.0, -1.0])
    assert clone(fitted).support == (0.0, None)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"support": (0.0, 1.0)}, r"the open interval \(0, 1\): \d+ of 400 rows"),
        ({"support": (0.0, None), "family": "gamma"}, r"interval \(support=\)"),
        ({"support": (1.0, 0.0)}, "has to be below"),
        ({"support": (0.0, 1.0, 2.0)}, "must be None, a pair"),
    ],
)
def test_intervals_that_cannot_be(table, params, message):
    X, y = table
    with pytest.raises(ValueError, match=message):
        model(**params).fit(X, y)
