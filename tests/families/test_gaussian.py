import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm
from torch.distributions import Independent
from torch.distributions import MultivariateNormal as TorchMultivariateNormal
from torch.distributions import Normal as TorchNormal

from skmdn.families import (
    MultivariateNormal,
    Normal,
    inverse_softplus,
    make_family,
)
from tests.helpers import (
    BATCH_SHAPES,
    COVARIANCE_TYPES,
    algebra,
    dense_components,
    generator,
    randn,
    random_block,
    random_raw,
    tensor,
)

MIN_SCALE = 0.2

every_type = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)


def conditional_stds(covariance):
    """Std of every output given the outputs before it, by Schur complements."""
    variances = []
    for i in range(covariance.shape[-1]):
        cross = covariance[..., i, :i]
        known = covariance[..., :i, :i]
        explained = cross[..., None, :] @ np.linalg.solve(known, cross[..., None])
        variances.append(covariance[..., i, i] - explained[..., 0, 0])
    return np.sqrt(np.stack(variances, -1))


@pytest.mark.parametrize("batch", BATCH_SHAPES)
@every_type
def test_log_prob_agrees_with_torch_distributions(covariance_type, batch):
    block = random_block(covariance_type, batch, n_outputs=3, seed=1)
    y = 3.0 * randn(*batch, 1, 3, seed=2)
    mean = block.params["mean"]
    if isinstance(block.family, Normal):
        scale = block.params["scale"].expand_as(mean)
        reference = Independent(TorchNormal(mean, scale), 1)
    else:
        factor = block.params["precision_factor"].expand(*mean.shape, 3)
        root = torch.linalg.inv(factor)
        reference = TorchMultivariateNormal(mean, root @ root.mT)
    torch.testing.assert_close(
        block.family.log_prob(block.params, y),
        reference.log_prob(y),
        rtol=1e-10,
        atol=1e-10,
    )


@pytest.mark.parametrize("batch", BATCH_SHAPES)
@every_type
def test_moments_agree_with_the_dense_matrices(covariance_type, batch):
    block = random_block(covariance_type, batch, n_outputs=3, seed=3)
    mean, covariance = dense_components(block)
    std = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    family, params = block.family, block.params
    np.testing.assert_array_equal(family.mean(params), mean)
    np.testing.assert_allclose(family.std(params), std, rtol=1e-10)
    np.testing.assert_allclose(
        family.covariance(params), covariance, rtol=1e-10, atol=1e-12
    )


@every_type
def test_precision_is_the_inverse_of_covariance(covariance_type):
    block = random_block(covariance_type, (2,), n_outputs=4, seed=4)
    product = block.family.precision(block.params) @ block.family.covariance(
        block.params
    )
    eye = torch.eye(4, dtype=torch.float64).expand_as(product)
    torch.testing.assert_close(product, eye, rtol=0, atol=1e-10)


@every_type
def test_scales_are_the_positive_conditional_stds(covariance_type):
    block = random_block(covariance_type, (2,), n_outputs=3, seed=5)
    scales = block.family.scales(block.params).numpy()
    _, covariance = dense_components(block)
    expected = conditional_stds(covariance)
    assert (scales > 0).all()
    np.testing.assert_allclose(
        np.broadcast_to(scales, expected.shape), expected, rtol=1e-9
    )


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_lower_holds_the_regression_of_each_output_on_those_before(covariance_type):
    family = MultivariateNormal(covariance_type)
    raw = random_raw(family, n_components=1, n_outputs=3, seed=6)
    covariance = family.covariance(family.from_raw(raw, MIN_SCALE))[0].numpy()
    regressions = [
        np.linalg.solve(covariance[:i, :i], covariance[i, :i]) for i in (1, 2)
    ]
    np.testing.assert_allclose(raw["lower"][0], np.concatenate(regressions), rtol=1e-10)


