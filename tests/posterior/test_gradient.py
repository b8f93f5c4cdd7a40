"""The gradient of a network of posteriors by hand against autograd."""

import pytest
import torch
from torch import nn

from skmdn.learning.penalty import MixturePrior
from skmdn.learning.steps import FlatParameters
from skmdn.posterior.gradient import PosteriorGradient
from tests.helpers import generator
from tests.posterior.test_networks import N_ROWS, network, objective


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_agrees_with_autograd(activation, dropout, weighted):
    net = network(activation, dropout=dropout)
    # One unit out of its bounds, where the gradient is 0.
    net.head.log_unit.data[0, 0, 0] = 9.0
    weights = torch.rand(N_ROWS, generator=generator(5), dtype=torch.float64)
    goal = objective(net, weights=weights if weighted else None)
    net.set_trainable(True)
    flat = FlatParameters(net.named_parameters())
    rows = torch.randint(N_ROWS, (2, 11), generator=generator(6))
    expected_losses = goal.training_loss(rows)
    flat.differentiate(expected_losses)
    expected = flat.gradients.clone()
    flat.gradients.zero_()
    found = PosteriorGradient(goal, flat.gradient_views())(rows, True)
    torch.testing.assert_close(flat.gradients, expected)
    torch.testing.assert_close(found, expected_losses.detach())


def test_features_that_are_not_seen_change_nothing():
    net = network()
    goal, more = objective(net), objective(net)
    unseen = torch.randn(N_ROWS, 2, generator=generator(7), dtype=torch.float64)
    more.x = torch.cat([more.x, unseen], 1)
    rows = torch.randint(N_ROWS, (2, 11), generator=generator(6))
    found = []
    for one in (goal, more):
        flat = FlatParameters(net.named_parameters())
        losses = PosteriorGradient(one, flat.gradient_views())(rows, True)
        torch.testing.assert_close(losses, one.training_loss(rows).detach())
        found.append(flat.gradients)
        flat.release()
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_applies_to_plain_features_only():
    net, prior = network(), MixturePrior()
    assert PosteriorGradient.applies(net, prior)
    net.block = nn.Identity()
    assert not PosteriorGradient.applies(net, prior)
    assert not PosteriorGradient.applies(nn.Identity(), prior)
