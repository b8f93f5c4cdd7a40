"""Families on the whole line against scipy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from skmdn.families import Gumbel, Laplace, Logistic, Normal, StudentT
from tests.families import oracle
from tests.helpers import generator, tensor

POINTS = [-40.0, -3.0, -0.2, 0.0, 0.7, 5.0, 300.0]

FAMILIES = {
    "laplace": (Laplace(), stats.laplace),
    "logistic": (Logistic(), stats.logistic),
    "gumbel": (Gumbel(), stats.gumbel_r),
    "student": (StudentT(), stats.t),
    "student-5.5": (StudentT(df=5.5), stats.t),
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
    # scipy's Student quantiles overflow far out.
    levels = oracle.LEVELS[2:] if isinstance(family, StudentT) else oracle.LEVELS
    oracle.check_quantiles(family, params, frozen, levels)


def test_moments(case):
    family, frozen, params = case
    oracle.check_moments(family, params, frozen)


def test_draws(case):
    family, _, params = case
    if isinstance(family, StudentT):
        # The errors of sample variances follow from fourth moments.
        params = {**params, "df": params["df"] + 4.0}
    oracle.check_draws(family, params)


def test_links(case):
    oracle.check_links(case[0], [-2.0, 0.3, 8.0])


def test_start(case):
    oracle.check_start(case[0], [[-1.0], [2.0]], [[0.5], [3.0]])


def test_units(case):
    oracle.check_units(case[0], case[2], POINTS)


def test_widening(case):
    oracle.check_widening(case[0], case[2])


def test_recovery(case):
    family = case[0]
    raw = {"loc": tensor([[1.5]]), "scale": oracle.raw_scale(0.7)}
    if "df" in family.raw_shapes(1, 1):
        raw["df"] = oracle.raw_scale(1.5)
    oracle.check_recovery(family, raw)


@pytest.mark.parametrize("family", [Laplace(), Logistic(), StudentT()])
def test_a_negative_scale_mirrors(family):
    params = oracle.parameters(family)
    assert family.mirrors
    mirrored = family.affine(params, tensor([-1.0, -1.0]), tensor([0.0, 0.0]))
    y = tensor([[0.3, -2.0]])
    torch.testing.assert_close(
        family.log_density(mirrored, -y), family.log_density(params, y)
    )
    torch.testing.assert_close(family.sf(mirrored, -y), family.cdf(params, y))


# Student components: how heavy the tails are.


@pytest.mark.parametrize("df", [2.5, 7.0, 1e3])
def test_far_student_quantiles(df):
    family, params = StudentT(), student(df)
    for q in (1e-250, 1e-100, 1e-30):
        z = family.ppf(params, oracle.at(q))
        assert float(family.cdf(params, z)) == pytest.approx(q, rel=1e-9)
    # Beyond all others in sqrt(df), a tail is a power law: log F = c - df log |z|.
    near, far = (family.ppf(params, oracle.at(q)).neg().log() for q in (1e-100, 1e-250))
    if df < 10.0:
        assert float(far - near) == pytest.approx(150.0 * math.log(10.0) / df)


def student(df, loc=0.0, scale=1.0):
    values = {"loc": loc, "scale": scale, "df": df}
    return {name: tensor([[value]]) for name, value in values.items()}


@pytest.mark.parametrize("df", [0.01, 0.3, 1.0, 2.0, 7.0, 100.0, 1e4, 1e8])
def test_student_densities_of_any_degrees_of_freedom(df):
    z = np.array([-1e30, -100.0, -3.0, 0.0, 1e-9, 0.5, 30.0])
    found = StudentT().log_density(student(df), tensor(z).view(-1, 1, 1)).flatten()
    # Of 1e8 degrees, scipy's own loses digits: 4e-9 at the peak.
    np.testing.assert_allclose(found, stats.t(df).logpdf(z), rtol=1e-8)


@pytest.mark.parametrize("df", [1e10, 1e15])
def test_student_tends_to_normal(df):
    z = tensor([-30.0, -3.0, 0.0, 0.5, 8.0])
    found = StudentT().log_density(student(df), z.view(-1, 1, 1)).flatten()
    # The first correction of the normal log density, from the series in 1 / df.
    square = z.square()
    correction = (square.square() - 2.0 * square - 1.0) / (4.0 * df)
    expected = tensor(stats.norm.logpdf(z.numpy())) + correction
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-15)
    params, normal = student(df), {"mean": tensor([[0.0]]), "scale": tensor([[1.0]])}
    for y in (-20.0, 0.3, 6.0):
        for name in ("cdf", "sf"):
            torch.testing.assert_close(
                getattr(StudentT(), name)(params, oracle.at(y)),
                getattr(Normal(), name)(normal, oracle.at(y)),
                rtol=1e-5,
                atol=0.0,
            )


def test_the_gradient_in_the_degrees_of_freedom_keeps_its_digits():
    for df in (3.0, 1e3, 1e6):
        leaf = tensor([[df]]).requires_grad_()
        for z in (0.0, 1.0, 4.0):
            params = {**student(1.0), "df": leaf}
            value = StudentT().log_density(params, oracle.at(z))
            (found,) = torch.autograd.grad(value.sum(), leaf)
            if df < 1e5:
                step = 1e-3 * df
                ends = [stats.t(df + h).logpdf(z) for h in (step, -step)]
                expected = (ends[0] - ends[1]) / (2.0 * step)
            else:
                expected = (1.0 + 2.0 * z**2 - z**4) / (4.0 * df**2)
            assert float(found) == pytest.approx(expected, rel=1e-3, abs=1e-15)


def test_moments_that_do_not_exist_are_infinite_or_the_location():
    for df, std in ((0.5, math.inf), (1.0, math.inf), (2.0, math.inf), (4.0, 2**0.5)):
        params = student(df, loc=3.0)
        params["scale"].requires_grad_()
        assert float(StudentT().mean(params)) == 3.0
        spread = StudentT().std(params)
        assert float(spread.detach()) == pytest.approx(std)
        (gradient,) = torch.autograd.grad(spread.sum(), params["scale"])
        assert not gradient.isnan().any()


@pytest.mark.parametrize("df", [0.5, 1.0, 2.0])
def test_heavy_tails(df):
    family = StudentT(df=df)
    raw = {name: torch.zeros(1, 1, dtype=torch.float64) for name in ("loc", "scale")}
    params = family.from_raw(raw, 0.05)
    oracle.check_tails(family, params, stats.t, POINTS)
    oracle.check_quantiles(family, params, stats.t, [1e-8, 0.01, 0.5, 0.9])
    many = {name: value.expand(20_000, 1, 1) for name, value in params.items()}
    below = family.cdf(params, family.draw(many, generator()))
    assert stats.kstest(below.flatten().numpy(), "uniform").pvalue > 1e-3


def test_fixed_degrees_of_freedom_are_a_parameter_but_not_learned():
    family = StudentT(df=4.0)
    assert "df" not in family.raw_shapes(3, 2)
    params = oracle.parameters(family)
    assert params["df"].shape == (3, 2)
    assert (params["df"] == 4.0).all()
    wide = family.widen(params, tensor(2.0))
    assert (family.affine(wide, tensor([2.0]), tensor([1.0]))["df"] == 4.0).all()
    assert (oracle.parameters(StudentT())["df"] > 2.0).all()


def test_students_start_even_where_there_is_no_variance():
    centers, spreads = tensor([[-1.0], [2.0]]), tensor([[0.5], [3.0]])
    for df in (0.5, 2.0, 2.5, 3.0):
        family = StudentT(df=df)
        params = family.from_raw(family.start(centers, spreads, 0.01), 0.01)
        torch.testing.assert_close(params["scale"], spreads / math.sqrt(3.0))
    family = StudentT()
    params = family.from_raw(family.start(centers, spreads, 0.01), 0.01)
    torch.testing.assert_close(params["df"], torch.full_like(centers, 5.0))


@pytest.mark.parametrize("df", [0.0, -1.0, math.inf, math.nan])
def test_degrees_of_freedom_are_positive(df):
    with pytest.raises(ValueError, match="positive"):
        StudentT(df=df)
