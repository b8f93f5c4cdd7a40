import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    RepeatedKFold,
    ShuffleSplit,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmdn import MixtureDensityRegressor
from skmdn.calibrated import CalibratedDistribution
from skmdn.calibration import CalibratedDensityRegressor
from skmdn.datasets import make_branches
from skmdn.distribution import PredictiveDistribution
from skmdn.families import PointMass
from skmdn.metrics import interval_coverage, mean_crps, neg_crps_scorer
from tests.helpers import within_standard_errors

METHODS = ("temperature", "isotonic", "conformal")
every_method = pytest.mark.parametrize("method", METHODS)
QUICK = MixtureDensityRegressor(
    2, n_estimators=1, embedding="none", max_iter=10, random_state=0
)


class FixedLaw(RegressorMixin, BaseEstimator):
    """Believes in a normal law around the first feature and learns nothing."""

    def __init__(self, shift=0.0, scale=1.0):
        self.shift = shift
        self.scale = scale

    def fit(self, X, y):
        self.n_rows_ = len(X)
        return self

    def predict_distribution(self, X):
        means = np.asarray(X)[:, :1] + self.shift
        ones = np.ones_like(means)
        return PredictiveDistribution.from_params(ones, means, self.scale * ones)


def table(n_rows, rng, noise=None):
    X = rng.normal(size=(n_rows, 2))
    noise = rng.normal(size=n_rows) if noise is None else noise
    return X, X[:, 0] + noise


@pytest.fixture(scope="module")
def branches():
    X, y = make_branches(900, random_state=0)
    return X[:300], y[:300], X[300:], y[300:]


# The guarantee.


def coverages(model, draw, n_repetitions=200, n_rows=99, n_new=200):
    """Share of new targets in 90 % intervals, for each set of calibration rows."""
    rng, found = np.random.RandomState(0), []
    for _ in range(n_repetitions):
        X, y = draw(n_rows + n_new, rng)
        model.fit(X[:n_rows], y[:n_rows])
        low, high = model.predict_interval(X[n_rows:], 0.9).T
        found.append(np.mean((low <= y[n_rows:]) & (y[n_rows:] <= high)))
    return np.array(found)


def skewed(n_rows, rng):
    return table(n_rows, rng, rng.gamma(0.5, size=n_rows) - 3.0)


@pytest.mark.parametrize(
    ("law", "draw"),
    [
        (FixedLaw(), table),
        (FixedLaw(shift=5.0, scale=1 / 30), table),
        (FixedLaw(shift=-50.0, scale=30.0), table),
        (FixedLaw(scale=0.1), skewed),
    ],
    ids=["right", "narrow and shifted", "wide and far away", "skewed"],
)
def test_conformal_intervals_cover_what_they_promise(law, draw):
    model = CalibratedDensityRegressor(FrozenEstimator(law), method="conformal")
    assert within_standard_errors(coverages(model, draw), 0.9, axis=0)


def test_also_with_a_single_split():
    split = ShuffleSplit(1, test_size=59, random_state=0)
    law = FixedLaw(shift=5.0, scale=1 / 30)
    model = CalibratedDensityRegressor(law, method="conformal", cv=split)
    assert within_standard_errors(coverages(model, table), 0.9, axis=0)


def test_also_for_a_network_that_learned_something_else():
    X, y = table(300, np.random.RandomState(1))
    network = clone(QUICK).fit(X, 5.0 - y / 30.0)
    model = CalibratedDensityRegressor(FrozenEstimator(network), method="conformal")
    found = coverages(model, table, n_new=100)
    assert within_standard_errors(found, 0.9, axis=0)
    X, y = table(1000, np.random.RandomState(2))
    assert interval_coverage(network, X, y, 0.9) < 0.3


def test_out_of_fold_predictions_cover_about_as_much():
    X, y = table(2000, np.random.RandomState(0))
    model = CalibratedDensityRegressor(clone(QUICK), method="conformal", random_state=0)
    model.fit(X[:400], y[:400])
    assert abs(interval_coverage(model, X[400:], y[400:], 0.9) - 0.9) < 0.05


# Repairs.


