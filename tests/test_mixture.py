import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq, minimize
from scipy.special import logsumexp
from scipy.stats import gamma, norm
from scipy.stats import t as student_t

from skmdn.families import Gamma, Normal, StudentT
from skmdn.mixture import Block, Mixture
from tests.helpers import (
    BATCH_SHAPES,
    COVARIANCE_TYPES,
    LAYOUTS,
    algebra,
    dense,
    full_mixture,
    generator,
    mixtures,
    normal_mixture,
    randn,
    random_block,
    random_mixture,
    reference_log_prob,
    tensor,
    within_standard_errors,
)

every_layout = pytest.mark.parametrize("layout", LAYOUTS)
every_type = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
every_batch = pytest.mark.parametrize("batch", BATCH_SHAPES)

# (weights, means, scales) of one-dimensional mixtures.
SHAPES_1D = {
    "one component": ([1.0], [0.7], [1.3]),
    "overlapping": ([0.3, 0.2, 0.5], [-1.0, 0.5, 2.0], [0.5, 1.0, 0.7]),
    "identical": ([0.25, 0.75], [1.0, 1.0], [2.0, 2.0]),
    "narrow in wide": ([0.5, 0.5], [0.3, 0.0], [1e-3, 5.0]),
    "separated": ([0.6, 0.4], [-1e3, 1e3], [1e-2, 1e-2]),
    "rare": ([1e-9, 1.0 - 1e-9], [-4.0, 3.0], [0.5, 1.0]),
    "off, far outside": ([0.5, 0.0, 0.5, 0.0], [-1, -1e4, 2, 1e4], [1, 1e-2, 1, 10]),
}
every_shape = pytest.mark.parametrize("shape", SHAPES_1D)


def edges_of(weights, means, scales):
    """Break points between which a one-dimensional density is smooth."""
    on = np.asarray(weights) > 0
    means, scales = np.asarray(means)[on], np.asarray(scales)[on]
    return np.unique(means + scales * np.arange(-12.0, 13.0)[:, None])


def integrate(function, edges):
    pieces = [
        quad(function, a, b, epsabs=1e-14, epsrel=1e-12)[0]
        for a, b in itertools.pairwise(edges)
    ]
    return math.fsum(pieces)


def one_by_one(mixture, *arrays):
    """Yield every mixture of a batch as dense arrays, with its part of others."""
    parts = dense(mixture)
    for index in np.ndindex(*mixture.batch_shape):
        yield [part[index] for part in parts], *[array[index] for array in arrays]


def subsets(n_outputs, smallest, largest):
    sizes = range(smallest, largest + 1)
    return [
        list(chosen)
        for size in sizes
        for chosen in itertools.combinations(range(n_outputs), size)
    ]


# Densities.


@pytest.mark.parametrize("distance", [1.0, 40.0, 1e6])
@every_batch
@every_layout
def test_log_prob_agrees_with_scipy_however_far_out(layout, batch, distance):
    mixture = random_mixture(layout, batch, n_outputs=3)
    y = distance * randn(*batch, 3, seed=5)
    expected = [
        reference_log_prob(*parts, point)
        for parts, point in one_by_one(mixture, y.numpy())
    ]
    result = mixture.log_prob(y)
    assert result.shape == batch
    np.testing.assert_allclose(result.reshape(-1), expected, rtol=1e-10, atol=1e-10)


@every_layout
def test_log_prob_is_finite_a_million_standard_deviations_out(layout):
    mixture = random_mixture(layout, (3,))
    std = mixture.component_stds().amax(-2)
    for sign in (-1e6, 1e6):
        result = mixture.log_prob(mixture.mean() + sign * std)
        assert bool((result.isfinite() & (result < -1e9)).all())


@every_shape
def test_density_of_one_output_integrates_to_one(shape):
    mixture = normal_mixture(*SHAPES_1D[shape])
    total = integrate(
        lambda x: mixture.log_prob(tensor([x])).exp().item(),
        edges_of(*SHAPES_1D[shape]),
    )
    assert abs(total - 1.0) < 1e-10


@every_layout
def test_density_of_two_outputs_integrates_to_one(layout):
    mixture = random_mixture(layout, n_components=2, n_outputs=2, seed=1)
    std = mixture.component_stds()
    low = (mixture.component_means() - 10.0 * std).amin(0)
    high = (mixture.component_means() + 10.0 * std).amax(0)
    axes = [
        torch.linspace(a, b, 700, dtype=torch.float64)
        for a, b in zip(low, high, strict=True)
    ]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    cell = math.prod((axis[-1] - axis[0]).item() / 699 for axis in axes)
    total = mixture.log_prob(grid).exp().sum().item() * cell
    assert abs(total - 1.0) < 1e-9


@every_batch
@every_layout
def test_responsibilities_are_each_components_share_of_the_density(layout, batch):
    mixture = random_mixture(layout, batch)
    y = randn(*batch, 2, seed=3)
    result = mixture.responsibilities(y).numpy()
    np.testing.assert_allclose(result.sum(-1), 1.0, rtol=1e-14)
    shares = []
    for (weights, means, covariances), point in one_by_one(mixture, y.numpy()):
        parts = [
            reference_log_prob([weight], [mean], [covariance], point)
            for weight, mean, covariance in zip(
                weights, means, covariances, strict=True
            )
        ]
        shares.append(np.exp(parts - logsumexp(parts)))
    np.testing.assert_allclose(result.reshape(-1, result.shape[-1]), shares, rtol=1e-9)


