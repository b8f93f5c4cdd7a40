"""The optimisation loop on losses whose minimum is known."""

import itertools
import math

import pytest
import torch

from skmdn.learning.training import Descent, History, Settings, split_rows


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
    others = {"on_epoch", "on_step", "optimizer_state", "by_hand"} & set(kwargs)
    others = {name: kwargs.pop(name) for name in others}
    generator = torch.Generator().manual_seed(1)
    hold_out = kwargs.pop("hold_out", 0.0)
    descent = Descent(
        [("center", center)],
        loss,
        kwargs.pop("held_out_loss", loss),
        split_rows(len(center), n_rows, hold_out, generator),
        Settings(**{**settings, **kwargs}),
        generator,
        **others,
    )
    descent.run()
    return descent.end()


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


def test_parameters_own_their_memory_after_training():
    center, loss, _ = quadratic()
    run(center, loss, max_iter=2)
    assert center.is_leaf
    assert center.is_contiguous()
    assert center.untyped_storage().nbytes() == center.numel() * 8


# What the loop judges, and when.


def judged_epochs(max_iter, n_rows=40, batch_size=40):
    """Return how often held-out rows were judged in each epoch."""
    center, loss, _ = quadratic(1)
    counts, judged = [], []

    def judging(rows):
        judged.append(1)
        return loss(rows)

    run(
        center,
        loss,
        n_rows=n_rows,
        batch_size=batch_size,
        held_out_loss=judging,
        hold_out=0.1,
        max_iter=max_iter,
        n_iter_no_change=max_iter,
        on_epoch=lambda *_: counts.append(len(judged)),
    )
    counts = [1, *counts]  # the state before training
    return [after - before for before, after in itertools.pairwise(counts)]


def test_every_epoch_is_judged_once_when_there_are_sixty():
    assert judged_epochs(60) == [1] * 60


def test_few_epochs_are_judged_several_times_each():
    # 36 rows in 12 steps: four judgements in each of ten epochs, never more than steps.
    assert judged_epochs(10, batch_size=3) == [4] * 10
    assert judged_epochs(2, batch_size=3) == [12] * 2


def test_of_many_epochs_some_are_judged_and_the_first_and_the_last_always():
    judged = judged_epochs(305)
    assert judged[:20] == [1] * 20
    assert judged[-1] == 1
    assert 40 <= sum(judged) <= 65
    assert max(judged) == 1


def test_patience_shorter_than_the_time_between_judgements_is_no_reason_to_stop():
    position = torch.nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))
    history = run(
        position,
        lambda rows: -position.sum(1),
        held_out_loss=lambda rows: -position.sum(1),
        hold_out=0.1,
        max_iter=400,
        n_iter_no_change=4,
        decay=False,
    )
    assert len(history.loss) == 400


def test_batches_are_equal_and_cover_all_rows_but_a_few():
    center, loss, _ = quadratic(1)
    batches = []

    def recording(rows):
        batches.append(rows[0].tolist())
        return loss(rows)

    run(center, recording, batch_size=11, max_iter=1)
    assert [len(batch) for batch in batches] == [10, 10, 10, 10]
    assert len({row for batch in batches for row in batch}) == 40
    batches.clear()
    run(center, recording, batch_size=13, max_iter=1)
    assert [len(batch) for batch in batches] == [13, 13, 13]
    assert len({row for batch in batches for row in batch}) == 39


def test_a_split_is_a_partition_and_none_are_held_out_of_none():
    generator = torch.Generator().manual_seed(0)
    rows, held_out = split_rows(3, 50, 0.2, generator)
    assert rows.shape == (3, 40)
    assert held_out.shape == (3, 10)
    both = torch.cat([rows, held_out], 1).sort(1).values
    assert (both == torch.arange(50)).all()
    assert (held_out[0].sort().values != held_out[1].sort().values).any()
    rows, held_out = split_rows(2, 5, 0.0, generator)
    assert rows.tolist() == [list(range(5))] * 2
    assert held_out.shape == (2, 0)


@pytest.mark.parametrize(
    ("n_rows", "share", "expected"),
    [(2, 0.999, 1), (3, 0.001, 1), (10, 0.25, 2), (200_000, 0.5, 10_000)],
)
def test_a_split_leaves_rows_on_either_side(n_rows, share, expected):
    generator = torch.Generator().manual_seed(0)
    rows, held_out = split_rows(1, n_rows, share, generator)
    assert held_out.shape[1] == expected
    assert rows.shape[1] == n_rows - expected


