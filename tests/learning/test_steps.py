"""Steps of the loop: the matrix of parameters, Adam, decay, clipping, gradients."""

import pytest
import torch

from skmdn.learning import steps
from skmdn.learning.steps import Differentiator, FlatParameters, Optimizer, Settings
from tests.helpers import generator, randn


def named(n_members=2):
    """Return parameters of two layers, weights and biases."""
    shapes = {
        "a.weight": (n_members, 3, 4),
        "a.bias": (n_members, 1, 4),
        "b.weight": (n_members, 4, 2),
        "b.bias": (n_members, 1, 2),
    }
    return [
        (name, torch.nn.Parameter(randn(*shape, seed=seed)))
        for seed, (name, shape) in enumerate(shapes.items())
    ]


def settings(**kwargs):
    steady = {"max_iter": 10, "batch_size": 8, "learning_rate": 0.1}
    return Settings(**{**steady, "warm_up": 0.0, "decay": False, **kwargs})


# The matrix.


def test_a_row_of_the_matrix_is_a_members_parameters():
    parameters = named()
    before = {name: value.detach().clone() for name, value in parameters}
    flat = FlatParameters(parameters)
    assert flat.values.shape == flat.gradients.shape == (2, 12 + 4 + 8 + 2)
    order = ("a.bias", "a.weight", "b.bias", "b.weight")
    expected = torch.cat([before[name].flatten(1) for name in order], 1)
    assert torch.equal(flat.values, expected)
    flat.values.zero_()
    assert all((value == 0.0).all() for _, value in parameters)
    assert flat.decayed.tolist() == [0.0] * 4 + [1.0] * 12 + [0.0] * 2 + [1.0] * 8


def test_only_a_bias_like_a_row_of_weights_is_moved():
    shapes = {"a.weight": (2, 4, 3), "a.bias": (2, 1, 4), "b.bias": (2, 1, 3)}
    flat = FlatParameters((n, torch.full(s, len(n) * s[1])) for n, s in shapes.items())
    assert flat.values[0].tolist() == [32.0] * 12 + [6.0] * 7


def test_gradient_views_are_the_matrix():
    parameters = named()
    flat = FlatParameters(parameters)
    views = flat.gradient_views()
    assert list(views) == [name for name, _ in parameters]
    for position, (name, value) in enumerate(parameters):
        assert views[name].shape == value.shape
        views[name].fill_(position + 1.0)
    assert flat.gradients[0].tolist() == [2.0] * 4 + [1.0] * 12 + [4.0] * 2 + [3.0] * 8
    flat.gradients.zero_()
    assert all((view == 0.0).all() for view in views.values())


def test_a_members_loss_is_differentiated_by_its_own_parameters():
    parameters = named()
    frozen = torch.nn.Parameter(torch.ones(2, 1), requires_grad=False).double()
    flat = FlatParameters([*parameters, ("spread", frozen)])
    values = dict(parameters)
    losses = sum(value.sum((1, 2)) for value in values.values())
    losses = losses + values["a.weight"].square().sum((1, 2))
    flat.differentiate(losses)
    views = flat.gradient_views()
    expected = 2.0 * values["a.weight"].detach() + 1.0
    torch.testing.assert_close(views["a.weight"], expected)
    assert (views["b.bias"] == 1.0).all()
    assert (views["spread"] == 0.0).all()


def test_released_parameters_own_their_memory():
    parameters = named()
    flat = FlatParameters(parameters)
    flat.release()
    flat.values.zero_()
    for _, value in parameters:
        assert value.is_contiguous()
        assert value.untyped_storage().nbytes() == value.numel() * 8
        assert (value != 0.0).all()


# Adam.


@pytest.mark.parametrize(
    "step", [steps.plain_adam_step, steps.fused_adam_step, steps.adam_step]
)
@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float64, 1e-14), (torch.float32, 1e-6)]
)
def test_adam_agrees_with_torch(step, dtype, atol):
    start = randn(3, 5).to(dtype)
    gradients = randn(20, 3, 5, seed=1).to(dtype)
    reference = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([reference], lr=0.01, betas=(0.9, 0.99))
    values = start.clone()
    state = {
        "mean": torch.zeros_like(values),
        "square": torch.zeros_like(values),
        "count": torch.zeros(()),
    }
    for gradient in gradients:
        reference.grad = gradient
        optimizer.step()
        state["count"] += 1
        step(values, gradient, state, 0.01)
    torch.testing.assert_close(values, reference.data, rtol=0, atol=atol)


