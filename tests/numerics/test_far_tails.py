"""Logarithms of tails against sums of their series, where nothing underflows."""

import numpy as np
import pytest
import torch
from scipy import special
from scipy.special import gammaln, logsumexp

from skmdn.numerics.far_tails import log_beta_tails, log_gamma_tails, log_student_tails
from skmdn.numerics.special import betainc, betaincc, gammainc, gammaincc, stdtr
from tests.helpers import tensor


def log_beta_series(a, b, x, n_terms=400):
    """The lower tail as x^a / (a B(a, b)) times a hypergeometric series."""
    n = np.arange(n_terms)
    steps = np.concatenate([[1.0], np.cumprod((1.0 - b + n) / (n + 1.0))[:-1]])
    terms = steps * a / (a + n) * x**n
    return a * np.log(x) - np.log(a) - special.betaln(a, b) + np.log(terms.sum())


def log_gamma_upper(a, x):
    """The upper tail of a whole a: a sum of Poisson probabilities."""
    k = np.arange(a)
    return logsumexp(k * np.log(x) - x - gammaln(k + 1))


def log_gamma_lower(a, x, n_terms=400):
    k = np.arange(n_terms)
    return logsumexp((a + k) * np.log(x) - x - gammaln(a + k + 1))


@pytest.mark.parametrize("x", [1.0, 30.0, 800.0, 1e4, 1e8])
def test_the_upper_tail_of_a_gamma_law(x):
    for a in (1, 2, 7, 300):
        found = float(log_gamma_tails(tensor(float(a)), tensor(x))[1])
        assert found == pytest.approx(log_gamma_upper(a, x), rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("x", [1e-300, 1e-20, 1e-3, 1.0, 20.0])
def test_the_lower_tail_of_a_gamma_law(x):
    for a in (0.3, 5.0, 80.0, 900.0):
        found = float(log_gamma_tails(tensor(a), tensor(x))[0])
        assert found == pytest.approx(log_gamma_lower(a, x), rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("x", [1e-300, 1e-30, 1e-4, 0.02, 0.1])
@pytest.mark.parametrize("b", [0.5, 2.0, 6.5])
def test_both_tails_of_a_beta_law(x, b):
    for a in (0.2, 40.0, 700.0):
        expected = log_beta_series(a, b, x)
        found = log_beta_tails(tensor(a), tensor(b), tensor(x))[0]
        assert float(found) == pytest.approx(expected, rel=1e-11)
        if x > 1e-3:
            rest = log_beta_tails(tensor(b), tensor(a), tensor(1.0 - x))[1]
            assert float(rest) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("df", [0.5, 3.0, 60.0, 400.0])
@pytest.mark.parametrize("t", [-5.0, -1e3, -1e6, -1e120])
def test_the_tail_of_student(df, t):
    found = float(log_student_tails(tensor(df), tensor(t))[0])
    assert found == float(log_student_tails(tensor(df), tensor(-t))[1])
    if df == 400.0 and t == -5.0:
        expected = np.log(special.stdtr(df, t))
    else:
        expected = np.log(0.5) + log_beta_series(0.5 * df, 0.5, df / (df + t * t))
    assert found == pytest.approx(expected, rel=1e-11)


def test_tails_are_those_of_the_ordinary_functions():
    a, b = tensor([0.3, 2.0, 40.0]), tensor([1.5, 0.7, 30.0])
    x, t = tensor([0.4, 0.6, 0.55]), tensor([-0.8, 0.0, 3.0])
    for tails, lower, upper in (
        (log_beta_tails(a, b, x), betainc(a, b, x), betaincc(a, b, x)),
        (log_gamma_tails(a, b), gammainc(a, b), gammaincc(a, b)),
        (log_student_tails(a, t), stdtr(a, t), stdtr(a, -t)),
    ):
        torch.testing.assert_close(tails[0], lower.log(), rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(tails[1], upper.log(), rtol=1e-12, atol=1e-13)


def test_ends_are_impossible_or_sure():
    two, inf = tensor(2.0), tensor(np.inf)
    for begin, end in (
        (log_gamma_tails(two, tensor(0.0)), log_gamma_tails(two, inf)),
        (
            log_beta_tails(two, two, tensor(0.0)),
            log_beta_tails(two, two, tensor(1.0)),
        ),
        (log_student_tails(two, -inf), log_student_tails(two, inf)),
    ):
        assert [float(tail) for tail in begin] == [-np.inf, 0.0]
        assert [float(tail) for tail in end] == [0.0, -np.inf]


@pytest.mark.parametrize(
    ("tails", "side", "arguments"),
    [
        (log_gamma_tails, 1, (3.0, 2000.0)),
        (log_gamma_tails, 0, (300.0, 4.0)),
        (log_gamma_tails, 1, (3.0, 4.0)),
        (log_beta_tails, 0, (300.0, 4.0, 0.03)),
        (log_beta_tails, 1, (4.0, 300.0, 0.95)),
        (log_beta_tails, 1, (4.0, 3.0, 0.1)),
        (log_student_tails, 0, (60.0, -1e9)),
        (log_student_tails, 0, (3.0, 0.7)),
        (log_student_tails, 1, (3.0, 0.0)),
    ],
)
def test_slopes_agree_with_differences(tails, side, arguments):
    leaves = [tensor(value).requires_grad_() for value in arguments]
    tails(*leaves)[side].backward()
    for i, leaf in enumerate(leaves):
        step = 1e-6 * (abs(arguments[i]) or 1.0)
        up, down = (
            tails(*[tensor(v + s * (j == i)) for j, v in enumerate(arguments)])[side]
            for s in (step, -step)
        )
        expected = float(up - down) / (2 * step)
        assert float(leaf.grad) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_shapes_and_types_broadcast():
    a = torch.tensor([[0.5], [1.0], [3.0]])
    x = torch.tensor([0.1, 1.0, 500.0])
    for found in log_gamma_tails(a, x):
        assert found.shape == (3, 3)
        assert found.dtype == torch.float32
        assert found.isfinite().all()
