"""The descent on parabolas: where it ends, when it stops, what it survives."""

import math

import pytest
import torch

from skmdn.covering.minimise import Steps, minimise
from tests.helpers import generator, tensor


def noisy(values, noise, source):
    step = noise * torch.randn((), dtype=torch.float64, generator=source)
    return (values - tensor([1.0, -2.0])).square().sum() + step * values.sum()


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_it_finds_the_lowest_point(noise):
    values, source = torch.zeros(2).double().requires_grad_(), generator()
    record = minimise(lambda: noisy(values, noise, source), [values], Steps(400, 0.1))
    torch.testing.assert_close(values.detach(), tensor([1.0, -2.0]), atol=0.05, rtol=0)
    assert len(record.losses) == 400
    assert not record.converged


def test_it_stops_when_the_loss_has_stopped_falling():
    values, source = torch.zeros(2).double().requires_grad_(), generator()
    steps = Steps(4000, 0.1, tol=1e-3, n_iter_no_change=40)
    record = minimise(lambda: noisy(values, 0.1, source), [values], steps)
    assert record.converged
    assert len(record.losses) < 600
    torch.testing.assert_close(values.detach(), tensor([1.0, -2.0]), atol=0.05, rtol=0)


def test_it_comes_back_from_nan_with_a_lower_rate():
    values, seen = torch.zeros(2).double().requires_grad_(), []

    def loss():
        seen.append(values.detach().clone())
        fails = len(seen) in (30, 31)
        return noisy(values, 0.0, generator()) * (math.nan if fails else 1.0)

    record = minimise(loss, [values], Steps(300, 0.1))
    assert record.n_recoveries == 2
    assert not record.gave_up
    # The state of the twentieth step, before the averages.
    assert torch.equal(seen[30], seen[31])
    assert math.isnan(record.losses[29])
    torch.testing.assert_close(values.detach(), tensor([1.0, -2.0]), atol=0.05, rtol=0)


def test_it_gives_up_and_keeps_the_last_good_state():
    values = torch.zeros(2).double().requires_grad_()
    record = minimise(lambda: values.sum() * math.nan, [values], Steps(100, 0.1))
    assert record.gave_up
    assert len(record.losses) == record.n_recoveries < 100
    assert torch.equal(values.detach(), torch.zeros(2).double())


def test_gradients_are_shortened_and_steps_reported():
    values, reports = torch.zeros(2).double().requires_grad_(), []
    steps = Steps(3, 0.1, clip_norm=1e-3, report=lambda *args: reports.append(args))
    minimise(lambda: 1e6 * noisy(values, 0.0, generator()), [values], steps)
    assert float(values.grad.norm()) == pytest.approx(1e-3)
    assert [step for step, _ in reports] == [1, 2, 3]
    assert reports[0][1] == pytest.approx(5e6)


def test_no_step_changes_nothing():
    values = torch.zeros(2).double().requires_grad_()
    assert minimise(lambda: values.sum(), [values], Steps(0, 0.1)).losses == []
    assert torch.equal(values.detach(), torch.zeros(2).double())
