"""The loss against its definition, and its gradient against finite differences."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from skmdn.composition import Composition
from skmdn.families import MultivariateNormal, Normal
from skmdn.learning.networks import MLP, MixtureHead, MixtureNetwork
from skmdn.learning.objectives import MixtureObjective
from skmdn.learning.penalty import MixturePrior
from skmdn.likelihood import log_likelihood
from skmdn.priors import InverseGamma

FAMILIES = [
    Normal("diag"),
    Normal("spherical"),
    MultivariateNormal("full"),
    MultivariateNormal("tied"),
]


def objective(family=FAMILIES[0], *, prior=(1.0, 0.2), n_rows=12, **kwargs):
    source = torch.Generator().manual_seed(0)
    trunk = MLP(2, 3, (4,), "tanh", generator=source)
    head = MixtureHead(
        2, 4, 2, Composition.make(family, 3), min_scale=0.01, generator=source
    )
    network = MixtureNetwork(nn.Identity(), trunk, head)
    data = torch.randn(n_rows, 5, generator=source, dtype=torch.float64)
    weights = torch.rand(n_rows, generator=source, dtype=torch.float64) + 0.1
    weights /= weights.mean()
    settings = {"log_scale": 0.7, "x_noise": 0.0, "y_noise": 0.0, **kwargs}
    return MixtureObjective(
        network,
        data[:, :3],
        data[:, 3:],
        weights,
        prior=MixturePrior(scales=InverseGamma(*prior) if prior else None),
        n_rows=n_rows,
        generator=source,
        **settings,
    )


def all_rows(n_rows=12):
    return torch.arange(n_rows).expand(2, n_rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_agrees_with_finite_differences(family):
    loss = objective(family)
    names, values = zip(*loss.network.named_parameters(), strict=True)

    def evaluate(*parameters):
        replaced = dict(zip(names, parameters, strict=True))
        network = loss.network
        loss.network = lambda x: torch.func.functional_call(network, replaced, (x,))
        try:
            return loss.training_loss(all_rows())
        finally:
            loss.network = network

    assert torch.autograd.gradcheck(evaluate, values, eps=1e-6, atol=1e-7)


def test_the_full_batch_loss_is_the_weighted_likelihood_and_one_prior():
    loss = objective()
    mixture = loss.network(loss.x)
    log_prob = mixture.log_prob(loss.y).detach().numpy()
    variances = mixture.component_stds().detach().numpy() ** 2
    weights = loss.weights.numpy()
    total = 12
    log_prior = stats.invgamma(1.0, scale=0.2).logpdf(variances)
    per_row = log_prob + log_prior.sum((-2, -1)) / total
    expected = 0.7 - np.average(per_row, axis=1, weights=weights)
    actual = loss.training_loss(all_rows()).detach().numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def judged(loss, rows, log_spread):
    """Return the members' held-out losses at a spread: no prior, no noise."""
    factor = torch.tensor(log_spread, dtype=torch.float64).exp()
    mixture = loss.network(loss.x[rows]).widen(factor)
    log_prob = mixture.log_prob(loss.y[rows]).detach().numpy()
    weights = loss.weights[rows].numpy()
    likelihood = (weights * log_prob).sum(1) / weights.sum(1)
    return 0.7 - likelihood + log_spread**2 / rows.shape[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_held_out_rows_are_judged_by_likelihood_at_the_best_of_five_spreads(family):
    loss = objective(family)
    rows = torch.tensor([[0, 3, 5], [1, 2, 8]])
    steps = [0.0, 0.05, 0.2]  # those below 0 end at 0
    losses = np.array([judged(loss, rows, step) for step in steps])
    with torch.no_grad():
        actual = loss.held_out_loss(rows).numpy()
    np.testing.assert_allclose(actual, losses.min(0), rtol=1e-12)
    chosen = np.array(steps)[losses.argmin(0)]
    spread = loss.network.head.log_spread[:, 0].numpy()
    np.testing.assert_allclose(spread, chosen, rtol=1e-12)


def test_rows_that_do_not_count_are_as_good_as_absent():
    loss = objective()
    rows = torch.tensor([[0, 3, 5, 7], [1, 2, 8, 9]])
    counts = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 1]]).bool()
    with torch.no_grad():
        found = loss.held_out_loss(rows, counts)
        loss.network.head.log_spread.zero_()
        expected = loss.held_out_loss(rows[counts].reshape(2, 3))
    torch.testing.assert_close(found, expected)


def test_a_spread_is_found_from_judgement_to_judgement_and_stays_in_its_range():
    loss = objective()
    with torch.no_grad():
        loss.network.head.linear.bias[:, :, -6:] -= 2.0
        for _ in range(40):
            found = loss.held_out_loss(all_rows()).numpy()
    grid = np.linspace(0.0, 1.4, 281)
    losses = np.array([judged(loss, all_rows(), step) for step in grid])
    spread = loss.network.head.log_spread[:, 0].numpy()
    assert (spread > 0.1).all()
    np.testing.assert_allclose(spread, grid[losses.argmin(0)], atol=0.05)
    np.testing.assert_allclose(found, losses.min(0), atol=1e-3)
    with torch.no_grad():
        loss.network.head.linear.bias[:, :, -6:] -= 20.0
        for _ in range(40):
            loss.held_out_loss(all_rows())
    assert (loss.network.head.log_spread <= 1.4).all()


def test_the_training_loss_does_not_see_the_spread():
    loss = objective()
    before = loss.training_loss(all_rows())
    loss.network.head.log_spread.data.fill_(0.8)
    torch.testing.assert_close(loss.training_loss(all_rows()), before)


