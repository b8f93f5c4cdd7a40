"""AmortizedPosterior: what a user does with it."""

import math
import pickle
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

from skmdn import AmortizedPosterior
from skmdn.datasets import inference_task
from skmdn.items import with_padding

SMALL = {
    "n_components": 3,
    "n_estimators": 2,
    "hidden_layer_sizes": (20, 20),
    "activation": "silu",
    "max_iter": 12,
    "random_state": 0,
}
LINEAR_PRIOR = [stats.norm(0, math.sqrt(0.1))] * 10


def moons(n_samples, seed=0):
    data = inference_task("two_moons").sample(n_samples, random_state=seed)
    return data["x"], data["theta"]


@pytest.fixture(scope="module")
def fitted():
    return AmortizedPosterior([(-1, 1)] * 2, **SMALL).fit(*moons(1500))


@pytest.fixture(scope="module")
def linear():
    """The default on a problem whose posterior is known, and the problem."""
    task = inference_task("gaussian_linear")
    data = task.sample(2000, random_state=0)
    model = AmortizedPosterior(LINEAR_PRIOR, random_state=0, max_iter=30)
    return model.fit(data["x"], data["theta"]), task


# The answers.


def test_shapes(fitted):
    X, theta = moons(7, seed=1)
    assert fitted.sample(X, 5).shape == (7, 5, 2)
    assert fitted.predict(X).shape == (7, 2)
    assert fitted.predict_interval(X, 0.8).shape == (7, 2, 2)
    assert fitted.predict_quantiles(X, [0.2, 0.5, 0.8]).shape == (7, 3, 2)
    assert fitted.map(X).shape == (7, 2)
    assert fitted.log_prob(X, theta).shape == (7,)
    assert fitted.score(X, theta) == pytest.approx(fitted.log_prob(X, theta).mean())
    assert len(fitted.predict_distribution(X)) == 7


def test_draws_stay_inside_and_follow_the_density(fitted):
    X, _ = moons(3, seed=1)
    draws = fitted.sample(X, 40_000, random_state=0)
    assert np.abs(draws).max() < 1.0
    mean, std = fitted.predict(X, return_std=True)
    error = draws.std(axis=1) / math.sqrt(40_000)
    assert (np.abs(draws.mean(axis=1) - mean) < 4 * error).all()
    np.testing.assert_allclose(draws.std(axis=1), std, rtol=0.02)
    low, high = np.moveaxis(fitted.predict_interval(X, 0.8), 1, 0)
    inside = ((draws > low[:, None]) & (draws < high[:, None])).mean(axis=1)
    np.testing.assert_allclose(inside, 0.8, atol=4 * math.sqrt(0.16 / 40_000))


def test_density_integrates_to_one_over_a_box(fitted):
    X, _ = moons(1, seed=1)
    nodes, weights = np.polynomial.legendre.leggauss(400)
    grid = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
    density = np.exp(fitted.predict_distribution(X[:1]).log_prob(grid[None]))
    total = (density.reshape(400, 400) * weights * weights[:, None]).sum()
    assert total == pytest.approx(1.0, abs=1e-3)
    outside = fitted.log_prob(np.repeat(X[:1], 2, 0), [[1.0, 0.0], [3.0, 0.0]])
    assert (outside == -np.inf).all()


HALF_LINE = (0, math.inf)


@pytest.mark.parametrize(
    "prior", [[(0, 3)], [HALF_LINE], [stats.uniform(0, 3)], None, [None]]
)
def test_density_of_one_parameter_integrates_to_one(prior):
    rng = np.random.default_rng(0)
    theta = rng.uniform(0.0, 3.0, size=400)
    X = theta[:, None] + rng.normal(0, 0.5, size=(400, 1))
    model = AmortizedPosterior(prior, **SMALL).fit(X, theta)
    assert model.predict(X[:3]).shape == (3,)
    assert model.sample(X[:3], 4).shape == (3, 4)
    nodes, weights = np.polynomial.legendre.leggauss(2000)
    if prior in (None, [None]):
        grid, size = 20.0 * nodes, 20.0 * weights
    elif prior[0] == HALF_LINE:
        # A half-line, by the logarithm.
        grid = np.exp(30.0 * nodes)
        size = 30.0 * weights * grid
    else:
        # Dense beside the ends, where densities may be steep.
        grid = 1.5 * (1.0 + np.sin(0.5 * np.pi * nodes))
        size = 0.75 * np.pi * np.cos(0.5 * np.pi * nodes) * weights
    for row in model.predict_distribution(X[:5]):
        assert np.exp(row.log_prob(grid)) @ size == pytest.approx(1.0, abs=1e-6)


