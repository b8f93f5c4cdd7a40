"""The density of codes against the mixtures it is made of, and its derivatives."""

import math

import pytest
import torch
from torch.autograd.functional import hessian, jacobian

from skmdn import em
from skmdn.decoding.prior import CodePrior, LatentBlock
from skmdn.priors import Dirichlet, LogNormalScale, Softball
from tests.decoding.helpers import latent_block, mixture, normal

KINDS = ("full", "tied", "diag", "spherical")
CLASSES = em.Classes(torch.tensor([0, 1, 1]), 2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_is_that_of_the_mixture(kind):
    block, z = latent_block(kind), normal(6, 2, seed=5)
    expected = em.log_density(block.parameters, em.Rows(z.T.contiguous()))[0]
    torch.testing.assert_close(CodePrior([block]).log_prob(z), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_are_those_of_autograd(kind):
    # Two blocks; rows of a known, an unknown and no class.
    prior = CodePrior(
        [latent_block(kind, classes=CLASSES), latent_block(kind, start=2, seed=9)]
    )
    z = normal(4, 4, seed=5)
    labels = torch.tensor([[0, -1], [1, -1], [-1, -1], [1, -1]])
    local = prior.local(z, labels)
    value, gradient = prior.slope(z, labels)
    torch.testing.assert_close(local.value, -prior.log_prob(z, labels))
    torch.testing.assert_close(local.value, value)
    torch.testing.assert_close(local.gradient, gradient)
    for row in range(4):

        def minus(code, row=row):
            known = labels[row : row + 1]
            return -prior.log_prob(code.unsqueeze(0), known)[0]

        torch.testing.assert_close(gradient[row], jacobian(minus, z[row]))
        torch.testing.assert_close(local.hessian[row], hessian(minus, z[row]))
    assert (torch.linalg.eigvalsh(local.bound) > 0).all()
    assert (torch.linalg.eigvalsh(local.bound - local.hessian) > -1e-12).all()


def test_a_class_has_only_its_components():
    block = latent_block(classes=CLASSES)
    z = normal(1, 2, seed=5)
    joint = block.joint(z, torch.tensor([1]))
    assert joint[0, 0] == -math.inf
    whole = block.joint(z, torch.tensor([-1]))
    torch.testing.assert_close(joint[0, 1:], whole[0, 1:])
    torch.testing.assert_close(
        torch.logsumexp(whole, 1)[0],
        torch.logaddexp(
            torch.logsumexp(joint, 1)[0],
            torch.logsumexp(block.joint(z, torch.tensor([0])), 1)[0],
        ),
    )


def test_a_step_of_em_raises_the_posterior():
    priors = em.Priors(
        Dirichlet(2.0), Softball(2.0), LogNormalScale(0.5), classes=CLASSES
    )
    z = normal(40, 2, seed=5)
    labels = torch.arange(40).unsqueeze(1) % 3 - 1
    prior = CodePrior([LatentBlock(0, 2, mixture(), priors)])

    def posterior(prior):
        return float(prior.log_prob(z, labels).sum()) + prior.log_prior()

    reached = [posterior(prior)]
    for _ in range(5):
        prior = prior.stepped(z, labels)
        reached.append(posterior(prior))
    assert reached == sorted(reached)
    assert reached[-1] > reached[0] + 1.0


def test_the_prior_counts_once_whatever_the_number_of_rows():
    priors = em.Priors(Dirichlet(2.0), Softball(2.0), LogNormalScale(0.5))
    prior = CodePrior([LatentBlock(0, 2, mixture(), priors)])
    z = normal(10, 2, seed=5)
    once = -prior.log_prob(z).sum() - prior.log_prior()
    twice = -prior.log_prob(torch.cat([z, z])).sum() - prior.log_prior()
    torch.testing.assert_close(twice - once, -prior.log_prob(z).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_class_gets_a_component_of_its_own(kind):
    block = latent_block(kind, classes=CLASSES)
    mean = torch.tensor([5.0, -5.0], dtype=torch.float64)
    longer = block.extended(mean)
    torch.testing.assert_close(longer.class_means()[2], mean)
    torch.testing.assert_close(longer.class_means()[:2], block.class_means()[:2])
    joint = longer.joint(mean.unsqueeze(0), torch.tensor([2]))
    assert joint.isfinite().tolist() == [[False, False, False, True]]
    assert longer.joint(mean.unsqueeze(0), torch.tensor([-1])).isfinite().all()


def test_a_wide_component_covers_the_others():
    block = latent_block()
    wide = CodePrior([block.widened()])
    assert wide.log_prob(block.parameters.means[0]).min() > -6.0
