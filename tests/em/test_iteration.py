"""The loops: the posterior never falls, runs are independent, batches do as well."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture

from skmdn.em import (
    COVARIANCE_TYPES,
    Fit,
    Online,
    Parameters,
    Past,
    Priors,
    Rows,
    e_step,
    run,
)
from skmdn.priors import Dirichlet, LogNormalScale, Softball
from tests.em.helpers import all_priors, random_parameters, random_rows
from tests.helpers import tensor


def check_rise(parameters, rows, priors, n_steps):
    """The log posterior of each run rises in every step."""
    alive = parameters.log_weights > -np.inf
    fit = run(parameters, rows, priors, tol=0.0, max_iter=1)
    for _ in range(n_steps):
        before = [bounds[-1] for bounds in fit.bounds]
        now = fit.parameters.log_weights > -np.inf
        fit = run(fit.parameters, rows, priors, tol=0.0, max_iter=1)
        if not all(fit.sound):
            break
        for r in range(2):
            # A component that is switched off takes its prior with it.
            if torch.equal(alive[r], now[r]):
                assert fit.bounds[r][-1] >= before[r] - 1e-9 * max(1, abs(before[r]))
        alive = now


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
def test_the_log_posterior_never_falls_with_any_combination_of_priors(kind):
    combinations = all_priors(kind)
    assert len(combinations) == 12 * {"full": 4, "tied": 4, "fixed": 1}.get(kind, 3)
    for seed, priors in enumerate(combinations):
        rows = random_rows(40, 2, seed=seed, missing=0.1 * (seed % 2), weighted=True)
        check_rise(random_parameters(kind, seed=seed), rows, priors, n_steps=5)


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
@settings(derandomize=True, deadline=None, max_examples=20, database=None)
@given(data=st.data())
def test_the_log_posterior_never_falls(kind, data):
    priors = data.draw(st.sampled_from(all_priors(kind)))
    rows = random_rows(
        data.draw(st.integers(30, 80)),
        2,
        seed=data.draw(st.integers(0, 999)),
        missing=data.draw(st.sampled_from([0.0, 0.2])),
        weighted=data.draw(st.booleans()),
    )
    parameters = random_parameters(kind, seed=data.draw(st.integers(0, 999)))
    check_rise(parameters, rows, priors, n_steps=12)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_without_priors_it_is_scikit_learn(kind):
    X = random_rows(300, 3).columns.T.numpy()
    settings_ = {"n_components": 3, "covariance_type": kind, "random_state": 0}
    start = GaussianMixture(**settings_, max_iter=0).fit(X)
    other = GaussianMixture(**settings_, tol=1e-10, max_iter=1000).fit(X)
    parameters, _ = Parameters.from_covariances(
        kind,
        tensor(start.weights_[None]).log(),
        tensor(start.means_[None]),
        tensor(start.covariances_[None]),
    )
    rows = Rows(tensor(X.T.copy()))
    fit = run(parameters, rows, Priors(reg_covar=1e-6), tol=1e-10, max_iter=1000)
    np.testing.assert_allclose(fit.bounds[0], other.lower_bounds_, rtol=1e-11)
    np.testing.assert_allclose(fit.parameters.means[0], other.means_, atol=1e-8)
    np.testing.assert_allclose(
        fit.parameters.covariances[0], other.covariances_, atol=1e-8
    )


def test_runs_side_by_side_are_runs_alone():
    rows, priors = (
        random_rows(100),
        Priors(Dirichlet(2.0), Softball(4.0), LogNormalScale(1.0)),
    )
    parameters = random_parameters("full", n_runs=4)
    together = run(parameters, rows, priors, tol=1e-4, max_iter=200)
    lengths = {len(bounds) for bounds in together.bounds}
    assert len(lengths) > 1
    for r in range(4):
        alone = run(parameters[torch.tensor([r])], rows, priors, tol=1e-4, max_iter=200)
        assert len(alone.bounds[0]) == len(together.bounds[r])
        torch.testing.assert_close(
            alone.parameters.means[0], together.parameters.means[r]
        )


def test_a_run_that_breaks_down_leaves_the_others():
    rows = random_rows(50)
    parameters = random_parameters("full", n_runs=2)
    means = parameters.means.clone()
    # One component of the second run sits on a row and can shrink onto it.
    means[1, 0] = rows.columns[:, 0]
    covariances = parameters.covariances.clone()
    covariances[1, 0] = 1e-12 * torch.eye(2)
    parameters, _ = Parameters.from_covariances(
        "full", parameters.log_weights, means, covariances
    )
    fit = run(parameters, rows, Priors(), tol=1e-6, max_iter=500)
    assert fit.sound == [True, False]
    assert fit.order() == [0]
    assert fit.converged[0]


def test_the_report_can_stop():
    seen = []

    def report(iteration, changes):
        seen.append((iteration, len(changes)))
        return iteration == 3

    run(
        random_parameters("diag"),
        random_rows(),
        Priors(),
        tol=0,
        max_iter=9,
        report=report,
    )
    assert seen == [(1, 2), (2, 2), (3, 2)]


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
def test_batches_come_close_to_all_rows(kind):
    rng = np.random.RandomState(0)
    centers = 3.0 * rng.normal(size=(3, 2))
    X = centers[rng.randint(3, size=6000)] + rng.normal(size=(6000, 2))
    rows = Rows(tensor(X.T.copy()))
    parameters = random_parameters(kind, n_runs=1, seed=3)
    near = tensor(centers + 0.5 * rng.normal(size=(1, 3, 2)))
    parameters, _ = Parameters.from_covariances(
        kind, parameters.log_weights, near, parameters.covariances
    )
    priors = Priors(reg_covar=1e-6)
    best = run(parameters, rows, priors, tol=1e-5, max_iter=300).bounds[0][-1]
    online = Online(parameters, priors, total=6000.0)
    for _ in range(3):
        for start in range(0, 6000, 200):
            online.step(Rows(rows.columns[:, start : start + 200]))
    reached = run(online.parameters, rows, priors, tol=0.0, max_iter=1).bounds[0][0]
    assert reached > best - 0.005 * abs(best)


def test_the_past_counts_by_the_rows_seen_since():
    parameters, priors = random_parameters("diag"), Priors()
    first, second = random_rows(40), random_rows(120, seed=1)
    past = Past().with_batch(e_step(parameters, first)[1], 40.0)
    latest = e_step(parameters, second)[1]
    past = past.with_batch(latest, 120.0)
    # 40 of 160: (1 / 4) ** 3 of the statistics are the earlier ones.
    earlier = e_step(parameters, first)[1].counts / 40.0
    expected = earlier / 64.0 + latest.counts / 120.0 * 63.0 / 64.0
    torch.testing.assert_close(past.statistics.counts, expected)
    assert past.seen == 160.0
    # Batches however small keep as much.
    online = Online(parameters, priors, past=Past(past.statistics, 160.0))
    for start in range(0, 120, 20):
        online.step(Rows(second.columns[:, start : start + 20]))
    assert online.past.seen == 280.0


def test_of_nearly_equal_runs_the_favourite_comes_first():
    fit = Fit(None, [[1.0], [1.5], [math.nan], [1.2]], [True] * 4, [True] * 4)
    assert fit.order() == [1, 3, 0, 2]
    assert fit.order(margin=0.5) == [0, 1, 3, 2]
    assert fit.order(margin=0.4, favourite=3) == [3, 1, 0, 2]
    assert Fit(None, [[]], [False], [True]).order() == [0]


def test_one_batch_of_all_rows_is_one_step():
    rows, priors = (
        random_rows(),
        Priors(Dirichlet(2.0), Softball(2.0), LogNormalScale(1.0)),
    )
    parameters = random_parameters("full")
    online = Online(parameters, priors)
    bounds, sound = online.step(rows)
    fit = run(parameters, rows, priors, tol=0.0, max_iter=1)
    assert sound.all()
    np.testing.assert_allclose(bounds, [b[0] for b in fit.bounds], rtol=1e-12)
    torch.testing.assert_close(
        online.parameters.covariances, fit.parameters.covariances
    )