def test_posterior_of_a_linear_problem(linear):
    model, task = linear
    fresh = task.sample(1000, random_state=1)
    X, theta = fresh["x"], fresh["theta"]
    exact = task.posterior.log_prob(X, theta).mean()
    assert model.score(X, theta) > exact - 0.15
    # Half of the data: prior and noise have the same variance.
    mean, std = model.predict(X, return_std=True)
    assert np.abs(mean - X / 2).mean() < 0.2 * math.sqrt(0.05)
    np.testing.assert_allclose(std.mean(axis=0), math.sqrt(0.05), rtol=0.1)


def test_highest_point(fitted):
    X, _ = moons(4, seed=1)
    top = fitted.log_prob(X, fitted.map(X))
    draws = fitted.sample(X, 2000, random_state=0)
    dist = fitted.predict_distribution(X)
    assert (top >= dist.log_prob(draws).max(axis=1) - 1e-6).all()


def test_joint_prior_with_correlations():
    prior = stats.multivariate_normal([1.0, -1.0], [[2.0, 1.2], [1.2, 1.0]])
    theta = prior.rvs(2000, random_state=0)
    rng = np.random.default_rng(0)
    X = theta.sum(axis=1, keepdims=True) + rng.normal(size=(2000, 1))
    model = AmortizedPosterior(prior, **SMALL).fit(X, theta)
    gain = prior.cov.sum(axis=1) / (prior.cov.sum() + 1.0)
    expected = prior.mean + gain * 3.0
    covariance = prior.cov - np.outer(gain, prior.cov.sum(axis=1))
    dist = model.predict_distribution([[3.0]])
    np.testing.assert_allclose(dist.mean()[0], expected, atol=0.15)
    np.testing.assert_allclose(dist.cov()[0], covariance, atol=0.15)


def test_dict_of_priors_and_links_of_all_kinds():
    prior = {"rate": stats.gamma(3.0), "p": stats.beta(2.0, 2.0), "mu": stats.norm()}
    rng = np.random.RandomState(0)
    theta = np.stack([d.rvs(1000, random_state=rng) for d in prior.values()], 1)
    model = AmortizedPosterior(prior, **SMALL)
    model.fit(theta + 0.3 * rng.normal(size=theta.shape), theta)
    draws = model.sample(theta[:5], 2000, random_state=0)
    assert (draws[..., 0] > 0).all()
    assert ((draws[..., 1] > 0) & (draws[..., 1] < 1)).all()
    assert model.score(theta, theta) > sum(
        d.logpdf(c).mean() for d, c in zip(prior.values(), theta.T, strict=True)
    )


# Data.


def test_failed_simulations_are_left_out():
    X, theta = moons(600)
    bad = X.copy()
    bad[::10, 0] = np.nan
    with pytest.warns(UserWarning, match="60 of 600 simulations"):
        model = AmortizedPosterior([(-1, 1)] * 2, **SMALL).fit(bad, theta)
    assert model.n_failed_ == 60
    kept = np.arange(600) % 10 > 0
    other = AmortizedPosterior([(-1, 1)] * 2, **SMALL).fit(X[kept], theta[kept])
    np.testing.assert_array_equal(model.predict(X[:5]), other.predict(X[:5]))
    with pytest.raises(ValueError, match="NaN"):
        model.predict(bad[:1])


