"""VariationalPosterior: what a user does with it."""

import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from skmdn import VariationalPosterior
from tests.covering.densities import ring, two_modes

SMALL = {"max_potential_evals": 30_000, "random_state": 0}
PRIOR = [stats.norm(0, 5)] * 2
COVARIANCE = np.array([[1.0, 0.5], [0.5, 2.0]])


def likelihood(theta, x):
    return -(x - theta).square().sum(1)


def array_likelihood(theta, x):
    return -np.square(x - np.array(theta)).sum(axis=1)


def bimodal(theta):
    return two_modes(theta)


def exact_posterior(x):
    """Mean and covariance for a normal prior and noise of variance 1/2."""
    gain = COVARIANCE @ np.linalg.inv(COVARIANCE + 0.5 * np.eye(2))
    mean = np.array([1.0, 0.0])
    return mean + gain @ (np.array(x) - mean), COVARIANCE - gain @ COVARIANCE


def log_evidence(x):
    law = stats.multivariate_normal([1.0, 0.0], COVARIANCE + 0.5 * np.eye(2))
    return law.logpdf(x) + math.log(math.pi)


@pytest.fixture(scope="module")
def fitted():
    return VariationalPosterior(bimodal, PRIOR, **SMALL).fit()


@pytest.fixture(scope="module")
def rows():
    prior = stats.multivariate_normal([1.0, 0.0], COVARIANCE)
    estimator = VariationalPosterior(likelihood, prior, add_prior=True, **SMALL)
    return estimator.fit([[0.3, 1.0], [2.0, 2.0]])


# One posterior.


def test_shapes_and_moments(fitted):
    draws = fitted.sample(500, random_state=1)
    assert draws.shape == (500, 2)
    assert fitted.score_samples(draws).shape == (500,)
    assert fitted.score(draws) == pytest.approx(fitted.score_samples(draws).mean())
    mean, std = fitted.predict(return_std=True)
    np.testing.assert_allclose(mean, [-2.4, -2.4], atol=0.03)
    np.testing.assert_allclose(std, math.sqrt(0.9 + 0.025 + 36 * 0.09), atol=0.03)
    assert fitted.log_evidence_ == pytest.approx(0.0, abs=0.01)
    assert fitted.n_potential_evals_ <= 60_000


def test_scores_are_log_densities(fitted):
    theta = np.array([[-3.0, -3.0], [3.0, 3.0], [-2.0, -4.0]])
    expected = two_modes(torch.from_numpy(theta)).numpy()
    np.testing.assert_allclose(fitted.score_samples(theta), expected, atol=0.05)


def test_the_report(fitted):
    report = fitted.evaluate(2000, random_state=3)
    assert report is not None
    assert fitted.report_.ess == report.ess
    assert report.ess > 1900
    assert np.isfinite(report.khat)
    assert report.prop > 0.98
    assert report.elbo <= report.log_evidence
    assert not report.suspicious
    assert report.doubts == []


def test_all_modes(fitted):
    modes, heights = fitted.map(return_all=True)
    np.testing.assert_allclose(modes, [[-3, -3], [3, 3]], atol=1e-3)
    assert heights[0] > heights[1]
    np.testing.assert_array_equal(fitted.map(), modes[0])


@pytest.mark.parametrize("method", ["q", "sir", "psir"])
def test_draws_of_every_method(fitted, method):
    draws = fitted.sample(2000, method=method, random_state=0)
    assert len(np.unique(draws, axis=0)) == 2000
    share = np.mean(draws[:, 0] > 0)
    assert abs(share - 0.1) < 4 * math.sqrt(0.09 / 2000)


def test_the_same_seed_gives_the_same_fit(fitted):
    again = VariationalPosterior(bimodal, PRIOR, **SMALL).fit()
    np.testing.assert_array_equal(again.posterior_.means, fitted.posterior_.means)
    np.testing.assert_array_equal(fitted.sample(3), again.sample(3))


def test_clone_and_pickle(fitted):
    assert clone(fitted).get_params()["potential"] is bimodal
    loaded = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(loaded.sample(4), fitted.sample(4))
    assert loaded.map().shape == (2,)


def test_marginals_and_conditionals(fitted):
    marginal = fitted.posterior_.marginal(0)
    grid = np.linspace(-8, 6, 4001)[:, None]
    density = np.exp(marginal.log_prob(grid))
    assert np.trapezoid(density, grid[:, 0]) == pytest.approx(1.0, abs=1e-6)
    near = fitted.posterior_.condition(0, 3.0)
    assert near.mean() == pytest.approx(3.0, abs=0.02)
    assert near.cov() == pytest.approx(0.25, abs=0.02)
    for wrong in ([0, 0], [2], [0, 1]):
        with pytest.raises(ValueError, match="features"):
            fitted.posterior_.condition(wrong, [0.0] * len(wrong))


