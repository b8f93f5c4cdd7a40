import math

import numpy as np
import pytest
import torch
from scipy import special as reference

from skmdn.numerics import tails
from tests.helpers import generator, tensor


def log_uniform(low, high, n, seed):
    u = torch.rand(n, dtype=torch.float64, generator=generator(seed))
    return low * (high / low) ** u


@pytest.mark.parametrize(("low", "high"), [(1e-3, 8.0), (8.0, 1e3), (1e3, 1e10)])
def test_stirling_is_what_is_left_of_the_gamma_function(low, high):
    a = log_uniform(low, high, 2000, seed=1)
    expected = tensor(reference.gammaln(a.numpy())) + a.log() - a * a.log() + a
    # The oracle is a difference of numbers of this size.
    size = (a * a.log()).abs() + 1.0
    assert bool(((tails.stirling(a) - expected).abs() < 1e-15 * 8 * size).all())


def test_stirling_is_continuous_where_the_series_begins():
    below, above = tails.stirling(tensor([8.0 - 1e-15, 8.0]))
    assert abs(below - above) < 1e-14


def test_rule_integrates_polynomials_and_exponentials_of_the_unit_interval():
    nodes, weights = tails._rule(torch.device("cpu"))
    for degree in (0, 1, 7, 40):
        integral = (weights * nodes**degree).sum().item()
        np.testing.assert_allclose(integral, 1 / (degree + 1), rtol=1e-13)
    integral = (weights * (-38.0 * nodes).exp()).sum().item()
    np.testing.assert_allclose(integral, -math.expm1(-38.0) / 38.0, rtol=1e-12)


def test_rule_first_needed_in_inference_mode_serves_in_a_backward_pass():
    tails._rule.cache_clear()
    with torch.inference_mode():
        tails._rule(torch.device("cpu"))
    a = tensor([900.0]).requires_grad_()
    b, x = tensor([800.0]), tensor([0.5])
    assert torch.autograd.grad(tails._quadrature(a, b, x, 1.0 - x).sum(), a)[0] < 0


@pytest.mark.parametrize("share", [1.0, 0.95, 0.6])
def test_fraction_and_quadrature_agree_where_both_are_good(share):
    a, b = log_uniform(20.0, 1e3, 3000, seed=2), log_uniform(1e-3, 1e6, 3000, seed=3)
    x = share * (a + 1.0) / (a + b + 2.0)
    torch.testing.assert_close(
        tails._quadrature(a, b, x, 1.0 - x),
        tails._fraction(a, b, x, 400),
        rtol=1e-12,
        atol=0,
    )


def test_levels_are_enough():
    a, b = log_uniform(1e-3, 1e3, 20000, seed=4), log_uniform(1e-3, 1e6, 20000, seed=5)
    share = torch.rand(20000, dtype=torch.float64, generator=generator(6)).sqrt()
    x = share * (a + 1.0) / (a + b + 2.0)
    mass = tails._mass(a, b, x, 1.0 - x)
    torch.testing.assert_close(mass, tails._fraction(a, b, x, 400), rtol=1e-12, atol=0)


def test_by_rows_cuts_and_joins(monkeypatch):
    monkeypatch.setattr(tails, "_ROWS", 4)
    values = torch.arange(30.0).reshape(2, 5, 3)
    seen = []

    def function(first, second, flag):
        seen.append((len(first), flag))
        return first + second, first - second

    total, difference = tails.by_rows(function, values, values.flip(0), "flag")
    assert seen == [(4, "flag")] * 7 + [(2, "flag")]
    torch.testing.assert_close(total, values + values.flip(0))
    torch.testing.assert_close(difference, values - values.flip(0))


def test_odds_place_has_the_odds_it_is_asked_for():
    a, b = tensor([0.3, 7.0, 2e5]), tensor([40.0, 0.01, 3.0])
    place = tails.odds_place(a, b, tensor([-1.3, 2.0, 0.0]))
    odds = place.x / place.y * b / a
    torch.testing.assert_close(odds.log(), tensor([-1.3, 2.0, 0.0]), rtol=0, atol=1e-14)
    torch.testing.assert_close(place.rest, torch.zeros(3, dtype=torch.float64))
    far = tails.odds_place(a, b, tensor([-2000.0] * 3))
    total = (far.x / far.y * b / a).log() + far.rest
    torch.testing.assert_close(total, tensor([-2000.0] * 3), rtol=1e-14, atol=0)
