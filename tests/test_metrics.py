"""Scores through estimators, pipelines and searches."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmdn import MixtureDensityRegressor, metrics
from skmdn.datasets import make_branches
from skmdn.distribution import PredictiveDistribution


@pytest.fixture(scope="module")
def fitted():
    X, y = make_branches(300, random_state=0)
    model = MixtureDensityRegressor(2, max_iter=30, random_state=0)
    return model.fit(X, y), X, y


class Known:
    """An estimator whose distribution is given."""

    def predict_distribution(self, X):
        ones = np.ones((len(X), 1))
        return PredictiveDistribution.from_params(ones, 0 * ones, 2 * ones)


def test_pipelines_and_searches_are_seen_through(fitted):
    model, X, y = fitted
    expected = model.predict_distribution(X).ppf([0.1, 0.9])
    pipe = make_pipeline(model)
    search = GridSearchCV(pipe, {"mixturedensityregressor__n_components": [2]}, cv=2)
    search.fit(X, y)
    for estimator in (model, pipe, search.best_estimator_, search):
        dist = metrics.predict_distribution(estimator, X)
        np.testing.assert_array_equal(dist.ppf([0.1, 0.9]), expected)
    scaled = make_pipeline(StandardScaler(), model).fit(X, y)
    dist = metrics.predict_distribution(scaled, X)
    np.testing.assert_allclose(dist.mean(), scaled.predict(X))


def test_an_estimator_without_a_distribution_is_refused():
    with pytest.raises(TypeError, match="LinearRegression does not predict"):
        metrics.predict_distribution(LinearRegression(), [[0.0]])


def test_the_scores_of_a_known_model():
    rng = np.random.RandomState(0)
    y = 2 * rng.normal(size=40_000)
    X = np.zeros((len(y), 1))
    crps = Known().predict_distribution(X).crps(y)
    # E CRPS of a calibrated normal is sigma / sqrt(pi).
    error = crps.std() / np.sqrt(len(y))
    assert abs(metrics.mean_crps(Known(), X, y) - 2 / np.sqrt(np.pi)) < 4 * error
    for coverage in (0.5, 0.9):
        share = metrics.interval_coverage(Known(), X, y, coverage)
        error = np.sqrt(coverage * (1 - coverage) / len(y))
        assert abs(share - coverage) < 4 * error


def test_weights_and_several_outputs_are_averaged(fitted):
    model, X, y = fitted
    weights = np.arange(len(y), dtype=float)
    crps = model.predict_distribution(X).crps(y)
    expected = np.average(crps, weights=weights)
    assert metrics.mean_crps(model, X, y, weights) == pytest.approx(expected)
    assert metrics.neg_crps_scorer(model, X, y, weights) == pytest.approx(-expected)
    both = MixtureDensityRegressor(2, max_iter=5, random_state=0).fit(X, np.c_[y, -y])
    each = both.predict_distribution(X).crps(np.c_[y, -y])
    assert metrics.mean_crps(both, X, np.c_[y, -y]) == pytest.approx(each.mean())


def test_a_search_by_crps_picks_the_lowest(fitted):
    _, X, y = fitted
    search = GridSearchCV(
        MixtureDensityRegressor(max_iter=30, random_state=0),
        {"n_components": [1, 4]},
        scoring=metrics.neg_crps_scorer,
        cv=2,
    )
    search.fit(X, y)
    assert search.best_score_ == max(search.cv_results_["mean_test_score"]) < 0


def test_targets_are_checked(fitted):
    model, X, y = fitted
    with pytest.raises(ValueError, match="inconsistent"):
        metrics.mean_crps(model, X, y[:1])
    with pytest.raises(ValueError, match="coverage"):
        metrics.interval_coverage(model, X, y, coverage=2.0)
    column = metrics.mean_crps(model, X, y[:, None])
    assert column == metrics.mean_crps(model, X, y)
    with pytest.raises(ValueError, match="NaN"):
        metrics.mean_crps(model, X, np.full_like(y, np.nan))