def test_batches_average_to_the_full_loss():
    loss = objective()
    whole = loss.training_loss(all_rows())
    parts = [loss.training_loss(rows) for rows in all_rows().split(4, dim=1)]
    torch.testing.assert_close(torch.stack(parts).mean(0), whole)


def test_the_prior_counts_once_however_many_rows():
    few, many = objective(n_rows=10), objective(n_rows=1000)
    share = []
    for loss, n_rows in ((few, 10), (many, 1000)):
        bare = objective(prior=None, n_rows=n_rows)
        with_prior = loss.training_loss(all_rows(n_rows))
        difference = with_prior - bare.training_loss(all_rows(n_rows))
        share.append(float((difference * loss.n_rows).abs().mean().detach()))
    assert share[1] == pytest.approx(share[0], rel=0.2)


def test_noise_is_drawn_afresh_for_every_batch():
    for noise in ({"x_noise": 0.1}, {"y_noise": 0.1}):
        loss = objective(**noise)
        first, second = (loss.training_loss(all_rows()) for _ in range(2))
        assert (first != second).all()
        with torch.no_grad():
            judged_with, judged_without = (
                problem.held_out_loss(all_rows()) for problem in (loss, objective())
            )
        torch.testing.assert_close(judged_with, judged_without, rtol=0, atol=0)


def test_training_begins_at_the_first_temperature_and_cools_to_the_last():
    loss = objective(heat=9.0)
    head = loss.network.head
    head.temperature = 0.5
    # Without a word about progress there is no annealing.
    assert loss.temperature() == 0.5
    judgements = []
    for done, expected in [(0.0, 4.5), (0.1, 1.5), (0.2, 0.5), (0.7, 0.5), (1.0, 0.5)]:
        loss.cool(done)
        assert loss.temperature() == pytest.approx(expected, rel=1e-12)
        found = loss.training_loss(all_rows())
        constant = objective()
        constant.network.head.temperature = expected
        torch.testing.assert_close(found, constant.training_loss(all_rows()))
        with torch.no_grad():
            judgements.append(loss.held_out_loss(all_rows()))
            head.log_spread.zero_()
    # Held-out rows see the end from the beginning.
    for judgement in judgements[1:]:
        torch.testing.assert_close(judgement, judgements[0], rtol=0, atol=0)


# Targets that are known in part.


def partial(loss, **kwargs):
    """Return the same problem with rows of every kind."""
    low, high = loss.y.clone(), loss.y.clone()
    low[::4, 0], high[1::4, 1] = -np.inf, np.inf
    low[2::4, 0] = high[2::4, 0] = np.nan
    settings = {"log_scale": 0.7, "x_noise": 0.0, "y_noise": 0.0, **kwargs}
    return MixtureObjective(
        loss.network,
        loss.x,
        low,
        loss.weights,
        upper=high,
        prior=loss.prior,
        n_rows=loss.n_rows,
        generator=loss.generator,
        **settings,
    )


def gradient(loss):
    loss.network.zero_grad()
    loss.training_loss(all_rows()).sum().backward()
    return [p.grad.clone() for p in loss.network.parameters() if p.grad is not None]


@pytest.mark.parametrize("family", FAMILIES)
def test_ends_that_are_equal_give_the_plain_loss_and_gradient(family):
    loss = objective(family)
    expected = loss.training_loss(all_rows()), loss.held_out_loss(all_rows())
    slopes = gradient(loss)
    loss.upper = loss.y.clone()
    # Each judgement begins where the last one left the spread.
    loss.network.get_parameter("head.log_spread").data.zero_()
    found = loss.training_loss(all_rows()), loss.held_out_loss(all_rows())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(loss), slopes, rtol=1e-10, atol=1e-12)


def test_the_loss_of_intervals_and_holes_is_their_likelihood():
    loss = partial(objective())
    rows = all_rows()
    mixture = loss.network(loss.x[rows])
    log_prior = loss.prior.log_prob(mixture) / loss.n_rows
    low, high = loss.y[rows], loss.upper[rows]
    gain = log_likelihood(mixture, low, high) + log_prior
    expected = 0.7 - (loss.weights[rows] * gain).mean(1)
    torch.testing.assert_close(loss.training_loss(rows), expected)
    assert all(part.isfinite().all() for part in gradient(loss))


def test_held_out_intervals_judge_at_every_spread():
    loss = partial(objective())
    rows = all_rows()
    found = loss.held_out_loss(rows)
    spread = loss.network.get_parameter("head.log_spread").exp()
    wide = loss.network.eval()(loss.x[rows])
    log_prob = log_likelihood(wide, loss.y[rows], loss.upper[rows])
    weights = loss.weights[rows]
    expected = -(weights * log_prob).sum(1) / weights.sum(1)
    expected += 0.7 + spread.log().square()[:, 0] / rows.shape[1]
    torch.testing.assert_close(found, expected)


def test_noise_moves_both_ends_alike():
    loss = partial(objective(), y_noise=0.3)
    state = loss.generator.get_state()
    found = loss.training_loss(all_rows())
    loss.generator.set_state(state)
    rows = all_rows()
    noise = torch.empty_like(loss.y[rows]).normal_(0.0, 0.3, generator=loss.generator)
    mixture = loss.network(loss.x[rows])
    log_prior = loss.prior.log_prob(mixture) / loss.n_rows
    gain = log_likelihood(mixture, loss.y[rows] + noise, loss.upper[rows] + noise)
    expected = 0.7 - (loss.weights[rows] * (gain + log_prior)).mean(1)
    torch.testing.assert_close(found, expected)