def test_the_rate_warms_up_and_decays_along_a_cosine():
    flat = FlatParameters(named())
    optimizer = Optimizer(
        flat, settings(learning_rate=2.0, warm_up=0.1, decay=True), 100, None
    )
    rates = []
    for _ in range(100):
        rates.append(optimizer.rate())
        optimizer.n_done += 1
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(2.0)
    assert rates[54] == pytest.approx(1.0, rel=1e-2)
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)


def test_without_decay_the_rate_stays_after_the_warm_up():
    optimizer = Optimizer(FlatParameters(named()), settings(warm_up=0.2), 10, None)
    rates = []
    for _ in range(10):
        rates.append(optimizer.rate())
        optimizer.n_done += 1
    assert rates == pytest.approx([0.05] + [0.1] * 9)


# Decay.


@pytest.mark.parametrize("n_steps", [1, 7, 8, 9, 20])
def test_decay_without_a_gradient_is_that_of_every_eighth_step(n_steps):
    """Eight decays of size e at once are 1 - 8 e; settling pays what is left."""
    parameters = named()
    before = {name: value.detach().clone() for name, value in parameters}
    flat = FlatParameters(parameters)
    optimizer = Optimizer(flat, settings(weight_decay=0.01), n_steps, None)
    for _ in range(n_steps):
        optimizer.step()
    optimizer.settle()
    optimizer.settle()
    full, rest = divmod(n_steps, 8)
    shrink = (1.0 - 8 * 0.001) ** full * (1.0 - rest * 0.001)
    for name, value in parameters:
        factor = shrink if name.endswith("weight") else 1.0
        torch.testing.assert_close(
            value.data, factor * before[name], rtol=1e-13, atol=0
        )
    # To first order it is the decay of every step.
    assert shrink == pytest.approx(0.999**n_steps, abs=n_steps * 8 * 0.001**2)


def test_owed_decay_differs_from_torch_by_second_order_only():
    start = randn(2, 5)
    gradients = randn(40, 2, 5, seed=1)
    differences = []
    for rate in (1e-2, 1e-3):
        reference = torch.nn.Parameter(start.clone())
        ours = torch.nn.Parameter(start.clone())
        torch_adamw = torch.optim.AdamW(
            [reference], lr=rate, betas=(0.9, 0.99), weight_decay=0.1
        )
        flat = FlatParameters([("weight", ours)])
        optimizer = Optimizer(
            flat,
            settings(learning_rate=rate, weight_decay=0.1, max_norm=1e9),
            40,
            None,
        )
        for gradient in gradients:
            reference.grad = gradient.clone()
            torch_adamw.step()
            flat.gradients.copy_(gradient)
            optimizer.step()
        optimizer.settle()
        differences.append(float((ours - reference).detach().abs().max()))
    assert differences[0] < 8 * 40 * (1e-2 * 0.1) * 1e-2
    # A tenth of the rate: a hundredth of the difference.
    assert differences[1] < 0.02 * differences[0]


def test_no_decay_turns_a_weight_around():
    parameters = [("weight", torch.nn.Parameter(torch.ones(1, 2)))]
    flat = FlatParameters(parameters)
    optimizer = Optimizer(flat, settings(weight_decay=100.0), 3, None)
    optimizer.step()
    optimizer.settle()
    assert (flat.values == 0.0).all()


# Clipping and recovery.


def test_a_gradient_is_shortened_member_by_member():
    flat = FlatParameters(named(3))
    optimizer = Optimizer(flat, settings(max_norm=5.0), 1, None)
    gradients = randn(3, 26, seed=5)
    gradients *= torch.tensor([[1e-3], [1.0], [1e8]]) / gradients.norm(
        dim=1, keepdim=True
    )
    flat.gradients.copy_(gradients)
    optimizer.step()
    assert torch.equal(flat.gradients[:2], gradients[:2])
    torch.testing.assert_close(flat.gradients[2], gradients[2] * 5.0 / 1e8)


