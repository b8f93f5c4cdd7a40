"""Inference tasks: likelihoods against quadrature and draws, exact posteriors."""

import pickle

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from skmdn.datasets import INFERENCE_TASKS, inference_task
from skmdn.datasets.static import SLCP
from skmdn.diagnostics import sbc
from tests.helpers import within_standard_errors

EXACT = ["two_moons", "gaussian_linear", "gaussian_linear_uniform", "gaussian_mixture"]


@pytest.fixture(scope="module")
def tasks():
    return {name: inference_task(name) for name in INFERENCE_TASKS}


@pytest.mark.parametrize("name", INFERENCE_TASKS)
def test_every_task_simulates_and_evaluates(tasks, name):
    task = tasks[name]
    data = task.sample(50, random_state=0)
    X, theta = data["x"], data["theta"]
    assert X.shape == (50, task.n_features)
    assert theta.shape == (50, task.n_parameters)
    np.testing.assert_array_equal(X, task.sample(50, random_state=0)["x"])
    log_likelihood = task.log_likelihood(X, theta)
    assert np.isfinite(log_likelihood).all()
    expected = log_likelihood + task.prior.log_prob(data)
    np.testing.assert_allclose(task.log_joint(X, theta), expected, rtol=1e-12)
    # All pairs at once.
    pairs = task.log_likelihood(X[:3, None], theta[None, :4])
    assert pairs.shape == (3, 4)
    np.testing.assert_allclose(np.diag(pairs), log_likelihood[:3], rtol=1e-12)
    assert pickle.loads(pickle.dumps(task)).name == name


@pytest.mark.parametrize("name", INFERENCE_TASKS)
def test_tensors_have_the_same_values_and_right_gradients(tasks, name):
    task = tasks[name]
    data = task.sample(2, random_state=3)
    theta = torch.tensor(data["theta"], requires_grad=True)
    value = task.log_joint(data["x"], theta)
    np.testing.assert_allclose(
        value.detach(), task.log_joint(data["x"], data["theta"]), rtol=1e-9
    )
    (gradient,) = torch.autograd.grad(value.sum(), theta)
    step = 1e-6 * np.eye(task.n_parameters)
    up = task.log_joint(data["x"][:, None], data["theta"][:, None] + step)
    down = task.log_joint(data["x"][:, None], data["theta"][:, None] - step)
    np.testing.assert_allclose(gradient, (up - down) / 2e-6, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", INFERENCE_TASKS)
def test_the_joint_density_vanishes_outside_the_prior(tasks, name):
    task = tasks[name]
    low, high = (
        (-np.inf, np.inf)
        if name == "bernoulli_glm"
        else (end[0] for end in task.prior.support()["theta"])
    )
    x = task.sample(1, random_state=0)["x"]
    for end in (low - 1.0, high + 1.0):
        theta = torch.full((1, task.n_parameters), end, dtype=torch.float64)
        if np.isfinite(end):
            theta.requires_grad_()
            value = task.log_joint(x, theta)
            assert value == -np.inf
            (gradient,) = torch.autograd.grad(value, theta, allow_unused=True)
            assert gradient is None or torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("name", "theta", "box", "n"),
    [
        ("two_moons", [0.3, -0.2], [(-0.5, 0.6), (-0.8, 0.2)], 900),
        ("gaussian_mixture", [3.0, -9.0], [(-4, 10), (-16, -2)], 900),
    ],
)
def test_likelihoods_in_the_plane_integrate_to_one(tasks, name, theta, box, n):
    axes = [np.linspace(*ends, n) for ends in box]
    X = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    density = np.exp(tasks[name].log_likelihood(X, np.array(theta)))
    total = integrate.trapezoid(integrate.trapezoid(density, axes[1]), axes[0])
    # The crescents end abruptly.
    assert total == pytest.approx(1.0, abs=5e-3 if name == "two_moons" else 1e-6)