@every_type
def test_min_scale_is_a_floor_that_the_links_reach_but_never_cross(covariance_type):
    family = make_family("normal", covariance_type)
    raw = random_raw(family, (4,), n_components=3, n_outputs=2, seed=7)
    raw["scale"] = torch.linspace(-60.0, 60.0, raw["scale"].numel()).double()
    raw["scale"] = raw["scale"].reshape(4, *family.raw_shapes(3, 2)["scale"])
    params = family.from_raw(raw, MIN_SCALE)
    scales = family.scales(params)
    assert scales.min().item() >= MIN_SCALE * (1 - 1e-14)
    np.testing.assert_allclose(scales.min(), MIN_SCALE, rtol=1e-12)
    np.testing.assert_allclose(scales.max(), MIN_SCALE + 60.0, rtol=1e-6)
    assert bool((family.std(params) >= MIN_SCALE * (1 - 1e-12)).all())


@every_type
def test_start_and_from_raw_invert_each_other(covariance_type):
    family = make_family("normal", covariance_type)
    centers, spreads = randn(3, 2, seed=8), randn(3, 2, seed=9).abs() + 0.5
    raw = family.start(centers, spreads, MIN_SCALE)
    params = family.from_raw(raw, MIN_SCALE)
    variances = spreads.square()
    expected = {
        "full": variances,
        "diag": variances,
        "spherical": variances.mean(-1, keepdim=True).expand(3, 2),
        "tied": variances.mean(-2, keepdim=True).expand(3, 2),
    }[covariance_type]
    for name, shape in family.raw_shapes(3, 2).items():
        assert raw[name].shape == shape
    torch.testing.assert_close(family.mean(params), centers)
    torch.testing.assert_close(family.std(params), expected.sqrt())
    torch.testing.assert_close(family.covariance(params), torch.diag_embed(expected))


@every_type
def test_start_lifts_spreads_below_the_floor_just_above_it(covariance_type):
    family = make_family("normal", covariance_type)
    raw = family.start(randn(3, 2, seed=8), torch.zeros(3, 2).double(), MIN_SCALE)
    scales = family.scales(family.from_raw(raw, MIN_SCALE))
    assert bool((scales > MIN_SCALE).all() & (scales < 1.2 * MIN_SCALE).all())


@every_type
def test_gradients_of_the_density_agree_with_finite_differences(covariance_type):
    family = make_family("normal", covariance_type)
    raw = random_raw(family, (2,), n_components=2, n_outputs=3, seed=10)
    names, y = list(raw), 2.0 * randn(2, 1, 3, seed=11)

    def log_prob(*values):
        params = family.from_raw(dict(zip(names, values, strict=True)), MIN_SCALE)
        return family.log_prob(params, y)

    inputs = [raw[name].requires_grad_() for name in names]
    assert torch.autograd.gradcheck(log_prob, inputs, atol=1e-6)


@pytest.mark.parametrize("n_outputs", [1, 2])
@every_type
def test_draws_have_the_moments_of_their_component(covariance_type, n_outputs):
    block = random_block(covariance_type, n_outputs=n_outputs, n_components=1, seed=12)
    n_draws = 20_000
    row = torch.zeros(n_draws, dtype=torch.long)
    draws = block.family.draw(block.take(row), generator(1)).numpy()
    mean, covariance = dense_components(block)
    offset = draws - mean[0]
    products = offset[:, :, None] * offset[:, None, :]
    error = products.std(0) / np.sqrt(n_draws)
    assert draws.shape == (n_draws, n_outputs)
    assert (
        np.abs(offset.mean(0)) < 4 * np.sqrt(np.diagonal(covariance[0]) / n_draws)
    ).all()
    assert (np.abs(products.mean(0) - covariance[0]) < 4 * error).all()


