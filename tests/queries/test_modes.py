"""Modes of mixtures that are not normal, against grids, scipy and enumeration."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from skmdn.families import (
    Beta,
    Gamma,
    Laplace,
    Logistic,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    PointMass,
    Poisson,
    StudentT,
    Transformed,
    make_family,
)
from skmdn.mixture import Block, Mixture
from tests.helpers import randn, random_block, random_raw, tensor
from tests.laws import LAWS, mixture_of, split_points

MODES = {
    "student": 1.0,
    "cauchy": 5.0,
    "laplace": 0.5,
    "gumbel": 2.0,
    "lognormal": math.exp(0.3 - 4.0),
    "spiked gamma": 0.0,
    "gamma": 39.0 / 8.0,
    "weibull": 0.0,
    "exponential": 0.0,
    "beta": 0.0,
    "shifted beta": 2.0 + 3.0 * 2.0 / 2.2,
    "truncated": 0.5,
    "frechet": math.exp(0.2) * (1 + 0.4) ** -0.4,
    "poisson": 7.0,
    "negative binomial": 0.0,
    "bernoulli": 1.0,
    "zero": 0.0,
}


def block_of(family, **params):
    params = {name: tensor(value).unsqueeze(-1) for name, value in params.items()}
    return Block(family, params, next(iter(params.values())).shape[-2])


def single(family, **params):
    block = block_of(family, **params)
    weights = torch.full((block.n_components,), 1.0 / block.n_components)
    return Mixture(weights.double().log(), [block])


@pytest.mark.parametrize("name", MODES)
def test_modes_of_single_components_are_the_known_ones(name):
    mode = float(mixture_of(name).mode())
    scale = LAWS[name][2].std() if LAWS[name][2] else 1.0
    scale = min(scale, 1.0)
    assert mode == pytest.approx(MODES[name], abs=1e-8 * scale, rel=1e-9)


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (("student", "gamma", "normal"), [0.2, 0.5, 0.3]),
        (("laplace", "lognormal"), [0.1, 0.9]),
        (("logistic", "gumbel", "truncated"), [0.6, 0.1, 0.3]),
        (("cauchy", "logistic"), [0.001, 0.999]),
        (("logit-normal", "frechet", "shifted beta"), [0.3, 0.3, 0.4]),
    ],
    ids=str,
)
def test_modes_of_several_families_are_those_of_a_fine_grid(names, weights):
    mixture = mixture_of(*names, weights=weights)
    edges = np.unique(np.concatenate([split_points(LAWS[n][2]) for n in names]))
    edges = edges[np.isfinite(edges) & (np.abs(edges) < 1e6)]
    fine = np.concatenate([np.linspace(*p, 50) for p in itertools.pairwise(edges)])
    heights = mixture.log_prob(tensor(fine).unsqueeze(-1))
    top = int(heights.argmax())
    found = optimize.minimize_scalar(
        lambda y: -float(mixture.log_prob(tensor([y]))),
        bounds=(fine[max(top - 60, 0)], fine[min(top + 60, len(fine) - 1)]),
        method="bounded",
        options={"xatol": 1e-12},
    )
    mode = mixture.mode()
    assert (
        float(mixture.log_prob(mode)) >= max(-found.fun, float(heights.max())) - 1e-12
    )


@pytest.mark.parametrize(
    "name", ["student_t", "laplace", "logistic", "gumbel", "lognormal", "gamma"]
)
def test_no_draw_and_no_grid_is_higher(name):
    family, n = make_family(name), 6
    raw = random_raw(family, (5,), n, 1)
    if name == "gamma":
        raw["width"] = raw["width"].clamp_max(-0.5)
    block = Block(family, family.from_raw(raw, 0.05), n)
    mixture = Mixture.from_logits(randn(5, n, seed=9), [block])
    mode = mixture.mode()
    assert mode.shape == (5, 1)
    height = mixture.log_prob(mode)
    levels = torch.linspace(0.001, 0.999, 400, dtype=torch.float64).view(-1, 1, 1)
    grid = mixture.unsqueeze().per_point(lambda b: b.family.ppf(b.params, levels))
    tries = mixture.unsqueeze().log_prob(grid.flatten(-3, -2))
    assert (height.unsqueeze(-1) >= tries - 1e-12).all()
    for row in range(5):
        torch.testing.assert_close(mixture[row].mode(), mode[row])


def test_modes_between_components_are_found_to_the_last_digits():
    mixture = single(Logistic(), loc=[-1.0, 1.0], scale=[1.0, 1.0])
    assert float(mixture.mode()) == pytest.approx(0.0, abs=1e-9)
    mixture = single(StudentT(), loc=[0.0, 0.0], scale=[1.0, 3.0], df=[3.0, 5.0])
    assert float(mixture.mode()) == pytest.approx(0.0, abs=1e-12)


def test_a_narrow_spike_is_not_overlooked():
    mixture = Mixture(
        tensor([0.999999, 1e-6]).log(),
        [
            block_of(Logistic(), loc=[0.0], scale=[1.0]),
            block_of(Laplace(), loc=[7.3], scale=[1e-8]),
        ],
    )
    assert float(mixture.mode()) == pytest.approx(7.3, abs=1e-14)


def test_peaks_without_a_slope_are_kept():
    mixture = Mixture(
        tensor([0.5, 0.5]).log(),
        [
            block_of(Laplace(), loc=[0.3], scale=[0.5]),
            block_of(Normal(), mean=[1.0], scale=[2.0]),
        ],
    )
    assert float(mixture.mode()) == pytest.approx(0.3, abs=1e-9)


@pytest.mark.parametrize(
    ("blocks", "end"),
    [
        ([block_of(Gamma(), concentration=[0.99], rate=[1.0])], 0.0),
        ([block_of(Beta(), a=[0.5], b=[0.9], low=[0.0], high=[1.0])], 0.0),
        ([block_of(Beta(), a=[0.9], b=[0.5], low=[0.0], high=[1.0])], 1.0),
        ([block_of(Beta(2.0, 5.0), a=[0.9], b=[2.0], low=[2.0], high=[5.0])], 2.0),
        (
            [block_of(Transformed(StudentT(), -1.0), loc=[3.0], scale=[0.1], df=[9.0])],
            -1,
        ),
        ([block_of(Transformed(Laplace(), None, 2.0), loc=[0.0], scale=[1.5])], 2.0),
        ([block_of(Transformed(Logistic(), 0.0, 1.0), loc=[0.0], scale=[1.5])], 0.0),
    ],
    ids=str,
)
def test_where_the_density_has_no_bound_the_mode_is_the_end(blocks, end):
    weights = torch.zeros(1, dtype=torch.float64)
    assert float(Mixture(weights, blocks).mode()) == end
    if not isinstance(blocks[0].family, Transformed):
        # However little weight it has, and however high the others are.
        blocks = [*blocks, block_of(Normal(), mean=[0.3], scale=[1e-3])]
        weights = tensor([1e-9, 1.0 - 1e-9]).log()
        assert float(Mixture(weights, blocks).mode()) == end
        none = Mixture(tensor([0.0, 1.0]).log(), blocks)
        assert float(none.mode()) == pytest.approx(0.3, abs=1e-11)


def test_bounded_densities_may_be_highest_at_an_end():
    mixture = Mixture(
        tensor([0.6, 0.4]).log(),
        [
            block_of(Gamma(), concentration=[1.0], rate=[2.0]),
            block_of(Normal(), mean=[-1.0], scale=[0.6]),
        ],
    )
    assert float(mixture.mode()) == 0.0
    laplace = single(Transformed(Laplace(), 0.0), loc=[0.4], scale=[0.5])
    assert float(laplace.mode()) == pytest.approx(math.exp(0.4), rel=1e-9)


# Discrete components.


@pytest.mark.parametrize("seed", range(6))
def test_modes_of_counts_are_those_of_enumeration(seed):
    n, k = 5, np.arange(3_000.0)
    rates = torch.exp(1.5 * randn(4, n, 1, seed=seed) + 2.0)
    shapes = torch.exp(randn(4, n, 1, seed=seed + 50))
    blocks = [
        Block(Poisson(), {"rate": rates}, n),
        Block(NegativeBinomial(), {"mean": 2 * rates, "concentration": shapes}, n),
        block_of(PointMass(0.0), value=[0.0]).expand_batch((4,)),
    ]
    mixture = Mixture.from_logits(randn(4, 2 * n + 1, seed=seed + 90), blocks)
    heights = mixture.unsqueeze().log_prob(tensor(k).view(1, -1, 1))
    mode = mixture.mode()
    torch.testing.assert_close(mode[:, 0], heights.argmax(-1).double())


@pytest.mark.parametrize("rate", [0.3, 1e3 + 0.5, 1e6 + 0.25, 1e11 + 0.5])
def test_modes_of_large_counts_are_exact(rate):
    mixture = single(Poisson(), rate=[rate])
    assert float(mixture.mode()) == math.floor(rate)
    two = single(Poisson(), rate=[rate, 1.02 * rate])
    mode = two.mode()
    around = mode + torch.arange(-40.0, 41.0).double().unsqueeze(-1)
    around = around[(around >= 0.0).squeeze(-1)]
    assert (two.log_prob(around) <= two.log_prob(mode)).all()


def test_point_masses_between_the_integers_count():
    blocks = [
        block_of(PointMass(2.5), value=[2.5]),
        block_of(Poisson(), rate=[4.0]),
    ]
    assert float(Mixture(tensor([0.3, 0.7]).log(), blocks).mode()) == 2.5
    assert float(Mixture(tensor([0.01, 0.99]).log(), blocks).mode()) in (3.0, 4.0)


def test_a_probability_is_not_compared_with_a_density():
    mixture = mixture_of("zero", "lognormal")
    with pytest.raises(ValueError, match=r"cannot be compared.*component\(name\)"):
        mixture.mode()


# Several outputs.


def climbed(mixture, starts):
    """Return the best of scipy's local maxima."""
    best = [
        optimize.minimize(
            lambda y: -float(mixture.log_prob(tensor(y))),
            start,
            method="Nelder-Mead",
            options={"xatol": 1e-10, "fatol": 1e-13, "maxiter": 4_000},
        )
        for start in starts
    ]
    return min(best, key=lambda found: found.fun)


