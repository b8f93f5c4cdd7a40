"""The gradient by hand against autograd and finite differences."""

import math

import pytest
import torch
from torch import nn

from skmdn.composition import Composition
from skmdn.families import MultivariateNormal, Normal
from skmdn.learning import closed_form, products
from skmdn.learning.closed_form import ClosedFormGradient
from skmdn.learning.embeddings import FeatureEmbedding
from skmdn.learning.networks import MLP, MixtureHead, MixtureNetwork
from skmdn.learning.objectives import MixtureObjective
from skmdn.learning.penalty import MixturePrior
from skmdn.learning.steps import FlatParameters
from skmdn.learning.training import Descent, Settings, split_rows
from skmdn.priors import Dirichlet, InverseGamma, LogNormalScale
from tests.helpers import generator, randn

N_ROWS = 60


def network(
    n_members=2,
    *,
    hidden=(7, 5),
    bins=False,
    n_cosines=0,
    family=None,
    n_outputs=1,
    activation="silu",
    temperature=1.0,
):
    source = generator(1)
    edges = []
    if bins:
        edges = [torch.linspace(-2, 2, n, dtype=torch.float64) for n in (5, 0, 3)]
    block = FeatureEmbedding(
        n_members, 3, edges=edges, n_cosines=n_cosines, generator=source
    )
    trunk = MLP(n_members, block.n_out, hidden, activation, generator=source)
    head = MixtureHead(
        n_members,
        trunk.n_out,
        n_outputs,
        Composition.make(family or Normal("diag"), 4),
        min_scale=0.01,
        temperature=temperature,
        generator=source,
    )
    # Far from the start: every term of the gradient is at work.
    head.linear.weight.data.mul_(10.0)
    head.linear.bias.data.normal_(generator=source)
    return MixtureNetwork(block, trunk, head)


STANDARD = MixturePrior(scales=InverseGamma(1.0, 0.3))


def objective(model, *, weighted=False, dtype=torch.float64, prior=STANDARD, **kwargs):
    source = generator(2)
    x = torch.randn(N_ROWS, 3, generator=source, dtype=torch.float64)
    y = torch.randn(N_ROWS, 1, generator=source, dtype=torch.float64)
    weights = torch.ones(N_ROWS, dtype=torch.float64)
    if weighted:
        weights = torch.rand(N_ROWS, generator=source, dtype=torch.float64) + 0.1
        weights /= weights.mean()
    return MixtureObjective(
        model.to(dtype),
        x.to(dtype),
        y.to(dtype),
        weights.to(dtype),
        prior=prior,
        n_rows=float(N_ROWS),
        log_scale=0.7,
        x_noise=0.0,
        y_noise=0.0,
        generator=source,
        **kwargs,
    )


def some_rows(n_members, n_batch=11, seed=3):
    return torch.randint(N_ROWS, (n_members, n_batch), generator=generator(seed))


def both(loss, rows):
    """Return losses and gradients, by autograd and by hand, as one matrix each.

    By hand they are written over garbage, twice, the second time for other rows.
    """
    flat = FlatParameters(loss.network.named_parameters())
    losses = loss.training_loss(rows)
    flat.differentiate(losses)
    expected = torch.cat([flat.gradients, losses.detach().unsqueeze(1)], 1)
    by_hand = ClosedFormGradient(loss, flat.gradient_views())
    with torch.inference_mode():
        for batch in (some_rows(*rows.shape, seed=9), rows):
            flat.gradients.fill_(math.nan)
            # Not a matter of gradients: the loop never touches it.
            flat.gradient_views()["head.log_spread"].zero_()
            found = by_hand(batch, True)
    return expected, torch.cat([flat.gradients, found.unsqueeze(1)], 1)