def test_sets_of_varying_length():
    rng = np.random.default_rng(0)
    theta, n_items = rng.normal(size=2500), rng.integers(1, 9, size=2500)
    X = [rng.normal(t, 1.0, size=n) for t, n in zip(theta, n_items, strict=True)]
    model = AmortizedPosterior(summary="deep_set", **SMALL)
    model.fit(X[:2000], theta[:2000])
    mean, std = model.predict(X[2000:], return_std=True)
    exact = np.array([x.sum() / (len(x) + 1) for x in X[2000:]])
    assert np.abs(mean - exact).mean() < 0.1
    ratio = std * np.sqrt(n_items[2000:] + 1)
    assert np.abs(ratio - 1).mean() < 0.15
    # The order of the items says nothing, nor does how rows are padded.
    flipped = [x[::-1] for x in X[2000:2005]]
    np.testing.assert_allclose(model.predict(flipped), mean[:5])
    padded = np.full((5, 20), np.nan)
    for row, x in zip(padded, X[2000:2005], strict=True):
        row[: len(x)] = x
    np.testing.assert_allclose(model.predict(padded), mean[:5])
    assert model.sample(padded, 3).shape == (5, 3)
    with pytest.raises(ValueError, match="2 feature"):
        model.predict(np.zeros((2, 3, 2)))


def test_failed_simulations_of_sets_are_left_out():
    rng = np.random.default_rng(0)
    theta, n_items = rng.normal(size=300), rng.integers(1, 6, size=300)
    values = theta[:, None] + rng.normal(size=(300, 5))
    mask = np.arange(5) < n_items[:, None]
    bad = values.copy()
    # An infinite item, one that is NaN though its mask calls it real, padding.
    bad[::10, 0], bad[5::10, 0] = np.inf, np.nan
    bad[~mask] = np.inf
    kept = np.arange(300) % 5 > 0
    settings = {**SMALL, "summary": "deep_set"}
    with pytest.warns(UserWarning, match="60 of 300 simulations"):
        model = AmortizedPosterior(**settings).fit(with_padding(bad, mask), theta)
    assert model.n_failed_ == 60
    X = with_padding(values, mask)
    other = AmortizedPosterior(**settings).fit(X[kept], theta[kept])
    np.testing.assert_array_equal(model.predict(X[:5]), other.predict(X[:5]))
    with pytest.raises(ValueError, match="infinity"):
        model.predict(np.array([[1.0, np.inf]]))


def test_likelihood_by_exchanging_roles():
    rng = np.random.default_rng(0)
    theta = rng.uniform(-1, 1, size=(2000, 1))
    x = np.exp(theta + 0.2 * rng.normal(size=theta.shape))
    likelihood = AmortizedPosterior([(0, math.inf)], **SMALL).fit(theta, x)
    exact = stats.lognorm(0.2, scale=np.exp(theta)).logpdf(x).mean()
    assert likelihood.score(theta, x) == pytest.approx(exact, abs=0.1)


# Training.


def test_same_seed_same_posterior():
    X, theta = moons(300)
    models = [AmortizedPosterior([(-1, 1)] * 2, **SMALL).fit(X, theta) for _ in "ab"]
    np.testing.assert_array_equal(*(model.predict(X[:9]) for model in models))
    np.testing.assert_array_equal(*(model.sample(X[:9], 4) for model in models))


class Squares:
    """A simulator of squares."""

    def sample(self, n_samples, random_state):
        theta = random_state.uniform(0.0, 3.0, size=n_samples)
        noise = random_state.normal(size=(n_samples, 1))
        return {"theta": theta, "x": theta[:, None] ** 2 + 0.3 * noise}


def test_streamed_windows_reach_the_quality_of_one_table():
    data = Squares().sample(4000, np.random.RandomState(0))
    fresh = Squares().sample(2000, np.random.RandomState(1))
    streamed, online, whole = (
        AmortizedPosterior([(0, 3)], **{**SMALL, "max_iter": 20, "batch_size": 200})
        for _ in range(3)
    )
    for _ in range(20):
        for rows in np.array_split(np.arange(4000), 4):
            streamed.partial_fit(data["x"][rows], data["theta"][rows])
    assert streamed.n_iter_ == 80
    online.fit_online(Squares(), 400)
    whole.fit(data["x"], data["theta"])
    scores = [m.score(fresh["x"], fresh["theta"]) for m in (streamed, online, whole)]
    assert max(scores) - min(scores) < 0.05
    # theta is known to 0.3 / (2 theta): more than a nat better than the prior.
    assert min(scores) > -math.log(3.0) + 1.0