@pytest.mark.parametrize(
    "family", [Logistic(), StudentT(), Laplace(), Gamma()], ids=str
)
def test_modes_of_several_outputs_are_those_of_scipy(family):
    raw = random_raw(family, (), 4, 2, 3)
    if isinstance(family, Gamma):
        raw["width"] = raw["width"].clamp_max(-0.5)
    params = family.from_raw(raw, 0.3)
    mixture = Mixture.from_logits(randn(4, seed=8), [Block(family, params, 4)])
    found = climbed(mixture, mixture.component_means().numpy())
    mode = mixture.mode()
    assert float(mixture.log_prob(mode)) >= -found.fun - 1e-10
    np.testing.assert_allclose(mode, found.x, atol=1e-5)


def on_the_line(mixture, onto):
    """Return minus the log density of the image at z, and its slope."""

    def height(z):
        z = tensor(z).requires_grad_()
        inner = Mixture(
            mixture.log_weights,
            [Block(b.family.base, b.params, b.n_components) for b in mixture.blocks],
        )
        value = onto.log_jacobian(z).sum() - inner.log_prob(z)
        value.backward()
        return float(value.detach()), z.grad.numpy()

    return height


@pytest.mark.parametrize("seed", range(3))
def test_modes_on_intervals_of_correlated_outputs_are_those_of_scipy(seed):
    family = Transformed(MultivariateNormal(), (0.0, 0.0, None), (1.0, None, None))
    block = random_block("full", (2,), 3, 3, seed=seed)
    blocks = [Block(family, block.params, 3)]
    mixture = Mixture.from_logits(randn(2, 3, seed=5), blocks)
    mode = mixture.mode()
    for row in range(2):
        height = on_the_line(mixture[row], family.onto)
        spread = 3.0 * family.base.std(block.params)[row, 0]
        starts = block.params["mean"][row, 0] + spread * randn(8, 3, seed=row)
        best = min(
            optimize.minimize(height, start, jac=True, method="BFGS").fun
            for start in starts.tolist()
        )
        assert float(mixture[row].log_prob(mode[row])) >= -best - 1e-9
        _, slope = height(family.onto.inverse(mode[row]).tolist())
        assert np.abs(slope).max() < 1e-5


