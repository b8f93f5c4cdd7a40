"""The laws of columns against scipy and against automatic differentiation."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.autograd.functional import hessian, jacobian

from skmdn.decoding.laws import (
    Bernoulli,
    Categorical,
    Gaussian,
    NegativeBinomial,
    Poisson,
)
from tests.decoding.helpers import LAWS, generator, law_of, normal, values_of


def parts(name):
    """Return a law, prepared values, outputs and sizes."""
    law, x = law_of(name), values_of(name, seed=1)
    eta = normal(5, law.n_outputs, seed=2)
    log_size = 0.5 * normal(5, 1, seed=3) if law.counts else 0.0
    return law, x, eta, log_size


def reference(name, law, x, eta, log_size):
    """Return scipy's log density of the values."""
    x, eta = x.numpy(), eta.detach().numpy()
    mean = np.exp(eta + np.asarray(log_size))
    if "gaussian" in name:
        scale = (law.scale() * law.spread).detach().numpy()
        center = (law.center + law.spread * torch.tensor(eta)).numpy()
        return stats.norm.logpdf(x, center, scale)
    if name == "bernoulli":
        return stats.bernoulli.logpmf(x, 1.0 / (1.0 + np.exp(-eta)))
    if name == "poisson":
        return stats.poisson.logpmf(x, mean)
    if name == "negative_binomial":
        r = law.shape().detach().numpy()
        return stats.nbinom.logpmf(x, r, r / (r + mean))
    logits = eta.reshape(5, 3, 3) + law.closed.numpy()
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return np.take_along_axis(log_p, x.astype(int)[..., None], -1)[..., 0]


@pytest.mark.parametrize("name", LAWS)
def test_the_log_density_is_that_of_scipy(name):
    law, x, eta, log_size = parts(name)
    prepared = law.prepared(x)
    found = law.log_prob(prepared, eta, log_size) + law.constant(prepared)
    expected = reference(name, law, x, eta, log_size)
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-10)


@pytest.mark.parametrize("name", LAWS)
def test_derivatives_are_those_of_autograd(name):
    law, x, eta, log_size = parts(name)
    prepared = law.prepared(x)

    def total(outputs):
        return law.log_prob(prepared, outputs, log_size).sum(1)

    first, decline = law.slopes(prepared, eta, log_size)
    expected = jacobian(lambda e: total(e).sum(), eta)
    torch.testing.assert_close(first.detach(), expected)
    tangents = normal(5, 2, law.n_outputs, seed=5)
    found = law.gram(tangents, decline).detach()
    for row in range(5):
        curvature = hessian(
            lambda e, row=row: law.log_prob(
                prepared[row : row + 1],
                e.unsqueeze(0),
                log_size[row : row + 1] if law.counts else 0.0,
            ).sum(),
            eta[row],
        )
        expected = -tangents[row] @ curvature @ tangents[row].T
        torch.testing.assert_close(found[row], expected.detach())


@pytest.mark.parametrize(
    "name", ["gaussian", "negative_binomial", "spherical_gaussian"]
)
def test_the_gradient_by_the_parameter_is_that_of_autograd(name):
    law, x, eta, log_size = parts(name)
    prepared, observed = law.prepared(x), (normal(5, 3, seed=6) > 0).double()
    whole = law.log_prob(prepared, eta, log_size) + law.constant(prepared)
    (expected,) = torch.autograd.grad((whole * observed).sum(), law.raw)
    found = law.parameter_slopes(prepared, eta, log_size, observed)
    torch.testing.assert_close(found.detach(), expected[0])


@pytest.mark.parametrize("name", LAWS)
def test_draws_have_the_mean(name):
    law = law_of(name)
    eta = 0.5 * normal(1, law.n_outputs, seed=8).expand(20_000, -1)
    drawn = law.sample(eta, 0.0, generator()).detach()
    mean = law.mean(eta[:1], 0.0).detach()[0]
    if name == "categorical":
        drawn = law.one_hot(drawn).flatten(1)
    error = drawn.std(0) / np.sqrt(len(drawn)) + 1e-12
    assert ((drawn.mean(0) - mean).abs() < 4.0 * error).all()


@pytest.mark.parametrize("name", LAWS)
def test_the_start_is_the_marginal_mean(name):
    law, x = LAWS[name](), values_of(name, 400)
    x[:50, 0] = torch.nan
    mean = law.mean(law.start(x).unsqueeze(0), 0.0)[0].detach()
    if name == "categorical":
        seen = x[50:, 0]
        shares = [(seen == level).double().mean() for level in range(3)]
        torch.testing.assert_close(mean[:3], torch.stack(shares), atol=0.01, rtol=0)
    else:
        torch.testing.assert_close(mean, x.nanmean(0), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("law", "values"),
    [
        (Bernoulli(1), [-0.1, 1.1]),
        (Poisson(1), [-1.0, 0.5]),
        (NegativeBinomial(1), [2.5]),
        (Categorical([3]), [3.0, 0.5, -1.0]),
    ],
    ids=["bernoulli", "poisson", "negative_binomial", "categorical"],
)
def test_values_outside_the_support_are_named(law, values):
    assert law.problem(torch.tensor([[0.0], [1.0], [torch.nan]])) is None
    for value in values:
        assert law.problem(torch.tensor([[value]])) is not None


def test_a_constant_column_has_a_finite_density():
    law = Gaussian(1)
    law.start(torch.full((5, 1), 3.3, dtype=torch.float64))
    law.raw.data.fill_(-50.0)
    x = law.prepared(torch.tensor([[3.3]], dtype=torch.float64))
    assert bool(law.log_prob(x, x, 0.0).isfinite().all())


def test_the_size_of_a_row_counts_what_is_there():
    law = Poisson(3)
    law.start(torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64))
    x = torch.tensor([[2.0, torch.nan, 6.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(
        law.log_size(x).exp(), torch.tensor([[2.0], [1.0]], dtype=torch.float64)
    )
    assert Poisson(3, sized=False).log_size(x) == 0.0