def assert_close(found, expected, tolerance):
    size = torch.linalg.vector_norm(expected, dim=1)
    error = torch.linalg.vector_norm(found - expected, dim=1)
    assert (error <= tolerance * size).all(), error / size
    # Entries one by one, against the largest.
    largest = expected.abs().max()
    torch.testing.assert_close(
        found, expected, rtol=10 * tolerance, atol=float(tolerance * largest)
    )


VARIANTS = [
    {"hidden": (6,)},
    {"hidden": (7, 5)},
    {"hidden": (5, 8, 6)},
    {"hidden": (32, 33, 3)},
    {"n_members": 1},
    {"n_members": 3, "hidden": (6,)},
    {"bins": True},
    {"n_cosines": 3},
    {"bins": True, "n_cosines": 2, "n_members": 3},
    {"bins": True, "n_cosines": 2, "n_members": 1, "hidden": (4,)},
    {"family": Normal("spherical")},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)]
)
def test_losses_and_gradients_are_those_of_autograd(
    variant, weighted, dtype, tolerance
):
    loss = objective(network(**variant), weighted=weighted, dtype=dtype)
    n_members = variant.get("n_members", 2)
    expected, found = both(loss, some_rows(n_members))
    assert found.dtype == dtype
    assert_close(found, expected, tolerance)


PRIORS = [
    MixturePrior(),
    MixturePrior(scales=InverseGamma(2.5, 7.0)),
    MixturePrior(weights=Dirichlet(0.2)),
    MixturePrior(Dirichlet([30.0, 1.0, 0.5, 4.0]), InverseGamma(0.1, 0.02)),
]


@pytest.mark.parametrize("prior", PRIORS, ids=str)
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("done", [0.0, 0.13, 1.0])
def test_priors_and_temperatures_are_those_of_autograd(prior, temperature, done):
    model = network(n_members=2, temperature=temperature)
    loss = objective(model, weighted=True, prior=prior, heat=5.0)
    loss.cool(done)
    expected, found = both(loss, some_rows(2))
    assert_close(found, expected, 1e-12)


def test_the_temperature_of_each_step_counts():
    loss = objective(network(), prior=PRIORS[-1], heat=4.0)
    flat = FlatParameters(loss.network.named_parameters())
    by_hand = ClosedFormGradient(loss, flat.gradient_views())
    rows = some_rows(2)
    for done in (0.0, 0.1, 0.2, 0.05):
        loss.cool(done)
        flat.differentiate(loss.training_loss(rows))
        expected = flat.gradients.clone()
        with torch.no_grad():
            by_hand(rows, False)
        assert_close(flat.gradients, expected, 1e-12)


@pytest.mark.parametrize("n_numbers", [1, 100, 160, 10**9])
@pytest.mark.parametrize("n_members", [1, 2, 5])
def test_members_in_groups_are_members(monkeypatch, n_numbers, n_members):
    monkeypatch.setattr(closed_form, "_GROUP_NUMBERS", n_numbers)
    loss = objective(network(n_members, bins=True, n_cosines=2), weighted=True)
    expected, found = both(loss, some_rows(n_members))
    assert_close(found, expected, 1e-12)


def test_large_products_may_go_elsewhere(monkeypatch):
    monkeypatch.setattr(products, "_LARGE", 1)
    model = network(3, bins=True, n_cosines=2)
    expected, found = both(objective(model, dtype=torch.float32), some_rows(3))
    assert_close(found, expected, 1e-5)


@pytest.mark.parametrize("bins", [False, True])
def test_columns_may_be_made_batch_by_batch(monkeypatch, bins):
    monkeypatch.setattr(closed_form, "_TABLE_BYTES", 0)
    loss = objective(network(bins=bins, n_cosines=2), weighted=True)
    expected, found = both(loss, some_rows(2))
    assert_close(found, expected, 1e-12)