def test_a_ridge_between_outputs_is_climbed_to_its_top():
    factor = torch.linalg.inv(torch.linalg.cholesky(tensor([[1.0, 0.99], [0.99, 1.0]])))
    params = {"mean": tensor([[0.0, 1.0]]), "precision_factor": factor.unsqueeze(0)}
    family = Transformed(MultivariateNormal(), 0.0)
    mixture = Mixture(tensor([0.0]), [Block(family, params, 1)])
    # The mode of lognormal variables: mean - covariance @ 1.
    expected = torch.exp(tensor([0.0, 1.0]) - 1.99)
    torch.testing.assert_close(mixture.mode(), expected, rtol=1e-8, atol=0)


def test_several_outputs_without_a_bound_belong_to_one_component():
    params = {
        "concentration": tensor([[0.5, 3.0], [0.2, 5.0], [9.0, 2.0]]),
        "rate": tensor([[1.0, 1.0], [1.0, 2.0], [1.0, 1.0]]),
    }
    mixture = Mixture(tensor([0.5, 0.2, 0.3]).log(), [Block(Gamma(), params, 3)])
    torch.testing.assert_close(mixture.mode(), tensor([0.0, 2.0]))


def test_modes_of_several_counts_are_those_of_enumeration():
    rates = tensor([[3.3, 8.1], [9.7, 2.2], [5.5, 5.5]])
    mixture = Mixture(
        tensor([0.3, 0.4, 0.3]).log(), [Block(Poisson(), {"rate": rates}, 3)]
    )
    grid = torch.cartesian_prod(*[torch.arange(25.0).double()] * 2)
    expected = grid[mixture.log_prob(grid).argmax()]
    torch.testing.assert_close(mixture.mode(), expected)


def test_the_modes_of_one_law_do_not_depend_on_the_map():
    z = stats.norm(0.3, 0.8)
    mapped = single(Transformed(Normal(), 0.0), mean=[0.3], scale=[0.8])
    expected = stats.lognorm(0.8, scale=math.exp(0.3))
    assert float(mapped.mode()) == pytest.approx(math.exp(0.3 - 0.64), rel=1e-9)
    assert float(mapped.log_prob(mapped.mode())) == pytest.approx(
        expected.logpdf(math.exp(0.3 - 0.64)), rel=1e-12
    )
    identity = single(Transformed(Normal()), mean=[0.3], scale=[0.8])
    assert float(identity.mode()) == pytest.approx(z.mean(), abs=1e-9)
