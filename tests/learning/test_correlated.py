"""Mixtures of correlated normals from raw numbers: density and gradients."""

import pytest
import torch

from skmdn.learning.correlated import (
    LINKS,
    apply_link,
    component_terms,
    correlated_log_prob,
    raw_sizes,
    split_raw,
)
from tests.helpers import randn

N_MEMBERS, N_COMPONENTS, N_ROWS = 2, 3, 5


def numbers(n_outputs, seed=0):
    """Raw numbers, a base, units and points."""
    n_raw = sum(raw_sizes(N_COMPONENTS, n_outputs))
    shapes = [(n_raw, N_ROWS), (n_outputs, N_ROWS), (N_COMPONENTS, n_outputs)]
    shapes.append((n_outputs, N_ROWS))
    return [randn(N_MEMBERS, *s, seed=seed + i) for i, s in enumerate(shapes)]


def dense_log_prob(raw, base, log_unit, u, link):
    """The same by torch.distributions."""
    n_outputs = u.shape[1]
    logits, mean, diagonal, lower = split_raw(raw, N_COMPONENTS, n_outputs)
    factor = torch.diag_embed(apply_link(diagonal, link).movedim(-1, 1))
    row, column = torch.tril_indices(n_outputs, n_outputs, -1)
    factor[..., row, column] = lower.movedim(-1, 1)
    factor = factor * log_unit.exp()[:, None, :, :, None]
    means = (mean + base.unsqueeze(1)).movedim(-1, 1)
    normals = torch.distributions.MultivariateNormal(
        means, precision_matrix=factor.mT @ factor
    )
    weights = torch.distributions.Categorical(logits=logits.movedim(-1, 1))
    mixture = torch.distributions.MixtureSameFamily(weights, normals)
    return mixture.log_prob(u.mT)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("n_outputs", [1, 2, 4])
def test_density(n_outputs, link):
    given = numbers(n_outputs)
    found = correlated_log_prob(*given, link)
    torch.testing.assert_close(found, dense_log_prob(*given, link))


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("n_outputs", [1, 2, 4])
def test_gradient_against_finite_differences(n_outputs, link):
    given = [value.requires_grad_() for value in numbers(n_outputs, seed=7)]
    assert torch.autograd.gradcheck(lambda *a: correlated_log_prob(*a, link), given)


@pytest.mark.parametrize("link", LINKS)
def test_terms_are_those_of_the_density(link):
    given = numbers(3)
    top, squares = component_terms(*given, link)
    torch.testing.assert_close(
        torch.logsumexp(top - 0.5 * squares, 1), correlated_log_prob(*given, link)
    )


@pytest.mark.parametrize("link", LINKS)
def test_links_start_at_one_and_stay_positive(link):
    raw = torch.tensor([-1e3, 0.0, 1e3], dtype=torch.float64)
    linked = apply_link(raw, link)
    assert (linked > 0.0).all()
    assert linked.isfinite().all()
    assert linked[1] == pytest.approx(1.0, abs=2e-4)


def test_far_points_have_a_finite_density_and_gradient():
    raw, base, log_unit, u = numbers(2)
    raw.requires_grad_()
    value = correlated_log_prob(raw, base, log_unit, u + 1e4, "softplus")
    (gradient,) = torch.autograd.grad(value.sum(), raw)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
