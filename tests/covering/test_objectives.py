"""Gradients of the objectives against finite differences of exact values."""

import math

import pytest
import torch

from skmdn.covering.descent import Parameters, descend, loss_of
from skmdn.covering.minimise import Steps
from skmdn.covering.normals import Normals
from skmdn.covering.objectives import Objective
from tests.covering.densities import line, normal, target_of
from tests.helpers import generator, tensor

GRID = torch.linspace(-9.0, 9.0, 6001, dtype=torch.float64).unsqueeze(1)
WIDTH = float(GRID[1, 0] - GRID[0, 0])


def bimodal(theta, offset=0.0):
    near = normal(theta, [1.5], 0.7, 0.6)
    return torch.logaddexp(near, normal(theta, [-1.0], 0.4, 0.4)) + offset


def start(n_components):
    log_weights = tensor([0.3, 0.7] if n_components > 1 else [1.0]).log()
    means, scales = tensor([[1.0], [-0.7]]), tensor([[[0.9]], [[0.6]]])
    return Normals(log_weights, means[:n_components], scales[:n_components])


def exact_loss(objective, normals):
    """Return the loss of infinitely many draws, by a sum over a grid."""
    log_p, log_q = bimodal(GRID), normals.log_prob(GRID)
    if objective.method == "fKL":
        return -(torch.softmax(log_p, 0) * log_q).sum()
    if objective.method == "rKL":
        return -(log_q.exp() * (log_p - log_q)).sum() * WIDTH
    power = 1.0 - objective.alpha_order
    powers = (log_q + power * (log_p - log_q)).exp()
    return -(powers.sum() * WIDTH).log() / power


def exact_gradient(objective, parameters, step=1e-5):
    zero = torch.zeros_like(parameters.values.detach())
    gradient = []
    for place in range(len(zero)):
        offset = zero.clone()
        offset[place] = step
        up = exact_loss(objective, parameters.normals(offset))
        gradient.append(up - exact_loss(objective, parameters.normals(-offset)))
    return torch.stack(gradient) / (2.0 * step)


def estimates(objective, parameters, n_draws, n_times):
    """Return the mean, its standard error and the spread of gradients."""
    source, target = generator(), target_of(bimodal, line(1.0, 1))
    target.max_evals = 10**9
    n_components = parameters.start.n_components
    gradients = []
    for _ in range(n_times):
        noise = torch.randn(
            (n_draws, n_components, 1), dtype=torch.float64, generator=source
        )
        loss = loss_of(target, objective, parameters.normals(parameters.values), noise)
        gradients.append(torch.autograd.grad(loss, parameters.values)[0])
    table = torch.stack(gradients)
    std = table.std(0)
    return table.mean(0), std / math.sqrt(n_times), std


CASES = [
    (Objective("rKL"), 1, 50),
    (Objective("rKL"), 2, 50),
    (Objective("rKL", stick_the_landing=True), 1, 50),
    (Objective("rKL", stick_the_landing=True), 2, 50),
    (Objective("fKL"), 1, 20_000),
    (Objective("fKL"), 2, 20_000),
    (Objective("alpha", alpha_order=0.5), 1, 20_000),
    (Objective("alpha", alpha_order=0.5), 2, 20_000),
    (Objective("alpha", alpha_order=0.2, dreg=True), 1, 20_000),
    (Objective("IW", n_importance=20_000), 1, 20_000),
    (Objective("IW", n_importance=20_000), 2, 20_000),
]


@pytest.mark.parametrize(("objective", "n_components", "n_draws"), CASES)
def test_gradients_are_the_exact_ones(objective, n_components, n_draws):
    parameters = Parameters(start(n_components))
    # With so many draws the bound of IW is the evidence, Renyi's of order 0.
    known = objective if objective.method != "IW" else Objective("alpha", 0.0)
    expected = exact_gradient(known, parameters)
    mean, se, _ = estimates(objective, parameters, n_draws, 100)
    assert bool(
        ((mean - expected).abs() <= 4.0 * se + 1e-9 + 1e-3 * (n_draws > 50)).all()
    )


