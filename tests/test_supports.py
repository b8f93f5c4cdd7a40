"""Maps of the real line onto intervals: there, back, and how fast."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from skmdn.supports import Support
from tests.helpers import tensor

SUPPORTS = [
    Support(),
    Support(0.0, None),
    Support(-2.5, None),
    Support(None, 0.0),
    Support(None, 7.0),
    Support(0.0, 1.0),
    Support(-3.0, 5.0),
]
EPS = np.finfo(float).eps


@pytest.fixture(params=SUPPORTS, ids=str)
def support(request):
    return request.param


def distance(support, y):
    """Return the distance from the nearest end, or the size without ends."""
    ends = [abs(y - end) for end in (support.low, support.high) if math.isfinite(end)]
    return min(ends) if ends else max(abs(y), 1.0)


def test_numbers_inside_come_back(support):
    low = support.low if math.isfinite(support.low) else -1e12
    high = support.high if math.isfinite(support.high) else 1e12
    shares = np.concatenate([np.geomspace(1e-12, 0.5, 40), 1 - np.geomspace(1e-9, 0.4)])
    for y in low + (high - low) * shares:
        z = support.inverse(tensor([y]))
        back = float(support.forward(z))
        # A spacing of z is |z| spacings of the distance from the end.
        allowed = (6 + 2 * abs(float(z))) * EPS * distance(support, y)
        assert abs(back - y) <= allowed + 2 * EPS * abs(y)


@pytest.mark.parametrize("support", [Support(0.0), Support(None, 0.0)], ids=str)
def test_numbers_of_the_line_come_back_however_far(support):
    z = torch.linspace(-700.0, 700.0, 1401, dtype=torch.float64)
    back = support.inverse(support.forward(z))
    torch.testing.assert_close(back, z, rtol=4 * EPS, atol=4 * EPS)


def test_the_lower_half_of_an_interval_at_zero_comes_back_however_far():
    z = torch.linspace(-700.0, 0.0, 701, dtype=torch.float64)
    support = Support(0.0, 3.0)
    back = support.inverse(support.forward(z))
    torch.testing.assert_close(back, z, rtol=4 * EPS, atol=4 * EPS)


def test_order_is_kept_and_nothing_leaves(support):
    z = torch.linspace(-1e4, 1e4, 999, dtype=torch.float64)
    for values in (z, z.float()):
        y = support.forward(values)
        assert (y.diff() >= 0.0).all()
        assert support.contains(y).all()
        assert y.isfinite().all()
    ends = support.forward(tensor([-math.inf, math.inf])).tolist()
    assert ends == [support.low, support.high]


def test_ends_and_what_is_beyond_them_are_infinite(support):
    y = tensor([support.low, support.low - 1.0, support.high, support.high + 1.0])
    z = support.inverse(y)
    assert (z[:2] == -math.inf).all()
    assert (z[2:] == math.inf).all()
    assert not support.contains(y).any()
    assert not support.contains(tensor([math.nan])).any()


def test_the_jacobian_is_the_slope(support):
    z = torch.linspace(-8.0, 8.0, 33, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(support.forward(z).sum(), z)
    expected = support.log_jacobian(z).exp()
    torch.testing.assert_close(slope, expected, rtol=1e-12, atol=0)
    step = 1e-5
    rise = support.forward(z + step) - support.forward(z - step)
    torch.testing.assert_close(rise / (2 * step), expected, rtol=1e-6, atol=1e-9)
    some = z[::4].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: support.inverse(support.forward(z)), some)


def test_a_density_with_its_jacobian_integrates_to_one():
    support = Support(-1.0, 2.0)

    def density(y):
        z = support.inverse(tensor([y]))
        return stats.norm.pdf(float(z), 0.3, 0.7) * math.exp(
            -float(support.log_jacobian(z))
        )

    assert integrate.quad(density, -1.0, 2.0)[0] == pytest.approx(1.0, abs=1e-8)


def test_far_out_the_logarithm_of_the_jacobian_goes_on():
    z = tensor([-1e5, -400.0, 400.0, 1e5])
    expected = math.log(2.0) - z.abs()
    torch.testing.assert_close(Support(1.0, 3.0).log_jacobian(z), expected)


def test_each_output_has_its_ends():
    support = Support((0.0, None, -1.0), (None, None, 1.0))
    z = tensor([[0.5, 0.5, 0.5], [-1.0, 2.0, 3.0]])
    for name in ("forward", "inverse", "log_jacobian"):
        found = getattr(support, name)(z)
        for d, single in enumerate([Support(0.0), Support(), Support(-1.0, 1.0)]):
            torch.testing.assert_close(found[:, d], getattr(single, name)(z[:, d]))
    assert support.for_outputs([2, 0]) == Support((-1.0, 0.0), (1.0, None))
    assert support.for_outputs([1]) == Support()
    assert str(support.for_outputs([0, 2])) == "the open intervals (0, inf), (-1, 1)"


def test_what_is_the_same_is_equal():
    assert Support(None, 3) == Support(-math.inf, 3.0)
    assert hash(Support((0, 0), (1, 1))) == hash(Support(0.0, 1.0))
    assert not Support((None, None)).bounded
    assert str(Support()) == "all real numbers"


def test_what_users_write():
    assert Support.parse(None, 2) == Support()
    assert Support.parse((0, None), 2) == Support(0.0)
    assert Support.parse([[0, 1], (None, 5)], 2) == Support((0.0, None), (1.0, 5.0))


@pytest.mark.parametrize("wrong", [(0,), (0, 1, 2), [(0, 1)], [(0, 1), 3], "ab", [()]])
def test_what_is_no_support_is_refused(wrong):
    with pytest.raises(ValueError, match=r"a pair \(low, high\) or a list"):
        Support.parse(wrong, 2)


@pytest.mark.parametrize(
    "wrong", [(1, 0), (2, 2), (math.nan, 1), (math.inf, None), (-1e308, 1.7e308)]
)
def test_ends_have_an_order(wrong):
    with pytest.raises(ValueError, match="has to be below"):
        Support.parse(wrong, 1)
    with pytest.raises(ValueError, match="differ in size"):
        Support((0.0, 1.0), (2.0, 2.0, 2.0))


# The probit map.


def test_the_probit_map_makes_a_uniform_law_normal():
    support = Support(-1.0, 3.0, "probit")
    z = tensor([-4.0, -2.0, 0.0, 0.5, 4.0])
    y = support.forward(z)
    np.testing.assert_allclose(y, -1.0 + 4.0 * stats.norm.cdf(z), atol=1e-15)
    torch.testing.assert_close(support.inverse(y), z, rtol=0, atol=1e-6)
    expected = np.log(4.0) + stats.norm.logpdf(z)
    np.testing.assert_allclose(support.log_jacobian(z), expected)
    assert support.inverse(tensor([-1.0, 3.0, 9.0])).tolist() == [
        -math.inf,
        math.inf,
        math.inf,
    ]
    far = support.forward(tensor([-60.0, 60.0]))
    assert support.contains(far).all()


def test_the_link_is_forgotten_where_it_says_nothing():
    assert Support(0.0, None, "probit") == Support(0.0)
    assert Support((0.0, 0.0), (1.0, None), "probit").for_outputs([1]) == Support(
        (0.0,), (None,)
    )
    assert Support(0.0, 1.0, "probit") != Support(0.0, 1.0)
    with pytest.raises(ValueError, match="link"):
        Support(0.0, 1.0, "cauchit")