def test_rows_may_come_from_elsewhere():
    class Elsewhere:
        def __init__(self, x):
            self.x = x

        def __len__(self):
            return len(self.x)

        def __getitem__(self, rows):
            return self.x[rows]

    loss = objective(network(bins=True))
    loss.x = Elsewhere(loss.x)
    expected, found = both(loss, some_rows(2))
    assert_close(found, expected, 1e-12)


def test_batches_of_several_sizes_take_turns():
    loss = objective(network())
    flat = FlatParameters(loss.network.named_parameters())
    by_hand = ClosedFormGradient(loss, flat.gradient_views())
    for n_batch in (11, 4, 1, 11, 4):
        rows = some_rows(2, n_batch, seed=n_batch)
        losses = loss.training_loss(rows)
        flat.differentiate(losses)
        expected = flat.gradients.clone()
        with torch.no_grad():
            found = by_hand(rows, True)
        assert_close(flat.gradients, expected, 1e-12)
        torch.testing.assert_close(found, losses.detach(), rtol=1e-12, atol=0)


def test_the_gradient_does_not_depend_on_whether_the_loss_is_wanted():
    loss = objective(network(bins=True, n_cosines=2), weighted=True)
    flat = FlatParameters(loss.network.named_parameters())
    by_hand = ClosedFormGradient(loss, flat.gradient_views())
    with torch.no_grad():
        assert by_hand(some_rows(2), True) is not None
        expected = flat.gradients.clone()
        assert by_hand(some_rows(2), False) is None
    assert torch.equal(flat.gradients, expected)


@pytest.mark.parametrize("n_rows", [1, 7, 23])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_held_out_rows_are_judged_like_by_the_network(monkeypatch, n_rows, temperature):
    monkeypatch.setattr(closed_form, "_ROWS_TOGETHER", 9)
    monkeypatch.setattr(closed_form, "_GROUP_NUMBERS", 60)
    loss = objective(network(5, bins=True, n_cosines=2, temperature=temperature))
    flat = FlatParameters(loss.network.named_parameters())
    by_hand = ClosedFormGradient(loss, flat.gradient_views())
    rows = some_rows(5, n_rows)
    log_spread = randn(5, 4, seed=8)
    with torch.no_grad():
        expected = loss.log_prob_of_spreads(rows, log_spread)
        found = by_hand.log_prob_of_spreads(rows, log_spread)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        # The loop asks for it by way of the objective, which compares it first.
        expected = loss.held_out_loss(rows)
        assert loss.compared
        # Every judgement moves the spread.
        loss.network.head.log_spread.zero_()
        found = loss.held_out_loss(rows)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_a_wrong_judgement_by_hand_is_dropped():
    loss, plain = objective(network()), objective(network())
    loss.by_hand = lambda: lambda *args: 1.001 * loss.log_prob_of_spreads(*args)
    rows = some_rows(2)
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(loss.held_out_loss(rows), plain.held_out_loss(rows))
    assert loss.by_hand() is None


def test_the_gradient_follows_the_parameters():
    loss = objective(network())
    flat = FlatParameters(loss.network.named_parameters())
    by_hand = ClosedFormGradient(loss, flat.gradient_views())
    rows = some_rows(2)
    for _ in range(2):
        flat.values.mul_(0.9)
        flat.differentiate(loss.training_loss(rows))
        expected = flat.gradients.clone()
        with torch.no_grad():
            by_hand(rows, False)
        assert_close(flat.gradients, expected, 1e-12)


def test_the_gradient_agrees_with_finite_differences():
    loss = objective(network(1, hidden=(4,), bins=True, n_cosines=1), weighted=True)
    flat = FlatParameters(loss.network.named_parameters())
    by_hand = ClosedFormGradient(loss, flat.gradient_views())
    rows = some_rows(1)
    with torch.no_grad():
        by_hand(rows, False)
        gradient = flat.gradients[0].clone()
        step = 1e-5
        for position in range(flat.values.shape[1]):
            losses = []
            for sign in (1.0, -1.0):
                flat.values[0, position] += sign * step
                losses.append(float(by_hand(rows, True)))
                flat.values[0, position] -= sign * step
            difference = (losses[0] - losses[1]) / (2.0 * step)
            assert float(gradient[position]) == pytest.approx(difference, abs=1e-7)


