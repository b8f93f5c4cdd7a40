"""Queries of decoders of counts whose exposures are known."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from skmdn import DeepGenerativeDecoder
from skmdn.bridge import to_tensor

SIZES = np.array([2.0, 40.0])


def events(n=300, seed=0):
    """Return Poisson counts of two kinds of rows, exposures, kinds and rates."""
    rng = np.random.RandomState(seed)
    rates = np.exp(rng.normal(0.0, 1.0, (2, 6)))
    kind = rng.randint(2, size=n)
    # The totals say nothing of the exposure: one kind has more of everything.
    rates[1] *= 5.0
    exposure = SIZES[rng.randint(2, size=n)]
    return rng.poisson(exposure[:, np.newaxis] * rates[kind]), exposure, kind, rates


@pytest.fixture(scope="module")
def counted():
    X, exposure, kind, rates = events()
    X = X.astype(float)
    model = DeepGenerativeDecoder(
        1,
        2,
        likelihood="poisson",
        hidden_layer_sizes=(8,),
        max_iter=60,
        learning_rate_init=0.01,
        random_state=0,
    ).fit(X, exposure=exposure)
    return X, exposure, kind, rates, model


def test_rates_are_those_that_were_simulated(counted):
    X, exposure, kind, rates, model = counted
    codes = model.transform(X, exposure=exposure)
    found = model.inverse_transform(codes)
    for k in range(2):
        own = kind == k
        total = exposure[own].sum()
        error = np.sqrt(rates[k] / total)
        pooled = np.average(found[own], axis=0, weights=exposure[own])
        assert (np.abs(pooled - rates[k]) < 4.0 * error).all()


def test_kinds_are_told_apart_by_rates_not_by_totals(counted):
    X, exposure, kind, _, model = counted
    told = model.predict(X, exposure=exposure)
    same = (told == kind).mean()
    assert max(same, 1.0 - same) > 0.99


def test_expected_counts_are_rates_times_exposures(counted):
    X, exposure, _, _, model = counted
    codes = model.transform(X, exposure=exposure)
    rate = model.inverse_transform(codes)
    expected = exposure[:, np.newaxis] * rate
    rebuilt = model.reconstruct(X, exposure=exposure)
    np.testing.assert_allclose(rebuilt, expected)
    np.testing.assert_allclose(
        model.inverse_transform(codes, exposure=exposure), expected
    )
    holed = X.copy()
    holed[:, 2] = np.nan
    filled = model.impute(holed, exposure=exposure)
    gap = (filled - X)[:, 2] / np.sqrt(expected[:, 2])
    assert 0.8 < gap.std() < 1.3


def test_the_density_is_that_of_quadrature(counted):
    X, exposure, _, _, model = counted
    rows = slice(0, 6)
    z = np.linspace(-6.0, 6.0, 20_001)[:, np.newaxis]
    rate, prior = model.inverse_transform(z), model.mixture_.score_samples(z)
    step = z[1, 0] - z[0, 0]
    exact = [
        logsumexp(stats.poisson(time * rate).logpmf(row).sum(axis=1) + prior)
        + np.log(step)
        for row, time in zip(X[rows], exposure[rows], strict=True)
    ]
    found = model.score_samples(X[rows], exposure=exposure[rows])
    np.testing.assert_allclose(found, exact, atol=0.1)
    assert np.isclose(
        model.score(X[rows], exposure=exposure[rows]), found.mean(), rtol=1e-12
    )


def test_exposures_that_are_not_given_are_found_from_totals(counted):
    X, exposure, _, _, model = counted
    blocks = model.module_.blocks
    (log_size,) = blocks.table(to_tensor(X)).log_sizes()
    # In the units of the exposures, as far as rows of both kinds are alike.
    ratio = np.exp(log_size.numpy()[:, 0]) / exposure
    assert 0.5 < np.exp(np.log(ratio).mean()) < 1.5
    assert np.isfinite(model.transform(X)).all()


def test_exposures_are_for_counts(counted):
    X, exposure, *_, model = counted
    with pytest.raises(ValueError, match="exposure is for counts"):
        DeepGenerativeDecoder(1, 2, random_state=0).fit(X, exposure=exposure)
    with pytest.raises(ValueError, match="exposure must be positive"):
        model.transform(X, exposure=-exposure)
    with pytest.raises(ValueError, match="exposure has the shape"):
        model.transform(X, exposure=exposure[:5])


def test_every_query_takes_exposures(counted):
    X, exposure, *_, model = counted
    X, exposure = X[:20], exposure[:20]
    again = DeepGenerativeDecoder(1, 2, likelihood="poisson", max_iter=2)
    again.set_params(hidden_layer_sizes=(4,), random_state=0)
    codes = again.fit_transform(X, exposure=exposure)
    np.testing.assert_array_equal(codes, again.transform(X, exposure=exposure))
    labels = again.fit_predict(X, exposure=exposure)
    assert labels.shape == (20,)
    proba = model.predict_proba(X, exposure=exposure)
    np.testing.assert_array_equal(
        proba.argmax(axis=1), model.predict(X, exposure=exposure)
    )
