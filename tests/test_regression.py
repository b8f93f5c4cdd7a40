"""MixtureDensityRegressor as a user meets it."""

import copy
import io
import pickle
import subprocess
import sys
from dataclasses import replace
from functools import partial

import joblib
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmdn import MixtureDensityRegressor
from skmdn.datasets import branches_log_prob, make_branches
from skmdn.distribution import PredictiveDistribution
from skmdn.families import MultivariateNormal
from skmdn.learning.ensemble import EnsembleTraining
from skmdn.learning.training import Descent

QUERIES = ("predict", "predict_quantiles", "predict_interval", "sample")


def table(n_samples=120, n_outputs=None, seed=0):
    """Return a small regression problem; y is one-dimensional by default."""
    rng = np.random.RandomState(seed)
    X = rng.normal(size=(n_samples, 3))
    y = np.c_[X[:, 0] + 0.3 * rng.normal(size=n_samples), X @ [1.0, -2.0, 0.5]]
    y[:, 1] += 0.5 * y[:, 0] * rng.normal(size=n_samples)
    return X, y[:, 0] if n_outputs is None else y[:, :n_outputs]


def quick(**kwargs):
    """Return an estimator that fits in a fraction of a second."""
    params = {"max_iter": 15, "n_estimators": 2, "hidden_layer_sizes": (16,)}
    return MixtureDensityRegressor(**{**params, "random_state": 0, **kwargs})


def same(a, b, X):
    """Assert that two estimators predict the same to the last bit."""
    for name in QUERIES:
        np.testing.assert_array_equal(getattr(a, name)(X), getattr(b, name)(X))


# What comes out.


@pytest.mark.parametrize("n_outputs", [None, 1, 2])
def test_outputs_mirror_the_form_of_y(n_outputs):
    X, y = table(n_outputs=n_outputs)
    model = quick().fit(X, y)
    tail = y.shape[1:]
    n = len(X)
    assert model.n_outputs_ == (n_outputs or 1)
    assert model.predict(X).shape == (n, *tail)
    mean, std = model.predict(X, return_std=True)
    assert mean.shape == std.shape == (n, *tail)
    assert model.predict_quantiles(X, [0.1, 0.5, 0.9]).shape == (n, 3, *tail)
    assert model.predict_interval(X).shape == (n, 2, *tail)
    assert model.sample(X, 4).shape == (n, 4, *tail)
    assert model.log_prob(X, y).shape == (n,)
    assert type(model.score(X, y)) is float
    dist = model.predict_distribution(X)
    # Five components, two members, three views.
    assert dist.weights.shape == (n, 30)
    assert dist.means.shape == dist.stds.shape == (n, 30, *tail)


def test_queries_are_those_of_the_distribution():
    X, y = table()
    model = quick().fit(X, y)
    dist = model.predict_distribution(X)
    np.testing.assert_allclose(model.predict(X), dist.mean(), rtol=1e-12)
    np.testing.assert_allclose(model.predict(X, return_std=True)[1], dist.std())
    np.testing.assert_allclose(model.log_prob(X, y), dist.log_prob(y), rtol=1e-12)
    np.testing.assert_array_equal(
        model.predict_interval(X, 0.5), model.predict_quantiles(X, [0.25, 0.75])
    )
    np.testing.assert_allclose(model.score(X, y), dist.log_prob(y).mean())


def test_the_parameters_reproduce_the_density_in_the_users_units():
    X, y = table()
    y = 1000.0 * y + 5000.0
    model = quick().fit(X, y)
    dist = model.predict_distribution(X)
    parts = stats.norm.pdf(y[:, None], dist.means, dist.stds)
    by_hand = np.log((dist.weights * parts).sum(1))
    np.testing.assert_allclose(model.log_prob(X, y), by_hand, rtol=1e-10)


