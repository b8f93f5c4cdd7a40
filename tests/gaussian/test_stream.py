"""Rows that come in batches: the beginning, the steps, and what is forgotten."""

import pickle

import numpy as np
import pytest

from skmdn import MAPGaussianMixture
from skmdn.gaussian import fit as gaussian_fit
from skmdn.gaussian import stream as gaussian_stream
from skmdn.priors import Dirichlet, LogNormalScale, Softball
from tests.test_gaussian_mixture import ALL_KINDS, PRIORS, groups, with_holes


@pytest.fixture
def few(monkeypatch):
    """Keep a tenth as many rows."""
    for module in (gaussian_fit, gaussian_stream):
        monkeypatch.setattr(module, "START_ROWS", 2000)


def make(kind="full", n_components=3, **params):
    return MAPGaussianMixture(
        n_components, covariance_type=kind, random_state=0, **params
    )


def shown(model, X, size, weights=None):
    for start in range(0, len(X), size):
        part = slice(start, start + size)
        model.partial_fit(
            X[part], sample_weight=None if weights is None else weights[part]
        )
    return model


@pytest.mark.parametrize("size", [100, 2000])
@pytest.mark.parametrize("kind", ["full", "diag"])
def test_two_passes_reach_what_all_rows_reach(few, kind, size):
    X, _ = groups(12_000, 4, 8, seed=2, spread=2.0)
    whole = make(kind, 8).fit(X).score(X)
    by_fit = make(kind, 8, batch_size=size, max_iter=2, tol=0.0)
    with pytest.warns(UserWarning, match="did not converge"):
        by_fit.fit(X)
    by_calls = shown(make(kind, 8), np.concatenate([X, X]), size)
    for model in (by_fit, by_calls):
        assert model.score(X) > whole - 0.005 * abs(whole)


@pytest.mark.slow
@pytest.mark.parametrize("size", [500, 20_000])
@pytest.mark.parametrize("kind", ["full", "diag"])
def test_two_passes_over_200_000_rows(kind, size):
    X, _ = groups(200_000, 10, 20, seed=1, spread=1.0)
    whole = make(kind, 20).fit(X).score(X)
    model = shown(make(kind, 20), np.concatenate([X, X]), size)
    assert model.score(X) > whole - 0.005 * abs(whole)


def test_the_first_rows_are_fitted_as_a_whole():
    X, _ = groups(900)
    weights = np.random.RandomState(0).uniform(0.5, 2.0, 900)
    model = shown(make("diag", **PRIORS), X, 100, weights)
    whole = make("diag", **PRIORS).fit(X, sample_weight=weights)
    assert model.log_posterior_ == pytest.approx(whole.log_posterior_, rel=1e-3)
    expected = weights @ model.score_samples(X) + model.log_prior_
    assert model.log_posterior_ == pytest.approx(expected)
    assert model.n_iter_ == len(model.lower_bounds_) == 9
    assert not model.converged_


def test_rows_with_and_without_weights_come_together():
    X, _ = groups(200)
    params = {"tol": 1e-7, "max_iter": 1000}
    mixed = make("diag", **params).partial_fit(X[:100])
    mixed.partial_fit(X[100:], sample_weight=np.full(100, 2.0))
    repeated = make("diag", **params).partial_fit(np.concatenate([X, X[100:]]))
    np.testing.assert_allclose(
        np.sort(mixed.means_, axis=0), np.sort(repeated.means_, axis=0), atol=0.01
    )


def test_later_rows_are_forgotten_with_their_likelihood(few):
    X, _ = groups(2500)
    model = shown(make("full"), X[:2000], 500)
    assert model._kept_rows is None
    assert hasattr(model, "log_posterior_")
    model.partial_fit(X[2000:])
    assert not hasattr(model, "log_posterior_")
    assert np.isfinite(model.log_prior_)
    assert model.lower_bound_ == pytest.approx(
        model.score(X[2000:]), abs=0.1 * abs(model.score(X))
    )


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_call_of_many_rows_is_split_at_the_limit(few, kind):
    X, _ = groups(3000)
    model = make(kind, batch_size=250).partial_fit(X)
    first = make(kind, batch_size=250).partial_fit(X[:2000])
    for start in range(2000, 3000, 250):
        first.partial_fit(X[start : start + 250])
    np.testing.assert_allclose(model.means_, first.means_, rtol=1e-9)
    np.testing.assert_allclose(model.covariances_, first.covariances_, rtol=1e-8)


def test_what_is_kept_does_not_depend_on_the_batches():
    # A parameter of one component: the mean is the mean of rows with known weights.
    X = np.random.RandomState(0).normal(size=(4000, 2))
    models = [make("diag", 1).fit(X[:1000]) for _ in range(3)]
    for model, size in zip(models, (50, 250, 3000), strict=True):
        shown(model, X[1000:], size)
        # Weight of the first thousand: (1000 / 4000) ** 3.
        earlier = (1.0 / 4.0) ** 3 * X[:1000].mean(0)
        error = 5.0 / np.sqrt(3000)
        assert (np.abs(model.means_[0] - earlier) < error).all()
    np.testing.assert_allclose(
        models[2].means_[0],
        (1.0 / 4.0) ** 3 * X[:1000].mean(0) + (63 / 64) * X[1000:].mean(0),
        rtol=1e-9,
    )


def test_a_stream_with_holes_priors_and_a_pickle(few):
    X, _ = groups(4000)
    priors = {
        "weights_prior": Dirichlet(2.0),
        "means_prior": Softball(10.0),
        "scales_prior": LogNormalScale(1.0),
    }
    model = shown(make("full", **priors), with_holes(X[:3000]), 500)
    copy = pickle.loads(pickle.dumps(model))
    for one in (model, copy):
        one.partial_fit(X[3000:])
    np.testing.assert_array_equal(copy.means_, model.means_)
    whole = make("full", **priors).fit(X)
    assert model.score(X) > whole.score(X) - 0.005 * abs(whole.score(X))


def test_a_fit_begins_a_new_stream():
    X, _ = groups(600)
    model = make("diag").partial_fit(X[:300] + 50.0).fit(X)
    again = make("diag").fit(X).partial_fit(X[:100])
    model.partial_fit(X[:100])
    np.testing.assert_allclose(model.means_, again.means_)


def test_a_batch_that_cannot_be_used_leaves_the_model_as_it_was():
    X, _ = groups(300)
    model = make("diag").partial_fit(X)
    means, kept = model.means_.copy(), len(model._kept_rows)
    with pytest.raises(ValueError, match="features"):
        model.partial_fit(X[:, :2])
    with pytest.raises(ValueError, match="infinity"):
        model.partial_fit(np.full((4, 3), np.inf))
    np.testing.assert_array_equal(model.means_, means)
    assert len(model._kept_rows) == kept
