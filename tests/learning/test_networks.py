"""Batched members against plain networks, one by one."""

import math

import pytest
import torch
from torch import nn

from skmdn.composition import Composition
from skmdn.families import MultivariateNormal, Normal, PointMass
from skmdn.learning.networks import (
    ACTIVATIONS,
    MLP,
    MemberLinear,
    MixtureEnsemble,
    MixtureHead,
    MixtureNetwork,
    row_keys,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network(n_members=3, n_outputs=2, parts=None, hidden=(8, 6), **kwargs):
    source = generator()
    parts = parts or [(Normal(), 4)]
    trunk = MLP(n_members, 5, hidden, "silu", generator=source)
    head = MixtureHead(
        n_members,
        trunk.n_out,
        n_outputs,
        Composition.make([f for f, count in parts for _ in range(count)], 0),
        min_scale=0.01,
        generator=source,
        **kwargs,
    )
    return MixtureNetwork(nn.Identity(), trunk, head)


def rows(*shape, seed=1):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_members_are_networks_of_their_own(activation):
    trunk = MLP(2, 5, (8, 6), activation, generator=generator())
    x = rows(2, 10, 5)
    phi = {
        "gelu": nn.GELU(),
        "logistic": nn.Sigmoid(),
        "relu": nn.ReLU(),
        "silu": nn.SiLU(),
        "tanh": nn.Tanh(),
    }[activation]
    for member in range(2):
        hidden = x[member]
        for layer in trunk.layers:
            hidden = phi(hidden @ layer.weight[member] + layer.bias[member])
        torch.testing.assert_close(trunk(x)[member], hidden)


def test_no_hidden_layer_is_a_linear_model():
    model = network(hidden=())
    x = rows(3, 7, 5)
    means = [model(scale * x).component_means() for scale in (0.0, 1.0, 2.0)]
    torch.testing.assert_close(means[2] - means[1], means[1] - means[0])


def test_shared_rows_are_seen_by_every_member():
    model = network()
    x = rows(7, 5)
    shared, own = model(x), model(x.expand(3, 7, 5))
    torch.testing.assert_close(shared.log_weights, own.log_weights)
    assert shared.batch_shape == (3, 7)


def test_weights_come_from_the_generator_and_members_differ():
    first, again = network(), network()
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    weight = first.trunk.layers[0].weight
    assert (weight[0] != weight[1]).any()
    assert weight.dtype == torch.float64


def test_weights_have_the_stated_size():
    layer = MemberLinear(4, 100, 300, gain=2.0, generator=generator())
    spread = layer.weight.std()
    # The standard error of a standard deviation is sigma / sqrt(2 n).
    assert abs(spread - 0.2) < 4 * 0.2 / (2 * layer.weight.numel()) ** 0.5
    assert (layer.bias == 0).all()


@pytest.mark.parametrize(
    "family",
    [
        Normal("diag"),
        Normal("spherical"),
        MultivariateNormal("full"),
        MultivariateNormal("tied"),
    ],
)
def test_the_head_starts_at_the_mixture_it_is_given(family):
    model = network(parts=((family, 4),), temperature=2.0)
    with torch.no_grad():
        model.head.linear.weight.zero_()
    centers = rows(4, 2)
    spreads = torch.full((4, 2), 0.7, dtype=torch.float64)
    shares = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    model.head.start(centers, spreads, shares)
    mixture = model(rows(3, 6, 5))
    torch.testing.assert_close(mixture.weights, shares.expand(3, 6, 4))
    torch.testing.assert_close(mixture.component_means(), centers.expand(3, 6, 4, 2))
    torch.testing.assert_close(mixture.component_stds(), spreads.expand(3, 6, 4, 2))


def test_several_families_share_a_head():
    parts = ((Normal("diag"), 2), (MultivariateNormal("full"), 3))
    model = network(parts=parts)
    centers = rows(5, 2)
    model.head.start(
        centers,
        torch.ones(5, 2, dtype=torch.float64),
        torch.full((5,), 0.2, dtype=torch.float64),
    )
    mixture = model(rows(3, 6, 5))
    assert [block.n_components for block in mixture.blocks] == [2, 3]
    difference = mixture.component_means() - centers
    assert difference.abs().mean() < 0.3


def test_a_component_may_need_no_numbers():
    parts = ((PointMass(0.5), 2), (Normal(), 1))
    model, x = network(parts=parts), rows(3, 6, 5)
    assert model.head.linear.weight.shape[1] == 3 + 2 + 2
    model.head.start(
        rows(3, 2),
        torch.ones(3, 2, dtype=torch.float64),
        torch.full((3,), 1 / 3, dtype=torch.float64),
    )
    mixture = model(x)
    value = mixture.blocks[0].params["value"]
    torch.testing.assert_close(value, torch.full_like(value, 0.5))
    assert value.shape == (3, 6, 2, 2)
    at_value = mixture.log_prob(torch.full_like(value[..., 0, :], 0.5))
    at_value.sum().backward()
    assert model.head.linear.weight.grad.isfinite().all()
    # Every view of the mixture takes the mass along.
    assert mixture[0, 1].blocks[0].params["value"].shape == (2, 2)
    assert model.eval()(x).merge().component_means().shape == (6, 9, 2)
    draws = mixture.sample(7, generator())
    assert draws.shape == (3, 6, 7, 2)
    assert (draws == 0.5).all(-1).any()
    assert network(parts=parts).float()(x.float()).log_weights.dtype == torch.float32


def test_temperature_divides_the_logits():
    cold, warm = network(temperature=0.5), network(temperature=2.0)
    x = rows(3, 6, 5)
    torch.testing.assert_close(
        cold(x).weights, torch.softmax(4.0 * warm(x).log_weights, -1)
    )


# The spread, and ensembles.


@pytest.mark.parametrize("family", [Normal("diag"), MultivariateNormal("full")])
def test_the_spread_widens_predictions_and_not_training(family):
    model, x = network(parts=((family, 4),)), rows(3, 6, 5)
    plain = model(x)
    spread = torch.tensor([[-0.5], [0.0], [0.7]], dtype=torch.float64)
    model.head.log_spread.copy_(spread)
    torch.testing.assert_close(model(x).component_stds(), plain.component_stds())
    model.eval()
    wide = model(x)
    factor = spread.exp().reshape(3, 1, 1, 1)
    torch.testing.assert_close(wide.component_stds(), factor * plain.component_stds())
    torch.testing.assert_close(wide.component_means(), plain.component_means())
    torch.testing.assert_close(wide.log_weights, plain.log_weights)


def test_a_negative_spread_stops_at_the_smallest_scale():
    model = network()
    model.head.log_spread.fill_(-50.0)
    torch.testing.assert_close(
        model.eval()(rows(3, 6, 5)).component_stds().amin(-1),
        torch.full((3, 6, 4), 0.01, dtype=torch.float64),
    )


def test_a_levelled_share_is_for_predictions_and_not_for_training():
    model, x = network(), rows(3, 6, 5)
    plain = model(x)
    model.head.share_levelled.fill_(0.2)
    torch.testing.assert_close(model(x).log_weights, plain.log_weights)
    found = model.eval()(x)
    torch.testing.assert_close(found.weights, 0.8 * plain.weights + 0.2 / 4)
    torch.testing.assert_close(found.component_means(), plain.component_means())


def test_the_head_stores_its_weights_by_output():
    layer = MemberLinear(2, 5, 3, out_first=True, generator=generator())
    assert layer.weight.shape == (2, 3, 5)
    layer.bias.data.normal_(generator=generator(2))
    x = rows(2, 10, 5)
    expected = [x[m] @ layer.weight[m].T + layer.bias[m] for m in range(2)]
    torch.testing.assert_close(layer(x), torch.stack(expected))
    assert network().head.linear.weight.shape == (3, 4 + 8 + 8, 6)


def ensemble(sizes=(3, 2)):
    return MixtureEnsemble([network(n, hidden=(5 + n,)) for n in sizes]).eval()


@pytest.mark.parametrize("sizes", [(1,), (3,), (3, 2), (1, 2, 3)])
def test_an_ensemble_is_the_weighted_sum_of_its_networks_densities(sizes):
    model, x, y = ensemble(sizes), rows(7, 5), rows(7, 2, seed=4)
    assert model.n_members() == list(sizes)
    densities = [net(x).log_prob(y).exp() for net in model.networks]
    equal = torch.cat(densities).mean(0)
    torch.testing.assert_close(model(x).log_prob(y).exp(), equal)
    shares = torch.arange(1.0, 1.0 + len(sizes), dtype=torch.float64)
    shares /= shares.sum()
    model.weigh(shares, torch.zeros((), dtype=torch.float64))
    expected = sum(w * p.mean(0) for w, p in zip(shares, densities, strict=True))
    mixture = model(x)
    torch.testing.assert_close(mixture.log_prob(y).exp(), expected)
    assert mixture.batch_shape == (7,)
    torch.testing.assert_close(
        mixture.weights.sum(-1), torch.ones(7, dtype=torch.float64)
    )


def test_weighing_widens_all_members():
    model, x = ensemble(), rows(7, 5)
    before = [net(x).component_stds() for net in model.networks]
    model.networks[1].head.log_spread.fill_(0.2)
    log_factor = torch.tensor(0.3, dtype=torch.float64)
    model.weigh(torch.tensor([0.5, 0.5], dtype=torch.float64), log_factor)
    for net, stds, total in zip(model.networks, before, (0.3, 0.5), strict=True):
        torch.testing.assert_close(net(x).component_stds(), math.exp(total) * stds)


def test_an_ensembles_weights_are_saved_with_it():
    model, twin = ensemble(), ensemble()
    model.weigh(torch.tensor([0.9, 0.1]).double(), torch.tensor(0.1).double())
    model.level(0.3)
    twin.load_state_dict(model.state_dict())
    x, y = rows(7, 5), rows(7, 2)
    torch.testing.assert_close(twin(x).log_prob(y), model(x).log_prob(y))


def test_networks_that_are_kept_divide_the_weight():
    model, x, y = ensemble((3, 2, 1)), rows(7, 5), rows(7, 2)
    shares = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    model.weigh(shares, torch.tensor(0.0))
    densities = [net(x).log_prob(y).exp().mean(0) for net in model.networks]
    model.keep([0, 2])
    expected = 0.4 * densities[0] + 0.6 * densities[2]
    torch.testing.assert_close(model(x).log_prob(y).exp(), expected)


def test_an_ensemble_that_joins_gets_its_share_until_it_is_forgotten():
    model, other = ensemble((3, 2)), ensemble((2,))
    x, y = rows(7, 5), rows(7, 2)
    own, its = (m(x).log_prob(y).exp() for m in (model, other))
    shares = torch.tensor([0.3, 0.8], dtype=torch.float64)
    model.join(other, *shares, row_keys(x[2:4]))
    share = shares[[0, 0, 1, 1, 0, 0, 0]]
    expected = (1.0 - share) * own + share * its
    torch.testing.assert_close(model(x).log_prob(y).exp(), expected)
    torch.testing.assert_close(
        model(x, temperature=2.0).log_weights.exp().sum(-1), torch.ones_like(share)
    )
    model.forget_joined()
    assert model.n_members() == [3, 2]
    torch.testing.assert_close(model(x).log_prob(y).exp(), own)


def test_equal_rows_have_equal_keys_and_others_have_not():
    x = torch.cat([rows(500, 3), rows(500, 3).round()])
    x = torch.cat([x, x[::2], -torch.zeros(1, 3), torch.zeros(1, 3)])
    distinct, of_row = x.float().unique(dim=0, return_inverse=True)
    keys = row_keys(x)
    assert len(keys.unique()) == len(distinct)
    assert torch.equal(keys, row_keys(distinct)[of_row])
    assert torch.equal(row_keys(x.float()), keys)
    assert len(torch.cat([row_keys(x.flip(1)), keys]).unique()) > len(distinct)
