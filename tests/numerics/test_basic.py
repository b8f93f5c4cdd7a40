import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from skmdn.numerics.basic import (
    find_root,
    gauss_bell,
    log_complement,
    log_sum_exp,
    nodes_between,
    own_units,
)
from tests.helpers import randn, tensor

INCREASING = {
    "line": (lambda x: 3.0 * x - 1.0, -5.0, 4.0),
    "cubic": (lambda x: x**3 + x - 5.0, -10.0, 10.0),
    "saturating": (lambda x: (200.0 * (x - 0.7)).tanh(), -1e3, 1e3),
    "steep": (lambda x: (30.0 * x).exp() - 2.0, -3.0, 3.0),
    "flat at the root": (lambda x: (x - 0.3) ** 9, -1.0, 2.0),
    "flat at both ends": (lambda x: x.clamp(-0.5, 0.5) - 0.25, -40.0, 90.0),
    "tiny residuals": (lambda x: 1e-200 * (x**3 + x - 5.0), -10.0, 10.0),
    "uneven bracket": (lambda x: x - 1e-9, -1e-3, 1e6),
}


def solve(function, low, high, xtol=1e-14):
    return find_root(function, tensor(low), tensor(high), tensor(xtol))


@pytest.mark.parametrize("name", INCREASING)
def test_find_root_agrees_with_brentq(name):
    function, low, high = INCREASING[name]
    root = solve(function, [low], [high])
    expected = brentq(
        lambda x: float(function(tensor(x))), low, high, xtol=1e-14, maxiter=1000
    )
    np.testing.assert_allclose(root.item(), expected, rtol=1e-12, atol=1e-12)