@every_layout
def test_log_prob_has_the_gradient_of_its_definition(layout):
    mixture, y = random_mixture(layout, (3,)), 4.0 * randn(3, 2, seed=3)

    def slopes(log_prob):
        leaves = []

        def leaf(value):
            leaves.append(value.clone().requires_grad_())
            return leaves[-1]

        return torch.autograd.grad(log_prob(mixture.map(leaf)).sum(), leaves)

    expected = slopes(lambda m: torch.logsumexp(m.log_joint(y), -1))
    for slope, other in zip(slopes(lambda m: m.log_prob(y)), expected, strict=True):
        torch.testing.assert_close(slope, other, rtol=1e-12, atol=1e-14)


def test_points_broadcast_against_the_batch():
    mixture = random_mixture("full", (2, 3))
    y = randn(7, 1, 1, 2, seed=1)
    result = mixture.log_prob(y)
    assert result.shape == (7, 2, 3)
    torch.testing.assert_close(result[4, 1, 2], mixture[1, 2].log_prob(y[4, 0, 0]))


def test_from_logits_normalises_and_flattens_with_temperature():
    logits, block = randn(4, 3, seed=2), random_block("diag", (4,))
    for temperature in (0.5, 1.0, 10.0):
        weights = Mixture.from_logits(logits, [block], temperature).weights.numpy()
        powers = np.exp(logits.numpy()) ** (1.0 / temperature)
        np.testing.assert_allclose(weights, powers / powers.sum(-1, keepdims=True))


def test_a_levelled_share_is_divided_equally():
    mixture = Mixture.from_logits(randn(4, 3), [random_block("diag", (4,))])
    for share in (0.0, 0.1, 1.0):
        expected = (1.0 - share) * mixture.weights + share / 3.0
        torch.testing.assert_close(mixture.level(share).weights, expected)
    torch.testing.assert_close(
        mixture.level(0.0).log_weights, mixture.log_weights, rtol=0, atol=0
    )
    off = Mixture(tensor([0.0, -math.inf]), [random_block("diag", (), n_components=2)])
    assert off.level(0.0).log_weights[1] == -math.inf
    torch.testing.assert_close(off.level(0.2).weights, tensor([0.9, 0.1]))


# A component without weight.

QUERIES = {
    "log_prob": lambda m: m.log_prob(tensor([0.3] * m.n_outputs)),
    "log_prob far out": lambda m: m.log_prob(tensor([1e6] * m.n_outputs)),
    "mean": Mixture.mean,
    "variance": Mixture.variance,
    "covariance": Mixture.covariance,
    "cdf": lambda m: m.cdf(tensor([0.3] * m.n_outputs)),
    "sf": lambda m: m.sf(tensor([0.3] * m.n_outputs)),
    "ppf": lambda m: m.ppf(tensor([1e-6, 0.4, 0.999])),
    "crps": lambda m: m.crps(tensor([0.3] * m.n_outputs)),
    "mode": Mixture.mode,
    "entropy": lambda m: m.marginal([0]).entropy(),
    "affine": lambda m: m.affine(tensor(-2.0), tensor(1.0)).log_prob(tensor([0.1, 0])),
    "marginal": lambda m: m.marginal([1]).log_prob(tensor([0.3])),
    "condition": lambda m: m.condition([1], tensor([0.3])).mean(),
    "merge": lambda m: m.map(lambda v: v.expand(2, *v.shape)).merge().mean(),
}


@pytest.mark.parametrize("query", QUERIES)
@every_type
def test_a_component_of_weight_zero_is_harmless(covariance_type, query):
    on = random_mixture(covariance_type, n_components=2)
    far = random_block(covariance_type, n_components=3, seed=5)
    far = far.replace({**far.params, "mean": 1e3 * far.params["mean"]})
    log_weights = torch.cat([tensor([-math.inf] * 3), on.log_weights])
    off = Mixture(log_weights, [far, *on.blocks])
    torch.testing.assert_close(
        QUERIES[query](off), QUERIES[query](on), rtol=1e-10, atol=1e-10
    )


def test_a_component_of_weight_zero_takes_no_responsibility():
    mixture = normal_mixture([0.0, 1.0], [0.0, 50.0], [1.0, 1.0])
    assert mixture.responsibilities(tensor([0.0])).tolist() == [0.0, 1.0]


# Moments.