def test_predictions_do_not_depend_on_the_rows_around(monkeypatch):
    X, y = table()
    model = quick().fit(X, y)
    whole = model.predict_quantiles(X)
    dist = model.predict_distribution(X)
    monkeypatch.setattr("skmdn.predictive._CHUNK_ROWS", 7)
    chunked = model.predict_distribution(X)
    np.testing.assert_allclose(chunked.weights, dist.weights, rtol=1e-12)
    np.testing.assert_allclose(chunked.means, dist.means, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(model.predict_quantiles(X), whole, rtol=1e-12)
    order = np.random.RandomState(0).permutation(len(X))
    np.testing.assert_allclose(model.predict(X[order]), model.predict(X)[order])


def test_score_weights_rows():
    X, y = table()
    weights = np.arange(len(y), dtype=float)
    model = quick().fit(X, y)
    expected = np.average(model.log_prob(X, y), weights=weights)
    assert model.score(X, y, sample_weight=weights) == pytest.approx(expected)


def test_sample_follows_its_seed():
    X, y = table()
    model = quick().fit(X, y)
    np.testing.assert_array_equal(model.sample(X, 2), model.sample(X, 2))
    np.testing.assert_array_equal(
        model.sample(X, 2, random_state=5), model.sample(X, 2, random_state=5)
    )
    assert (model.sample(X, 2, random_state=5) != model.sample(X, 2)).any()


def test_many_draws_cost_one_network_pass(monkeypatch):
    X, y = table()
    model = quick().fit(X, y)
    calls = []
    forward = type(model.module_).forward
    monkeypatch.setattr(
        type(model.module_),
        "forward",
        lambda self, x, *args: calls.append(len(x)) or forward(self, x, *args),
    )
    assert model.sample(X, 1000).shape == (len(X), 1000)
    assert len(calls) == 1


# Mathematics of a fit.


@pytest.mark.parametrize("covariance_type", ["diag", "full", "spherical", "tied"])
@pytest.mark.parametrize("scale", [(100.0, 0.01), (-1.0, 1.0), (3.0, -1e4)])
def test_a_change_of_units_moves_every_prediction(covariance_type, scale):
    X, y = table(n_outputs=2)
    scale, shift = np.array(scale), np.array([-3.0, 7.0])
    model = quick(covariance_type=covariance_type)
    plain = clone(model).fit(X, y)
    moved = clone(model).fit(X, y * scale + shift)
    assert_moved = partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
    mean, std = plain.predict(X, return_std=True)
    moved_mean, moved_std = moved.predict(X, return_std=True)
    assert_moved(moved_mean, mean * scale + shift)
    assert_moved(moved_std, std * np.abs(scale))
    if (scale > 0).all():  # mirrored draws are as likely, but not the same
        assert_moved(moved.sample(X), plain.sample(X) * scale + shift)
    # A reflection turns the lower quantile into the upper one.
    a, b = plain.predict_interval(X), moved.predict_interval(X)
    assert_moved(b, np.sort(a * scale + shift, axis=1))
    assert_moved(
        moved.log_prob(X, y * scale + shift),
        plain.log_prob(X, y) - np.log(np.abs(scale)).sum(),
    )
    assert_moved(
        moved.loss_curve_, np.array(plain.loss_curve_) + np.log(np.abs(scale)).sum()
    )


def test_a_shift_of_a_feature_changes_nothing():
    X, y = table()
    plain = quick().fit(X, y)
    moved = quick().fit(X * [1.0, 1e3, 1e-3] + [0.0, -5.0, 9.0], y)
    np.testing.assert_allclose(
        moved.predict(X * [1.0, 1e3, 1e-3] + [0.0, -5.0, 9.0]), plain.predict(X), 1e-6
    )


@pytest.mark.parametrize("n_samples", [40, 200])
def test_zero_weights_equal_dropped_rows(n_samples):
    X, y = table(n_samples)
    weights = np.random.RandomState(1).randint(0, 2, n_samples).astype(float)
    weighted = quick().fit(X, y, sample_weight=weights)
    dropped = quick().fit(X[weights > 0], y[weights > 0])
    same(weighted, dropped, X)


@pytest.mark.parametrize("covariance_type", ["diag", "full", "spherical", "tied"])
def test_integer_weights_equal_repeated_rows(covariance_type):
    X, y = table(20, n_outputs=2)
    weights = np.random.RandomState(1).randint(1, 3, 20)
    model = quick(covariance_type=covariance_type, max_iter=100)
    weighted = clone(model).fit(X, y, sample_weight=weights)
    repeated = clone(model).fit(np.repeat(X, weights, 0), np.repeat(y, weights, 0))
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), atol=1e-8)
    np.testing.assert_allclose(
        weighted.log_prob(X, y), repeated.log_prob(X, y), atol=1e-8
    )


