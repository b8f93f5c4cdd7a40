"""Networks of posteriors: their start, their mixtures and their losses."""

import pytest
import torch

from skmdn.learning.penalty import MixturePrior
from skmdn.posterior.networks import (
    CorrelatedHead,
    DropoutMLP,
    Features,
    PosteriorNetwork,
    PosteriorObjective,
)
from tests.helpers import generator, randn

N_FEATURES, N_OUTPUTS, N_ROWS = 3, 2, 40


def network(
    activation="silu", *, n_members=2, dropout=0.0, hidden=(7, 5), scaled=False
):
    source = generator(1)
    trunk = DropoutMLP(
        n_members, N_FEATURES, hidden, activation, dropout=dropout, generator=source
    )
    head = CorrelatedHead(
        n_members,
        trunk.n_out,
        N_FEATURES,
        N_OUTPUTS,
        n_components=3,
        link="exp" if activation == "silu" else "softplus",
        scaled=scaled,
        generator=source,
    )
    residual = torch.tensor([0.5, 2.0], dtype=torch.float64)
    intercept, line = randn(1, N_OUTPUTS), randn(1, N_OUTPUTS, N_FEATURES)
    changes = 0.3 * randn(1, N_OUTPUTS, N_FEATURES, seed=6)
    head.start(intercept, line, residual.unsqueeze(0), changes, source)
    head.linear.weight.data.mul_(10.0)
    return PosteriorNetwork(Features(N_FEATURES), trunk, head)


def objective(net, *, weights=None):
    x, u = randn(N_ROWS, N_FEATURES, seed=2), randn(N_ROWS, N_OUTPUTS, seed=3)
    return PosteriorObjective(
        net,
        x,
        u,
        torch.ones(N_ROWS, dtype=torch.float64) if weights is None else weights,
        prior=MixturePrior(),
        n_rows=N_ROWS,
        log_scale=0.25,
        x_noise=0.0,
        y_noise=0.0,
        generator=generator(4),
    )


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_loss_is_that_of_the_mixture(activation, scaled):
    net = network(activation, scaled=scaled)
    weights = torch.rand(N_ROWS, generator=generator(5), dtype=torch.float64)
    goal = objective(net, weights=weights)
    rows = torch.arange(2 * N_ROWS).reshape(2, N_ROWS) % N_ROWS
    with torch.no_grad():
        found = goal.training_loss(rows)
        log_prob = net(goal.x[rows]).log_prob(goal.y[rows])
    torch.testing.assert_close(found, 0.25 - (weights[rows] * log_prob).mean(1))


@pytest.mark.parametrize("scaled", [False, True])
def test_held_out_loss_finds_the_width(scaled):
    net, rows = network(scaled=scaled), torch.arange(N_ROWS).expand(2, -1)
    goal = objective(net)
    with torch.no_grad():
        for _ in range(40):
            found = goal.held_out_loss(rows)
        net.eval()
        # The width is the mixture's own from now on.
        log_prob = net(goal.x[rows]).log_prob(goal.y[rows]).mean(1)
        spread = net.head.log_spread[:, 0]
    torch.testing.assert_close(found, 0.25 - log_prob + spread.square() / N_ROWS)
    widths = net.head.log_spread.clone()
    for factor in (-0.05, 0.05):
        with torch.no_grad():
            net.head.log_spread.copy_(widths + factor)
            other = net(goal.x[rows]).log_prob(goal.y[rows]).mean(1)
        inside = (widths[:, 0] + factor).clamp(0.0, 1.4) == widths[:, 0] + factor
        assert (other <= log_prob + 1e-9)[inside].all()


def test_start_is_the_line():
    net = network(hidden=())
    net.head.linear.weight.data.zero_()
    x = randn(4, N_FEATURES)
    means = net(x).component_means()
    line = net.head.base(x.expand(2, -1, -1)).mT.unsqueeze(2)
    bias = net.head.linear.bias[:, :, 3:9].unflatten(-1, (3, N_OUTPUTS))
    torch.testing.assert_close(means, line + bias.expand_as(means))


def test_start_is_the_line_with_residuals_of_its_size():
    net = network(hidden=(), scaled=True)
    net.head.linear.weight.data.zero_()
    net.head.linear.bias.data.zero_()
    x = randn(4, N_FEATURES)
    intercept, line = randn(1, N_OUTPUTS), randn(N_OUTPUTS, N_FEATURES)
    changes = 0.3 * randn(N_OUTPUTS, N_FEATURES, seed=6)
    mixture = net(x)
    expected = (intercept + x @ line.mT).expand(2, -1, -1)
    torch.testing.assert_close(mixture.mean(), expected)
    std = torch.tensor([0.5, 2.0], dtype=torch.float64) * (x @ changes.mT).exp()
    torch.testing.assert_close(mixture.variance().sqrt(), std.expand(2, -1, -1))


def test_dropout_keeps_the_average_and_belongs_to_the_batch():
    net = network("relu", dropout=0.25, hidden=(400,))
    goal, rows = objective(net), torch.arange(N_ROWS).expand(2, -1)
    kept = goal.kept_units(rows)
    assert kept is goal.kept_units(rows)
    assert kept is not goal.kept_units(rows.clone())
    # Units are drawn with replacement, so that a few less are left out.
    share = (kept[0] == 0.0).double().mean()
    assert 0.2 < share < 0.25
    assert torch.unique(kept[0]).tolist() == [0.0, 1.0 / 0.75]


def test_rows_go_forward_together_within_bounds():
    net = network()
    assert net.n_rows_together() > 1
    net.block.numbers_per_row = 10**9
    assert net.n_rows_together() == 1
