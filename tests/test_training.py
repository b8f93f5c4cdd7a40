"""The optimisation loop on losses whose minimum is known."""

import math

import pytest
import torch

from skmdn import training
from skmdn.training import Settings, minimise, split_rows


def quadratic(n_members=3, seed=0):
    """Return parameters, a loss whose minimum is the rows' mean, and the rows."""
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    center = torch.nn.Parameter(torch.zeros(n_members, 2, dtype=torch.float64))

    def loss(rows):
        return (data[rows] - center.unsqueeze(1)).square().sum(-1).mean(1)

    return center, loss, data


def run(center, loss, n_rows=40, **kwargs):
    settings = {"max_iter": 300, "batch_size": n_rows, "learning_rate": 0.05}
    others = {"on_epoch", "optimizer_state", "by_hand"} & set(kwargs)
    others = {name: kwargs.pop(name) for name in others}
    generator = torch.Generator().manual_seed(1)
    hold_out = kwargs.pop("hold_out", 0.0)
    return minimise(
        [("center", center)],
        loss,
        kwargs.pop("held_out_loss", loss),
        split_rows(len(center), n_rows, hold_out, generator),
        Settings(**{**settings, **kwargs}),
        generator,
        **others,
    )


def test_full_batches_reach_the_minimum():
    center, loss, data = quadratic()
    history = run(center, loss)
    expected = data.mean(0).expand(3, 2)
    torch.testing.assert_close(center.data, expected, rtol=0, atol=1e-6)
    assert len(history.loss) == 300
    assert history.held_out == []
    assert history.best is None


def test_mini_batches_come_close():
    center, loss, data = quadratic()
    run(center, loss, batch_size=8)
    torch.testing.assert_close(
        center.data, data.mean(0).expand(3, 2), rtol=0, atol=0.05
    )


def test_members_shuffle_and_hold_out_for_themselves():
    center, loss, _ = quadratic()
    held_out_rows, batches = [], []

    def recording(rows):
        batches.append(rows.clone())
        return loss(rows)

    def judging(rows):
        held_out_rows.append(rows)
        return loss(rows)

    run(
        center,
        recording,
        batch_size=9,
        max_iter=2,
        hold_out=0.1,
        held_out_loss=judging,
    )
    assert len(batches) == 8
    for member in range(3):
        held_out = set(held_out_rows[0][member].tolist())
        assert len(held_out) == 4
        for epoch in (batches[:4], batches[4:]):
            seen = torch.cat([rows[member] for rows in epoch]).tolist()
            assert len(set(seen)) == len(seen) == 36
            assert not held_out & set(seen)
    assert (held_out_rows[0][0] != held_out_rows[0][1]).any()
    assert (batches[0] != batches[4]).any()


def test_each_member_ends_in_its_own_best_state():
    position = torch.nn.Parameter(torch.zeros(2, 1, dtype=torch.float64))
    goal = torch.tensor([0.3, 2.0], dtype=torch.float64)

    def uphill(rows):
        return -position.sum(1)

    def distance(rows):
        return (position.sum(1) - goal).abs()

    history = run(
        position,
        uphill,
        held_out_loss=distance,
        hold_out=0.1,
        decay=False,
        warm_up=0.0,
        n_iter_no_change=3,
        max_iter=200,
    )
    torch.testing.assert_close(position.data[:, 0], goal, rtol=0, atol=0.051)
    torch.testing.assert_close(history.best, distance(None).data)
    # The first member stopped early and waited for the second.
    assert 35 < len(history.loss) < 60


def test_the_state_before_training_is_a_candidate():
    center, loss, _ = quadratic()
    history = run(
        center,
        loss,
        held_out_loss=lambda rows: center.square().sum(1),
        hold_out=0.1,
        max_iter=9,
    )
    assert center.data.abs().max() == 0.0
    assert history.best.max() == 0.0


