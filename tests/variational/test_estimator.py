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


def four_modes(theta):
    centers = torch.tensor([[2.0, 1.0], [-2.0, 1.0], [2.0, -1.5], [-2.0, -1.0]])
    gaps = theta[:, None] - centers.to(theta)
    widths = gaps.new_tensor([0.3, 0.5, 0.2, 0.4])
    return torch.logsumexp(-0.5 * (gaps / widths[:, None]).square().sum(2), 1)


@pytest.mark.parametrize("prior", [[stats.norm(0, 3)] * 2, [(-2.1, 5), (-2, math.inf)]])
def test_four_modes_to_the_last_digit(prior):
    estimator = VariationalPosterior(four_modes, prior, **SMALL).fit()
    modes, heights = estimator.map(return_all=True)
    assert len(modes) == 4
    theta = torch.from_numpy(modes).requires_grad_()
    (slope,) = torch.autograd.grad(four_modes(theta).sum(), theta)
    assert float(slope.abs().max()) < 1e-6
    np.testing.assert_allclose(heights, four_modes(theta).detach(), atol=1e-12)
    assert (np.diff(heights) <= 1e-12).all()


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


def by_row(theta, x):
    return -(x[0] - theta[:, 0]).square() - (x[1] - theta[:, 1]).square()


@pytest.mark.parametrize("potential", [likelihood, by_row, array_likelihood])
def test_a_row_has_one_posterior_whatever_the_others(potential):
    sizes = []

    def counted(theta, x):
        sizes.append(len(theta))
        return potential(theta, x)

    def fit(X):
        sizes.clear()
        return VariationalPosterior(counted, PRIOR, add_prior=True, **SMALL).fit(X)

    X = np.array([[0.3, 1.0], [2.0, 2.0], [-1.0, 0.5], [0.3, 1.0]])
    together = fit(X)
    n_calls = sum(size > 200 for size in sizes)
    assert sum(sizes) == together.n_potential_evals_
    n_alone = 0
    for row, density in zip(X, together.posteriors_, strict=True):
        alone = fit([row])
        np.testing.assert_array_equal(alone.posterior_.means, density.means)
        n_alone += sum(size > 200 for size in sizes)
    # Large calls are rarer if the potential takes many observations.
    if potential is by_row:
        assert n_calls == n_alone
    else:
        assert n_calls < 0.6 * n_alone
    reports = together.evaluate(500)
    modes, _ = together.map(return_all=True)
    assert len(reports) == len(modes) == 4
    np.testing.assert_array_equal(modes[0], modes[3])
    draws = together.sample(50, X[:2], method="psir")
    assert draws.shape == (2, 50, 2)
    assert not np.array_equal(*together.sample(5, X[[0, 3]]))


def test_an_error_of_one_row_is_the_fits():
    def fragile(theta, x):
        if len(theta) > 100 and bool((x > 4.0).any()):
            raise RuntimeError("no such place")
        return likelihood(theta, x)

    estimator = VariationalPosterior(fragile, PRIOR, **SMALL)
    with pytest.raises(RuntimeError, match="no such place"):
        estimator.fit([[0.3, 1.0], [5.0, 2.0]])
    assert not hasattr(estimator, "posterior_")


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
    # The density has its supremum at a corner, which does not belong to the support.
    mode = estimator.map()
    assert (mode < [1, 2]).all()
    np.testing.assert_allclose(mode, [1, 2], atol=1e-3)


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
    with pytest.raises(ValueError, match="not for q='mixture'"):
        estimator.fit()


# Quality control.


def test_a_doubtful_fit_warns():
    estimator = VariationalPosterior(ring, [(-10, 10)] * 2, n_components=1, **SMALL)
    with pytest.warns(ConvergenceWarning, match="may not be good enough"):
        estimator.fit()
    assert estimator.report_.doubts