def test_a_member_that_is_lost_does_not_spoil_the_others_step():
    flat = FlatParameters(named())
    optimizer = Optimizer(flat, settings(), 1, None)
    flat.gradients.copy_(torch.ones(2, 26))
    flat.gradients[0] = torch.nan
    before = flat.values.clone()
    optimizer.step()
    assert flat.values[0].isnan().all()
    torch.testing.assert_close(flat.values[1], before[1] - 0.1)


def test_recovery_halves_the_rate_and_forgets_the_members_momentum():
    flat = FlatParameters(named())
    optimizer = Optimizer(flat, settings(), 10, None)
    flat.gradients.copy_(torch.ones(2, 26))
    optimizer.step()
    rate = optimizer.rate()
    optimizer.recover(torch.tensor([True, False]))
    assert optimizer.rate() == 0.5 * rate
    for name in ("mean", "square"):
        assert (optimizer.state[name][0] == 0.0).all()
        assert (optimizer.state[name][1] > 0.0).all()


# The way to the gradient.


def quadratic_differentiator(by_hand=None):
    parameters = named()
    flat = FlatParameters(parameters)
    weights = dict(parameters)
    calls = []

    def loss(rows):
        calls.append(1)
        return sum(value.square().sum((1, 2)) for value in weights.values())

    return flat, Differentiator(flat, loss, by_hand and by_hand(weights)), calls


def by_hand(factor):
    """Return the gradient of the sum of squares, times a factor."""

    def for_weights(weights):
        def make(gradients):
            def fill(rows, with_loss):
                for name, gradient in gradients.items():
                    gradient.copy_(2.0 * factor * weights[name].detach())
                return sum(v.detach().square().sum((1, 2)) for v in weights.values())

            return fill

        return make

    return for_weights


ROWS = torch.zeros((2, 1), dtype=torch.long)


def test_the_gradient_by_hand_is_used_once_it_was_compared():
    flat, differentiate, calls = quadratic_differentiator(by_hand(1.0))
    for _ in range(3):
        with differentiate.mode():
            losses = differentiate(ROWS, True)
        torch.testing.assert_close(flat.gradients, 2.0 * flat.values)
        torch.testing.assert_close(losses, flat.values.square().sum(1))
        assert not losses.requires_grad
    assert len(calls) == 1


@pytest.mark.parametrize("factor", [1.0 + 1e-6, 0.0, float("nan")])
def test_a_wrong_gradient_by_hand_is_dropped_and_leaves_no_trace(factor):
    flat, differentiate, calls = quadratic_differentiator(by_hand(factor))
    for _ in range(3):
        with differentiate.mode():
            losses = differentiate(ROWS, False)
        assert torch.equal(flat.gradients, 2.0 * flat.values)
        assert losses is not None
    assert len(calls) == 3
    assert differentiate.by_hand is None


def test_the_optimizer_goes_on_from_a_state():
    gradients = torch.randn(6, 2, 26, generator=generator(3), dtype=torch.float64)
    ends = []
    for cut in (6, 3):
        flat = FlatParameters(named())
        state = None
        for part in gradients.split(cut):
            optimizer = Optimizer(flat, settings(), 6, state)
            for gradient in part:
                flat.gradients.copy_(gradient)
                optimizer.step()
            state = optimizer.state
        ends.append(flat.values)
    assert torch.equal(*ends)


def test_the_average_follows_and_is_shown_for_a_while():
    flat = FlatParameters(named())
    optimizer = Optimizer(flat, settings(averaging=0.9, warm_up_steps=4), 100, None)
    start, expected = flat.values.clone(), flat.values.clone()
    for n in range(1, 31):
        assert optimizer.rate() == pytest.approx(
            settings().learning_rate * min(1.0, n / 4), rel=0.2
        )
        flat.gradients.copy_(flat.values)
        optimizer.step()
        kept = min(0.9, n / (n + 9.0))
        expected = kept * expected + (1 - kept) * flat.values
    own = flat.values.clone()
    with optimizer.averaged():
        torch.testing.assert_close(flat.values, expected)
    assert torch.equal(flat.values, own)
    assert not torch.equal(own, start)
    state = optimizer.left_state()
    again = FlatParameters(named())
    other = Optimizer(again, settings(averaging=0.9, warm_up_steps=4), 100, state)
    assert torch.equal(again.values, own)
    assert torch.equal(other.state["average"], state["average"])
    other.recover(torch.tensor([True, False]))
    assert torch.equal(other.state["average"][0], own[0])