def test_find_root_solves_every_element_in_its_own_bracket():
    targets = randn(3, 4, 5, seed=1)
    low, high = targets.exp() - 3.0, targets.exp() + 200.0
    root = find_root(lambda x: x - targets.exp(), low, high, tensor(1e-14))
    torch.testing.assert_close(root, targets.exp(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("root", [-2.0, 5.0])
def test_find_root_answers_a_root_at_an_end_of_the_bracket_exactly(root):
    assert solve(lambda x: x - root, [-2.0], [5.0]).item() == root


@pytest.mark.parametrize(("root", "end"), [(-2.1, -2.0), (5.1, 5.0)])
def test_find_root_answers_a_root_outside_the_bracket_with_the_nearer_end(root, end):
    assert solve(lambda x: x - root, [-2.0], [5.0]).item() == end


def test_find_root_accepts_a_bracket_of_width_zero():
    assert solve(lambda x: x - 1.0, [1.0], [1.0]).item() == 1.0
    assert solve(lambda x: x - 2.0, [1.0], [1.0]).item() == 1.0


def test_find_root_may_answer_any_point_of_a_stretch_of_roots():
    root = solve(lambda x: x.clamp(max=-1.0) + x.clamp(min=2.0) - 1.0, [-9.0], [30.0])
    assert -1.0 <= root.item() <= 2.0


def test_find_root_keeps_solved_elements_while_others_go_on():
    slow = tensor([0.0, 1.0])
    root = solve(
        lambda x: torch.where(slow > 0, (x - 0.3) ** 9, x - 1.0), [-1.0] * 2, [2.0] * 2
    )
    torch.testing.assert_close(root, tensor([1.0, 0.3]), rtol=0, atol=1e-12)


def test_find_root_of_nothing_is_nothing():
    assert find_root(lambda x: x, *[torch.empty(0, 3)] * 3).shape == (0, 3)


@pytest.mark.parametrize("n_nodes", [1, 2, 5, 12])
def test_nodes_between_integrate_polynomials_exactly(n_nodes):
    edges = tensor([-1.5, -0.2, 0.4, 0.4, 2.0])
    points, weights = nodes_between(edges[:-1], edges[1:], n_nodes)
    for degree in range(2 * n_nodes):
        power = degree + 1
        expected = (2.0**power - (-1.5) ** power) / power
        integral = (weights * points**degree).sum().item()
        np.testing.assert_allclose(integral, expected, rtol=1e-12)


def test_nodes_between_are_those_of_numpy():
    points, weights = nodes_between(tensor([[-1.0], [-2.0]]), tensor([[1.0], [4.0]]), 7)
    nodes, shares = np.polynomial.legendre.leggauss(7)
    assert points.shape == weights.shape == (2, 1, 7)
    np.testing.assert_allclose(points[0, 0], nodes, rtol=0, atol=1e-14)
    np.testing.assert_allclose(points[1, 0], 1.0 + 3.0 * nodes, rtol=0, atol=1e-14)
    np.testing.assert_allclose(weights[1, 0], 3.0 * shares, rtol=1e-12)


# Exponentials.

TERMS = {
    "near": [[0.3, -1.0, 2.0], [5.0, 5.0, 5.0]],
    "underflowing": [[0.0, -700.0, -720.0], [3.0, -1e300, -745.0]],
    "far from 0": [[1e4, 1e4 - 1.0, 0.0], [-1e4, -1e4 - 1.0, -2e4]],
    "nothing": [[-math.inf] * 3, [-math.inf, 1.0, -math.inf]],
    "infinite": [[math.inf, 0.0, 1.0], [math.inf, math.inf, -math.inf]],
    "not a number": [[math.nan, 0.0, 1.0], [0.0, 0.0, 0.0]],
}


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_sum_exp_agrees_with_torch(name, dtype):
    values = tensor(TERMS[name]).to(dtype)
    torch.testing.assert_close(
        log_sum_exp(values), torch.logsumexp(values, -1), equal_nan=True
    )


@pytest.mark.parametrize("name", ["near", "underflowing", "far from 0"])
def test_log_sum_exp_has_the_gradient_of_torchs(name):
    def slopes(function):
        values = tensor([*TERMS[name], [-math.inf, 0.5, 0.1]]).requires_grad_()
        return torch.autograd.grad(function(values).square().sum(), values)[0]

    expected = slopes(lambda values: torch.logsumexp(values, -1))
    torch.testing.assert_close(slopes(log_sum_exp), expected, rtol=1e-11, atol=1e-300)


def test_log_sum_exp_has_a_second_derivative():
    values = randn(4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradgradcheck(
        log_sum_exp, values, randn(4, seed=2).requires_grad_()
    )


def test_gauss_bell_agrees_with_exp_down_to_the_smallest_normal_number():
    z = tensor([0.0, -0.3, 1.0, 5.0, -26.6])
    torch.testing.assert_close(gauss_bell(z), (-z.square()).exp(), rtol=1e-15, atol=0)
    assert 0.0 < gauss_bell(tensor([1e10])).item() < 1e-300


@pytest.mark.parametrize("scale", [1e-300, 1e-3, 1.0, 7e5, 1e300])
def test_own_units_are_exact_and_leave_out_components_of_weight_zero(scale):
    weights = tensor([[0.0, 0.4, 0.6], [1.0, 0.0, 0.0]])
    means = scale * tensor([[1e9, -3.0, 0.2], [0.5, 1e9, -1e9]])
    stds = scale * tensor([[1e9, 1.0, 2.0], [0.1, 1e-9, 1e9]])
    own_means, own_stds, unit = own_units(weights, means, stds, -1)
    on = weights > 0
    assert torch.equal((own_means * unit)[on], means[on])
    assert torch.equal((own_stds * unit)[on], stds[on])
    largest = torch.maximum(own_means.abs(), own_stds).amax(-1)
    assert bool(((largest >= 1.0) & (largest < 2.0)).all())
    assert bool((own_stds >= 0.04).all())


def test_complements_of_exponentials_keep_their_digits_and_slopes():
    x = tensor([-1e-300, -1e-20, -0.3, -0.5, -0.7, -40.0, -700.0, -np.inf])
    x.requires_grad_()
    found = log_complement(x)
    expected = np.log(-np.expm1(x.detach().numpy()))
    far = x.detach().numpy() < -1.0
    expected[far] = np.log1p(-np.exp(x.detach().numpy()[far]))
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-14, atol=0)
    found.sum().backward()
    slopes = 1.0 / np.expm1(-x.detach().numpy()[2:-1])
    np.testing.assert_allclose(x.grad[2:-1], -slopes, rtol=1e-13)
    assert x.grad.isfinite().all()