# Several, and with a prior.


def test_every_row_has_its_posterior(rows):
    for row, density in zip(([0.3, 1.0], [2.0, 2.0]), rows.posteriors_, strict=True):
        mean, covariance = exact_posterior(row)
        np.testing.assert_allclose(density.mean(), mean, atol=0.02)
        np.testing.assert_allclose(density.cov(), covariance, atol=0.02)
    expected = [log_evidence(row) for row in ([0.3, 1.0], [2.0, 2.0])]
    np.testing.assert_allclose(rows.log_evidence_, expected, atol=0.01)


def test_rows_are_chosen_by_their_values(rows):
    assert rows.sample(5).shape == (2, 5, 2)
    assert rows.sample(5, [[2.0, 2.0]]).shape == (1, 5, 2)
    assert rows.score_samples([[0.0, 0.0]]).shape == (2, 1)
    np.testing.assert_array_equal(rows.predict([[2.0, 2.0]])[0], rows.predict()[1])
    modes = rows.map()
    np.testing.assert_allclose(modes[0], exact_posterior([0.3, 1.0])[0], atol=1e-6)
    with pytest.raises(ValueError, match="not fitted to the observation"):
        rows.sample(5, [[0.0, 0.0]])


def test_arrays_are_enough():
    prior = stats.multivariate_normal([1.0, 0.0], COVARIANCE)
    estimator = VariationalPosterior(array_likelihood, prior, add_prior=True, **SMALL)
    mean, _ = exact_posterior([0.3, 1.0])
    estimator.fit([[0.3, 1.0]])
    np.testing.assert_allclose(estimator.predict(), mean, atol=0.02)
    np.testing.assert_allclose(estimator.map(), mean, atol=1e-4)
    with pytest.raises(ValueError, match="needs a potential through which"):
        estimator.set_params(vi_method="rKL").fit([[0.3, 1.0]])


@pytest.mark.parametrize("prior", [stats.gamma(2), torch.distributions.Gamma(2.0, 1.0)])
def test_a_gamma_prior_meets_a_gamma_likelihood(prior):
    estimator = VariationalPosterior(
        lambda theta: 3 * theta[:, 0].log() - 2 * theta[:, 0],
        [prior] if hasattr(prior, "ppf") else prior,
        add_prior=True,
        **SMALL,
    ).fit()
    assert estimator.predict() == pytest.approx(5 / 3, abs=0.02)
    assert estimator.posterior_.cov() == pytest.approx(5 / 9, abs=0.02)
    assert estimator.map() == pytest.approx(4 / 3, abs=1e-3)
    assert (estimator.sample(1000) > 0).all()


def test_bounds_are_kept():
    estimator = VariationalPosterior(lambda t: 4 * t.sum(1), [(0, 1), (0, 2)], **SMALL)
    draws = estimator.fit().sample(5000)
    assert (draws > 0).all()
    assert (draws < [1, 2]).all()
    volume = np.expm1(4) / 4 * np.expm1(8) / 4
    assert estimator.log_evidence_ == pytest.approx(math.log(volume), abs=0.02)
    np.testing.assert_array_equal(estimator.score_samples([[-0.1, 1.0]]), [-np.inf])


# Families and objectives.


@pytest.mark.parametrize("method", ["rKL", "fKL", "IW", "alpha"])
@pytest.mark.parametrize("q", ["mixture", "gaussian", "gaussian_diag"])
def test_every_objective_finds_a_normal_posterior(q, method):
    prior = stats.multivariate_normal([1.0, 0.0], np.diag([1.0, 2.0]))
    estimator = VariationalPosterior(
        likelihood, prior, q=q, vi_method=method, add_prior=True, **SMALL
    )
    estimator.set_params(max_iter=60, n_particles=128).fit([[0.3, 1.0]])
    # The gradient of a tight bound is mostly noise.
    atol = 0.1 if method == "IW" else 0.03
    np.testing.assert_allclose(estimator.predict(), [1.6 / 3, 0.8], atol=atol)
    expected = np.diag([1 / 3, 0.4])
    np.testing.assert_allclose(estimator.posterior_.cov(), expected, atol=atol)


def test_a_normal_has_one_component_and_a_reverse_divergence_one_mode():
    estimator = VariationalPosterior(
        bimodal, PRIOR, q="gaussian", vi_method="rKL", quality_control="off", **SMALL
    )
    assert estimator.fit().posterior_.n_components == 1
    assert estimator.report_.suspicious


def test_double_reparametrisation_is_not_for_mixtures():
    estimator = VariationalPosterior(bimodal, PRIOR, vi_method="IW", dreg=True)
    with pytest.raises(ValueError, match="one component"):
        estimator.fit()


# Quality control.


