"""The Dirichlet prior against scipy."""

import numpy as np
import pytest
import torch
from scipy import stats

from skmdn.priors import Dirichlet
from tests.helpers import generator, randn, tensor, within_standard_errors

CONCENTRATIONS = [0.01, 0.5, 1.0, 3, 250.0, (0.3, 1.0, 4.0, 90.0), [1e-3] * 4]


@pytest.mark.parametrize("concentration", CONCENTRATIONS, ids=str)
def test_the_log_density_is_that_of_scipy(concentration):
    log_weights = torch.log_softmax(2.0 * randn(5, 3, 4), -1)
    found = Dirichlet(concentration).log_prob(log_weights)
    law = stats.dirichlet(np.broadcast_to(np.asarray(concentration, float), 4))
    weights = np.exp(log_weights.numpy())
    expected = [[law.logpdf(one / one.sum()) for one in row] for row in weights]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-10)


def test_the_density_of_two_weights_integrates_to_one():
    share = torch.linspace(0.0, 1.0, 100_001, dtype=torch.float64)[1:-1]
    log_weights = torch.stack([share, 1.0 - share], -1).log()
    density = Dirichlet([1.7, 3.0]).log_prob(log_weights).exp()
    assert float(density.mean()) == pytest.approx(1.0, abs=1e-4)


def test_a_single_weight_is_certain():
    for concentration in (0.2, 1.0, 8.0):
        log_prob = Dirichlet(concentration).log_prob(torch.zeros(3, 1))
        torch.testing.assert_close(log_prob, torch.zeros(3))


def test_tiny_weights_do_not_overflow_and_zeros_have_their_limits():
    far = tensor([0.0, -1e5, -2e5])
    found = Dirichlet([2.0, 0.5, 1.0]).log_prob(far)
    constant = Dirichlet([2.0, 0.5, 1.0]).log_normalizer(3)
    assert float(found) == pytest.approx(0.5e5 - constant, rel=1e-14)
    zero = tensor([0.0, -np.inf])
    assert float(Dirichlet(2.0).log_prob(zero)) == -np.inf
    assert float(Dirichlet(0.5).log_prob(zero)) == np.inf
    assert float(Dirichlet(1.0).log_prob(zero)) == 0.0


def test_gradients_are_those_of_the_logits():
    logits = randn(2, 3).requires_grad_()

    def log_prob(values):
        return Dirichlet([0.5, 1.0, 4.0]).log_prob(torch.log_softmax(values, -1))

    assert torch.autograd.gradcheck(log_prob, logits)


@pytest.mark.parametrize("concentration", [0.05, 1.0, (0.5, 2.0, 9.0)], ids=str)
def test_draws_have_the_moments_of_the_law(concentration):
    prior = Dirichlet(concentration)
    draws = prior.sample((20_000, 3), generator(1)).exp().numpy()
    a = np.broadcast_to(np.asarray(concentration, float), 3)
    law = stats.dirichlet(a)
    np.testing.assert_allclose(draws.sum(-1), 1.0)
    assert within_standard_errors(draws, law.mean(), 0)
    assert within_standard_errors((draws - law.mean()) ** 2, law.var(), 0)


def test_draws_are_logarithms_of_any_size_and_repeat_with_their_seed():
    prior = Dirichlet(1e-4)
    draws = prior.sample((2, 500, 3), generator(1))
    assert draws.isfinite().all()
    assert float(draws.min()) < -1e4
    torch.testing.assert_close(draws.logsumexp(-1), torch.zeros(2, 500).double())
    assert torch.equal(draws, prior.sample((2, 500, 3), generator(1)))


def test_the_number_of_concentrations_has_to_be_that_of_the_components():
    prior = Dirichlet([1.0, 2.0])
    for use in (
        lambda: prior.log_prob(torch.zeros(4, 3)),
        lambda: prior.sample((4, 3)),
        lambda: prior.excess(3),
    ):
        with pytest.raises(ValueError, match="2 numbers for 3 components"):
            use()


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf, "many", None, [1.0, 0.0]])
def test_concentrations_have_to_be_positive(wrong):
    with pytest.raises(ValueError, match="concentration of Dirichlet must be positive"):
        Dirichlet(wrong).log_prob(torch.zeros(4, 2))
