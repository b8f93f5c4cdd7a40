"""The maximisation step: each part against a search for the maximum."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize
from scipy.special import wrightomega

from skmdn.em import COVARIANCE_TYPES, Parameters, Priors, Statistics, log_prior, m_step
from skmdn.em.means import softball_means
from skmdn.em.scales import matrix_mode, variance_mode, wright_omega
from skmdn.priors import (
    Dirichlet,
    InverseGamma,
    InverseWishart,
    LogNormalScale,
    Softball,
)
from tests.em.helpers import random_parameters
from tests.helpers import algebra, randn, tensor


def test_wright_omega_against_scipy():
    z = tensor(np.concatenate([np.linspace(-50, 50, 1001), [-720.0, -1e5, 1e3, 1e8]]))
    np.testing.assert_allclose(wright_omega(z), wrightomega(z.numpy()), rtol=1e-13)
    assert float(wright_omega(tensor(-math.inf))) == 0.0


VARIANCE_PRIORS = [
    InverseGamma(1.5, 0.3),
    LogNormalScale(0.4, 0.8),
    LogNormalScale(3.0, 10.0),
]


@pytest.mark.parametrize("prior", VARIANCE_PRIORS)
@pytest.mark.parametrize("count", [0.0, 0.3, 7.0, 1e6])
@pytest.mark.parametrize("mean_square", [0.0, 1e-8, 0.7, 1e4])
def test_variances_maximise(prior, count, mean_square):
    scatter = count * mean_square

    def slope(log_variance):
        at = tensor(log_variance).requires_grad_()
        likelihood = -0.5 * count * at - 0.5 * scatter * (-at).exp()
        # Both laws: of the variance itself, and of its logarithm.
        value = likelihood + prior.log_prob((0.5 * at).exp())
        return float(torch.autograd.grad(value, at)[0])

    mode = float(variance_mode(prior, 9.0, tensor(count), tensor(scatter)).log())
    if mode < -299.0:
        # The end of the range: better would be even less.
        assert mode == pytest.approx(-300.0)
        assert slope(mode) < 0
        return
    expected = optimize.brentq(slope, mode - 3.0, mode + 3.0, xtol=1e-13)
    assert mode == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(
    "prior", [None, *VARIANCE_PRIORS, InverseWishart(6.0, [[2.0, 0.5], [0.5, 1.0]])]
)
def test_matrices_maximise(prior):
    root = randn(2, 5, seed=3)
    scatter, count = root @ root.mT, 7.0

    def loss(entries):
        at = tensor(entries).requires_grad_()
        zero = torch.zeros_like(at[0])
        root = torch.stack([torch.stack([at[0], zero]), at[1:]])
        covariance = root @ root.mT
        value = 0.5 * count * torch.logdet(covariance)
        value = value + 0.5 * torch.trace(torch.linalg.solve(covariance, scatter))
        if isinstance(prior, InverseWishart):
            value = value - prior.log_prob(covariance)
        elif prior is not None:
            principal = torch.linalg.eigvalsh(covariance)
            value = value - prior.log_prob(principal.sqrt()).sum()
        (slope,) = torch.autograd.grad(value, at)
        return float(value.detach()), slope.numpy()

    mode = matrix_mode(prior, 0.0, tensor(count), scatter)
    found = torch.linalg.cholesky(mode)[[0, 1, 1], [0, 0, 1]].numpy()
    best = optimize.minimize(
        loss, found + 0.1, jac=True, method="BFGS", options={"gtol": 1e-10}
    )
    assert loss(found)[0] <= best.fun + 1e-12
    np.testing.assert_allclose(found, best.x, atol=1e-7)


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
@pytest.mark.parametrize(
    "ball",
    [Softball(1.0, 5.0), Softball(0.3, 40.0, center=[1.0, -1.0, 0.0]), Softball(5.0)],
)
@pytest.mark.parametrize("count", [1e-3, 3.0, 1e4])
def test_means_maximise(kind, ball, count):
    parameters = random_parameters(kind, n_runs=1, n_features=3, seed=5)
    means = 3.0 * randn(1, 3, 3, seed=8)
    counts = torch.full((1, 3), count, dtype=torch.float64)
    found = softball_means(ball, counts, means, parameters)[0].numpy()
    precisions = parameters.each_whitening()[0]
    if parameters.matrices:
        precisions = precisions.mT @ precisions
    else:
        precisions = torch.diag_embed(precisions.square())
    for k in range(3):

        def loss(at, k=k):
            at = tensor(at).requires_grad_()
            gap = at - means[0, k]
            value = 0.5 * count * gap @ precisions[k] @ gap - ball.log_prob(at)
            (slope,) = torch.autograd.grad(value, at)
            return float(value.detach()), slope.numpy()

        size = count * float(precisions[k].norm())
        slope = loss(found[k])[1]
        if np.linalg.norm(found[k] - ball.center_like(means).numpy()) > 1e-9:
            # A strictly convex function is least where its slope is 0.
            assert np.abs(slope).max() < 1e-7 * max(1.0, size)
        best = optimize.minimize(
            loss, means[0, k], jac=True, method="BFGS", options={"gtol": 1e-10}
        )
        assert loss(found[k])[0] <= best.fun + 1e-9 * max(1.0, abs(best.fun))


def test_a_mean_with_little_weight_sits_at_the_centre():
    # The force at the centre beats that of the rows.
    parameters = random_parameters("diag", n_runs=1)
    counts = torch.full((1, 3), 1e-12, dtype=torch.float64)
    ball = Softball(1.0, 2.0, center=[0.5, 0.25])
    found = softball_means(ball, counts, randn(1, 3, 2), parameters)
    torch.testing.assert_close(found, tensor([0.5, 0.25]).expand(1, 3, 2))


def test_a_mean_deep_in_the_ball_is_that_of_its_rows():
    parameters = random_parameters("full", n_runs=1)
    means = 0.1 * randn(1, 3, 2)
    counts = torch.full((1, 3), 10.0, dtype=torch.float64)
    found = softball_means(Softball(5.0, 1000.0), counts, means, parameters)
    torch.testing.assert_close(found, means, rtol=1e-12, atol=1e-14)


@algebra
@given(
    counts=st.lists(st.floats(0.0, 50.0), min_size=3, max_size=3),
    concentration=st.lists(st.floats(0.2, 5.0), min_size=3, max_size=3),
)
def test_weights_maximise(counts, concentration):
    counts = tensor([counts]) + 1e-3
    excess = np.array(concentration) - 1.0
    parameters, _ = new_weights(counts, Dirichlet(concentration))
    weights = parameters.log_weights[0].exp().numpy()
    mass = np.maximum(counts[0].numpy() + excess, 0.0)
    if mass.sum() > 0:
        np.testing.assert_allclose(weights, mass / mass.sum(), atol=1e-12)
    assert weights.sum() == pytest.approx(1.0)
    # Among mixtures with the same components alive none is better.
    alive = weights > 0

    def value(w):
        return float((mass[alive] * np.log(w[alive])).sum())

    for seed in range(3):
        other = np.random.RandomState(seed).dirichlet(np.ones(3))
        other = np.where(alive, other, 0.0)
        assert value(weights) >= value(other / other.sum()) - 1e-9


def new_weights(counts, prior):
    parameters = random_parameters("diag", n_runs=1)
    statistics = Statistics(
        counts, parameters.means, 1.0 + torch.zeros(1, 3, 2).double()
    )
    return m_step(statistics, parameters, Priors(weights=prior))


def test_a_small_concentration_prunes():
    parameters, _ = new_weights(tensor([[10.0, 0.4, 5.0]]), Dirichlet(0.5))
    np.testing.assert_allclose(
        parameters.log_weights.exp(), [[9.5 / 14, 0.0, 4.5 / 14]], atol=1e-12
    )
    prior = log_prior(parameters, Priors(weights=Dirichlet(0.5)))
    assert prior.isfinite().all()


def test_one_component_always_stays():
    parameters, _ = new_weights(tensor([[0.2, 0.3, 0.1]]), Dirichlet(0.5))
    np.testing.assert_allclose(parameters.log_weights.exp(), [[0.0, 1.0, 0.0]])


def test_the_log_prior_adds_each_part_once():
    parameters = random_parameters("diag", n_runs=2)
    ball, scale, weight = Softball(2.0, 4.0), LogNormalScale(1.0), Dirichlet(2.0)
    expected = weight.log_prob(parameters.log_weights)
    expected = expected + ball.log_prob(parameters.means).sum(-1)
    expected = expected + scale.log_prob(parameters.covariances.sqrt()).sum((-1, -2))
    priors = Priors(weight, ball, scale)
    torch.testing.assert_close(log_prior(parameters, priors), expected)


def test_a_tied_matrix_has_one_prior():
    parameters = random_parameters("tied", n_runs=2)
    prior = InverseWishart(5.0)
    expected = prior.log_prob(parameters.covariances)
    torch.testing.assert_close(log_prior(parameters, Priors(scales=prior)), expected)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_unsound_covariances_are_told(kind):
    parameters = random_parameters(kind, n_runs=2)
    shape = parameters.each_covariance().shape
    scatters = torch.diag_embed(torch.ones(2, 3, 2).double())
    if len(shape) == 3:
        scatters = torch.ones(shape).double()
    scatters[1] = 0.0
    statistics = Statistics(torch.ones(2, 3).double(), parameters.means, scatters)
    _, sound = m_step(statistics, parameters, Priors())
    assert sound.tolist() == [True, False]
    _, sound = m_step(statistics, parameters, Priors(scales=InverseGamma()))
    assert sound.all()


def test_statistics_merge_like_rows():
    values, weights = randn(2, 30), randn(3, 30, seed=1).square()

    def of(part):
        counts = weights[:, part].sum(-1)
        means = weights[:, part] @ values[:, part].T / counts.unsqueeze(-1)
        gap = values[:, part] - means.unsqueeze(-1)
        scatters = (weights[:, part].unsqueeze(1) * gap) @ gap.mT
        return Statistics(
            counts.unsqueeze(0), means.unsqueeze(0), scatters.unsqueeze(0)
        )

    merged, whole = of(slice(0, 12)).merged(of(slice(12, 30))), of(slice(0, 30))
    torch.testing.assert_close(merged.means, whole.means)
    torch.testing.assert_close(merged.scatters, whole.scatters)
    assert isinstance(random_parameters("full"), Parameters)