def test_weights_that_sum_to_one_do_not_drown_the_data_in_the_prior():
    X, y = table(300)
    model = MixtureDensityRegressor(2, max_iter=30, random_state=0)
    plain = clone(model).fit(X, y)
    shares = clone(model).fit(X, y, sample_weight=np.full(300, 1 / 300))
    np.testing.assert_allclose(shares.predict(X), plain.predict(X), atol=1e-6)
    np.testing.assert_allclose(shares.log_prob(X, y), plain.log_prob(X, y), atol=1e-5)


def test_weights_that_are_all_equal_to_one_change_nothing():
    X, y = table()
    same(quick().fit(X, y), quick().fit(X, y, sample_weight=np.ones(len(y))), X)


def test_the_untrained_network_is_the_marginal_mixture():
    X, y = table(400)
    model = quick(learning_rate_init=1e-12, n_components=5, early_stopping=False)
    dist = model.fit(X, y).predict_distribution(X)
    assert dist.mean().mean() == pytest.approx(y.mean(), abs=0.1)
    assert dist.std().mean() == pytest.approx(y.std(), rel=0.1)
    assert dist.mean().std() < 0.2 * y.std()


@pytest.mark.parametrize("early_stopping", [True, False])
def test_a_bimodal_target_is_learned_to_a_twentieth_of_a_nat(early_stopping):
    X, y = make_branches(4000, random_state=0)
    X_test, y_test = make_branches(4000, random_state=1)
    model = MixtureDensityRegressor(
        2,
        n_estimators=2,
        hidden_layer_sizes=(32, 32),
        max_iter=40,
        early_stopping=early_stopping,
        random_state=0,
    )
    model.fit(X, y)
    truth = branches_log_prob(X_test, y_test).mean()
    assert truth - 0.05 < model.score(X_test, y_test) < truth + 0.05
    # Kolmogorov's band that a uniform sample leaves once in ten thousand.
    pit = model.predict_distribution(X_test).pit(y_test)
    distance = stats.kstest(pit, "uniform").statistic
    assert distance < stats.kstwo.isf(1e-4, len(pit))


def test_full_covariances_learn_correlation_that_diagonals_cannot():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(1500, 1))
    noise = rng.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], size=1500)
    y = X + noise
    params = {"n_components": 1, "max_iter": 20}
    truth = stats.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]]).logpdf(noise)
    for kind in ("full", "tied"):
        model = quick(covariance_type=kind, **params).fit(X[:1000], y[:1000])
        score = model.score(X[1000:], y[1000:])
        assert score == pytest.approx(truth[1000:].mean(), abs=0.1)
        cov = model.predict_distribution(X[1000:]).cov().mean(0)
        np.testing.assert_allclose(cov, [[1, 0.9], [0.9, 1]], atol=0.15)
    diag = quick(covariance_type="diag", **params)
    assert diag.fit(X[:1000], y[:1000]).score(X[1000:], y[1000:]) < score - 0.3


def test_y_noise_is_a_floor_on_the_spread():
    X, y = table(300)
    # Held-out rows, which have no noise, would narrow the ensemble again.
    steady = {"max_iter": 60, "early_stopping": False}
    smooth = quick(y_noise=0.5, **steady).fit(X, y)
    sharp = quick(**steady).fit(X, y)
    spread = np.median(smooth.predict(X, return_std=True)[1])
    assert spread > 0.5 * y.std() > np.median(sharp.predict(X, return_std=True)[1])


def test_x_noise_changes_the_fit():
    X, y = table()
    assert (
        quick(x_noise=0.3).fit(X, y).predict(X) != quick().fit(X, y).predict(X)
    ).any()


def test_min_scale_is_a_share_of_the_targets_spread():
    X, y = table(200)
    model = quick(min_scale=0.5).fit(X, 10 * y)
    assert model.predict_distribution(X).stds.min() >= 0.5 * (10 * y).std() * 0.999


def test_temperature_sharpens_the_weights():
    X, y = table()
    cold, warm = (quick(temperature=t).fit(X, y) for t in (0.2, 5.0))
    largest = [m.predict_distribution(X).weights.max(1).mean() for m in (cold, warm)]
    assert largest[0] > largest[1]


def test_a_family_object_is_as_good_as_its_name():
    X, y = table(n_outputs=2)
    named = quick(covariance_type="full").fit(X, y)
    given = quick(family=MultivariateNormal("full")).fit(X, y)
    same(named, given, X)


# Training.


def test_the_same_seed_gives_the_same_fit_and_another_does_not():
    X, y = table()
    same(quick().fit(X, y), quick().fit(X, y), X)
    assert (
        quick().fit(X, y).predict(X) != quick(random_state=1).fit(X, y).predict(X)
    ).any()