def test_a_doubtful_fit_warns():
    estimator = VariationalPosterior(ring, [(-10, 10)] * 2, n_components=1, **SMALL)
    with pytest.warns(ConvergenceWarning, match="may not be good enough"):
        estimator.fit()
    assert estimator.report_.doubts


def test_no_warning_when_off_and_more_effort_on_retry():
    estimator = VariationalPosterior(ring, [(-10, 10)] * 2, n_components=4, **SMALL)
    with warnings.catch_warnings(record=True) as caught:
        estimator.set_params(quality_control="off").fit()
    assert not caught
    first = estimator.report_.divergence
    estimator.set_params(quality_control="retry")
    with warnings.catch_warnings(record=True):
        estimator.fit()
    assert estimator.report_.divergence < first


def test_nan_is_reported():
    def potential(theta):
        values = -theta.square().sum(1)
        return torch.where(theta[:, 0] > 0.5, torch.nan, values)

    estimator = VariationalPosterior(potential, [(-1, 1)] * 2, **SMALL)
    with pytest.warns(ConvergenceWarning, match="NaN or inf at"):
        estimator.fit()
    assert np.isfinite(estimator.posterior_.means).all()
    assert estimator.report_.efficiency > 0.8


@pytest.mark.parametrize("max_evals", [5_000, 20_000])
def test_the_potential_is_asked_as_often_as_allowed(max_evals):
    asked = []

    def potential(theta):
        asked.append(len(theta))
        return ring(theta)

    estimator = VariationalPosterior(potential, [(-10, 10)] * 2, random_state=0)
    estimator.set_params(max_potential_evals=max_evals, quality_control="off").fit()
    assert sum(asked) == estimator.n_potential_evals_ <= max_evals


# scikit-learn's own checks.

WIDTH = "theta has as many columns as the prior has parameters, whatever X has"


@parametrize_with_checks(
    [
        VariationalPosterior(
            bimodal,
            PRIOR,
            max_potential_evals=5_000,
            random_state=0,
            quality_control="off",
        )
    ],
    expected_failed_checks=lambda _: dict.fromkeys(
        [
            "check_array_api_input",
            "check_fit_score_takes_y",
            "check_n_features_in_after_fitting",
            "check_pipeline_consistency",
            "check_methods_sample_order_invariance",
            "check_methods_subset_invariance",
        ],
        WIDTH,
    ),
)
@pytest.mark.draws_from_numpy
def test_scikit_learn_checks(estimator, check):
    check(estimator)


# Errors.


@pytest.mark.parametrize(
    ("params", "fit", "match"),
    [
        ({"prior": None}, None, "the search has to begin"),
        ({"potential": likelihood}, None, "fit needs X"),
        ({"n_components": 0}, None, "n_components"),
        ({"max_potential_evals": 10}, None, "max_potential_evals"),
        ({"vi_method": "KL"}, None, "vi_method"),
        ({"q": "flow"}, None, "'q'"),
        ({"n_particles": 0}, None, "n_particles"),
        ({"learning_rate_init": 0.0}, None, "learning_rate_init"),
        ({"potential": likelihood}, [[np.nan, 1.0]], "NaN"),
        ({"potential": lambda theta: theta}, None, "shape"),
    ],
)
def test_bad_input_is_named(params, fit, match):
    estimator = VariationalPosterior(bimodal, PRIOR, **SMALL).set_params(**params)
    with pytest.raises(ValueError, match=match):
        estimator.fit(fit)
    assert not hasattr(estimator, "posterior_")


def test_before_fit_nothing_is_answered():
    estimator = VariationalPosterior(bimodal, PRIOR)
    for query in (
        estimator.sample,
        estimator.map,
        estimator.evaluate,
        estimator.predict,
    ):
        with pytest.raises(NotFittedError):
            query()


def test_wrong_queries(fitted):
    with pytest.raises(ValueError, match="method"):
        fitted.sample(3, method="mcmc")
    with pytest.raises(ValueError, match="n_samples"):
        fitted.sample(0)
    with pytest.raises(ValueError, match="3 columns"):
        fitted.score_samples(np.zeros((2, 3)))


def test_a_failing_fit_leaves_the_last_one(fitted):
    before = fitted.posterior_
    again = pickle.loads(pickle.dumps(fitted)).set_params(prior=[(1, 0)])
    kept = again.posterior_
    with pytest.raises(ValueError, match="low < high"):
        again.fit()
    assert again.posterior_ is kept
    assert fitted.posterior_ is before


def test_an_earlier_fit_is_a_start(fitted):
    again = VariationalPosterior(bimodal, PRIOR, **{**SMALL, "random_state": 1})
    again.fit(start=fitted.posterior_)
    assert again.report_.efficiency > 0.9 * fitted.report_.efficiency
    assert abs(again.log_evidence_ - fitted.log_evidence_) < 0.05
