"""Where a decoder's fit begins: blocks of columns, first codes, first mixtures."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from skmdn import DeepGenerativeDecoder, em
from skmdn.bridge import to_numpy, to_tensor
from skmdn.decoder.start import (
    column_blocks,
    component_classes,
    default_scale,
    first_codes,
    first_mixture,
    principal_axes,
    resolved_priors,
)
from skmdn.priors import Dirichlet, LogNormalScale, Softball


def rng(seed=0):
    return np.random.RandomState(seed)


X = rng().normal(size=(20, 6))


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (slice(0, 2), [0, 1]),
        ([3, 1], [3, 1]),
        ([-1], [5]),
        (np.arange(6) % 2 == 0, [0, 2, 4]),
        (["c", "a"], [2, 0]),
    ],
    ids=["slice", "numbers", "from the end", "mask", "names"],
)
def test_columns_in_all_their_forms(chosen, expected):
    rest = [place for place in range(6) if place not in expected]
    likelihood = [("one", chosen, "gaussian"), ("two", rest, "spherical_gaussian")]
    blocks, names = column_blocks(likelihood, 6, list("abcdef"), X, "total")
    assert names == ["one", "two"]
    assert blocks.columns == [expected, rest]
    assert [law.name for law in blocks.laws] == ["gaussian", "spherical_gaussian"]


def test_a_name_stands_for_one_block_of_all_columns():
    blocks, names = column_blocks("gaussian", 6, None, X, "total")
    assert names == ["gaussian"]
    assert blocks.columns == [list(range(6))]


def test_categories_are_counted():
    values = np.array([[0.0, 2.0], [1.0, 0.0], [np.nan, 4.0]])
    blocks, _ = column_blocks("categorical", 2, None, values, "total")
    assert (to_numpy(blocks.laws[0].closed) == 0.0).sum(axis=1).tolist() == [2, 5]


def test_counts_have_a_size_if_they_are_to_have_one():
    counts = np.ones((3, 2))
    for size_factors, sized in (("total", True), ("none", False)):
        blocks, _ = column_blocks("poisson", 2, None, counts, size_factors)
        assert blocks.laws[0].sized is sized


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([0, 7], "are not among the 6 features"),
        (["z"], "names the column 'z'"),
        ([True, False], r"has the shape \(2,\) for 6 features"),
        ([0, 0, 1, 2, 3, 4, 5], "feature 0 is in 2"),
        ([0, 1], "feature 2 is in 0"),
    ],
)
def test_columns_that_cannot_be_meant_are_refused(chosen, message):
    with pytest.raises(ValueError, match=message):
        column_blocks([("a", chosen, "gaussian")], 6, list("abcdef"), X, "total")


def test_balls_of_the_default_scale_fill_one_together():
    # In L dimensions the volume of a ball grows with the L-th power of its radius.
    assert np.isclose(5 * default_scale(5, 3) ** 3, 1.0)


@pytest.mark.parametrize("n_components", [1, 3, 7, 10])
def test_components_are_shared_out_among_classes(n_components):
    member = component_classes(3, n_components)
    counts = np.bincount(member)
    assert len(member) == max(3, n_components)
    assert counts.max() - counts.min() <= 1
    assert (np.diff(member) >= 0).all()


def test_auto_priors_are_those_of_the_documentation():
    model = DeepGenerativeDecoder()
    priors = resolved_priors(model, 8, 3, 200)
    assert priors.weights == Dirichlet(2.0)
    assert priors.means == Softball(np.sqrt(5.0))
    assert priors.scales == LogNormalScale(0.5, 0.4)
    assert priors.classes is None
    priors = resolved_priors(model, 3, 3, 200, np.array([0, 0, 1]))
    assert priors.classes.n_classes == 2
    model.set_params(weights_prior=None, means_prior=None, scales_prior=None)
    assert resolved_priors(model, 8, 3, 200) == em.Priors()
    model.set_params(covariance_type="fixed", scales_prior=LogNormalScale(1.0))
    with pytest.raises(ValueError, match="scales_prior must be 'auto' or None"):
        resolved_priors(model, 8, 3, 200)


def test_axes_are_those_of_pca():
    mean, axes, filled = principal_axes(to_tensor(X), rng())
    pca = PCA(svd_solver="full").fit(X)
    np.testing.assert_allclose(mean, pca.mean_)
    np.testing.assert_allclose(axes, pca.components_, atol=1e-10)
    np.testing.assert_array_equal(filled, X)


def test_missing_values_are_filled_from_the_plane_that_rows_lie_in():
    low = rng().normal(size=(200, 1)) @ rng(1).normal(size=(1, 8))
    holed = np.where(rng(2).rand(*low.shape) < 0.1, np.nan, low)
    _, _, filled = principal_axes(to_tensor(holed), rng())
    np.testing.assert_array_equal(filled[~np.isnan(holed)], low[~np.isnan(holed)])
    gap = (filled - low)[np.isnan(holed)]
    by_mean = (np.nanmean(holed, axis=0) - low)[np.isnan(holed)]
    assert np.sqrt(np.mean(gap**2)) < 0.01 * np.sqrt(np.mean(by_mean**2))


def codes_from(init, n_latent=3, rows=X):
    mean, axes, filled = principal_axes(to_tensor(rows), rng())
    return first_codes(init, n_latent, filled, mean, axes, rng(3))


def test_first_codes_are_whitened_principal_components():
    expected = PCA(3, svd_solver="full").fit_transform(X)
    expected /= expected.std(axis=0)
    np.testing.assert_allclose(codes_from("pca"), expected, atol=1e-8)


def test_features_beyond_the_rank_begin_at_noise():
    codes = codes_from("pca", 4, np.outer(np.arange(20.0), np.ones(6)))
    np.testing.assert_allclose(codes[:, 0].std(), 1.0)
    assert 0.02 < codes[:, 1:].std() < 0.3


def test_first_codes_by_name_number_or_array():
    np.testing.assert_array_equal(codes_from("zero"), np.zeros((20, 3)))
    np.testing.assert_array_equal(codes_from(0.5), np.full((20, 3), 0.5))
    np.testing.assert_array_equal(codes_from(5), np.full((20, 3), 5.0))
    np.testing.assert_array_equal(codes_from("random"), rng(3).standard_normal((20, 3)))
    given = rng(4).normal(size=(20, 3))
    codes = codes_from(given)
    np.testing.assert_array_equal(codes, given)
    assert not np.shares_memory(codes, given)
    with pytest.raises(ValueError, match=r"init has the shape \(20, 2\); expected"):
        codes_from(given[:, :2])
    with pytest.raises(ValueError, match="init"):
        codes_from(np.full((20, 3), np.nan))


def groups():
    """Return codes in four groups of ten, two for each of two classes."""
    centers = np.array([[-5.0, -5.0], [-5.0, 5.0], [5.0, -5.0], [5.0, 5.0]])
    label = np.repeat(np.arange(4), 10)
    return centers[label] + 0.1 * rng().normal(size=(40, 2)), label


def started(codes, n_components, priors, labels=None, kind="full"):
    return first_mixture(codes, 0, n_components, kind, 0.5, priors, rng(), labels)


def test_the_first_mixture_has_the_moments_of_its_groups():
    codes, label = groups()
    block = started(codes, 4, em.Priors())
    means = to_numpy(block.parameters.means[0])
    order = np.lexsort(means.round().T[::-1])
    found = [codes[label == k].mean(axis=0) for k in range(4)]
    np.testing.assert_allclose(means[order], found, atol=1e-10)
    np.testing.assert_allclose(to_numpy(block.parameters.log_weights.exp()), 0.25)


def test_components_of_a_class_begin_among_its_rows():
    codes, label = groups()
    member = torch.tensor([0, 0, 1, 1])
    priors = em.Priors(classes=em.Classes(member, 2))
    block = started(codes, 4, priors, np.where(label % 10 < 2, 0, 1))
    means = to_numpy(block.parameters.means[0])
    assert (means[:2, 0] < 0.0).all()
    assert (means[2:, 0] > 0.0).all()
    assert block.classes.member.tolist() == member.tolist()


@pytest.mark.parametrize("kind", em.COVARIANCE_TYPES)
def test_codes_that_are_all_the_same_make_a_mixture_too(kind):
    priors = em.Priors(scales=LogNormalScale(0.5))
    if kind == "fixed":
        priors = em.Priors()
    block = started(np.zeros((20, 2)), 3, priors, kind=kind)
    joint = block.joint(to_tensor(np.zeros((1, 2))), None)
    assert bool(torch.logsumexp(joint, 1).isfinite().all())
