import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special as reference

from skmdn.numerics import special
from tests.helpers import algebra, generator, tensor


def scipy(name):
    function = getattr(reference, name)
    return lambda *arguments: tensor(function(*(v.numpy() for v in arguments)))


FORWARD = {
    "betainc": (special.betainc, scipy("betainc"), 3),
    "betaincc": (special.betaincc, scipy("betaincc"), 3),
    "gammainc": (special.gammainc, scipy("gammainc"), 2),
    "gammaincc": (special.gammaincc, scipy("gammaincc"), 2),
    "stdtr": (special.stdtr, scipy("stdtr"), 2),
}
INVERSE = {
    "betainc": (special.betaincinv, scipy("betaincinv")),
    "gammainc": (special.gammaincinv, scipy("gammaincinv")),
    "gammaincc": (special.gammainccinv, scipy("gammainccinv")),
    "stdtr": (special.stdtrit, scipy("stdtrit")),
}
BETA, GAMMA = ("betainc", "betaincc"), ("gammainc", "gammaincc")


def uniform(n, seed):
    return torch.rand(n, dtype=torch.float64, generator=generator(seed))


def normal(n, seed):
    return torch.randn(n, dtype=torch.float64, generator=generator(seed))


def log_uniform(low, high, n, seed):
    return low * (high / low) ** uniform(n, seed)


def points(name, n, low, high, seed=0):
    """Draw shapes between low and high and points from the middle to far tails."""
    deviations = normal(n, seed + 1) * torch.where(uniform(n, seed + 2) < 0.5, 1.0, 6.0)
    a = log_uniform(low, high, n, seed + 3)
    if name == "stdtr":
        return a, deviations * 3.0
    b = log_uniform(low, high, n, seed + 4)
    if name in GAMMA:
        spread = a.rsqrt().clamp(max=3.0)
        return a, a * (deviations * spread).exp()
    spread = (1.0 / a + 1.0 / b).sqrt().clamp(max=3.0)
    return a, b, ((a / b).log() + deviations * spread).sigmoid()


def expect_close(actual, expected, rtol, floor=1e-290):
    """Compare numbers that are not about to underflow, each relative to itself."""
    keep = expected.abs() > floor
    assert keep.any()
    torch.testing.assert_close(actual[keep].double(), expected[keep], rtol=rtol, atol=0)


# Values.


@pytest.mark.parametrize(
    ("low", "high", "rtol"), [(0.1, 100.0, 1e-12), (1e-3, 1e3, 4e-12), (10, 1e6, 1e-11)]
)
@pytest.mark.parametrize("name", BETA)
def test_beta_agrees_with_scipy(name, low, high, rtol):
    ours, theirs, _ = FORWARD[name]
    arguments = points(name, 5000, low, high)
    expect_close(ours(*arguments), theirs(*arguments), rtol)


# scipy itself loses digits beyond: its tails are sums of at most 2000 terms.
@pytest.mark.parametrize(
    ("low", "high", "rtol"), [(0.1, 100.0, 1e-12), (1e-3, 1e3, 5e-12), (10, 1e5, 5e-11)]
)
@pytest.mark.parametrize("name", GAMMA)
def test_gamma_agrees_with_scipy(name, low, high, rtol):
    ours, theirs, _ = FORWARD[name]
    arguments = points(name, 5000, low, high)
    expect_close(ours(*arguments), theirs(*arguments), rtol)


@pytest.mark.parametrize(("low", "high"), [(0.1, 30.0), (1.0, 1e10)])
def test_stdtr_agrees_with_scipy(low, high):
    df, t = points("stdtr", 5000, low, high)
    expect_close(special.stdtr(df, t), scipy("stdtr")(df, t), 1e-12)