def test_histories_of_loops_are_averaged():
    one = History(
        [4.0, 2.0, 1.0],
        [3.0, 2.0, 1.0],
        torch.tensor([1.0]),
        torch.tensor([3]),
        n_recoveries=2,
    )
    two = History(
        [2.0],
        [1.0],
        torch.tensor([0.5]),
        torch.tensor([1]),
        n_recoveries=1,
        gave_up=True,
    )
    both = History.joined([one, two])
    assert both.loss == [3.0, 2.0, 1.5]
    assert both.held_out == [2.0, 1.5, 1.0]
    assert both.best.tolist() == [1.0, 0.5]
    assert both.best_epoch.tolist() == [3, 1]
    assert both.n_recoveries == 3
    assert both.gave_up
    alone = History.joined([History([1.0, 2.0])])
    assert alone.loss == [1.0, 2.0]
    assert alone.held_out == []
    assert alone.best is None
    assert not alone.gave_up


def by_hand_for(center, data):
    """Return the gradient of :func:`quadratic` in closed form."""

    def make(gradients):
        def fill(rows, with_loss):
            difference = center.detach().unsqueeze(1) - data[rows]
            gradients["center"].copy_(2.0 * difference.mean(1))
            return difference.square().sum(-1).mean(1) if with_loss else None

        return fill

    return make


def test_a_gradient_by_hand_leads_where_autograd_does():
    expected, loss, data = quadratic()
    reference = run(expected, loss, batch_size=8, max_iter=20)
    center, loss, data = quadratic()
    calls = []

    def counting(rows):
        calls.append(1)
        return loss(rows)

    history = run(
        center,
        counting,
        batch_size=8,
        max_iter=20,
        by_hand=by_hand_for(center, data),
    )
    assert len(calls) == 1
    torch.testing.assert_close(center.data, expected.data, rtol=0, atol=1e-12)
    assert history.loss == pytest.approx(reference.loss, rel=1e-12)


@pytest.mark.parametrize("wrong", ["gradient", "loss", "none"])
def test_a_gradient_by_hand_that_disagrees_is_dropped(wrong):
    expected, loss, data = quadratic()
    reference = run(expected, loss, batch_size=8, max_iter=20)
    center, loss, data = quadratic()
    right = by_hand_for(center, data)

    def make(gradients):
        fill = right(gradients)

        def spoiled(rows, with_loss):
            losses = fill(rows, with_loss)
            if wrong == "gradient":
                gradients["center"][1] *= 1.001
            if wrong == "loss":
                return losses + 1e-6
            return None if wrong == "none" else losses

        return spoiled

    history = run(center, loss, batch_size=8, max_iter=20, by_hand=make)
    assert torch.equal(center.data, expected.data)
    assert history.loss == reference.loss


def test_every_step_is_announced_with_the_share_that_is_done():
    center, loss, _ = quadratic()
    shares = []
    run(center, loss, max_iter=5, batch_size=10, on_step=shares.append)
    assert shares == [step / 20 for step in range(20)]


def test_a_longer_run_does_not_take_back_what_was_done():
    center, loss, _ = quadratic()
    shares = []
    source = torch.Generator().manual_seed(1)
    rows = split_rows(3, 40, 0.0, source)
    settings = Settings(4, 40, 0.05)
    descent = Descent(
        [("center", center)], loss, loss, rows, settings, source, on_step=shares.append
    )
    descent.run(2)
    descent.prolong(8)
    descent.run()
    descent.end()
    assert shares == [step / 4 for step in range(8)]


def test_an_average_of_the_steps_is_what_counts():
    center, loss, data = quadratic()
    history = run(center, loss, batch_size=4, averaging=0.99, decay=False)
    expected = data.mean(0).expand(3, 2)
    torch.testing.assert_close(center.data, expected, rtol=0, atol=0.05)
    # The last state itself is further away.
    last = history.optimizer_state["values"]
    assert (last - expected).norm() > 2.0 * (center.data - expected).norm()


def test_a_member_that_was_best_early_waits_less_long():
    center, loss, _ = quadratic(1)
    settings = {"hold_out": 0.25, "n_iter_no_change": 40, "max_iter": 200}

    def worse_and_worse(rows):
        # The first judgement is the best.
        judged.append(len(judged))
        return torch.tensor([float(len(judged))], dtype=torch.float64)

    judged = []
    patient = run(center, loss, held_out_loss=worse_and_worse, **settings)
    judged = []
    hasty = run(
        center, loss, held_out_loss=worse_and_worse, least_patience=6, **settings
    )
    assert len(patient.loss) == 40
    assert len(hasty.loss) == 6