@every_method
@pytest.mark.parametrize("scale", [1 / 30, 3.0])
def test_a_wrong_scale_is_repaired(method, scale):
    rng = np.random.RandomState(0)
    X, y = table(1600, rng)
    law = FixedLaw(scale=scale)
    model = CalibratedDensityRegressor(FrozenEstimator(law), method=method)
    model.fit(X[:1000], y[:1000])
    X, y = X[1000:], y[1000:]
    best = stats.norm.logpdf(y - X[:, 0]).mean()
    # Ranks cost more than a smooth map.
    assert best - model.score(X, y) < (0.06 if method == "conformal" else 0.02)
    assert mean_crps(model, X, y) < mean_crps(FixedLaw(), X, y) * 1.02
    assert mean_crps(model, X, y) < mean_crps(law, X, y)
    assert abs(interval_coverage(model, X, y, 0.9) - 0.9) < 0.04
    if method == "temperature":
        assert abs(model.calibrator_.scale_factor * scale - 1.0) < 0.1


@pytest.mark.parametrize("method", ["isotonic", "conformal"])
def test_a_wrong_shape_is_repaired(method):
    X, y = skewed(3000, np.random.RandomState(0))
    law = FixedLaw(shift=-2.5, scale=np.sqrt(0.5))
    model = CalibratedDensityRegressor(FrozenEstimator(law), method=method)
    model.fit(X[:1000], y[:1000])
    X, y = X[1000:], y[1000:]
    before = law.predict_distribution(X)
    assert model.score(X, y) > before.log_prob(y).mean() + 0.3
    assert mean_crps(model, X, y) < 0.97 * before.crps(y).mean()


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_a_calibrated_model_is_changed_little(method):
    X, y = table(400, np.random.RandomState(0))
    model = CalibratedDensityRegressor(FrozenEstimator(FixedLaw()), method=method)
    model.fit(X, y)
    before, after = FixedLaw().predict_distribution(X), model.predict_distribution(X)
    np.testing.assert_allclose(after.std(), before.std(), rtol=0.1)
    np.testing.assert_allclose(after.mean(), before.mean(), atol=0.05)


def test_both_branches_are_kept(branches):
    X, y, X_new, y_new = branches
    model = MixtureDensityRegressor(2, n_estimators=1, max_iter=60, random_state=0)
    model = CalibratedDensityRegressor(model, cv=3, random_state=0).fit(X, y)
    dist = model.predict_distribution(X_new)
    middle, outer = dist.pdf(0.0), dist.pdf(np.abs(y_new))
    assert np.median(middle / outer) < 0.1


# Which rows calibrate.


def test_a_frozen_estimator_stays_what_it_is(branches):
    X, y, X_new, _ = branches
    fitted = clone(QUICK).fit(X, y)
    model = CalibratedDensityRegressor(FrozenEstimator(fitted)).fit(X[:50], y[:50])
    assert model.estimator_.estimator is fitted
    np.testing.assert_array_equal(
        model.predict_distribution(X_new).base.means,
        fitted.predict_distribution(X_new).means,
    )


def test_a_frozen_estimator_has_to_be_fitted():
    X, y = table(20, np.random.RandomState(0))
    with pytest.raises(NotFittedError):
        CalibratedDensityRegressor(FrozenEstimator(clone(QUICK))).fit(X, y)


@pytest.mark.parametrize(
    ("cv", "n_rows"),
    [
        (ShuffleSplit(1, test_size=0.25, random_state=0), 60),
        ([(np.arange(50), np.arange(50, 80))], 50),
        (KFold(4), 80),
        (3, 80),
        (None, 80),
    ],
    ids=["one split", "one list", "folds", "a number", "nothing"],
)
def test_a_single_split_keeps_its_model_and_several_fit_again(cv, n_rows):
    X, y = table(80, np.random.RandomState(0))
    model = CalibratedDensityRegressor(FixedLaw(), cv=cv, random_state=0).fit(X, y)
    assert model.estimator_.n_rows_ == n_rows


def test_a_number_of_folds_means_shuffled_ones():
    X, y = table(60, np.random.RandomState(0))
    folds = KFold(3, shuffle=True, random_state=7)
    first = CalibratedDensityRegressor(clone(QUICK), cv=3, random_state=7).fit(X, y)
    second = CalibratedDensityRegressor(clone(QUICK), cv=folds, random_state=7)
    np.testing.assert_array_equal(first.predict(X), second.fit(X, y).predict(X))