# By the series of 8.17.8 and 8.7.1 of DLMF, or quadrature, with 30 digits.
@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        (special.gammainc, (997005.0, 992470.0), 2.7030593840354045e-6),
        (special.gammainc, (1e6, 9.7e5), 4.9209087785911619e-202),
        (special.gammainc, (0.001, 1e-30), 0.93379237765867299),
        (special.gammaincc, (1e6, 1.03e6), 3.262430144876734e-194),
        (special.gammaincc, (4959.0, 7700.0), 1.8079852315712439e-245),
        (special.gammaincc, (3e5, 3.01e5), 0.034051430944462379),
        (special.gammaincc, (0.001, 1.0), 0.0002196083575855564),
        (special.betainc, (1e6, 1e6, 0.498), 7.7076448892448374e-9),
        (special.betainc, (1e6, 3e5, 0.768), 0.0004390740897747552),
    ],
)
def test_large_and_small_shapes_agree_with_high_precision(
    function, arguments, expected
):
    value = function(*map(tensor, arguments)).item()
    np.testing.assert_allclose(value, expected, rtol=5e-12)


def test_a_shape_of_one_has_a_closed_form():
    shape, x = log_uniform(1e-3, 1e6, 2000, 1), uniform(2000, 2)
    one = tensor(1.0)
    lower = -(shape * (-x).log1p()).expm1()
    expect_close(special.betainc(shape, one, x), x**shape, 1e-12)
    expect_close(special.betainc(one, shape, x), lower, 1e-12)
    expect_close(special.betaincc(one, shape, x), (-x).log1p().mul(shape).exp(), 1e-12)
    expect_close(special.gammainc(one, shape), -(-shape).expm1(), 1e-12)
    expect_close(special.gammaincc(one, shape), (-shape).exp(), 1e-12)


def test_student_with_few_and_very_many_degrees_of_freedom_has_a_closed_form():
    t = -log_uniform(1e-8, 1e200, 2000, 3)
    expect_close(
        special.stdtr(tensor(1.0), t), (1.0 / -t).atan() / math.pi, 1e-12, 1e-250
    )
    t = 5.0 * normal(2000, 4)
    expect_close(special.stdtr(tensor(1e18), t), scipy("ndtr")(t), 1e-12)


def test_far_tails_go_by_powers():
    df, ratio = tensor([0.1, 0.7, 3.0]), tensor([1e10])
    t = tensor([-1e150, -1e100, -1e30])
    expect_close(special.stdtr(df, t * ratio) / special.stdtr(df, t), ratio**-df, 1e-11)
    a, x = tensor([1e-3, 0.01, 0.9]), tensor([1e-300, 1e-290, 1e-100])
    expected = (a * x.log() - torch.lgamma(a + 1.0)).exp()
    expect_close(special.gammainc(a, x), expected, 1e-12)
    # B(a, 2) = 1 / (a (a + 1))
    expect_close(special.betainc(a, tensor(2.0), x), x**a * (a + 1.0), 1e-12)