@pytest.mark.parametrize("embedding", ["none", "ple", "ple+cos", "auto"])
def test_every_embedding_follows_the_seed(embedding):
    X, y = table()
    model = quick(embedding=embedding, max_iter=5)
    same(clone(model).fit(X, y), clone(model).fit(X, y), X)
    other = clone(model).set_params(random_state=1).fit(X, y)
    assert (other.predict(X) != model.fit(X, y).predict(X)).any()


# Rows of any kind.


@pytest.mark.parametrize("covariance_type", ["diag", "full"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_on_disk_are_fitted_like_rows_in_memory(tmp_path, dtype, covariance_type):
    X, y = table(200)
    X = X.astype(dtype)
    disk = np.memmap(tmp_path / "X", dtype=dtype, mode="w+", shape=X.shape)
    disk[:] = X
    disk.flush()
    read = np.memmap(tmp_path / "X", dtype=dtype, mode="r", shape=X.shape)
    model = quick(covariance_type=covariance_type, max_iter=4)
    expected, found = clone(model).fit(X, y), clone(model).fit(read, y)
    same(expected, found, X)
    assert found.loss_curve_ == expected.loss_curve_
    weights = np.arange(200) % 3
    same(
        clone(model).fit(X, y, sample_weight=weights),
        clone(model).fit(read, y, sample_weight=weights),
        X,
    )


def test_features_in_single_precision_are_fitted_as_they_are():
    X, y = table()
    single = X.astype(np.float32)
    model = quick().fit(single, y.astype(np.float32))
    same(model, quick().fit(single.astype(np.float64), y.astype(np.float32)), single)
    assert model.predict(single).dtype == np.float64
    assert np.isfinite(model.score(single, y))


@pytest.mark.parametrize("step", [1.0, 0.25, 1000.0])
def test_a_target_on_a_lattice_is_fitted(step):
    X, y = table(600)
    y = step * np.round(2.0 * y)
    model = quick(max_iter=40).fit(X, y)
    X_test, y_test = table(300, seed=1)
    y_test = step * np.round(2.0 * y_test)
    dist = model.predict_distribution(X_test)
    assert np.isfinite(dist.stds).all()
    assert np.isfinite(model.score(X_test, y_test))
    # The cells hold what they should: better than the marginal frequencies.
    cells = dist.cdf(y_test + step / 2) - dist.cdf(y_test - step / 2)
    values, counts = np.unique(y, return_counts=True)
    marginal = dict(zip(values, counts / len(y), strict=True))
    reference = np.log([marginal.get(value, 1e-3) for value in y_test]).mean()
    assert np.log(cells).mean() > reference + 0.3


@pytest.mark.parametrize("y_of", [np.sign, lambda y: np.round(y).clip(0, 2)])
def test_a_target_with_two_or_three_values_is_fitted(y_of):
    X, y = table(300)
    model = quick(max_iter=30).fit(X, y_of(y))
    assert np.isfinite(model.predict(X)).all()
    assert np.isfinite(model.score(X, y_of(y)))
    assert np.isfinite(model.validation_loss_curve_).all()


def test_history_with_and_without_early_stopping():
    X, y = table()
    model = quick(early_stopping=True, max_iter=300, n_iter_no_change=3).fit(X, y)
    assert model.n_iter_ == len(model.loss_curve_) < 300
    assert len(model.validation_loss_curve_) == model.n_iter_
    # In single precision.
    assert model.best_validation_loss_ <= min(model.validation_loss_curve_) + 1e-6
    model = quick(early_stopping=False).fit(X, y)
    assert model.n_iter_ == len(model.loss_curve_) == 15
    assert model.validation_loss_curve_ is None
    assert model.best_validation_loss_ is None


def test_curves_are_as_long_as_the_longest_view():
    X, y = table()
    model = quick(max_iter=400, n_iter_no_change=4).fit(X, y)
    assert model.n_iter_ == len(model.loss_curve_) < 400
    assert len(model.validation_loss_curve_) == model.n_iter_
    assert np.isfinite(model.loss_curve_ + model.validation_loss_curve_).all()


def settings_of(monkeypatch, X, y, **kwargs):
    """Return the settings that a fit would train each view with; train one pass."""
    seen = []

    def recording(named, training_loss, held_out_loss, rows, settings, *args, **more):
        seen.append(settings)
        short = replace(settings, max_iter=1)
        return Descent(named, training_loss, held_out_loss, rows, short, *args, **more)

    monkeypatch.setattr(EnsembleTraining, "_is_race", lambda self: False)
    monkeypatch.setattr("skmdn.learning.ensemble.Descent", recording)
    monkeypatch.setattr(EnsembleTraining, "_finish", lambda self, histories: None)
    small = {"n_estimators": 1, "hidden_layer_sizes": (2,), "max_iter": "auto"}
    quick(**{**small, **kwargs}).fit(X, y)
    (shared,) = {replace(settings, weight_decay=0.0) for settings in seen}
    return shared


@pytest.mark.parametrize(
    ("n_samples", "batch_size", "passes"),
    [
        (30, 30, 200),  # nothing is held out
        (100, 64, 832),  # 1 300 steps
        (1500, 64, 56),
        (3000, 128, 56),
        (10_000, 128, 36),
        (50_000, 256, 31),  # 6 000 steps
    ],
)
def test_the_number_of_passes_follows_the_number_of_rows(
    monkeypatch, n_samples, batch_size, passes
):
    X, y = table(n_samples)
    settings = settings_of(monkeypatch, X, y)
    assert settings.batch_size == batch_size
    assert settings.max_iter == passes


def test_the_number_of_passes_can_be_set_or_follows_what_is_held_out(monkeypatch):
    X, y = table(200)
    assert settings_of(monkeypatch, X, y).max_iter == 416
    assert settings_of(monkeypatch, X, y, early_stopping=False).max_iter == 200
    assert settings_of(monkeypatch, X, y, max_iter=7).max_iter == 7


@pytest.mark.parametrize(("n_samples", "stops"), [(49, False), (50, True)])
def test_early_stopping_is_automatic_where_rows_can_be_spared(n_samples, stops):
    model = quick().fit(*table(n_samples))
    assert (model.validation_loss_curve_ is not None) == stops


def test_early_stopping_keeps_the_best_state():
    rng = np.random.RandomState(0)
    X, y = rng.normal(size=(80, 10)), rng.normal(size=80)
    stopped = MixtureDensityRegressor(max_iter=150, random_state=0).fit(X, y)
    trained = MixtureDensityRegressor(
        max_iter=150, early_stopping=False, random_state=0
    ).fit(X, y)
    X_test, y_test = rng.normal(size=(500, 10)), rng.normal(size=500)
    assert stopped.score(X_test, y_test) > trained.score(X_test, y_test) + 0.5


def test_more_members_score_better():
    X, y = table(100)
    X_test, y_test = table(1000, seed=1)
    one, ten = (
        quick(n_estimators=m, max_iter=60, embedding="none")
        .fit(X, y)
        .score(X_test, y_test)
        for m in (1, 10)
    )
    assert ten > one


def test_warm_start_goes_on_with_all_views():
    X, y = table()
    model = quick(warm_start=True).fit(X, y)
    first, weights = model.validation_loss_curve_, model.module_.log_weights.clone()
    model.set_params(max_iter=10).fit(X, y)
    assert model.validation_loss_curve_[0] < first[0] - 0.3
    assert model.n_iter_ == len(model.loss_curve_) == 10
    assert len(model.module_.networks) == 3
    assert float(model.module_.log_weights.exp().sum()) == pytest.approx(1.0)
    assert (model.module_.log_weights != weights).any()


def test_partial_fit_sees_raw_features_and_goes_on_with_all_views():
    X, y = table()
    model = quick()
    for n_calls in (1, 2, 3):
        model.partial_fit(X, y)
        assert model.n_iter_ == len(model.loss_curve_) == n_calls
    # Nothing is held out that could tell views apart.
    assert len(model.module_.networks) == len(model._optimizer_states) == 1
    fitted = quick().fit(X, y)
    weights = fitted.module_.log_weights.clone()
    assert (weights != weights[0]).any()
    fitted.partial_fit(X, y)
    np.testing.assert_array_equal(fitted.module_.log_weights, weights)


def test_warm_start_goes_on_where_the_last_fit_ended():
    X, y = table(40)
    model = quick(warm_start=True, max_iter=30).fit(X, y)
    first = model.loss_curve_
    model.fit(X, y)
    assert model.loss_curve_[0] < first[0]
    assert model.loss_curve_[-1] < first[-1]
    cold = quick(max_iter=30).fit(X, y).fit(X, y)
    assert cold.loss_curve_ == first


@pytest.mark.parametrize(
    "changed",
    [{"n_components": 1}, {"hidden_layer_sizes": (8,)}, {"embedding": "ple"}],
)
def test_networks_that_go_on_refuse_another_shape(changed):
    X, y = table()
    model = quick(warm_start=True, hidden_layer_sizes=[16]).fit(X, y)
    model.set_params(**changed)
    for fit in (model.fit, model.partial_fit):
        with pytest.raises(ValueError, match=next(iter(changed))):
            fit(X, y)
    model.set_params(warm_start=False).fit(X, y)


def test_partial_fit_learns_from_batches():
    X, y = make_branches(2000, random_state=0)
    X_test, y_test = make_branches(500, random_state=1)
    model = MixtureDensityRegressor(2, learning_rate_init=0.003, random_state=0)
    scores = []
    for _ in range(6):
        for first in range(0, 2000, 500):
            rows = slice(first, first + 500)
            assert model.partial_fit(X[rows], y[rows]) is model
        scores.append(model.score(X_test, y_test))
    assert model.n_iter_ == len(model.loss_curve_) == 24
    marginal = stats.norm.logpdf(y_test, y.mean(), y.std()).mean()
    assert scores[-1] > scores[0] > marginal
    assert scores[-1] > branches_log_prob(X_test, y_test).mean() - 0.5


def test_partial_fit_goes_on_after_fit_and_after_pickling():
    X, y = table()
    model = quick().fit(X, y)
    model.partial_fit(X, y)
    twin = pickle.loads(pickle.dumps(model))
    same(model.partial_fit(X, y), twin.partial_fit(X, y), X)
    with pytest.raises(ValueError, match="output"):
        model.partial_fit(X, np.c_[y, y])
    with pytest.raises(ValueError, match="features"):
        model.partial_fit(X[:, :2], y)


def test_verbose_prints_and_silence_is_the_default(capsys):
    X, y = table()
    quick().fit(X, y)
    assert capsys.readouterr() == ("", "")
    quick(verbose=2).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    # Fifteen passes for each of three views.
    assert len(lines) == 45
    for number, line in enumerate(lines, 1):
        assert f"epoch {number}/45 " in line
        assert "held-out" in line
    quick(verbose=1, early_stopping=False).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 15
    assert "held-out" not in lines[-1]


def test_a_callback_sees_every_pass_and_can_stop():
    pytest.importorskip("sklearn.callback")
    X, y = table()

    class StopAfterThree:
        def __init__(self):
            self.scores = []

        def setup(self, estimator, context):
            self.max_subtasks = context.max_subtasks

        def on_fit_task_begin(self, estimator, context):
            pass

        def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
            if context.task_name == "epoch":
                self.scores.append(fitted_estimator.score(X, y.ravel()))
            return len(self.scores) == 3

        def teardown(self, estimator, context):
            self.finished = True

    callback = StopAfterThree()
    model = quick(early_stopping=False).set_callbacks(callback).fit(X, y)
    assert callback.max_subtasks == 15
    assert model.n_iter_ == len(callback.scores) == 3
    assert callback.scores[-1] == pytest.approx(model.score(X, y))
    assert callback.finished
    # With several views, trained in single precision, too; the stop is for all.
    callback = StopAfterThree()
    model = quick().set_callbacks(callback).fit(X, y)
    assert callback.max_subtasks == 45
    assert model.n_iter_ == len(callback.scores) == 3
    assert np.isfinite(callback.scores).all()
    assert callback.finished


def test_a_hopeless_learning_rate_warns_and_leaves_a_usable_model():
    X, y = table()
    model = quick(learning_rate_init=1e200)
    with pytest.warns(ConvergenceWarning, match="infinite or NaN"):
        model.fit(X, y)
    assert np.isfinite(model.predict(X)).all()
    assert np.isfinite(model.score(X, y))


def test_extreme_values_do_not_produce_nan():
    X, y = table()
    y[0] = 1e150
    model = quick().fit(X, y)
    assert np.isfinite(model.predict(X)).all()
    X[0, 0] = 1e200
    model = quick().fit(X, table()[1])
    assert np.isfinite(model.predict(X)).all()


# Bad input.


def bad(X, y, **kwargs):
    """Return what fit raises, and check that it leaves nothing behind."""
    params = kwargs.pop("params", {})
    model = quick(**params)
    before = dict(vars(model))
    with pytest.raises((ValueError, TypeError)) as caught:
        model.fit(X, y, **kwargs)
    assert vars(model) == before
    with pytest.raises(NotFittedError):
        model.predict(np.zeros((2, 3)))
    return str(caught.value)


def test_nan_and_infinity_in_the_data_are_refused():
    X, y = table()
    for value in (np.nan, np.inf):
        spoiled = X.copy()
        spoiled[3, 1] = value
        assert "X contains" in bad(spoiled, y)
        spoiled = y.copy()
        spoiled[3] = value
        assert "y contains" in bad(X, spoiled)


def test_wrong_shapes_and_types_are_refused():
    X, y = table()
    assert "inconsistent" in bad(X, y[:-1])
    assert "Expected 2D array" in bad(X[:, 0], y)
    assert "0 sample" in bad(X[:0], y[:0])
    assert "1 sample" in bad(X[:1], y[:1])
    assert "dim" in bad(X, y.reshape(-1, 1, 1))
    assert "convert" in bad(np.full(X.shape, "a"), y)
    assert "omplex" in bad(X + 1j, y)


def test_bad_weights_are_refused():
    X, y = table()
    assert "egative" in bad(X, y, sample_weight=-np.ones(len(y)))
    assert "zero" in bad(X, y, sample_weight=np.zeros(len(y)))
    assert "sample_weight" in bad(X, y, sample_weight=np.ones(3))
    assert "NaN" in bad(X, y, sample_weight=np.full(len(y), np.nan))


@pytest.mark.parametrize(
    "params",
    [
        {"family": "cauchy"},
        {"covariance_type": "round"},
        {"activation": "swish"},
        {"n_components": 0},
        {"n_estimators": 0},
        {"temperature": 0.0},
        {"min_scale": -1.0},
        {"hidden_layer_sizes": (8, 0)},
        {"hidden_layer_sizes": ("a",)},
        {"hidden_layer_sizes": 0},
        {"validation_fraction": 1.0},
        {"batch_size": 0},
        {"learning_rate_init": 0.0},
        {"device": "abacus"},
    ],
)
def test_bad_parameters_are_named(params):
    message = bad(*table(), params=params)
    assert next(iter(params)) in message


def test_a_failing_refit_keeps_the_earlier_fit():
    X, y = table()
    model = quick().fit(X, y)
    before = model.predict(X)
    spoiled = y.copy()
    spoiled[0] = np.nan
    for fit in (model.fit, model.partial_fit):
        with pytest.raises(ValueError, match="NaN"):
            fit(X[:, :2], spoiled)
        np.testing.assert_array_equal(model.predict(X), before)
        assert model.n_features_in_ == 3


def test_queries_check_their_input():
    X, y = table()
    model = quick().fit(X, y)
    with pytest.raises(ValueError, match="features"):
        model.predict(X[:, :2])
    with pytest.raises(ValueError, match="NaN"):
        model.predict(np.full((1, 3), np.nan))
    with pytest.raises(ValueError, match="NaN"):
        model.log_prob(X, np.full(len(y), np.nan))
    with pytest.raises(ValueError, match="inconsistent"):
        model.log_prob(X, y[:-1])
    with pytest.raises(ValueError, match="output"):
        model.log_prob(X, np.c_[y, y])
    for levels in ([0.0], [1.0], [1.5], [-0.1], [np.nan]):
        with pytest.raises(ValueError, match="quantiles"):
            model.predict_quantiles(X, levels)
    for coverage in (0.0, 1.0, 90):
        with pytest.raises(ValueError, match="coverage"):
            model.predict_interval(X, coverage)
    with pytest.raises(ValueError, match="n_samples"):
        model.sample(X, 0)
    with pytest.raises(TypeError, match="integer"):
        model.sample(X, 1.5)
    with pytest.raises(ValueError, match="egative"):
        model.score(X, y, sample_weight=-np.ones(len(y)))


def test_awkward_but_legal_data_are_fitted():
    X, y = table(30)
    for features, target in (
        (X, np.full(30, 7.0)),  # constant target
        (np.c_[X, np.full(30, 1e9)], y),  # constant feature
        (X, np.round(y)),  # many ties
        (X[:3], y[:3]),  # more components than rows
        (X * 0.0, y),  # nothing to learn from
    ):
        model = quick().fit(features, target)
        assert np.isfinite(model.predict(features)).all()
        assert np.isfinite(model.score(features, target))
    constant = quick(max_iter=300).fit(X, np.full(30, 7.0)).predict(X)
    np.testing.assert_allclose(constant, 7.0, atol=0.5)


# scikit-learn's ecosystem.


def test_copies_predict_the_same():
    X, y = table()
    model = quick().fit(X, y)
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    for twin in (
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
        joblib.load(file),
        clone(model).fit(X, y),
    ):
        same(model, twin, X)


def test_a_fresh_process_predicts_the_same(tmp_path):
    X, y = table()
    model = quick().fit(X, y)
    joblib.dump((model, X), tmp_path / "model.joblib")
    code = (
        "import joblib, sys, numpy as np\n"
        f"model, X = joblib.load({str(tmp_path / 'model.joblib')!r})\n"
        f"np.save({str(tmp_path / 'out.npy')!r}, model.predict_quantiles(X))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    np.testing.assert_array_equal(
        np.load(tmp_path / "out.npy"), model.predict_quantiles(X)
    )


def test_a_pickle_of_another_version_warns():
    X, y = table()
    state = quick().fit(X, y).__getstate__()
    assert state["_skmdn_version"]
    with pytest.warns(UserWarning, match=r"saved by skmdn 0\.0\.1"):
        quick().__setstate__({**state, "_skmdn_version": "0.0.1"})


def test_grid_search_in_two_processes_equals_one():
    X, y = table()
    grid = {"n_components": [1, 3], "covariance_type": ["diag"]}
    results = [
        GridSearchCV(quick(), grid, cv=3, n_jobs=n_jobs).fit(X, y) for n_jobs in (1, 2)
    ]
    for key in ("mean_test_score", "rank_test_score"):
        np.testing.assert_allclose(
            results[0].cv_results_[key], results[1].cv_results_[key], rtol=1e-10
        )
    best = results[0].best_estimator_
    np.testing.assert_allclose(best.predict(X), results[1].predict(X), rtol=1e-10)
    # The search maximises the likelihood.
    assert results[0].best_score_ == results[0].cv_results_["mean_test_score"].max()


def test_cross_validation_by_likelihood_and_by_r2():
    X, y = table(200)
    model = quick(max_iter=40)
    likelihood = cross_val_score(model, X, y, cv=3)
    r2 = cross_val_score(model, X, y, cv=3, scoring="r2")
    assert ((r2 > 0.5) & (r2 < 1.0)).all()
    assert (likelihood != r2).all()


def test_pipelines_and_data_frames_keep_names():
    X, y = table()
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    pipe = make_pipeline(StandardScaler(), quick()).set_output(transform="pandas")
    pipe.fit(frame, pd.Series(y))
    assert list(pipe[-1].feature_names_in_) == ["a", "b", "c"]
    model = quick().fit(frame, pd.Series(y))
    assert model.predict(frame).shape == (120,)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["b", "a", "c"]])
    with pytest.warns(UserWarning, match="feature names"):
        model.predict(X)