def test_rows_held_out_several_times_count_once():
    X, y = table(60, np.random.RandomState(0))
    once, twice = (
        CalibratedDensityRegressor(FixedLaw(), method="conformal", cv=cv).fit(X, y)
        for cv in (KFold(4), RepeatedKFold(n_splits=4, n_repeats=2, random_state=0))
    )
    ends = [m.calibrator_.maps[0].ends(0.9).tolist() for m in (once, twice)]
    assert ends[0] == ends[1]


@every_method
def test_weights_reach_the_estimator_and_the_calibrator(method):
    rng = np.random.RandomState(0)
    X, y = table(90, rng)
    weights = np.repeat([1.0, 0.0, 2.0], 30)
    kept = np.repeat(np.arange(90), weights.astype(int))
    network = clone(QUICK).set_params(early_stopping=False)
    groups = np.arange(90) % 3

    def folds(labels):
        return [
            (np.flatnonzero(labels != k), np.flatnonzero(labels == k)) for k in range(3)
        ]

    weighted = CalibratedDensityRegressor(network, method=method, cv=folds(groups))
    repeated = clone(weighted).set_params(cv=folds(groups[kept]))
    weighted.fit(X, y, sample_weight=weights)
    repeated.fit(X[kept], y[kept])
    np.testing.assert_allclose(
        weighted.predict_quantiles(X), repeated.predict_quantiles(X), atol=2e-3
    )


def test_weights_that_the_estimator_cannot_take():
    X, y = table(60, np.random.RandomState(0))
    model = CalibratedDensityRegressor(FixedLaw(), cv=3, random_state=0)
    with pytest.warns(UserWarning, match="used for the calibration only"):
        model.fit(X, y, sample_weight=np.ones(60))
    with warnings.catch_warnings(record=True) as caught:
        model.fit(X, y)
    assert not caught


# The house of scikit-learn.


@every_method
def test_queries(branches, method):
    X, y, X_new, y_new = (part[:300] for part in branches)
    split = ShuffleSplit(1, test_size=100, random_state=0)
    model = CalibratedDensityRegressor(
        clone(QUICK), method=method, cv=split, random_state=0
    ).fit(X, y)
    dist = model.predict_distribution(X_new)
    kind = PredictiveDistribution if method == "temperature" else CalibratedDistribution
    assert type(dist) is kind
    mean, std = model.predict(X_new, return_std=True)
    np.testing.assert_allclose(mean, dist.mean())
    np.testing.assert_allclose(std, dist.std())
    levels = [0.1, 0.5, 0.9]
    np.testing.assert_array_equal(
        model.predict_quantiles(X_new, levels), dist.ppf(levels)
    )
    np.testing.assert_array_equal(model.predict_interval(X_new), dist.interval())
    np.testing.assert_array_equal(
        model.sample(X_new, 3), dist.sample(3, np.random.RandomState(0))
    )
    np.testing.assert_allclose(model.log_prob(X_new, y_new), dist.log_prob(y_new))
    np.testing.assert_allclose(model.score(X_new, y_new), dist.log_prob(y_new).mean())


@every_method
def test_several_outputs(method):
    rng = np.random.RandomState(0)
    X = rng.normal(size=(150, 2))
    Y = X + rng.normal(size=X.shape) @ [[1.0, 0.8], [0.0, 0.6]]
    network = clone(QUICK).set_params(covariance_type="full")
    model = CalibratedDensityRegressor(network, method=method, cv=2, random_state=0)
    model.fit(X, Y)
    assert model.n_outputs_ == 2
    assert model.predict(X).shape == (150, 2)
    assert model.predict_interval(X).shape == (150, 2, 2)
    assert model.sample(X[:3], 4).shape == (3, 4, 2)
    np.testing.assert_allclose(
        model.log_prob(X, Y), model.predict_distribution(X).log_prob(Y)
    )
    Y[::3, 1] = np.nan
    assert np.isfinite(model.fit(X, Y).predict(X)).all()


def test_a_column_stays_a_column():
    X, y = table(80, np.random.RandomState(0))
    model = CalibratedDensityRegressor(clone(QUICK), cv=2, random_state=0)
    column = clone(model).fit(X, y[:, None])
    assert column.predict(X).shape == (80, 1)
    assert column.predict_interval(X).shape == (80, 2, 1)
    np.testing.assert_allclose(column.log_prob(X, y), model.fit(X, y).log_prob(X, y))