@pytest.mark.parametrize("target", [1e3, 1e6])
def test_a_target_in_the_far_tail_leaves_the_gradient_finite(target):
    loss = objective(network())
    loss.y.fill_(target)
    expected, found = both(loss, some_rows(2))
    assert found.isfinite().all()
    assert_close(found, expected, 1e-9)


def test_two_hundred_steps_by_hand_end_where_autograd_ends():
    ends, histories = [], []
    for makes in (True, False):
        loss = objective(network(bins=True, n_cosines=2), weighted=True)
        calls = []

        def counting(rows, calls=calls, loss=loss):
            calls.append(1)
            return loss.training_loss(rows)

        source = generator(4)
        descent = Descent(
            loss.network.named_parameters(),
            counting,
            loss.held_out_loss,
            split_rows(2, N_ROWS, 0.2, source),
            Settings(50, 12, 0.005, weight_decay=0.01, n_iter_no_change=50),
            source,
            by_hand=(lambda g, loss=loss: ClosedFormGradient(loss, g))
            if makes
            else None,
        )
        descent.run()
        history = descent.end()
        assert len(calls) == (1 if makes else 200)
        ends.append(torch.cat([p.flatten() for p in loss.network.parameters()]))
        histories.append(history)
    torch.testing.assert_close(*ends, rtol=0, atol=1e-9)
    assert histories[0].loss == pytest.approx(histories[1].loss, abs=1e-9)
    assert histories[0].held_out == pytest.approx(histories[1].held_out, abs=1e-9)


def test_the_standard_network_is_known_in_closed_form():
    for variant in [*VARIANTS, {"temperature": 2.0}]:
        assert ClosedFormGradient.applies(network(**variant), STANDARD)
    for prior in PRIORS:
        assert ClosedFormGradient.applies(network(), prior)


@pytest.mark.parametrize(
    "variant",
    [
        {"family": MultivariateNormal("full")},
        {"family": MultivariateNormal("tied")},
        {"n_outputs": 2},
        {"family": Normal("spherical"), "n_outputs": 2},
        {"activation": "relu"},
        {"hidden": ()},
    ],
    ids=str,
)
def test_other_networks_are_left_to_autograd(variant):
    assert not ClosedFormGradient.applies(network(**variant), STANDARD)


@pytest.mark.parametrize(
    "prior",
    [
        MixturePrior(scales=LogNormalScale(0.3)),
        MixturePrior(scales=InverseGamma(), units=torch.ones(1)),
    ],
    ids=str,
)
def test_other_priors_are_left_to_autograd(prior):
    assert not ClosedFormGradient.applies(network(), prior)


def test_priors_that_only_begin_alike_are_left_to_autograd():
    class Stricter(InverseGamma):
        def log_prob(self, std):
            return 2.0 * super().log_prob(std)

    class Sparser(Dirichlet):
        def log_prob(self, log_weights):
            return 2.0 * super().log_prob(log_weights)

    for prior in (MixturePrior(scales=Stricter()), MixturePrior(weights=Sparser(0.5))):
        assert not ClosedFormGradient.applies(network(), prior)


def test_other_modules_are_left_to_autograd(monkeypatch):
    assert not ClosedFormGradient.applies(nn.Identity(), STANDARD)
    model = network()
    model.block = nn.Identity()
    assert not ClosedFormGradient.applies(model, STANDARD)
    assert not ClosedFormGradient.applies(network().to("meta"), STANDARD)
    # A future torch without the private functions.
    monkeypatch.setattr(closed_form, "AVAILABLE", False)
    assert not ClosedFormGradient.applies(network(), STANDARD)