def test_a_transformed_target_is_predicted_in_its_units():
    X, y = table()
    model = TransformedTargetRegressor(quick(), func=np.arcsinh, inverse_func=np.sinh)
    predicted = model.fit(X, y).predict(X)
    np.testing.assert_allclose(predicted, np.sinh(model.regressor_.predict(X)))


def test_weights_are_routed_as_metadata():
    X, y = table()
    weights = np.random.RandomState(0).uniform(size=len(y))
    with config_context(enable_metadata_routing=True):
        model = quick().set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        routed = cross_validate(
            model, X, y, cv=2, params={"sample_weight": weights}, return_estimator=True
        )
    half = len(y) // 2
    by_hand = quick().fit(X[half:], y[half:], sample_weight=weights[half:])
    np.testing.assert_array_equal(routed["estimator"][0].predict(X), by_hand.predict(X))
    assert routed["test_score"][0] == by_hand.score(
        X[:half], y[:half], sample_weight=weights[:half]
    )


def test_the_distribution_is_public_and_picklable():
    X, y = table()
    dist = quick().fit(X, y).predict_distribution(X)
    assert isinstance(dist, PredictiveDistribution)
    twin = pickle.loads(pickle.dumps(dist))
    np.testing.assert_array_equal(twin.ppf([0.1, 0.9]), dist.ppf([0.1, 0.9]))