@pytest.mark.parametrize("method", ["IW", "alpha"])
def test_double_reparametrisation_keeps_the_mean_and_lowers_the_spread(method):
    parameters = Parameters(start(1))
    mean, se, spread = estimates(Objective(method), parameters, 8, 600)
    other, other_se, smaller = estimates(
        Objective(method, dreg=True), parameters, 8, 600
    )
    # The share of a single component never moves.
    assert bool(((mean - other).abs() <= 4.0 * (se + other_se)).all())
    assert bool((smaller[1:] < 0.8 * spread[1:]).all())


def test_sticking_the_landing_has_no_noise_at_the_optimum():
    normals = Normals(tensor([0.0]), tensor([[1.0]]), tensor([[[0.5]]]))
    target = target_of(lambda theta: normal(theta, [1.0], 0.5), line(1.0, 1))
    noise = torch.randn((8, 1, 1), dtype=torch.float64, generator=generator())
    parameters = Parameters(normals)
    objective = Objective("rKL", stick_the_landing=True)
    loss = loss_of(target, objective, parameters.normals(parameters.values), noise)
    (gradient,) = torch.autograd.grad(loss, parameters.values)
    assert float(gradient.abs().max()) < 1e-12


def test_the_bound_tightens_with_the_draws():
    target = target_of(bimodal, line(1.0, 1))
    noise = torch.randn((4096, 1, 1), dtype=torch.float64, generator=generator())
    bounds = [
        -float(loss_of(target, Objective("IW", n_importance=m), start(1), noise))
        for m in (1, 4, 64)
    ]
    assert bounds[0] < bounds[1] < bounds[2] < 0.01
    elbo = -float(loss_of(target, Objective("rKL"), start(1), noise))
    assert math.isclose(bounds[0], elbo, rel_tol=1e-9)


def test_renyis_bound_meets_the_evidence_lower_bound():
    target = target_of(bimodal, line(1.0, 1))
    noise = torch.randn((512, 2, 1), dtype=torch.float64, generator=generator())
    exact = float(loss_of(target, Objective("rKL"), start(2), noise))
    for order in (1.0, 1.0 - 1e-7):
        near = float(loss_of(target, Objective("alpha", order), start(2), noise))
        assert math.isclose(near, exact, abs_tol=1e-5)


@pytest.mark.parametrize("method", ["rKL", "fKL", "IW", "alpha"])
def test_a_constant_changes_no_gradient(method):
    noise = torch.randn((64, 2, 1), dtype=torch.float64, generator=generator())
    gradients = []
    for offset in (0.0, -10_000.0):
        target = target_of(lambda theta, c=offset: bimodal(theta, c), line(1.0, 1))
        parameters = Parameters(start(2))
        normals = parameters.normals(parameters.values)
        loss = loss_of(target, Objective(method), normals, noise)
        gradients.append(torch.autograd.grad(loss, parameters.values)[0])
    torch.testing.assert_close(*gradients, atol=1e-7, rtol=1e-7)


def test_the_descent_finds_a_normal_target():
    target = target_of(lambda theta: normal(theta, [0.7, -0.2], 0.3), line(1.0, 2))
    parameters = Parameters(Normals.standard(2))
    normals, record = descend(
        target,
        Objective("rKL", stick_the_landing=True),
        parameters,
        n_particles=32,
        steps=Steps(300, 0.05),
        generator=generator(),
    )
    assert len(record.losses) == 300
    torch.testing.assert_close(normals.means[0], tensor([0.7, -0.2]), atol=0.01, rtol=0)
    torch.testing.assert_close(
        normals.covariances[0], 0.09 * torch.eye(2).double(), atol=0.005, rtol=0
    )