@every_batch
@every_layout
def test_moments_follow_the_laws_of_total_expectation(layout, batch):
    mixture = random_mixture(layout, batch, n_outputs=3)
    mean, covariance = [], []
    for ((weights, means, covariances),) in one_by_one(mixture):
        second = np.einsum("k,kij->ij", weights, covariances) + np.einsum(
            "k,ki,kj->ij", weights, means, means
        )
        mean.append(weights @ means)
        covariance.append(second - np.outer(mean[-1], mean[-1]))
    mean = np.reshape(mean, (*batch, 3))
    covariance = np.reshape(covariance, (*batch, 3, 3))
    variance = np.diagonal(covariance, axis1=-2, axis2=-1)
    np.testing.assert_allclose(mixture.mean(), mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(mixture.variance(), variance, rtol=1e-10)
    np.testing.assert_allclose(mixture.covariance(), covariance, rtol=1e-10, atol=1e-10)


@every_layout
def test_component_queries_agree_with_the_dense_components(layout):
    mixture = random_mixture(layout, (2, 3))
    weights, means, covariances = dense(mixture)
    std = np.sqrt(np.diagonal(covariances, axis1=-2, axis2=-1))
    assert mixture.n_components == weights.shape[-1]
    assert mixture.n_outputs == 2
    assert mixture.batch_shape == (2, 3)
    np.testing.assert_allclose(mixture.weights.sum(-1), 1.0, rtol=1e-14)
    np.testing.assert_array_equal(mixture.component_means(), means)
    np.testing.assert_allclose(mixture.component_stds(), std, rtol=1e-10)
    np.testing.assert_allclose(
        mixture.component_covariances(), covariances, rtol=1e-9, atol=1e-12
    )


def test_variance_survives_a_mean_that_dwarfs_it():
    mixture = normal_mixture([0.5, 0.5], [1e8 - 1e-2, 1e8 + 1e-2], [1e-2, 1e-2])
    np.testing.assert_allclose(mixture.variance(), 2e-4, rtol=1e-5)


# Sampling.


@every_batch
@every_layout
def test_draws_have_the_moments_of_the_mixture(layout, batch):
    mixture = random_mixture(layout, batch, seed=3)
    draws = mixture.sample(20_000, generator(1))
    assert draws.shape == (*batch, 20_000, 2)
    offset = (draws - mixture.mean().unsqueeze(-2)).numpy()
    products = offset[..., :, None] * offset[..., None, :]
    assert within_standard_errors(offset, 0.0, -2)
    assert within_standard_errors(products, mixture.covariance().numpy(), -3)


@pytest.mark.parametrize("n_blocks", [1, 2])
def test_components_are_drawn_as_often_as_their_weights_say(n_blocks):
    weights = tensor([[0.0, 0.1, 0.2, 0.0, 0.7, 0.0], [0.5, 0, 0, 0, 1e-3, 0.499]])
    block = random_block("diag", (2,), 6 // n_blocks, 1)
    step = 100.0 * torch.arange(6).double().reshape(n_blocks, -1, 1)
    blocks = [
        block.replace({**block.params, "mean": means.expand(2, -1, 1)})
        for means in step
    ]
    draws = Mixture(weights.log(), blocks).sample(50_000, generator(2))
    component = (draws.squeeze(-1) / 100.0).round().long()
    counts = torch.nn.functional.one_hot(component, 6).double().mean(-2)
    error = (weights * (1.0 - weights) / 50_000).sqrt()
    assert bool(((counts - weights).abs() <= 4.0 * error).all())
    assert bool((counts[weights == 0] == 0).all())


def test_blocks_of_different_families_each_draw_their_own_region():
    diag, full = random_block("diag", (2,), 2), random_block("full", (2,), 2, seed=1)
    tied = random_block("tied", (2,), 2, seed=2)
    corners = tensor([[-90, -90], [-90, 90], [90, -90], [90, 90], [0, 0], [0, 300.0]])
    blocks = [
        block.replace({**block.params, "mean": block.params["mean"] + corner})
        for block, corner in zip(
            (diag, full, tied), corners.reshape(3, 2, 2), strict=True
        )
    ]
    mixture = Mixture.from_logits(0.3 * randn(2, 6, seed=4), blocks)
    draws = mixture.sample(40_000, generator(3))
    component = torch.cdist(draws, corners.expand(2, 6, 2)).argmin(-1).numpy()
    for row, ((_, means, covariances),) in enumerate(one_by_one(mixture)):
        for k in range(6):
            own = draws[row].numpy()[component[row] == k] - means[k]
            assert len(own) > 1000
            assert within_standard_errors(own, 0.0, 0)
            products = own[:, :, None] * own[:, None, :]
            assert within_standard_errors(products, covariances[k], 0)


@every_batch
@every_layout
def test_sampling_is_reproducible_and_leaves_the_global_generator_alone(layout, batch):
    mixture = random_mixture(layout, batch)
    before = torch.get_rng_state()
    first = mixture.sample(5, generator(4))
    assert torch.equal(first, mixture.sample(5, generator(4)))
    assert not torch.equal(first, mixture.sample(5, generator(5)))
    assert torch.equal(torch.get_rng_state(), before)
    assert mixture.sample(0, generator(4)).shape == (*batch, 0, 2)


# Distribution functions.


@every_batch
@every_layout
def test_cdf_and_sf_agree_with_scipy_for_every_output(layout, batch):
    mixture = random_mixture(layout, batch)
    y = 2.0 * randn(*batch, 2, seed=6)
    weights, means, covariances = dense(mixture)
    std = np.sqrt(np.diagonal(covariances, axis1=-2, axis2=-1))
    parts = weights[..., None], y.numpy()[..., None, :], means, std
    expected = (parts[0] * norm.cdf(*parts[1:])).sum(-2)
    np.testing.assert_allclose(mixture.cdf(y), expected, rtol=1e-10, atol=1e-14)
    expected = (parts[0] * norm.sf(*parts[1:])).sum(-2)
    np.testing.assert_allclose(mixture.sf(y), expected, rtol=1e-10, atol=1e-14)


@every_shape
def test_cdf_of_ppf_is_the_level(shape):
    mixture = normal_mixture(*SHAPES_1D[shape])
    levels = np.concatenate([np.geomspace(1e-6, 0.5, 40), [0.25, 0.6]])
    levels = tensor(np.concatenate([levels, 1.0 - levels]))
    quantiles = mixture.ppf(levels)
    assert quantiles.shape == (len(levels), 1)
    reached = mixture.unsqueeze().cdf(quantiles).squeeze(-1)
    torch.testing.assert_close(reached, levels, rtol=0, atol=1e-9)


@every_shape
def test_quantiles_ascend_and_mirror(shape):
    weights, means, scales = SHAPES_1D[shape]
    levels = tensor([1e-12, 1e-6, 0.01, 0.2, 0.45, 0.9, 1 - 1e-6, 1 - 1e-12])
    quantiles = normal_mixture(weights, means, scales).ppf(levels)
    mirrored = normal_mixture(weights, [-m for m in means], scales).ppf(1 - levels)
    assert bool((quantiles.diff(dim=0) >= 0).all())
    torch.testing.assert_close(quantiles, -mirrored, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("level", [1e-3, 0.2, 0.5, 0.77, 0.999])
def test_ppf_agrees_with_brentq(level):
    weights, means, scales = SHAPES_1D["overlapping"]
    root = brentq(
        lambda x: np.dot(weights, norm.cdf(x, means, scales)) - level, -9, 9, xtol=1e-14
    )
    result = normal_mixture(weights, means, scales).ppf(tensor([level])).item()
    assert abs(result - root) < 1e-11


@every_layout
def test_ppf_solves_every_level_row_and_output(layout):
    mixture = random_mixture(layout, (2, 3))
    levels = tensor([0.05, 0.5, 0.95])
    quantiles = mixture.ppf(levels)
    assert quantiles.shape == (2, 3, 3, 2)
    reached = mixture.unsqueeze().cdf(quantiles)
    torch.testing.assert_close(
        reached, levels[:, None].expand_as(reached), rtol=0, atol=1e-12
    )


def test_ppf_ignores_components_of_weight_zero_however_far():
    shape = [0.0, 0.3, 0.7, 0.0], [-1e300, -1.0, 2.0, 1e300], [1.0, 1.0, 2.0, 1e250]
    levels = tensor([1e-6, 0.3, 0.9])
    on = normal_mixture(*[part[1:3] for part in shape])
    torch.testing.assert_close(normal_mixture(*shape).ppf(levels), on.ppf(levels))


class Exponential(Normal):
    """A family that is not normal: shifted exponential components."""

    gaussian = False

    def cdf(self, params, y):
        return -torch.expm1(-((y - params["mean"]) / params["scale"]).clamp(min=0.0))

    def sf(self, params, y):
        return torch.exp(-((y - params["mean"]) / params["scale"]).clamp(min=0.0))

    def ppf(self, params, q):
        return params["mean"] - params["scale"] * torch.log1p(-q)


def test_ppf_of_another_family_is_bracketed():
    normal = random_mixture("diag", (3,))
    blocks = [Block(Exponential(), block.params, 3) for block in normal.blocks]
    mixture = Mixture(normal.log_weights, blocks)
    levels = tensor([1e-9, 0.3, 0.99])
    reached = mixture.unsqueeze().cdf(mixture.ppf(levels))
    torch.testing.assert_close(
        reached, levels[:, None].expand_as(reached), rtol=1e-9, atol=1e-12
    )


def test_draws_of_one_output_can_be_differentiated():
    scale = tensor([[1.0], [2.0]]).requires_grad_()
    mean = tensor([[0.0], [50.0]])
    block = Block(Normal(), {"mean": mean, "scale": scale}, 2)
    draws = Mixture(tensor([0.5, 0.5]).log(), [block]).sample(500, generator(1))
    (slope,) = torch.autograd.grad(draws.sum(), scale)
    near = draws.detach().squeeze(-1) < 25.0
    expected = [draws.detach()[near].sum(), (draws.detach()[~near] - 50.0).sum() / 2.0]
    torch.testing.assert_close(slope.squeeze(-1), torch.stack(expected))


def test_ppf_of_one_component_is_exact():
    mixture = normal_mixture([1.0], [3.0], [0.5])
    levels = [1e-300, 1e-12, 0.3, 0.5, 1 - 1e-12]
    expected = norm.ppf(levels, 3.0, 0.5)
    np.testing.assert_allclose(mixture.ppf(tensor(levels))[:, 0], expected, rtol=1e-14)


# CRPS.


@pytest.mark.parametrize("y", [-3.0, 0.3, 2.5])
@every_shape
def test_crps_agrees_with_quadrature(shape, y):
    weights, means, scales = SHAPES_1D[shape]

    def squared_error(x):
        above = x > y
        tail = norm.sf if above else norm.cdf
        return np.dot(weights, tail(x, means, scales)) ** 2

    edges = np.union1d(edges_of(weights, means, scales), [y])
    expected = integrate(squared_error, edges)
    result = normal_mixture(weights, means, scales).crps(tensor([y])).item()
    np.testing.assert_allclose(result, expected, rtol=1e-8, atol=1e-8)


@algebra
@given(
    mixtures(),
    st.sampled_from([-1e6, -2.0, 1e-6, 0.5]),
    st.floats(-9.0, 9.0),
    st.integers(0, 999),
)
def test_crps_is_in_the_units_of_the_target(mixture, scale, shift, seed):
    y = randn(*mixture.batch_shape, mixture.n_outputs, seed=seed)
    moved = mixture.affine(tensor(scale), tensor(shift)).crps(scale * y + shift)
    torch.testing.assert_close(
        moved / abs(scale), mixture.crps(y), rtol=1e-7, atol=1e-7
    )


@every_layout
def test_crps_describes_each_output_by_itself(layout):
    mixture = random_mixture(layout, (3,))
    y = randn(3, 2, seed=9)
    alone = [mixture.marginal([d]).crps(y[:, [d]]) for d in range(2)]
    torch.testing.assert_close(mixture.crps(y), torch.cat(alone, -1))


# Linear algebra of the outputs.


@pytest.mark.parametrize("outputs", [*subsets(4, 1, 4), [3, 0, 2]], ids=str)
@every_type
def test_marginals_agree_with_the_dense_gaussian_for_every_subset(
    covariance_type, outputs
):
    mixture = random_mixture(covariance_type, (2,), n_outputs=4, seed=2)
    weights, means, covariances = dense(mixture)
    result = dense(mixture.marginal(outputs))
    np.testing.assert_allclose(result[0], weights)
    np.testing.assert_array_equal(result[1], means[..., outputs])
    np.testing.assert_allclose(
        result[2], covariances[..., outputs, :][..., outputs], rtol=1e-9, atol=1e-10
    )


@pytest.mark.parametrize("known", [*subsets(4, 1, 3), [3, 0], [2, 0, 1]], ids=str)
@every_type
def test_conditioning_agrees_with_the_dense_gaussian_for_every_subset(
    covariance_type, known
):
    mixture = random_mixture(covariance_type, (2,), n_outputs=4, seed=2)
    values = randn(2, len(known), seed=3)
    rest = [d for d in range(4) if d not in known]
    result = dense(mixture.condition(known, values))
    rows = one_by_one(mixture, values.numpy(), *result)
    for (weights, means, covariances), value, *conditioned in rows:
        log_weights = []
        for k, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
            inner = covariance[np.ix_(known, known)]
            gain = covariance[np.ix_(rest, known)] @ np.linalg.inv(inner)
            np.testing.assert_allclose(
                conditioned[1][k],
                mean[rest] + gain @ (value - mean[known]),
                rtol=1e-9,
                atol=1e-9,
            )
            np.testing.assert_allclose(
                conditioned[2][k],
                covariance[np.ix_(rest, rest)] - gain @ covariance[np.ix_(known, rest)],
                rtol=1e-9,
                atol=1e-9,
            )
            log_weights.append(
                reference_log_prob([weights[k]], [mean[known]], [inner], value)
            )
        np.testing.assert_allclose(
            conditioned[0], np.exp(log_weights - logsumexp(log_weights)), rtol=1e-9
        )


@algebra
@given(mixtures(min_outputs=2), st.data())
def test_a_joint_density_is_conditional_times_marginal(mixture, data):
    n_outputs = mixture.n_outputs
    order = data.draw(st.permutations(range(n_outputs)))
    known = order[: data.draw(st.integers(1, n_outputs - 1))]
    rest = [d for d in range(n_outputs) if d not in known]
    y = 2.0 * randn(*mixture.batch_shape, n_outputs, seed=data.draw(st.integers(0, 99)))
    conditional = mixture.condition(known, y[..., known]).log_prob(y[..., rest])
    marginal = mixture.marginal(known).log_prob(y[..., known])
    torch.testing.assert_close(
        conditional + marginal, mixture.log_prob(y), rtol=1e-9, atol=1e-9
    )


@algebra
@given(mixtures(min_outputs=2), st.data())
def test_marginalising_in_two_steps_is_marginalising_once(mixture, data):
    first = data.draw(st.permutations(range(mixture.n_outputs)))
    second = data.draw(st.permutations(range(len(first))))[: len(first) - 1]
    y = randn(*mixture.batch_shape, len(second), seed=1)
    torch.testing.assert_close(
        mixture.marginal(first).marginal(second).log_prob(y),
        mixture.marginal([first[d] for d in second]).log_prob(y),
    )


def test_conditioning_far_from_everything_still_gives_weights():
    mixture = random_mixture("full", n_outputs=2)
    conditional = mixture.condition([0], tensor([1e6]))
    np.testing.assert_allclose(conditional.weights.sum(), 1.0)
    assert bool(conditional.mean().isfinite().all())


@algebra
@given(mixtures(), st.integers(0, 999))
def test_affine_maps_density_moments_and_tails(mixture, seed):
    n_outputs = mixture.n_outputs
    scale, shift = randn(n_outputs, seed=seed), 5.0 * randn(n_outputs, seed=seed + 1)
    y = randn(*mixture.batch_shape, n_outputs, seed=seed + 2)
    moved = mixture.affine(scale, shift)
    close = {"rtol": 1e-8, "atol": 1e-8}
    torch.testing.assert_close(
        moved.log_prob(scale * y + shift),
        mixture.log_prob(y) - scale.abs().log().sum(),
        **close,
    )
    torch.testing.assert_close(moved.mean(), scale * mixture.mean() + shift, **close)
    torch.testing.assert_close(
        moved.variance(), scale.square() * mixture.variance(), **close
    )
    torch.testing.assert_close(
        moved.covariance(), scale[:, None] * scale * mixture.covariance(), **close
    )
    torch.testing.assert_close(
        moved.cdf(scale * y + shift),
        torch.where(scale > 0, mixture.cdf(y), mixture.sf(y)),
        **close,
    )


@algebra
@given(mixtures(), st.integers(0, 999))
def test_affine_undoes_itself(mixture, seed):
    scale, shift = tensor(-3.0), tensor(0.7)
    back = mixture.affine(scale, shift).affine(1.0 / scale, -shift / scale)
    y = randn(*mixture.batch_shape, mixture.n_outputs, seed=seed)
    torch.testing.assert_close(back.log_prob(y), mixture.log_prob(y))


# Ensembles and views.


@pytest.mark.parametrize("batch", [(3,), (3, 2), (3, 2, 4)], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
@every_layout
def test_merging_averages_the_densities_of_the_members(layout, weighted, batch):
    members = random_mixture(layout, batch)
    y = randn(*batch[1:], 2, seed=8)
    weights = tensor([0.2, 0.0, 0.8]) if weighted else tensor([1.0, 1.0, 1.0]) / 3.0
    merged = members.merge(weights.log() if weighted else None)
    assert merged.batch_shape == batch[1:]
    assert merged.n_components == 3 * members.n_components
    densities = torch.stack([members[m].log_prob(y).exp() for m in range(3)])
    expected = torch.tensordot(weights, densities, 1)
    torch.testing.assert_close(merged.log_prob(y).exp(), expected)
    means = torch.stack([members[m].mean() for m in range(3)])
    torch.testing.assert_close(merged.mean(), torch.tensordot(weights, means, 1))


def test_members_can_have_other_weights_in_each_row():
    members = random_mixture(batch=(3, 4))
    weights = torch.softmax(randn(3, 4, seed=2), 0)
    y = randn(4, 2, seed=8)
    densities = torch.stack([members[m].log_prob(y).exp() for m in range(3)])
    merged = members.merge(weights.log())
    torch.testing.assert_close(merged.log_prob(y).exp(), (weights * densities).sum(0))


def test_members_vary_slowest_along_the_merged_components():
    members = random_mixture("diag", (2,), n_components=3)
    merged = members.merge()
    expected = members.component_means().reshape(6, 2)
    assert torch.equal(merged.component_means(), expected)


def test_a_merged_ensemble_draws_from_every_member():
    members = random_mixture("mixed", (3, 2), seed=6)
    merged = members.merge()
    draws = merged.sample(20_000, generator(7)).numpy()
    expected = members.mean().mean(0).numpy()
    assert within_standard_errors(draws, expected, -2)


@pytest.mark.parametrize(
    "index", [0, -1, slice(1, None), [2, 0], (1, 2), (0, slice(2))], ids=str
)
@every_layout
def test_indexing_selects_mixtures_of_the_batch(layout, index):
    mixture = random_mixture(layout, (3, 4))
    y = randn(3, 4, 2, seed=8)
    chosen = mixture[index]
    assert chosen.batch_shape == y[index].shape[:-1]
    torch.testing.assert_close(chosen.log_prob(y[index]), mixture.log_prob(y)[index])


@every_batch
@every_layout
def test_unsqueeze_gives_every_mixture_an_axis_of_points(layout, batch):
    mixture = random_mixture(layout, batch)
    y = randn(*batch, 5, 2, seed=8)
    result = mixture.unsqueeze().log_prob(y)
    assert result.shape == (*batch, 5)
    torch.testing.assert_close(result[..., 3], mixture.log_prob(y[..., 3, :]))


@every_layout
def test_map_reaches_every_tensor(layout):
    mixture = random_mixture(layout, (3,)).map(lambda value: value.float())
    y = torch.zeros(3, 2)
    for result in (mixture.log_prob(y), mixture.mean(), mixture.covariance()):
        assert result.dtype == torch.float32


# Modes.


@every_shape
def test_mode_beats_a_fine_grid(shape):
    weights, means, scales = SHAPES_1D[shape]
    mixture = normal_mixture(weights, means, scales)
    edges = edges_of(weights, means, scales)
    grid = np.concatenate(
        [np.linspace(a, b, 200) for a, b in itertools.pairwise(edges)]
    )
    best = mixture.log_prob(tensor(grid)[:, None]).max()
    assert bool(mixture.log_prob(mixture.mode()) >= best - 1e-12)


@every_batch
@every_layout
def test_mode_beats_random_search_around_every_component(layout, batch):
    mixture = random_mixture(layout, batch, seed=4)
    at_mode = mixture.log_prob(mixture.mode())
    assert at_mode.shape == batch
    near = mixture.component_means().unsqueeze(-2)
    near = near + mixture.component_stds().unsqueeze(-2) * randn(2000, 2, seed=1)
    tries = near.flatten(-3, -2)
    best = mixture.unsqueeze().log_prob(tries).amax(-1)
    assert bool((at_mode >= best - 1e-12).all())


@every_batch
@every_layout
def test_gradient_vanishes_at_the_mode(layout, batch):
    mixture = random_mixture(layout, batch, seed=4)
    mode = mixture.mode().requires_grad_()
    (slope,) = torch.autograd.grad(mixture.log_prob(mode).sum(), mode)
    assert slope.abs().max().item() < 1e-6


def test_mode_of_crossing_ridges_lies_where_scipy_finds_it():
    covariance = np.array([[[1.0, 0.8], [0.8, 1.0]], [[1.0, -0.8], [-0.8, 1.0]]])
    means = np.array([[0.0, 0.0], [0.1, 0.0]])
    found = minimize(
        lambda y: -reference_log_prob([0.4, 0.6], means, covariance, y), means.mean(0)
    )
    mode = full_mixture([0.4, 0.6], means, covariance).mode()
    np.testing.assert_allclose(mode, found.x, atol=1e-5)


@every_type
def test_mode_of_one_component_is_its_mean(covariance_type):
    mixture = random_mixture(covariance_type, (3,), n_components=1, n_outputs=3)
    torch.testing.assert_close(mixture.mode(), mixture.mean())


# Entropy.


@every_shape
def test_entropy_agrees_with_quadrature(shape):
    weights, means, scales = SHAPES_1D[shape]
    if len(weights) == 1:
        expected = norm(means[0], scales[0]).entropy()
    else:
        on = np.asarray(weights) > 0

        def integrand(x):
            log_prob = logsumexp(
                norm.logpdf(x, means, scales)[on], b=np.asarray(weights)[on]
            )
            return -np.exp(log_prob) * log_prob

        expected = integrate(integrand, edges_of(weights, means, scales))
    result = normal_mixture(weights, means, scales).entropy().item()
    assert abs(result - expected) < 1e-9


def test_entropy_of_separated_components_is_theirs_plus_that_of_the_weights():
    weights, scales = np.array([0.2, 0.3, 0.5]), np.array([1e-4, 1.0, 30.0])
    mixture = normal_mixture(weights, [-1e3, 0.0, 1e3], scales)
    within = np.dot(weights, norm(0.0, scales).entropy())
    expected = within - np.dot(weights, np.log(weights))
    np.testing.assert_allclose(mixture.entropy(), expected, rtol=1e-10)


@every_batch
@every_layout
def test_entropy_moves_with_the_log_of_the_scale(layout, batch):
    mixture = random_mixture(layout, batch, n_outputs=1)
    moved = mixture.affine(tensor(-20.0), tensor(3.0))
    torch.testing.assert_close(moved.entropy(), mixture.entropy() + math.log(20.0))


@pytest.mark.parametrize(
    "z", [-37.0, -20.0, -9.0, -6.0, -5.0, 0.0, 5.0, 8.0, 20.0, 37.0]
)
@pytest.mark.parametrize("shape", SHAPES_1D)
def test_both_tails_are_relatively_exact_down_to_1e_300(shape, z):
    weights, means, scales = map(np.asarray, SHAPES_1D[shape])
    mixture = normal_mixture(weights, means, scales)
    for k in np.flatnonzero(weights):
        y = means[k] + z * scales[k]
        log_cdf = logsumexp(norm.logcdf(y, means, scales), b=weights)
        log_sf = logsumexp(norm.logsf(y, means, scales), b=weights)
        np.testing.assert_allclose(mixture.cdf(tensor([y])), np.exp(log_cdf), 1e-10)
        np.testing.assert_allclose(mixture.sf(tensor([y])), np.exp(log_sf), 1e-10)


@pytest.mark.parametrize("level", [1e-300, 1e-100, 1e-12, 1e-6])
def test_ppf_agrees_with_brentq_in_the_tails(level):
    weights, means, scales = SHAPES_1D["overlapping"]

    def residual(x):
        return logsumexp(norm.logcdf(x, means, scales), b=weights) - np.log(level)

    root = brentq(residual, -60, 9, xtol=1e-14)
    result = normal_mixture(weights, means, scales).ppf(tensor([level])).item()
    assert abs(result - root) < 1e-9


@pytest.mark.parametrize("shape", SHAPES_1D)
def test_cdf_of_ppf_is_the_level_down_to_1e_12(shape):
    mixture = normal_mixture(*SHAPES_1D[shape])
    levels = tensor(np.geomspace(1e-12, 0.5, 60))
    reached = mixture.unsqueeze().cdf(mixture.ppf(levels)).squeeze(-1)
    torch.testing.assert_close(reached, levels, rtol=1e-9, atol=0)
    reached = mixture.unsqueeze().sf(mixture.ppf(1.0 - levels)).squeeze(-1)
    torch.testing.assert_close(reached, 1.0 - (1.0 - levels), rtol=1e-9, atol=0)


def test_mode_may_lie_far_from_every_mean():
    # Ray and Lindsay (2005): two components, three modes.
    covariances = [np.diag([1.0, 0.05]), np.diag([0.05, 1.0])]
    means = [[0.0, 0.0], [1.0, 1.0]]
    mixture = full_mixture([0.5, 0.5], means, covariances)
    between = reference_log_prob([0.5, 0.5], means, covariances, [0.98, 0.02])
    assert mixture.log_prob(mixture.mode()).item() >= between


def test_mode_is_found_where_two_components_have_just_merged():
    mixture = normal_mixture([0.5, 0.5], [-1.0, 1.0], [1.0, 1.0])
    assert abs(mixture.mode().item()) < 1e-3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_mixture_can_be_conditioned_on_many_values(layout):
    mixture = random_mixture(layout, n_outputs=3)
    values = tensor([[0.0], [1.0], [5.0], [-2.0], [0.3]])
    conditional = mixture.condition([1], values)
    assert conditional.sample(4, generator()).shape == (5, 4, 2)
    for row, value in enumerate(values):
        expected = mixture.condition([1], value).mean()
        torch.testing.assert_close(conditional[row].mean(), expected)


def test_entropy_works_in_single_precision():
    mixture = normal_mixture([0.5, 0.5], [0.0, 3.0], [1.0, 2.0])
    single = mixture.map(lambda value: value.float())
    result = single.entropy()
    np.testing.assert_allclose(result, mixture.entropy(), rtol=1e-4)


@given(mixtures(), st.floats(-1.0, 1.0), st.integers(0, 999))
@algebra
def test_widening_keeps_means_and_multiplies_deviations(mixture, log_factor, seed):
    log_factors = log_factor + 0.2 * randn(*mixture.batch_shape, seed=seed)
    wide = mixture.widen(log_factors.exp())
    weights, means, covariances = dense(mixture)
    wide_weights, wide_means, wide_covariances = dense(wide)
    np.testing.assert_array_equal(wide_weights, weights)
    np.testing.assert_array_equal(wide_means, means)
    square = np.exp(2.0 * log_factors.numpy())[..., None, None, None]
    np.testing.assert_allclose(wide_covariances, square * covariances, rtol=1e-9)


@every_layout
def test_a_widened_mixture_is_scipys_with_larger_covariances(layout):
    mixture = random_mixture(layout)
    y = randn(2, seed=5)
    for factor in (0.5, 1.0, 3.0):
        weights, means, covariances = dense(mixture)
        expected = reference_log_prob(weights, means, factor**2 * covariances, y)
        found = mixture.widen(tensor(factor)).log_prob(y)
        np.testing.assert_allclose(found, expected, rtol=1e-10)


@every_type
def test_a_floor_bounds_narrowing_but_does_not_widen(covariance_type):
    mixture = random_mixture(covariance_type, (4,), n_outputs=3)
    scales = mixture.blocks[0].family.scales(mixture.blocks[0].params)
    floor = float(scales.median())
    narrow = mixture.widen(tensor(1e-3), min_scale=floor)
    family, params = narrow.blocks[0].family, narrow.blocks[0].params
    smallest, now = scales.amin(-1), family.scales(params).amin(-1)
    # Components above the floor come down to it; those below it stay.
    expected = torch.where(smallest > floor, torch.full_like(smallest, floor), smallest)
    torch.testing.assert_close(now, expected)
    # All scales of a component shrink by one factor.
    ratio = family.scales(params) / scales
    torch.testing.assert_close(ratio, ratio[..., :1].expand_as(ratio))
    torch.testing.assert_close(
        mixture.widen(tensor(2.0), min_scale=floor).component_stds(),
        2.0 * mixture.component_stds(),
    )


# Components of different families.


def three_families():
    """Return a mixture of normal, Student and gamma components, and scipy's parts."""
    logits = tensor([0.3, -1.0, 0.8])
    blocks = [
        Block(Normal(), {"mean": tensor([[1.0]]), "scale": tensor([[0.5]])}, 1),
        Block(
            StudentT(),
            {"loc": tensor([[-1.0]]), "scale": tensor([[2.0]]), "df": tensor([[3.5]])},
            1,
        ),
        Block(Gamma(), {"concentration": tensor([[2.5]]), "rate": tensor([[1.5]])}, 1),
    ]
    frozen = [norm(1.0, 0.5), student_t(3.5, -1.0, 2.0), gamma(2.5, scale=1 / 1.5)]
    return logits, blocks, frozen


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_three_families_agree_with_scipy(temperature):
    logits, blocks, frozen = three_families()
    mixture = Mixture.from_logits(logits, blocks, temperature)
    weights = np.exp(logits.numpy() / temperature)
    weights /= weights.sum()
    y = np.array([-3.0, -0.1, 0.4, 1.0, 6.0])
    with np.errstate(divide="ignore"):
        parts = np.log(weights)[:, None] + [f.logpdf(y) for f in frozen]
    expected = logsumexp(parts, axis=0)
    found = mixture.log_prob(tensor(y).unsqueeze(-1))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    cdf = weights @ [f.cdf(y) for f in frozen]
    np.testing.assert_allclose(
        mixture.cdf(tensor(y).unsqueeze(-1))[:, 0], cdf, rtol=1e-10
    )
    mean = weights @ [f.mean() for f in frozen]
    assert float(mixture.mean()) == pytest.approx(mean, rel=1e-12)

    def density(x):
        return float(mixture.log_prob(tensor([x])).exp())

    total = sum(
        quad(density, *ends, limit=200)[0]
        for ends in ((-np.inf, -5.0), (-5.0, 0.0), (0.0, 3.0), (3.0, np.inf))
    )
    assert total == pytest.approx(1.0, abs=1e-6)


def test_the_order_of_blocks_does_not_matter():
    logits, blocks, _ = three_families()
    turned = Mixture.from_logits(logits.flip(0), blocks[::-1])
    y = tensor([[-2.0], [0.7]])
    torch.testing.assert_close(
        turned.log_prob(y), Mixture.from_logits(logits, blocks).log_prob(y)
    )


def test_draws_of_three_families_have_their_shares_and_no_others_numbers():
    _, blocks, frozen = three_families()
    shares = tensor([0.6, 0.0, 0.4])
    # A component that is never chosen may be anything.
    lost = {name: value * math.nan for name, value in blocks[1].params.items()}
    mixture = Mixture(shares.log(), [blocks[0], blocks[1].replace(lost), blocks[2]])
    draws = mixture.sample(40_000, generator())[:, 0].numpy()
    assert np.isfinite(draws).all()
    for point in (0.2, 1.0, 2.5):
        chance = 0.6 * frozen[0].cdf(point) + 0.4 * frozen[2].cdf(point)
        error = math.sqrt(chance * (1 - chance) / len(draws))
        assert abs((draws <= point).mean() - chance) < 4 * error


def test_logarithms_of_tails_go_beyond_the_smallest_number():
    block = Block(
        Normal(), {"mean": tensor([[-1.0], [2.0]]), "scale": tensor([[1.0], [0.5]])}, 2
    )
    mixture = Mixture(tensor([0.3, 0.7]).log(), [block])
    for y in (-80.0, -3.0, 0.5, 4.0, 90.0):
        weights, means, stds = np.array([0.3, 0.7]), np.array([-1.0, 2.0]), [1.0, 0.5]
        for found, law in ((mixture.log_cdf, "logcdf"), (mixture.log_sf, "logsf")):
            logs = getattr(norm(means, stds), law)(y)
            expected = logsumexp(np.log(weights) + logs)
            np.testing.assert_allclose(
                found(tensor([y])), [expected], rtol=1e-12, atol=1e-15
            )


def test_limits_of_the_temperature():
    block = random_block("diag", (2,))
    mixture = Mixture.from_logits(randn(2, 3), [block])
    best = torch.nn.functional.one_hot(mixture.weights.argmax(-1), 3).double()
    for cold in (1e-3, 1e-100, 5e-324):
        torch.testing.assert_close(mixture.temper(cold).weights, best)
    third = torch.full((2, 3), 1.0 / 3.0, dtype=torch.float64)
    for hot in (1e20, 1e300):
        torch.testing.assert_close(mixture.temper(hot).weights, third)
    torch.testing.assert_close(
        mixture.temper(3.0).temper(1.0 / 3.0).log_weights, mixture.log_weights
    )
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature must be positive, got"):
            mixture.temper(wrong)