@pytest.mark.parametrize("n_outputs", [1, 3])
@every_type
def test_distribution_functions_agree_with_scipy(covariance_type, n_outputs):
    block = random_block(covariance_type, n_outputs=n_outputs, seed=13)
    family, params = block.family, block.params
    mean, covariance = dense_components(block)
    std = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    y = mean + std * np.array([-8.0, -1.0, 0.0, 0.5, 6.0])[:, None, None]
    cdf, sf = family.cdf(params, tensor(y)), family.sf(params, tensor(y))
    np.testing.assert_allclose(cdf, norm.cdf(y, mean, std), atol=1e-15)
    np.testing.assert_allclose(sf, norm.sf(y, mean, std), atol=1e-15)
    levels = np.array([1e-300, 1e-12, 0.3, 0.5, 1 - 1e-12])[:, None, None]
    quantiles = family.ppf(params, tensor(levels))
    np.testing.assert_allclose(quantiles, norm.ppf(levels, mean, std), rtol=1e-12)


@algebra
@given(
    covariance_type=st.sampled_from(COVARIANCE_TYPES),
    n_outputs=st.integers(1, 4),
    seed=st.integers(0, 999),
)
def test_affine_moves_means_and_covariances(covariance_type, n_outputs, seed):
    block = random_block(covariance_type, (2,), n_outputs=n_outputs, seed=seed)
    scale, shift = randn(n_outputs, seed=seed), randn(n_outputs, seed=seed + 1)
    params = block.family.affine(block.params, scale, shift)
    mean, covariance = dense_components(block)
    outer = np.outer(scale, scale)
    np.testing.assert_allclose(params["mean"], mean * scale.numpy() + shift.numpy())
    np.testing.assert_allclose(
        block.family.covariance(params), covariance * outer, rtol=1e-8, atol=1e-10
    )
    assert bool((block.family.scales(params) > 0).all())


@pytest.mark.parametrize("x", [1e-12, 1e-3, 1.0, 30.0, 1e6])
def test_inverse_softplus_inverts_softplus(x):
    back = torch.nn.functional.softplus(inverse_softplus(tensor(x)))
    np.testing.assert_allclose(back, x, rtol=1e-12)


@every_type
def test_make_family_knows_every_covariance_type(covariance_type):
    family = make_family("normal", covariance_type)
    assert family.covariance_type == covariance_type
    assert isinstance(family, Normal) == (covariance_type in ("diag", "spherical"))


def test_make_family_returns_an_object_as_it_is():
    family = MultivariateNormal("tied")
    assert make_family(family, "diag") is family


@pytest.mark.parametrize("name", ["gaussian", "", "Normal"])
def test_make_family_names_what_it_knows_when_asked_for_something_else(name):
    with pytest.raises(ValueError, match=f"family='{name}' is not known.*'normal'"):
        make_family(name)


def test_families_are_values():
    assert Normal("diag") == Normal() != Normal("spherical")
    assert len({MultivariateNormal(), MultivariateNormal("full")}) == 1


def test_make_family_refuses_an_unknown_covariance_type():
    with pytest.raises(ValueError, match="covariance_type='diagonal'"):
        make_family("normal", "diagonal")


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_widened_components_are_scipys(covariance_type, factor):
    block = random_block(covariance_type, (2,), n_outputs=2)
    params = block.family.widen(block.params, tensor(factor).reshape(1, 1))
    means, covariances = dense_components(block)
    wide_means, wide_covariances = dense_components(block.replace(params))
    np.testing.assert_array_equal(wide_means, means)
    np.testing.assert_allclose(wide_covariances, factor**2 * covariances, rtol=1e-10)
    y = randn(2, seed=8)
    found = block.family.log_prob(params, y)
    for row, component in np.ndindex(2, 3):
        expected = multivariate_normal(
            means[row, component], factor**2 * covariances[row, component]
        ).logpdf(y.numpy())
        assert float(found[row, component]) == pytest.approx(expected, rel=1e-10)
    torch.testing.assert_close(
        block.family.std(params).expand(2, 3, 2),
        factor * block.family.std(block.params).expand(2, 3, 2),
    )