def test_the_ends_are_exact():
    shapes = tensor([1e-3, 1.0, 1e6])
    nothing, all_of_it = torch.zeros_like(shapes), torch.ones_like(shapes)
    other, inf = tensor(0.3), tensor(math.inf)
    for function, at, expected in [
        (lambda x: special.betainc(shapes, other, x), 0.0, nothing),
        (lambda x: special.betainc(shapes, other, x), 1.0, all_of_it),
        (lambda x: special.betaincc(shapes, other, x), 0.0, all_of_it),
        (lambda x: special.betaincc(shapes, other, x), 1.0, nothing),
        (lambda x: special.gammainc(shapes, x), 0.0, nothing),
        (lambda x: special.gammainc(shapes, x), math.inf, all_of_it),
        (lambda x: special.gammaincc(shapes, x), 0.0, all_of_it),
        (lambda x: special.gammaincc(shapes, x), math.inf, nothing),
        (lambda x: special.stdtr(shapes, x), -math.inf, nothing),
        (lambda x: special.stdtr(shapes, x), 0.0, 0.5 * all_of_it),
        (lambda x: special.stdtr(shapes, x), math.inf, all_of_it),
        (lambda q: special.betaincinv(shapes, other, q), 0.0, nothing),
        (lambda q: special.betaincinv(shapes, other, q), 1.0, all_of_it),
        (lambda q: special.gammaincinv(shapes, q), 0.0, nothing),
        (lambda q: special.gammaincinv(shapes, q), 1.0, inf * all_of_it),
        (lambda q: special.gammainccinv(shapes, q), 0.0, inf * all_of_it),
        (lambda q: special.gammainccinv(shapes, q), 1.0, nothing),
        (lambda q: special.stdtrit(shapes, q), 0.0, -inf * all_of_it),
        (lambda q: special.stdtrit(shapes, q), 0.5, nothing),
        (lambda q: special.stdtrit(shapes, q), 1.0, inf * all_of_it),
    ]:
        torch.testing.assert_close(function(tensor(at)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", FORWARD)
def test_only_arguments_out_of_the_domain_are_not_numbers(name):
    ours, _, n_arguments = FORWARD[name]
    inverse = INVERSE.get(name, (ours,))[0]
    good = [1.5, 2.5][: n_arguments - 1]
    for position in range(n_arguments - 1):
        for wrong in (0.0, -1.0, math.nan):
            shapes = [*good[:position], wrong, *good[position + 1 :]]
            assert ours(*map(tensor, shapes), tensor(0.3)).isnan()
            assert inverse(*map(tensor, shapes), tensor(0.3)).isnan()
    assert ours(*map(tensor, good), tensor(math.nan)).isnan()
    bad = {"stdtr": []}.get(name, [-0.1, 1.1] if name in BETA else [-0.1])
    assert all(ours(*map(tensor, good), tensor(x)).isnan() for x in bad)
    for q in (-0.1, 1.1, math.nan) if name in INVERSE else ():
        assert inverse(*map(tensor, good), tensor(q)).isnan()
    assert not ours(*points(name, 5000, 1e-3, 1e6)).isnan().any()


@pytest.mark.parametrize("name", FORWARD)
def test_float32_is_answered_in_float32(name):
    arguments = [v.float() for v in points(name, 2000, 0.1, 1e4)]
    ours, theirs, _ = FORWARD[name]
    value = ours(*arguments)
    assert value.dtype == torch.float32
    expect_close(value, theirs(*(v.double() for v in arguments)), 1e-6, 1e-37)
    if name in INVERSE:
        assert INVERSE[name][0](*arguments[:-1], value).dtype == torch.float32


@pytest.mark.parametrize("name", FORWARD)
def test_arguments_broadcast(name):
    ours, theirs, n_arguments = FORWARD[name]
    arguments = [tensor([[0.5], [3.0]]), tensor([0.2, 0.9, 0.4]), tensor(0.3)]
    arguments = arguments[:n_arguments]
    value = ours(*arguments)
    assert value.shape == (2, 3)
    expect_close(value, theirs(*arguments), 1e-12)
    assert ours(*(torch.empty(0, 4) for _ in arguments)).shape == (0, 4)
    if name in INVERSE:
        inverse = INVERSE[name][0]
        assert inverse(*arguments).shape == (2, 3)
        assert inverse(*(torch.empty(0, 4) for _ in arguments)).shape == (0, 4)


# Inverses.


def probabilities(n, seed):
    tiny = 1e-300 ** uniform(n, seed)
    near_one = 1.0 - 1e-16 * (1.0 + 99.0 * uniform(n, seed + 1)).floor()
    kind = uniform(n, seed + 2)
    middle = torch.where(kind < 0.7, uniform(n, seed + 3), near_one)
    return torch.where(kind < 0.4, tiny, middle)


@pytest.mark.parametrize(("low", "high"), [(0.1, 100.0), (1e-3, 1e6)])
@pytest.mark.parametrize("name", INVERSE)
def test_inverses_come_back(name, low, high):
    shapes = points(name, 5000, max(low, 0.1 if name == "stdtr" else 0.0), high)[:-1]
    q = probabilities(5000, seed=9)
    x = INVERSE[name][0](*shapes, q)
    assert not x.isnan().any()
    back = FORWARD[name][0](*shapes, x)
    # Not where x overflows or underflows, nor near 1, which has too few digits.
    keep = x.isfinite() & (x.abs() > 1e-300)
    if name in BETA:
        keep = keep & (x < 0.99)
    assert keep.double().mean() > 0.3
    torch.testing.assert_close(back[keep], q[keep], rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", INVERSE)
def test_inverses_agree_with_scipy(name):
    shapes = points(name, 3000, 0.3, 1e3)[:-1]
    q = uniform(3000, 5).clamp(min=1e-3)
    ours, theirs = INVERSE[name]
    # scipy's own inverses are good to about this.
    expect_close(ours(*shapes, q), theirs(*shapes, q), 1e-9)


shape = st.floats(-3.0, 6.0).map(lambda e: 10.0**e)
probability = st.one_of(
    st.floats(1e-300, 1.0 - 1e-16), st.floats(-300.0, -1e-3).map(lambda e: 10.0**e)
)


@algebra
@given(a=shape, b=shape, k=st.integers(1, 2**20 - 1))
def test_betainc_is_symmetric(a, b, k):
    x = k / 2**20
    forward = special.betainc(tensor(a), tensor(b), tensor(x))
    mirrored = special.betaincc(tensor(b), tensor(a), tensor(1.0 - x))
    torch.testing.assert_close(forward, mirrored, rtol=1e-11, atol=1e-300)


@algebra
@given(a=shape, x=st.floats(1e-6, 1e7))
def test_the_two_gamma_sides_make_one(a, x):
    lower = special.gammainc(tensor(a), tensor(x))
    upper = special.gammaincc(tensor(a), tensor(x))
    assert (lower + upper).item() == pytest.approx(1.0, rel=1e-15)


@algebra
@given(df=st.floats(-1.0, 10.0).map(lambda e: 10.0**e), q=st.floats(1e-12, 0.5))
def test_student_is_symmetric_and_comes_back(df, q):
    df, q = tensor(df), tensor(q)
    t = special.stdtrit(df, q)
    torch.testing.assert_close(special.stdtr(df, t), q, rtol=1e-12, atol=0)
    assert special.stdtr(df, -t).item() == pytest.approx(1.0 - q.item(), rel=1e-15)
    torch.testing.assert_close(special.stdtrit(df, 1.0 - q), -t, rtol=1e-3, atol=1e-14)


# Gradients.


def slopes(function, arguments):
    leaves = [v.clone().requires_grad_() for v in arguments]
    return torch.autograd.grad(function(*leaves).sum(), leaves)


def differences(function, arguments, position, step):
    """Return the sixth-order central difference, in steps of the argument."""
    total = 0.0
    for k, weight in ((1, 45.0), (2, -9.0), (3, 1.0)):
        for sign in (1, -1):
            moved = list(arguments)
            moved[position] = moved[position] + sign * k * step
            total = total + sign * weight * function(*moved)
    return total / (60.0 * step)


@pytest.mark.parametrize(
    ("low", "high"), [(0.2, 5.0), (0.5, 50.0), (50.0, 1e3), (1e-3, 0.2)]
)
@pytest.mark.parametrize("name", FORWARD)
def test_gradients_agree_with_differences_of_scipy(name, low, high):
    ours, theirs, _ = FORWARD[name]
    if name == "stdtr" and low < 0.1:
        low = 0.1
    arguments = points(name, 3000, low, high, seed=20)
    value = theirs(*arguments)
    keep = (value > 1e-8) & (value < 0.99)
    if name in BETA:
        # A difference in x needs digits on both sides of it.
        keep &= (arguments[2] > 1e-6) & (arguments[2] < 1.0 - 1e-6)
    arguments = [v[keep] for v in arguments]
    assert len(arguments[0]) > 200
    for position, slope in enumerate(slopes(ours, arguments)):
        v = arguments[position]
        step = 2e-3 * v / (1.0 + v.sqrt())
        if name in BETA:
            spread = (1.0 / arguments[0] + 1.0 / arguments[1]).rsqrt()
            step = 2e-3 * v / (1.0 + spread)
            if position == 2:
                step = step * (1.0 - v)
        elif name in GAMMA:
            step = 2e-3 * v / (1.0 + arguments[0].sqrt())
        elif position == 1:
            step = torch.full_like(v, 2e-3)
        else:
            step = 1e-2 * v
        expected = differences(theirs, arguments, position, step)
        # What rounding leaves of the difference
        noise = 1e-13 * value[keep] / step
        error = (slope - expected).abs()
        assert (error <= 1e-6 * expected.abs() + noise).all(), position


@pytest.mark.parametrize("name", FORWARD)
def test_gradients_in_the_tails_are_accurate_relative_to_themselves(name):
    # Differences of our own logarithms, which scipy confirms above.
    ours, _, n_arguments = FORWARD[name]
    arguments = points(name, 2000, 0.5, 1e4, seed=40)
    value = ours(*arguments)
    keep = (value > 1e-250) & (value < 1e-3)
    arguments, value = [v[keep] for v in arguments], value[keep]
    log = lambda *moved: ours(*moved).log()  # noqa: E731
    for position, slope in enumerate(slopes(ours, arguments)[: n_arguments - 1]):
        step = 1e-3 * arguments[position] / (1.0 + arguments[position].sqrt())
        expected = differences(log, arguments, position, step)
        noise = 3e-12 / step
        error = (slope / value - expected).abs()
        assert (error <= 1e-6 * expected.abs() + noise).all(), position


def test_gradients_of_closed_forms():
    x, shape = uniform(500, 1), log_uniform(0.01, 1e4, 500, 2)
    one = torch.ones_like(x)
    in_a, _, in_x = slopes(special.betainc, (shape, one, x))
    expect_close(in_a, x**shape * x.log(), 1e-10)
    expect_close(in_x, shape * x ** (shape - 1.0), 1e-11)
    _, in_rate = slopes(special.gammaincc, (one, shape))
    expect_close(in_rate, -(-shape).exp(), 1e-12)
    t = 4.0 * normal(500, 3)
    _, in_t = slopes(special.stdtr, (one, t))
    expect_close(in_t, 1.0 / (math.pi * (1.0 + t.square())), 1e-12)


def test_gradient_in_the_degrees_of_freedom_when_they_are_many():
    # Towards the normal distribution, phi(t) (t + t^3) / (4 df^2).
    df, t = tensor([1e7, 1e8]), tensor([-1.3, 0.8])
    in_df, _ = slopes(special.stdtr, (df, t))
    bell = (-0.5 * t.square()).exp() / math.sqrt(2.0 * math.pi)
    expected = bell * (t + t**3) / (4.0 * df.square())
    torch.testing.assert_close(in_df, expected, rtol=2e-6, atol=0)


@pytest.mark.parametrize("name", FORWARD)
def test_gradients_are_finite_at_the_ends_and_follow_broadcasting(name):
    ours, _, n_arguments = FORWARD[name]
    ends = {"betainc": (0.0, 1.0), "betaincc": (0.0, 1.0)}.get(name, (0.0, math.inf))
    shapes = [tensor([[1.0], [2.5], [40.0]]), tensor(1.5)][: n_arguments - 1]
    arguments = [*shapes, tensor(ends)]
    gradients = slopes(ours, arguments)
    assert [g.shape for g in gradients] == [v.shape for v in arguments]
    assert all(bool(g.isfinite().all()) for g in gradients)


@pytest.mark.parametrize("name", INVERSE)
def test_inverses_have_no_gradient(name):
    *shapes, _ = points(name, 3, 0.5, 5.0)
    shapes = [v.requires_grad_() for v in shapes]
    assert not INVERSE[name][0](*shapes, tensor([0.1, 0.5, 0.9])).requires_grad