@pytest.mark.filterwarnings("default::sklearn.exceptions.ConvergenceWarning")
def test_no_warning_when_off_and_more_components_on_retry():
    estimator = VariationalPosterior(ring, [(-10, 10)] * 2, n_components=4, **SMALL)
    with warnings.catch_warnings(record=True) as caught:
        estimator.set_params(quality_control="off").fit()
    assert not caught
    first, n_evals = estimator.report_.divergence, estimator.n_potential_evals_
    assert estimator.posterior_.n_components == 4
    estimator.set_params(quality_control="retry")
    settings = estimator.get_params()
    with warnings.catch_warnings(record=True):
        estimator.fit()
    assert estimator.get_params() == settings
    assert estimator.report_.divergence < first
    assert 4 < estimator.posterior_.n_components <= 8
    # The first fit is counted as well.
    assert n_evals + 5_000 < estimator.n_potential_evals_ <= 3 * 30_000


def test_a_frugal_fit_says_when_it_is_not_to_be_trusted():
    def funnel(theta):
        v, rest = theta[:, 0], theta[:, 1:]
        return -v.square() / 18 - 0.5 * rest.square().sum(1) * (-v).exp() - 2 * v

    prior = [stats.norm(0, 10)] * 5
    estimator = VariationalPosterior(funnel, prior, max_potential_evals=20_000)
    with pytest.warns(ConvergenceWarning, match="few evaluations are effective"):
        estimator.set_params(random_state=0).fit()
    assert estimator.report_.efficiency < 0.5


def test_nan_is_reported():
    def potential(theta):
        values = -theta.square().sum(1)
        return torch.where(theta[:, 0] > 0.5, torch.nan, values)

    estimator = VariationalPosterior(potential, [(-1, 1)] * 2, **SMALL)
    with pytest.warns(ConvergenceWarning, match="NaN or inf at"):
        estimator.fit()
    assert np.isfinite(estimator.posterior_.means).all()
    assert estimator.report_.efficiency > 0.8


@pytest.mark.parametrize(
    ("max_evals", "params"),
    [
        (5_000, {}),
        (20_000, {}),
        (5_000, {"q": "nice"}),
        (5_000, {"q": "gaussian", "vi_method": "IW"}),
        (20_000, {"vi_method": "fKL"}),
    ],
)
def test_the_potential_is_asked_as_often_as_allowed(max_evals, params):
    asked = []

    def potential(theta):
        asked.append(len(theta))
        return ring(theta)

    estimator = VariationalPosterior(potential, [(-10, 10)] * 2, random_state=0)
    estimator.set_params(max_potential_evals=max_evals, quality_control="off")
    estimator.set_params(max_iter=20, **params).fit()
    assert sum(asked) == estimator.n_potential_evals_ <= max_evals


# scikit-learn's own checks.


class AsWideAsX(VariationalPosterior):
    """With a parameter for each column of X: the checks score the X that they fit."""

    def fit(self, X=None, y=None):
        given = self.prior
        self.prior = given * (np.shape(X)[1] if np.ndim(X) == 2 else 1)
        try:
            return super().fit(X, y)
        finally:
            self.prior = given

    def __str__(self):
        # The name of a test: without the addresses of functions and laws.
        return "AsWideAsX()"


@parametrize_with_checks(
    [
        AsWideAsX(
            bimodal,
            [stats.norm(0, 5)],
            max_potential_evals=5_000,
            random_state=0,
            quality_control="off",
        )
    ]
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
    with pytest.raises(ValueError, match="theta has 3 features"):
        fitted.score_samples(np.zeros((2, 3)))


def test_a_failing_fit_leaves_the_last_one(fitted):
    before = fitted.posterior_
    again = pickle.loads(pickle.dumps(fitted)).set_params(prior=[(1, 0)])
    kept = again.posterior_
    with pytest.raises(ValueError, match="low < high"):
        again.fit()
    assert again.posterior_ is kept
    assert fitted.posterior_ is before