def test_slcp_is_four_normal_draws(tasks):
    theta = np.array([0.5, -1.0, 1.2, -0.7, 0.6])
    deviations = theta[2:4] ** 2
    joint = np.tanh(theta[4]) * deviations.prod()
    covariance = np.diag(deviations**2 + 1e-6)
    covariance[0, 1] = covariance[1, 0] = joint
    law = stats.multivariate_normal(theta[:2], covariance)
    data = tasks["slcp"].sample(4000, fixed={"theta": theta}, random_state=0)
    points = data["x"].reshape(-1, 4, 2)
    expected = law.logpdf(points).sum(1)
    found = tasks["slcp"].log_likelihood(data["x"], data["theta"])
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    flat = points.reshape(-1, 2)
    assert within_standard_errors(flat, theta[:2], 0)
    centred = flat - theta[:2]
    assert within_standard_errors(centred[:, 0] * centred[:, 1], joint, 0)
    assert within_standard_errors(centred**2, np.diag(covariance), 0)
    # Four modes.
    for signs in ([1, 1, -1, 1, 1], [1, 1, 1, -1, 1]):
        other = tasks["slcp"].log_likelihood(data["x"], theta * signs)
        np.testing.assert_allclose(other, found, rtol=1e-10)


def test_slcp_stays_finite_where_a_deviation_vanishes():
    task = SLCP()
    theta = np.array([0.0, 0.0, 0.0, 3.0, 3.0])
    data = task.sample(5, fixed={"theta": theta}, random_state=0)
    assert np.isfinite(task.log_likelihood(data["x"], theta)).all()


def test_gaussian_linear_by_scipy(tasks):
    data = tasks["gaussian_linear"].sample(3, random_state=0)
    X, theta = data["x"], data["theta"]
    task = tasks["gaussian_linear"]
    expected = stats.norm(theta, np.sqrt(0.1)).logpdf(X).sum(1)
    np.testing.assert_allclose(task.log_likelihood(X, theta), expected)
    posterior = stats.norm(X / 2, np.sqrt(0.05)).logpdf(theta).sum(1)
    np.testing.assert_allclose(task.posterior.log_prob(X, theta), posterior)


def test_sums_of_spikes_are_sufficient(tasks):
    task = tasks["bernoulli_glm"]
    a, b = task.sample(2, random_state=0)["theta"]
    rng = np.random.default_rng(0)
    chance = special.expit(task.design @ a)
    spikes = (rng.uniform(size=100) < chance).astype(float)
    x = (spikes @ task.design)[None]

    def whole(theta):
        return stats.bernoulli.logpmf(spikes, special.expit(task.design @ theta)).sum()

    difference = task.log_likelihood(x, a) - task.log_likelihood(x, b)
    np.testing.assert_allclose(difference, whole(a) - whole(b), rtol=1e-10)
    data = task.sample(4000, fixed={"theta": a}, random_state=0)
    assert within_standard_errors(data["x"], chance @ task.design, 0)


def test_the_filters_prior_is_the_benchmarks(tasks):
    precision = tasks["bernoulli_glm"].precision
    assert precision[0, 0] == 0.5
    assert (precision[0, 1:] == 0).all()
    theta = tasks["bernoulli_glm"].sample(4000, random_state=0)["theta"]
    smooth = np.square(np.diff(theta[:, 1:], axis=1)).mean()
    assert smooth < 0.5 * np.square(theta[:, 1:]).mean()


def test_sir_solves_its_equations(tasks):
    task = tasks["sir"]
    theta = np.array([[0.4, 0.125], [1.5, 0.2], [0.1, 0.3]])
    found = np.exp(task._log_share(theta))
    for row, (contact, recovery) in zip(found, theta, strict=True):

        def slope(t, y, contact=contact, recovery=recovery):
            new = contact * y[0] * y[1] / 1e6
            return [-new, new - recovery * y[1]]

        exact = integrate.solve_ivp(
            slope,
            (0, 153),
            [1e6 - 1, 1],
            t_eval=17.0 * np.arange(10),
            rtol=1e-10,
            atol=1e-8,
        )
        np.testing.assert_allclose(row, exact.y[1] / 1e6, rtol=1e-5, atol=1e-12)
    data = task.sample(2000, fixed={"theta": theta[0]}, random_state=0)
    expected = stats.binom(1000, found[0])
    likelihood = expected.logpmf(data["x"]).sum(1)
    np.testing.assert_allclose(
        task.log_likelihood(data["x"], theta[0]), likelihood, rtol=1e-9
    )
    seen = found[0] > 1e-4
    assert within_standard_errors(data["x"][:, seen], 1000 * found[0, seen], 0)