@pytest.mark.parametrize(
    ("family", "method"),
    [("poisson", "conformal"), (["lognormal", PointMass(0.0)], "isotonic")],
    ids=str,
)
def test_discrete_targets(family, method):
    rng = np.random.RandomState(0)
    X = rng.normal(size=(100, 1))
    y = rng.poisson(np.exp(0.5 + 0.3 * X[:, 0])).astype(float)
    if family != "poisson":
        y *= rng.lognormal(size=100)
    network = clone(QUICK).set_params(family=family)
    model = CalibratedDensityRegressor(network, method=method, cv=2, random_state=0)
    model.fit(X, y)
    assert np.isfinite(model.score(X, y))
    assert np.isfinite(model.predict(X[:5])).all()
    low, high = model.predict_interval(X, 0.8).T
    assert np.mean((low <= y) & (y <= high)) > 0.75
    with pytest.raises(ValueError, match="use method='temperature'"):
        clone(model).fit(X, np.stack([y, y], 1))


@every_method
def test_copies(branches, method):
    X, y, X_new, _ = branches
    model = CalibratedDensityRegressor(FixedLaw(), method=method, cv=2, random_state=0)
    model.fit(X, y)
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.predict(X_new), model.predict(X_new))
    assert clone(model).get_params().keys() == model.get_params().keys()


def test_pipelines_and_searches_on_both_sides(branches):
    X, y, X_new, y_new = branches
    inner = make_pipeline(StandardScaler(), clone(QUICK))
    model = CalibratedDensityRegressor(inner, cv=2, random_state=0).fit(X, y)
    assert model.predict(X_new).shape == y_new.shape
    outer = make_pipeline(StandardScaler(), clone(model)).fit(X, y)
    assert outer.predict(X_new).shape == y_new.shape
    calibrated = CalibratedDensityRegressor(clone(QUICK), cv=2, random_state=0)
    grid = {"estimator__n_components": [1, 2], "method": ["isotonic", "temperature"]}
    search = GridSearchCV(calibrated, grid, cv=2).fit(X, y)
    assert set(search.best_params_) == set(grid)
    scores = cross_val_score(calibrated, X, y, cv=2, scoring=neg_crps_scorer)
    assert np.isfinite(scores).all()


def test_tables_with_names(branches):
    X, y, X_new, _ = branches
    frame = pd.DataFrame(X, columns=["a"])
    model = CalibratedDensityRegressor(clone(QUICK), cv=2, random_state=0)
    model.fit(frame, pd.Series(y))
    assert model.feature_names_in_.tolist() == ["a"]
    assert model.n_features_in_ == 1
    new = pd.DataFrame(X_new, columns=["a"])
    np.testing.assert_allclose(
        model.predict(new), model.predict_distribution(new).mean()
    )
    model.fit(X, y)
    assert not hasattr(model, "feature_names_in_")


def test_the_default_estimator_is_ours():
    model = CalibratedDensityRegressor(random_state=3)
    inner = model._inner()
    assert isinstance(inner, MixtureDensityRegressor)
    assert inner.random_state == 3


def test_a_failing_fit_changes_nothing():
    X, y = table(60, np.random.RandomState(0))
    model = CalibratedDensityRegressor(FixedLaw(), cv=2, random_state=0).fit(X, y)
    before = dict(vars(model))
    with pytest.raises(ValueError, match="must lie in the support"):
        model.fit(X, np.where(np.arange(60) == 3, 1e200, y))
    assert vars(model) == before
    with pytest.raises(ValueError, match="zero"):
        CalibratedDensityRegressor(FrozenEstimator(FixedLaw().fit(X, y))).fit(
            X, y, sample_weight=np.zeros(60)
        )


def test_targets_of_another_shape_are_refused():
    X, y = table(60, np.random.RandomState(0))
    model = CalibratedDensityRegressor(FixedLaw(), cv=2, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match=r"fitted with 1 output"):
        model.log_prob(X, np.stack([y, y], 1))
    with pytest.raises(ValueError, match="requires y"):
        model.fit(X, None)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(X, np.where(np.arange(60) == 3, np.nan, y))


def test_rows_without_a_weight_may_have_any_target():
    X, y = table(60, np.random.RandomState(0))
    weights = (np.arange(60) != 3).astype(float)
    model = CalibratedDensityRegressor(FrozenEstimator(FixedLaw().fit(X, y)))
    model.fit(X, np.where(weights > 0, y, 1e200), sample_weight=weights)
    kept = weights > 0
    expected = clone(model).fit(X[kept], y[kept]).predict(X)
    np.testing.assert_array_equal(model.predict(X), expected)