def test_patience_counts_improvements_larger_than_tol():
    position = torch.nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))
    history = run(
        position,
        lambda rows: -position.sum(1),
        held_out_loss=lambda rows: -1e-3 * position.sum(1),
        hold_out=0.1,
        tol=1.0,
        n_iter_no_change=5,
    )
    assert len(history.loss) == 5


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_member_that_is_lost_is_restored_and_the_others_go_on(where):
    center, loss, data = quadratic()
    calls = []

    def failing(rows):
        calls.append(1)
        value = loss(rows)
        if len(calls) == 20:
            spoiled = torch.full_like(value, math.nan if where == "loss" else 0.0)
            if where == "gradient":
                spoiled = torch.sqrt(center[:, 0] * 0.0) * center[:, 1]
            value = torch.where(torch.arange(3) == 1, value + spoiled, value)
        return value

    history = run(center, failing)
    assert history.n_recoveries == 1
    assert not history.gave_up
    torch.testing.assert_close(
        center.data, data.mean(0).expand(3, 2), rtol=0, atol=1e-3
    )


def test_a_loss_that_is_never_finite_is_given_up_at_the_start():
    center, loss, _ = quadratic()
    history = run(center, lambda rows: loss(rows) * math.nan)
    assert history.gave_up
    assert len(history.loss) == 9
    assert center.data.abs().max() == 0.0


def test_the_callback_sees_every_epoch_and_stops():
    center, loss, _ = quadratic()
    seen = []

    def stop(epoch, value, held_out):
        seen.append((epoch, value, held_out))
        return epoch == 4

    history = run(center, loss, on_epoch=stop, hold_out=0.2)
    assert [epoch for epoch, _, _ in seen] == [1, 2, 3, 4]
    assert [value for _, value, _ in seen] == history.loss
    assert [value for _, _, value in seen] == history.held_out


def test_the_rate_warms_up_and_decays_along_a_cosine():
    center, _, _ = quadratic()
    settings = Settings(max_iter=100, batch_size=40, learning_rate=2.0, warm_up=0.1)
    flat = training._FlatParameters([("center", center)])
    optimizer = training._Optimizer(flat, settings, 100, None)
    rates = []
    for _ in range(100):
        rates.append(optimizer.rate())
        optimizer.n_done += 1
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(2.0)
    assert rates[54] == pytest.approx(1.0, rel=1e-2)
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)


def test_weight_decay_shrinks_weights_only():
    weight = torch.nn.Parameter(torch.ones(1, 2, dtype=torch.float64))
    bias = torch.nn.Parameter(torch.ones(1, 2, dtype=torch.float64))
    minimise(
        [("layer.weight", weight), ("layer.bias", bias)],
        lambda rows: 0.0 * (weight + bias).sum(1),
        lambda rows: torch.zeros(1),
        10,
        Settings(
            max_iter=5,
            batch_size=10,
            learning_rate=0.1,
            weight_decay=0.5,
            warm_up=0.0,
            decay=False,
        ),
        torch.Generator().manual_seed(0),
    )
    torch.testing.assert_close(weight.data, torch.full_like(weight, 0.95**5))
    torch.testing.assert_close(bias.data, torch.ones_like(bias))


def test_a_large_gradient_is_shortened_member_by_member():
    center, loss, _ = quadratic(2)
    scale = torch.tensor([1.0, 1e6], dtype=torch.float64)
    run(center, lambda rows: scale * loss(rows))
    torch.testing.assert_close(center.data[0], center.data[1], rtol=0, atol=1e-3)


def test_the_optimizer_goes_on_from_its_state():
    together, loss, _ = quadratic()
    steady = {"decay": False, "warm_up": 0.0}
    run(together, loss, max_iter=20, **steady)
    apart, loss, _ = quadratic()
    history = run(apart, loss, max_iter=10, **steady)
    run(apart, loss, max_iter=10, optimizer_state=history.optimizer_state, **steady)
    torch.testing.assert_close(apart.data, together.data, rtol=0, atol=0)


@pytest.mark.parametrize(
    "step", [training.plain_adam_step, training.fused_adam_step, training.adam_step]
)
def test_adam_agrees_with_torch(step):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    gradients = torch.randn(20, 3, 5, generator=generator, dtype=torch.float64)
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
    torch.testing.assert_close(values, reference.data, rtol=0, atol=1e-14)


def test_parameters_own_their_memory_after_training():
    center, loss, _ = quadratic()
    run(center, loss, max_iter=2)
    assert center.is_leaf
    assert center.is_contiguous()
    assert center.untyped_storage().nbytes() == center.numel() * 8
