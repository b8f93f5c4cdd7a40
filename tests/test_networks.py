"""Batched members against plain networks, one by one."""

import pytest
import torch
from torch import nn

from skmdn.families import MultivariateNormal, Normal
from skmdn.networks import ACTIVATIONS, MLP, MemberLinear, MixtureHead, MixtureNetwork


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
        parts,
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


def test_temperature_divides_the_logits():
    cold, warm = network(temperature=0.5), network(temperature=2.0)
    x = rows(3, 6, 5)
    torch.testing.assert_close(
        cold(x).weights, torch.softmax(4.0 * warm(x).log_weights, -1)
    )