def test_data_on_disk(tmp_path):
    X, theta = moons(500)
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    models = [
        AmortizedPosterior([(-1, 1)] * 2, **SMALL).fit(data, theta)
        for data in (X, mapped)
    ]
    np.testing.assert_array_equal(*(model.predict(X[:9]) for model in models))


def test_warm_start_goes_on():
    X, theta = moons(600)
    model = AmortizedPosterior([(-1, 1)] * 2, **{**SMALL, "max_iter": 3})
    first = model.set_params(warm_start=True).fit(X, theta).score(X, theta)
    assert model.set_params(max_iter=12).fit(X, theta).score(X, theta) > first
    with pytest.raises(ValueError, match="n_components changed"):
        model.set_params(n_components=2).fit(X, theta)


def test_lower_bound_of_a_potential(linear):
    _, task = linear
    data = task.sample(600, random_state=0)
    fresh = task.sample(500, random_state=1)
    exact = task.posterior.log_prob(fresh["x"], fresh["theta"]).mean()
    options = {**SMALL, "n_components": 1, "n_estimators": 1, "max_iter": 60}
    model = AmortizedPosterior(
        LINEAR_PRIOR,
        objective="elbo",
        potential=lambda theta, x: task.log_joint(x, theta),
        **options,
    ).fit(data["x"], data["theta"])
    assert model.score(fresh["x"], fresh["theta"]) > exact - 0.1
    with pytest.raises(ValueError, match="needs potential"):
        model.set_params(potential=None).fit(data["x"], data["theta"])


def test_refined_posterior(fitted):
    task = inference_task("two_moons")
    X, _ = moons(1, seed=5)
    refined = fitted.refine(
        X[0],
        lambda theta, x: task.log_joint(x, theta),
        max_potential_evals=30_000,
        quality_control="off",
    )
    assert refined.report_.efficiency > 0.3
    exact = task.posterior.sample(X, 2000, random_state=0)[0]
    draws = refined.sample(2000, random_state=0)
    error = exact.std(axis=0) / math.sqrt(1000)
    assert (np.abs(draws.mean(axis=0) - exact.mean(axis=0)) < 5 * error).all()
    with pytest.raises(ValueError, match="needs a potential"):
        fitted.refine(X[0])
    with pytest.raises(ValueError, match="one observation"):
        fitted.refine(np.repeat(X, 2, 0), lambda theta: theta[:, 0])


def test_outlying_observations_warn_if_asked(fitted):
    X, _ = moons(300, seed=1)
    p_values = fitted.observation_pvalues(X)
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3
    model = pickle.loads(pickle.dumps(fitted)).set_params(check_observations=True)
    with warnings.catch_warnings(record=True) as caught:
        model.predict(X[p_values > 0.01])
        fitted.predict(X + 50)
    assert not caught
    with pytest.warns(UserWarning, match="300 of 300 observation"):
        model.predict(X + 50)


# As an estimator.


def test_pickle_and_clone(fitted):
    X, theta = moons(9, seed=1)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.log_prob(X, theta), fitted.log_prob(X, theta))
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        copy.predict(X)


def test_search_over_components():
    X, theta = moons(300)
    model = AmortizedPosterior([(-1, 1)] * 2, **{**SMALL, "max_iter": 6})
    search = GridSearchCV(model, {"n_components": [1, 4]}, cv=2).fit(X, theta)
    assert search.best_params_ == {"n_components": 4}
    assert search.score(X, theta) == search.best_estimator_.score(X, theta)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prior": [(-1, 1)]}, "describes 1 parameter"),
        ({"prior": [(0, 1), (0, 1)]}, "outside of the prior's support"),
        ({"prior": 3}, "not understood"),
        ({"hidden_layer_sizes": (0,)}, "positive integers"),
        ({"summary": "best"}, "summary must be"),
        ({"objective": "elbo"}, "needs potential"),
        ({"n_components": 0}, "n_components"),
        ({"device": "nowhere"}, "device"),
    ],
)
def test_errors_leave_nothing_behind(settings, message):
    X, theta = moons(60)
    model = AmortizedPosterior(**{"prior": [(-1, 1)] * 2, **SMALL, **settings})
    with pytest.raises((ValueError, TypeError), match=message):
        model.fit(X, theta)
    assert not [name for name in vars(model) if name.endswith("_")]
