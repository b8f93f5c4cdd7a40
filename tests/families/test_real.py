"""Families on the whole line against scipy."""

import pytest
import torch
from scipy import stats

from skmdn.families import Gumbel, Laplace, Logistic
from tests.families import oracle
from tests.helpers import tensor

POINTS = [-40.0, -3.0, -0.2, 0.0, 0.7, 5.0, 300.0]

FAMILIES = {
    "laplace": (Laplace(), stats.laplace),
    "logistic": (Logistic(), stats.logistic),
    "gumbel": (Gumbel(), stats.gumbel_r),
}


@pytest.fixture(params=FAMILIES)
def case(request):
    family, frozen = FAMILIES[request.param]
    return family, frozen, oracle.parameters(family)


def test_densities(case):
    family, frozen, params = case
    oracle.check_density(family, params, frozen, POINTS)


def test_tails(case):
    family, frozen, params = case
    oracle.check_tails(family, params, frozen, POINTS)


def test_quantiles(case):
    family, frozen, params = case
    oracle.check_quantiles(family, params, frozen)


def test_moments(case):
    family, frozen, params = case
    oracle.check_moments(family, params, frozen)


def test_draws(case):
    oracle.check_draws(case[0], case[2])


def test_links(case):
    oracle.check_links(case[0], [-2.0, 0.3, 8.0])


def test_start(case):
    oracle.check_start(case[0], [[-1.0], [2.0]], [[0.5], [3.0]])


def test_units(case):
    oracle.check_units(case[0], case[2], POINTS)


def test_widening(case):
    oracle.check_widening(case[0], case[2])


def test_recovery(case):
    oracle.check_recovery(
        case[0], {"loc": tensor([[1.5]]), "scale": oracle.raw_scale(0.7)}
    )


@pytest.mark.parametrize("family", [Laplace(), Logistic()])
def test_a_negative_scale_mirrors(family):
    params = oracle.parameters(family)
    assert family.mirrors
    mirrored = family.affine(params, tensor([-1.0, -1.0]), tensor([0.0, 0.0]))
    y = tensor([[0.3, -2.0]])
    torch.testing.assert_close(
        family.log_density(mirrored, -y), family.log_density(params, y)
    )
    torch.testing.assert_close(family.sf(mirrored, -y), family.cdf(params, y))
