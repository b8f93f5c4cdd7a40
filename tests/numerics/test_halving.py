import numpy as np
import pytest
import torch

from skmdn.numerics.basic import nodes_between
from skmdn.numerics.halving import N_NODES, halved, last_terms
from tests.helpers import tensor


def test_the_rule_is_exact_for_polynomials():
    points, weights = nodes_between(tensor([0.0, 1.0]), tensor([1.0, 3.0]), N_NODES)
    found = (weights * (points**7 - points)).sum(-1)
    np.testing.assert_allclose(found, [1 / 8 - 1 / 2, (3**8 - 1) / 8 - 4], rtol=1e-13)


def test_last_terms_tell_what_is_no_polynomial():
    points, _ = nodes_between(tensor([-1.0]), tensor([1.0]), N_NODES)
    assert last_terms(3 * points**9 + points) < 1e-13
    # The leading coefficient of the eleventh Legendre polynomial is 705432 / 2^11.
    assert abs(float(last_terms(points**11)) - 2.0**11 / 705432) < 1e-12
    assert last_terms(points.abs()) > 1e-3


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda y: y.exp(), np.expm1(3.0) - np.expm1(-1.0)),
        (lambda y: (y - 0.3).abs(), 0.5 * (1.3**2 + 2.7**2)),
        (lambda y: y.abs().sqrt(), 2 / 3 * (1 + 3**1.5)),
        (lambda y: torch.exp(-0.5 * ((y - 1) / 1e-3) ** 2), 1e-3 * np.sqrt(2 * np.pi)),
        (lambda y: (y > 0.7).double(), 2.3),
    ],
    ids=["smooth", "kink", "root", "peak", "jump"],
)
def test_panels_are_halved_until_integrals_are_exact(function, expected):
    # The second row has an edge where the difficulty is.
    edges = tensor([[-1.0, 0.1, 0.99, 1.02, 3.0], [-1.0, 0.0, 0.7, 1.01, 3.0]])
    grid = halved(edges, function, lambda _, values: (values,))
    found = (grid.weights * grid.values).sum((-2, -1))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert bool((grid.weights.sum((-2, -1)) - 4.0).abs().max() < 1e-12)


def test_every_integrand_has_to_be_exact():
    edges = tensor([[0.0, 1.0]])

    def both(points, values):
        return values, (points - 1 / 3).abs()

    grid = halved(edges, lambda points: points, both)
    found = (grid.weights * (grid.points - 1 / 3).abs()).sum()
    np.testing.assert_allclose(found, 5 / 18, rtol=1e-7)
