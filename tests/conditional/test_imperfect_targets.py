"""Fits to rounded, censored and missing targets, as a user meets them."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmdn import MixtureDensityRegressor
from skmdn.families import FAMILIES, MultivariateNormal, PointMass
from tests.helpers import tensor

INF, NAN = np.inf, np.nan


def quick(n_components=2, **kwargs):
    params = {"max_iter": 10, "n_estimators": 1, "hidden_layer_sizes": (8,)}
    params |= {"embedding": "none", "random_state": 0}
    return MixtureDensityRegressor(n_components, **{**params, **kwargs})


def linear_model(n_rows, **kwargs):
    """Return one component with parameters linear in x, at the maximum likelihood."""
    params = {"hidden_layer_sizes": (), "early_stopping": False, "weight_decay": 0.0}
    params |= {"batch_size": n_rows, "learning_rate_init": 0.03}
    return quick(1, **{**params, **kwargs})


def standard_errors(log_prob, answers, vector):
    """Return errors of answers at a maximum, by the products of the scores."""
    steps = 1e-4 * torch.eye(len(vector), dtype=torch.float64)
    with torch.no_grad():
        scores, slopes = (
            torch.stack([(f(vector + h) - f(vector - h)) / 2e-4 for h in steps])
            for f in (log_prob, answers)
        )
    covariance = torch.linalg.inv(scores @ scores.mT)
    return (slopes.mT @ covariance @ slopes).diagonal().sqrt().numpy()


def censored(y, rng, spread=1.0):
    """Hide 60 % of the numbers behind ends that do not depend on them."""
    n_rows = len(y)
    low, high = y.copy(), y.copy()
    kind = rng.permutation(n_rows) % 10
    limit = np.mean(y) + spread * rng.normal(size=n_rows)
    left, right = (kind < 4) & (y < limit), (kind < 4) & (y >= limit)
    low[left], high[left] = -INF, limit[left]
    low[right], high[right] = limit[right], INF
    between, offset = (kind == 4) | (kind == 5), rng.uniform(size=n_rows)
    low[between] = (np.floor(y - offset) + offset)[between]
    high[between] = low[between] + 1.0
    return low, high


# Censoring.


@pytest.mark.parametrize("seed", [0, 1])
def test_a_linear_model_is_recovered_from_censored_rows(seed):
    rng = np.random.RandomState(seed)
    X = rng.normal(size=(1200, 1))
    y = 1.0 + 2.0 * X[:, 0] + 0.7 * rng.normal(size=1200)
    low, high = censored(y, rng, 2.0)
    assert np.mean(low < high) == pytest.approx(0.6)
    assert np.mean(np.isinf(low)) > 0.15
    assert np.mean(np.isinf(high)) > 0.15
    model = linear_model(1200, max_iter=400).fit(X, low, y_upper=high)
    places = tensor([-1.0, 1.0])

    def at(vector, x):
        scale = torch.nn.functional.softplus(vector[2] + vector[3] * x)
        return vector[0] + vector[1] * x, scale

    def log_prob(vector):
        mean, scale = (part.numpy() for part in at(vector, tensor(X[:, 0].tolist())))
        law = stats.norm(mean, scale)
        inside = np.log(law.cdf(high) - law.cdf(low) + (low == high))
        return tensor((np.where(low == high, law.logpdf(low), inside)).tolist())

    dist = model.predict_distribution([[-1.0], [1.0]])
    mean, std = dist.mean(), dist.std()
    raw = np.log(np.expm1(std))
    vector = [mean.mean(), np.ptp(mean) / 2, raw.mean(), (raw[1] - raw[0]) / 2]
    errors = standard_errors(
        log_prob, lambda v: torch.cat(at(v, places)), tensor(vector)
    )
    found, truth = np.r_[mean, std], [-1.0, 3.0, 0.7, 0.7]
    assert (np.abs(found - truth) < 4.0 * errors).all()
    # As if the ends were numbers, it would be far off.
    assert np.max(errors) < 0.06
    naive = linear_model(1200, max_iter=400).fit(X, np.where(np.isinf(low), high, low))
    assert np.abs(naive.predict_distribution([[1.0]]).std() - 0.7) > 8.0 * errors[3]
    assert model.score(X, low, y_upper=high) == pytest.approx(
        float(log_prob(tensor(vector)).mean()), abs=0.01
    )


def test_ends_that_meet_are_numbers():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(80, 2))
    y = X[:, 0] + rng.normal(size=80)
    model = quick().fit(X, y)
    for other in (quick().fit(X, y, y_upper=y), quick().partial_fit(X, y, y_upper=y)):
        assert other.resolution_ == 0.0
    same = quick().fit(X, y, y_upper=y.copy())
    np.testing.assert_array_equal(model.predict(X), same.predict(X))
    np.testing.assert_array_equal(model.log_prob(X, y), same.log_prob(X, y, y_upper=y))


def targets_of(family, rng, n_rows):
    """Return rows that suit a family, with intervals of every kind."""
    y = rng.gamma(2.0, size=n_rows)
    if family == "beta":
        y = rng.beta(2.0, 3.0, size=n_rows)
    elif family == "bernoulli":
        y = (y > 1.5).astype(float)
    elif family in ("poisson", "negative_binomial"):
        y = np.floor(2.0 * y)
    low, high = y.copy(), y.copy()
    low[::5], high[1::5] = -INF, INF
    low[2::5], high[2::5] = np.floor(y[2::5]), np.floor(y[2::5]) + 1.0
    return low, high


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_from_intervals(family):
    rng = np.random.RandomState(0)
    X = rng.normal(size=(120, 2))
    low, high = targets_of(family, rng, 120)
    model = quick(family=family).fit(X, low, y_upper=high)
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    log_prob = model.log_prob(X, low, y_upper=high)
    assert np.isfinite(log_prob).all()
    dist = model.predict_distribution(X)
    np.testing.assert_allclose(
        log_prob[::5], np.log(dist.cdf(high)[::5]), rtol=1e-8, atol=1e-12
    )
    known = low == high
    np.testing.assert_allclose(log_prob[known], dist.log_prob(low.clip(-9.0))[known])


def test_a_limit_of_detection_with_zeros_below():
    """Dry days and amounts below 0.2 look alike."""
    rng = np.random.RandomState(0)
    X = rng.normal(size=(400, 1))
    rain = np.where(rng.uniform(size=400) < 0.3, 0.0, rng.gamma(2.0, size=400))
    low = np.where(rain < 0.2, 0.0, rain)
    high = np.where(rain < 0.2, 0.2, rain)
    family = {"dry": PointMass(0.0), "rain": "gamma"}
    model = quick(family=family, max_iter=30, learning_rate_init=0.05)
    dist = model.fit(X, low, y_upper=high).predict_distribution(X)
    assert dist.weights[:, 0].mean() == pytest.approx(0.3, abs=0.1)
    law = stats.gamma(2.0)
    below = 0.3 + 0.7 * law.cdf(0.2)
    found = np.exp(model.log_prob(X, np.zeros(400), y_upper=np.full(400, 0.2)))
    assert found.mean() == pytest.approx(below, abs=0.05)


def test_noise_on_the_target_moves_whole_intervals():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(100, 1))
    low, high = censored(X[:, 0] + 0.1 * rng.normal(size=100), rng)
    model = quick(y_noise=0.5, max_iter=40).fit(X, low, y_upper=high)
    assert np.isfinite(model.loss_curve_).all()
    smooth = model.predict_distribution(X).std().mean()
    sharp = quick(max_iter=40).fit(X, low, y_upper=high).predict_distribution(X).std()
    assert smooth > sharp.mean()


# Missing outputs.


def test_the_covariance_is_recovered_from_rows_with_missing_outputs():
    rng = np.random.RandomState(0)
    truth = np.array([[1.0, 0.8, -0.5], [0.8, 2.0, 0.3], [-0.5, 0.3, 1.5]])
    Y = rng.multivariate_normal([1.0, -2.0, 3.0], truth, size=2000)
    Y[rng.uniform(size=Y.shape) < 0.3] = NAN
    Y = Y[~np.isnan(Y).all(axis=1)]
    X = np.zeros((len(Y), 1))
    model = linear_model(len(Y), covariance_type="full", max_iter=150).fit(X, Y)
    found = model.predict_distribution([[0.0]])
    y = tensor(Y.tolist()).unsqueeze(1)
    lower = torch.tril_indices(3, 3)

    def root(vector):
        matrix = torch.zeros(3, 3, dtype=torch.float64)
        matrix[lower[0], lower[1]] = vector[3:]
        return matrix

    def log_prob(vector):
        factor = torch.linalg.inv(root(vector)).unsqueeze(0)
        params = {"mean": vector[:3].unsqueeze(0), "precision_factor": factor}
        return MultivariateNormal().log_likelihood(params, y, y)[:, 0]

    def answers(vector):
        covariance = (root(vector) @ root(vector).mT).flatten()
        return torch.cat([vector[:3], covariance])

    cholesky = tensor(np.linalg.cholesky(found.cov()[0]).tolist())
    vector = torch.cat([tensor(found.mean()[0].tolist()), cholesky[lower[0], lower[1]]])
    errors = standard_errors(log_prob, answers, vector)
    difference = np.r_[
        found.mean()[0] - [1.0, -2.0, 3.0], (found.cov()[0] - truth).flat
    ]
    assert (np.abs(difference) < 4.0 * errors).all()
    assert errors.max() < 0.1
    assert model.score(X, Y) == pytest.approx(float(log_prob(vector).mean()), abs=1e-6)


@pytest.mark.parametrize("covariance_type", ["diag", "full", "spherical", "tied"])
def test_a_row_with_missing_outputs_has_the_density_of_the_others(covariance_type):
    rng = np.random.RandomState(0)
    X = rng.normal(size=(90, 2))
    Y = np.c_[X[:, 0], X[:, 1] - X[:, 0], X[:, 0]] + rng.normal(size=(90, 3))
    Y[::3, 0] = Y[1::3, 2] = Y[::6, 1] = NAN
    model = quick(covariance_type=covariance_type).fit(X, Y)
    dist = model.predict_distribution(X)
    found = model.log_prob(X, Y)
    for outputs, rows in (([2], slice(0, None, 6)), ([0, 1], slice(1, None, 3))):
        expected = dist[rows].marginal(outputs).log_prob(Y[rows][:, outputs])
        np.testing.assert_allclose(found[rows], expected, rtol=1e-9)
    frame = pd.DataFrame(Y, columns=list("abc"))
    np.testing.assert_array_equal(found, model.log_prob(X, frame))


def test_missing_and_censored_outputs_together():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(100, 1))
    low = np.c_[X[:, 0], -X[:, 0]] + rng.normal(size=(100, 2))
    high = low.copy()
    high[::3, 0] = INF
    low[1::3, 1] = high[1::3, 1] = NAN
    model = quick().fit(X, low, y_upper=high)
    assert np.isfinite(model.log_prob(X, low, y_upper=high)).all()
    assert model.predict(X).shape == (100, 2)


# Rounding.


def grades(n_rows, seed):
    """Return a table like that of red wine: six grades, most of them 5 and 6."""
    rng = np.random.RandomState(seed)
    X = rng.normal(size=(n_rows, 5))
    taste = 5.6 + 0.4 * X[:, 0] - 0.3 * X[:, 1] * (X[:, 2] > 0)
    return X, np.clip(np.round(taste + 0.6 * rng.normal(size=n_rows)), 3.0, 8.0)


def test_the_score_of_grades_is_a_probability():
    X, y = grades(700, 0)
    X_test, y_test = grades(500, 1)
    model = quick(5, max_iter=40, n_estimators=2, hidden_layer_sizes=(32,)).fit(X, y)
    assert model.resolution_ == 1.0
    log_prob = model.log_prob(X_test, y_test)
    assert (log_prob <= 0.0).all()
    assert model.score(X_test, y_test) == pytest.approx(log_prob.mean())
    share = {grade: np.mean(y == grade) for grade in np.unique(y)}
    marginal = np.mean([np.log(share.get(grade, 1e-3)) for grade in y_test])
    assert log_prob.mean() > marginal + 0.05
    dist = model.predict_distribution(X_test)
    expected = np.log(dist.cdf(y_test + 0.5) - dist.cdf(y_test - 0.5))
    np.testing.assert_allclose(log_prob, expected, rtol=1e-7)
    # The probabilities of all grades there could be add up.
    every = [model.log_prob(X_test, np.full(500, grade)) for grade in range(-9, 21)]
    np.testing.assert_allclose(np.exp(every).sum(axis=0), 1.0, atol=1e-6)


def test_no_spike_can_gain_more_than_certainty():
    """A density would grow without limit."""
    X, _ = grades(400, 0)
    y = (X[:, 0] > 0).astype(float)
    model = quick(max_iter=60, min_scale=1e-6, learning_rate_init=0.03).fit(X, y)
    assert model.resolution_ == 1.0
    assert model.predict_distribution(X).log_prob(y).mean() > 0.0
    assert -1.0 < model.score(X, y) <= 0.0


def test_the_resolution_can_be_told_or_ignored():
    X, y = grades(200, 0)
    auto, told = quick().fit(X, y), quick(resolution=1.0).fit(X, y)
    assert (auto.resolution_, told.resolution_) == (0.0, 1.0)
    dist = told.predict_distribution(X)
    np.testing.assert_allclose(
        told.log_prob(X, y), np.log(dist.cdf(y + 0.5) - dist.cdf(y - 0.5)), rtol=1e-7
    )
    X, y = grades(400, 0)
    ignored = quick(resolution=None).fit(X, y)
    assert ignored.resolution_ == 0.0
    expected = ignored.predict_distribution(X).log_prob(y)
    np.testing.assert_allclose(ignored.log_prob(X, y), expected)
    several = quick(resolution=0.5).fit(X, np.c_[y, X[:, 0]])
    assert (several.log_prob(X, np.c_[y, X[:, 0]]) <= 0.0).all()


def test_a_fit_that_goes_on_keeps_the_resolution_unless_it_is_told():
    X, y = grades(400, 0)
    model = quick(warm_start=True).fit(X, y)
    assert model.fit(X[:100], y[:100]).resolution_ == 1.0
    assert model.set_params(resolution=0.5).fit(X[:100], y[:100]).resolution_ == 0.5
    assert model.partial_fit(X[:50], y[:50]).resolution_ == 0.5


@pytest.mark.parametrize("resolution", [0, -1.0, "yes"])
def test_a_resolution_is_positive(resolution):
    X, y = grades(60, 0)
    with pytest.raises(ValueError, match="resolution"):
        quick(resolution=resolution).fit(X, y)


# Weights, searches, errors.


@pytest.mark.parametrize("kind", ["censored", "missing", "rounded"])
def test_weights_are_repetitions(kind):
    rng = np.random.RandomState(0)
    X = rng.normal(size=(24, 2))
    low = X @ [[1.0, 0.0], [0.5, 1.0]] + rng.normal(size=(24, 2))
    high = low.copy()
    kwargs = {}
    if kind == "censored":
        high[::3, 0], low[1::4, 1] = INF, -INF
    elif kind == "missing":
        low[::3, 0] = high[::3, 0] = low[1::3, 1] = high[1::3, 1] = NAN
    else:
        low, high = np.round(low), np.round(high)
        kwargs["resolution"] = 1.0
    weights = rng.randint(0, 3, size=24)
    model = quick(max_iter=30, **kwargs)
    first = clone(model).fit(X, low, sample_weight=weights, y_upper=high)
    second = clone(model).fit(
        *(np.repeat(part, weights, 0) for part in (X, low)),
        y_upper=np.repeat(high, weights, 0),
    )
    np.testing.assert_allclose(first.predict(X), second.predict(X), rtol=0, atol=1e-7)
    score = first.score(X, low, weights, y_upper=high)
    log_prob = first.log_prob(X, low, y_upper=high)
    assert score == pytest.approx(np.average(log_prob, weights=weights))


def test_a_search_splits_the_upper_ends():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(90, 2))
    low, high = censored(X[:, 0] + 0.5 * rng.normal(size=90), rng)
    weights = rng.uniform(0.5, 1.5, size=90)
    with config_context(enable_metadata_routing=True):
        model = quick(max_iter=4).set_fit_request(y_upper=True, sample_weight=True)
        model.set_score_request(y_upper=True, sample_weight=True)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        pipe = make_pipeline(scaler, model)
        grid = {"mixturedensityregressor__n_components": [1, 2]}
        search = GridSearchCV(pipe, grid, cv=3, error_score="raise")
        search.fit(X, low, y_upper=high, sample_weight=weights)
        scores = cross_validate(
            model,
            X,
            low,
            params={"y_upper": high, "sample_weight": weights},
            error_score="raise",
        )
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert np.isfinite(scores["test_score"]).all()
    half = np.arange(45)
    fold = clone(search.best_estimator_)
    with config_context(enable_metadata_routing=True):
        fold.fit(X[half], low[half], y_upper=high[half], sample_weight=weights[half])
        assert np.isfinite(fold.score(X[45:], low[45:], y_upper=high[45:]))


@pytest.mark.parametrize(
    ("y", "y_upper", "kwargs", "message"),
    [
        (np.arange(6.0), np.arange(6.0) - 0.5, {}, "6 of 6 entries.*y=0.0"),
        (np.r_[np.arange(5.0), NAN], None, {}, "y contains NaN"),
        (np.r_[np.arange(5.0), NAN], np.full(6, INF), {}, "y contains NaN"),
        (np.r_[np.arange(5.0), INF], None, {}, "y contains infinity"),
        (np.arange(6.0), np.arange(5.0), {}, "y_upper has shape"),
        (np.full((6, 2), NAN), None, {}, "6 of 6 rows"),
        (
            np.zeros((6, 2)),
            np.ones((6, 2)),
            {"covariance_type": "full"},
            "Use covariance_type='diag'",
        ),
        (
            np.zeros((6, 2)),
            None,
            {"covariance_type": "tied", "resolution": 1.0},
            "'tied' does not go with resolution=1.0",
        ),
        (-np.ones(6), -np.ones(6) / 2, {"family": "gamma"}, "6 of 6 rows do not"),
    ],
)
def test_errors_leave_nothing_behind(y, y_upper, kwargs, message):
    X = np.arange(6.0).reshape(-1, 1)
    model = quick(**kwargs)
    before = dict(vars(model))
    with pytest.raises(ValueError, match=message):
        model.fit(X, y, y_upper=y_upper)
    assert vars(model) == before


def test_a_fitted_estimator_refuses_boxes_it_cannot_measure():
    rng = np.random.RandomState(0)
    X, Y = rng.normal(size=(60, 1)), rng.normal(size=(60, 2))
    model = quick(covariance_type="full").fit(X, Y)
    with pytest.raises(ValueError, match="covariance_type='diag'"):
        model.log_prob(X, Y, y_upper=Y + 1.0)
    with pytest.raises(ValueError, match=r"y has shape \(60,\)"):
        model.log_prob(X, Y[:, 0], y_upper=Y[:, 0] + 1.0)
