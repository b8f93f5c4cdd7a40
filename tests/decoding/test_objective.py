"""The joint density of rows and codes, and its derivatives."""

import pytest
import torch

from skmdn.decoding.table import Table
from tests.decoding.helpers import LAWS, joint_of, normal


@pytest.mark.parametrize("names", [*[(name,) for name in LAWS], tuple(LAWS)], ids=str)
def test_derivatives_are_those_of_finite_differences(names):
    joint, table = joint_of(names)
    z, h = normal(5, 2, seed=6), 1e-5
    local = joint.local(z, table)
    torch.testing.assert_close(local.value, joint.value(z, table))
    for axis in range(2):
        step = h * torch.eye(2, dtype=torch.float64)[axis]
        up, down = joint.local(z + step, table), joint.local(z - step, table)
        slope = (up.value - down.value) / (2.0 * h)
        torch.testing.assert_close(local.gradient[:, axis], slope, rtol=1e-6, atol=1e-7)
        bend = (up.gradient - down.gradient) / (2.0 * h)
        torch.testing.assert_close(local.hessian[:, axis], bend, rtol=1e-6, atol=1e-6)
    assert (torch.linalg.eigvalsh(local.bound) > 0).all()


@pytest.mark.parametrize("names", [*[(name,) for name in LAWS], tuple(LAWS)], ids=str)
def test_missing_values_drop_out(names):
    joint, whole = joint_of(names)
    z = normal(5, 2, seed=6)
    holes = (normal(5, 3, seed=8) > 0).double()
    table = Table(type(cells)(cells.values, holes, cells.log_size) for cells in whole)
    eta = joint.network(z).detach()
    kept = [
        (law.log_prob(cells.values, part, cells.log_size) * holes).sum(1)
        for law, part, cells in zip(
            joint.blocks.laws, eta.split(joint.blocks.sizes, 1), whole, strict=True
        )
    ]
    expected = -sum(kept).detach() - joint.prior.log_prob(z)
    torch.testing.assert_close(joint.value(z, table), expected)
    local = joint.local(z, table)
    torch.testing.assert_close(local.value, expected)
    none = Table(
        type(cells)(cells.values, torch.zeros(5, 3).double(), cells.log_size)
        for cells in whole
    )
    local, alone = joint.local(z, none), joint.prior.local(z)
    torch.testing.assert_close(local.gradient, alone.gradient)
    torch.testing.assert_close(local.hessian, alone.hessian)
