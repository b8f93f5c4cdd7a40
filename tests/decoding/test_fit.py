"""The training loop: parts of the loss, held-out rows, recovery, sparse steps."""

import math

import torch

from skmdn import em
from skmdn.decoding.fit import DecoderTraining, Plan, SparseAdam
from skmdn.decoding.objective import Joint
from skmdn.decoding.prior import CodePrior, LatentBlock
from skmdn.learning.steps import Settings
from skmdn.priors import LogNormalScale, Softball
from tests.decoding.helpers import generator, joint_of, mixture, normal, values_of

PRIORS = em.Priors(None, Softball(3.0), LogNormalScale(0.5))


def training(n_held_out=0, max_iter=30, rate=1e-2, code_noise=0.0, **kwargs):
    """Return a training on forty rows, and where its codes begin."""
    joint, _ = joint_of(("gaussian", "poisson"))
    prior = CodePrior([LatentBlock(0, 2, mixture("diag"), PRIORS)])
    joint = Joint(joint.network, joint.blocks, prior)
    x = torch.cat([values_of("gaussian", 40), values_of("poisson", 40)], 1)
    table = joint.blocks.table(x)
    for parameter in (*joint.network.parameters(), *joint.blocks.parameters()):
        parameter.requires_grad_(False)
    rows = torch.arange(40)
    plan = Plan(Settings(max_iter, 10, rate), 0.05, 0.05, code_noise)
    split = rows[n_held_out:], rows[:n_held_out]
    codes = normal(40, 2, seed=3)
    made = DecoderTraining(
        joint, codes, table, None, split, plan, generator(), **kwargs
    )
    return made, codes, table


def objective(joint, codes, table):
    """Return minus the joint log density of rows, codes and mixture."""
    rows = joint.value(codes, table) - joint.blocks.constant(table)
    return float(rows.sum()) - joint.prior.log_prior()


def test_the_objective_falls_to_what_its_parts_say():
    made, codes, table = training(max_iter=60)
    before = objective(made.joint, codes, table)
    joint = made.run()
    after = objective(joint, codes, table)
    assert after < before - 20.0
    losses = made.losses
    assert losses.best_epoch == 60
    # The parts are those of the batches of the last epoch, whose steps are short.
    assert abs(losses.total() - after / 40) < 0.05
    assert math.isclose(losses.prior[-1], -joint.prior.log_prior() / 40)


def test_held_out_rows_choose_the_epoch():
    made, codes, table = training(n_held_out=10, max_iter=30)
    joint = made.run()
    best = made.losses.held_out[made.losses.best_epoch - 1]
    assert best == min(made.losses.held_out)
    held = torch.arange(10)
    part = table.of(held)
    value = (joint.value(codes[held], part) - joint.blocks.constant(part)).mean()
    assert math.isclose(float(value), best, rel_tol=1e-9)


def test_patience_ends_the_fit():
    made, *_ = training(n_held_out=10, max_iter=400, rate=0.05)
    made.run()
    assert len(made.losses.held_out) < 400


def test_numbers_that_are_not_finite_are_taken_back():
    made, codes, table = training(max_iter=20, rate=1e150)
    made.run()
    assert made.losses.n_recoveries > 0
    assert made.losses.gave_up
    assert bool(codes.isfinite().all())
    assert math.isfinite(objective(made.joint, codes, table))


def test_the_caller_can_stop_it():
    made, *_ = training(on_epoch=lambda epoch, loss, held_out: epoch == 3)
    made.run()
    assert len(made.losses.latent) == 3


def test_noise_in_the_codes_changes_only_what_the_decoder_sees():
    plain, codes, _ = training(max_iter=1)
    noisy, other, _ = training(max_iter=1, code_noise=0.5)
    plain.run()
    noisy.run()
    assert math.isclose(plain.losses.latent[0], noisy.losses.latent[0], rel_tol=0.05)
    assert not torch.equal(codes, other)


def test_steps_of_some_rows_are_those_of_adam():
    values, gradient = normal(5, 2), normal(5, 2, seed=1)
    reference = values[1:3].clone().requires_grad_(True)
    ours, rows = SparseAdam(values.clone()), torch.tensor([1, 2])
    theirs = torch.optim.Adam([reference], lr=0.1, betas=(0.9, 0.99))
    for step in range(3):
        reference.grad = gradient[1:3] * (step + 1)
        theirs.step()
        ours.step(rows, gradient[1:3] * (step + 1), 0.1)
    torch.testing.assert_close(ours.values[1:3], reference.detach())
    torch.testing.assert_close(ours.values[[0, 3, 4]], values[[0, 3, 4]])
