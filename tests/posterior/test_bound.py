"""The lower bound of a potential, as a loss of networks of posteriors."""

import math

import pytest
import torch

from skmdn.coordinates import Coordinates
from skmdn.learning.penalty import MixturePrior
from skmdn.posterior.bound import BoundObjective
from tests.helpers import generator, randn
from tests.posterior.test_networks import N_FEATURES, N_OUTPUTS, N_ROWS, network


def bound_objective(net, potential, *, share=1.0):
    x = randn(N_ROWS, N_FEATURES, seed=2)
    low = torch.tensor([-1.0, -math.inf], dtype=torch.float64)
    return BoundObjective(
        net,
        x,
        randn(N_ROWS, N_OUTPUTS, seed=3),
        torch.ones(N_ROWS, dtype=torch.float64),
        prior=MixturePrior(),
        n_rows=N_ROWS,
        log_scale=0.0,
        x_noise=0.0,
        y_noise=0.0,
        generator=generator(4),
        potential=potential,
        coordinates=Coordinates.standard(low, -low),
        data=x,
        share=share,
    )


def test_bound_of_the_density_itself_is_zero():
    net = network()

    def potential(theta, x):
        assert bool((theta[..., 0].abs() < 1.0).all())
        coordinates = goal.coordinates
        u = coordinates.inverse(theta)
        mixture = net(x[:, :, 0]).unsqueeze()
        return mixture.log_prob(u) - coordinates.log_jacobian(u)

    goal = bound_objective(net, potential)
    rows = torch.arange(N_ROWS).expand(2, -1)
    with torch.no_grad():
        # A few draws are so far out that rounding takes them to an end.
        assert (goal.bound(rows).abs() < 1e-6).double().mean() > 0.8


def test_gradient_leads_to_the_target():
    net = network(n_members=2)
    net.set_trainable(True)

    def potential(theta, x):
        return -theta[..., 1].square() - torch.atanh(theta[..., 0]).square()

    goal = bound_objective(net, potential)
    rows = torch.arange(N_ROWS).expand(2, -1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    with torch.no_grad():
        before = goal.bound(rows).mean()
    for _ in range(60):
        optimizer.zero_grad()
        goal.training_loss(rows).sum().backward()
        optimizer.step()
    with torch.no_grad():
        assert goal.bound(rows).mean() > before + 1.0


def test_share_mixes_with_the_log_score():
    net = network()
    goal = bound_objective(net, lambda theta, x: theta[..., 1], share=0.25)
    rows = torch.arange(N_ROWS).expand(2, -1)
    with torch.no_grad():
        goal.generator.manual_seed(1)
        bound = goal.bound(rows).mean(1)
        score = super(BoundObjective, goal).training_loss(rows)
        goal.generator.manual_seed(1)
        found = goal.training_loss(rows)
    torch.testing.assert_close(found, 0.75 * score - 0.25 * bound)


def test_potential_of_the_wrong_shape_is_refused():
    goal = bound_objective(network(), lambda theta, x: theta)
    with pytest.raises(ValueError, match="one number for each row"):
        goal.bound(torch.arange(N_ROWS).expand(2, -1))


def test_infinite_potentials_count_as_very_low():
    goal = bound_objective(network(), lambda theta, x: theta[..., 0] * -math.inf)
    with torch.no_grad():
        assert goal.bound(torch.arange(N_ROWS).expand(2, -1)).isfinite().all()
