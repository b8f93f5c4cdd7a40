"""Priors of standard deviations against scipy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from skmdn.priors import InverseGamma, LogNormalScale
from tests.helpers import generator, tensor, within_standard_errors

STDS = np.geomspace(1e-3, 1e3, 61)


@pytest.mark.parametrize("shape", [0.05, 1.0, 40.0])
@pytest.mark.parametrize("scale", [1e-4, 0.2, 30.0])
def test_the_inverse_gamma_density_of_the_variance_is_that_of_scipy(shape, scale):
    found = InverseGamma(shape, scale).log_prob(tensor(STDS).reshape(1, -1))
    expected = stats.invgamma(shape, scale=scale).logpdf(STDS**2)
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("sd_mean", [0.01, 0.3, 20.0])
@pytest.mark.parametrize("sd_sd", [0.1, 1.0, 7.0])
def test_the_negative_log_variance_is_normal(sd_mean, sd_sd):
    found = LogNormalScale(sd_mean, sd_sd).log_prob(tensor(STDS))
    law = stats.norm(-2.0 * math.log(sd_mean), sd_sd)
    expected = law.logpdf(-np.log(STDS**2))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("prior", [InverseGamma(), LogNormalScale(0.3)], ids=repr)
def test_a_density_has_limits_and_a_gradient(prior):
    ends = tensor([-1.0, 0.0, 1e-200, 1e200, math.inf])
    found = prior.log_prob(ends)
    assert not found.isnan().any()
    assert (found[[0, 1, 4]] == -math.inf).all()
    assert bool(prior.log_prob(tensor(math.nan)).isnan())
    std = tensor([0.1, 1.0, 5.0]).requires_grad_()
    assert torch.autograd.gradcheck(prior.log_prob, std)
    assert prior.log_prob(torch.ones(3)).dtype == torch.float32


def test_modes_are_where_the_documentation_says():
    std = torch.linspace(0.05, 2.0, 39_001, dtype=torch.float64)
    best = std[InverseGamma(2.0, 0.6).log_prob(std).argmax()]
    assert float(best) == pytest.approx(math.sqrt(0.2), abs=1e-4)
    best = std[LogNormalScale(0.7, 3.0).log_prob(std).argmax()]
    assert float(best) == pytest.approx(0.7, abs=1e-4)


def test_draws_have_the_laws_moments():
    std = InverseGamma(6.0, 2.0).sample((50_000,), generator(1)).numpy()
    law = stats.invgamma(6.0, scale=2.0)
    assert within_standard_errors(std**2, law.mean(), 0)
    assert within_standard_errors(np.log(std**2), law.expect(np.log), 0)
    log_precision = (
        -2.0 * LogNormalScale(0.3, 1.5).sample((50_000,), generator(2)).log()
    )
    z = ((log_precision + 2.0 * math.log(0.3)) / 1.5).numpy()
    assert within_standard_errors(z, 0.0, 0)
    assert within_standard_errors(z**2, 1.0, 0)


@pytest.mark.parametrize("prior", [InverseGamma(0.5), LogNormalScale(0.3)], ids=repr)
def test_draws_have_the_shape_that_is_asked_for_and_repeat(prior):
    draws = prior.sample((3, 2), generator(5))
    assert draws.shape == (3, 2)
    assert draws.dtype == torch.float64
    assert (draws > 0.0).all()
    assert torch.equal(draws, prior.sample((3, 2), generator(5)))