def test_lotka_volterra_solves_its_equations(tasks):
    task = tasks["lotka_volterra"]
    theta = np.array([[0.9, 0.05, 0.9, 0.05], [1.5, 0.02, 0.5, 0.08]])
    found = np.exp(task._log_counts(theta))
    for row, (a, b, c, d) in zip(found, theta, strict=True):

        def slope(t, y, a=a, b=b, c=c, d=d):
            return [y[0] * (a - b * y[1]), y[1] * (d * y[0] - c)]

        exact = integrate.solve_ivp(
            slope,
            (0, 19.0),
            [30, 1],
            t_eval=2.1 * np.arange(10),
            rtol=1e-10,
            atol=1e-12,
        )
        np.testing.assert_allclose(row, exact.y.ravel(), rtol=1e-3)
    data = task.sample(2000, fixed={"theta": theta[0]}, random_state=0)
    assert within_standard_errors(np.log(data["x"]), np.log(found[0]), 0)
    likelihood = stats.lognorm(0.1, scale=found[0]).logpdf(data["x"]).sum(1)
    np.testing.assert_allclose(
        task.log_likelihood(data["x"], theta[0]), likelihood, rtol=1e-9
    )


# Exact posteriors.


@pytest.mark.parametrize("name", EXACT)
def test_exact_posteriors_are_calibrated(tasks, name):
    task = tasks[name]
    report = sbc(
        task.posterior,
        task,
        n_simulations=200,
        n_samples=99,
        quantities={"log_likelihood": task.log_likelihood},
        random_state=0,
    )
    assert report.flags(1e-3) == {}
    assert np.isfinite(report.log_score)


@pytest.mark.parametrize("name", ["two_moons", "gaussian_mixture"])
@pytest.mark.parametrize("seed", [0, 1])
def test_exact_posteriors_in_the_plane_integrate_to_one(tasks, name, seed):
    task = tasks[name]
    x = task.sample(1, random_state=seed)["x"]
    size = task.size
    if name == "gaussian_mixture":
        # At a corner of the prior, and narrow: a grid around it.
        x = np.array([[9.5, -9.9]]) if seed else x
        ends = [np.clip([value - 6, value + 6], -size, size) for value in x[0]]
    else:
        ends = [(-size, size)] * 2
    axes = [np.linspace(*pair, 800) for pair in ends]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    log_density = task.posterior.log_prob(np.broadcast_to(x, grid.shape), grid)
    density = np.exp(log_density).reshape(800, 800)
    total = integrate.trapezoid(integrate.trapezoid(density, axes[1]), axes[0])
    assert total == pytest.approx(1.0, abs=5e-3)


def test_two_moons_that_leave_the_square_lose_their_mass(tasks):
    task = tasks["two_moons"]
    x = task.sample(1, fixed={"theta": [0.98, -0.97]}, random_state=0)["x"]
    assert task._log_evidence(x[0]) < np.log(2.0) - 2 * np.log(2.0) - 0.1
    draws = task.posterior.sample(x, 400, random_state=0)[0]
    assert (np.abs(draws) <= 1).all()
    log_prob = task.posterior.log_prob(np.repeat(x, 400, 0), draws)
    assert np.isfinite(log_prob).all()
    with pytest.raises(ValueError, match="cannot come from this simulator"):
        task.posterior.sample([[9.0, 9.0]], 5, random_state=0)


def test_the_best_score_of_two_moons(tasks):
    data = tasks["two_moons"].sample(300, random_state=0)
    log_prob = tasks["two_moons"].posterior.log_prob(data["x"], data["theta"])
    assert within_standard_errors(log_prob, 3.811, 0)


def test_truncated_posteriors_stay_inside(tasks):
    task = tasks["gaussian_linear_uniform"]
    x = np.linspace(-3.0, 3.0, 10)[None]
    draws = task.posterior.sample(x, 2000, random_state=0)[0]
    assert (np.abs(draws) <= 1).all()
    std = np.sqrt(0.1)
    law = stats.truncnorm((-1 - x[0]) / std, (1 - x[0]) / std, loc=x[0], scale=std)
    assert within_standard_errors(draws, law.mean(), 0)
    np.testing.assert_allclose(
        task.posterior.log_prob(x, draws[:1]), law.logpdf(draws[0]).sum(), rtol=1e-8
    )


@pytest.mark.parametrize("name", sorted(set(INFERENCE_TASKS) - set(EXACT)))
def test_other_posteriors_are_not_known(tasks, name):
    assert tasks[name].posterior is None


def test_wrong_input_is_named(tasks):
    with pytest.raises(ValueError, match="name must be one of"):
        inference_task("three_moons")
    with pytest.raises(ValueError, match=r"X must have the shape \(..., 2\)"):
        tasks["two_moons"].log_likelihood(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match=r"theta must have the shape \(..., 2\)"):
        tasks["two_moons"].log_likelihood(np.zeros(2), 0.0)
