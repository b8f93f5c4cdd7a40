"""Scales with the codes integrated out: factor analysis, and counts of known laws."""

import numpy as np
import torch
from scipy import stats
from scipy.optimize import minimize

from skmdn import em
from skmdn.decoding.codes import Search, descend
from skmdn.decoding.laws import NegativeBinomial
from skmdn.decoding.marginal import fit_laws
from skmdn.decoding.network import DecoderNetwork
from skmdn.decoding.objective import Joint
from skmdn.decoding.prior import CodePrior, LatentBlock
from skmdn.decoding.table import Blocks
from tests.decoding.helpers import generator, joint_of, normal
from tests.decoding.test_codes import linear_model


def test_steps_lead_to_the_most_likely_scales_of_factor_analysis():
    joint = linear_model(n_latent=1)
    weight = joint.network.head.weight.detach()[0]
    x = normal(200, 1, seed=3) @ weight + 0.7 * normal(200, 4, seed=4)
    table = joint.blocks.table(x)
    codes = torch.zeros(200, 1, dtype=torch.float64)
    for _ in range(60):
        codes = descend(joint, codes, table, None, Search()).codes
        fit_laws(joint, codes, table, None)
    outer = (weight.T @ weight).numpy()

    def minus(log_variances):
        covariance = outer + np.diag(np.exp(log_variances))
        return -stats.multivariate_normal(cov=covariance).logpdf(x.numpy()).sum()

    best = np.exp(0.5 * minimize(minus, np.zeros(4)).x)
    found = joint.blocks.laws[0].scale().detach().numpy()
    np.testing.assert_allclose(found, best, rtol=2e-3)


def test_a_step_of_normal_columns_is_the_expected_square():
    joint, x = linear_model(), normal(30, 4, seed=3)
    table = joint.blocks.table(x)
    codes = descend(joint, normal(30, 2), table, None, Search()).codes
    covariance = torch.linalg.inv(joint.local(codes, table).hessian)
    weight = joint.network.head.weight.detach()[0]
    eta = joint.network(codes).detach()
    spread = torch.einsum("lj,nlm,mj->nj", weight, covariance, weight)
    expected = ((x - eta).square() + spread).mean(0).sqrt()
    fit_laws(joint, codes, table, None)
    found = joint.blocks.laws[0].scale().detach()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def counts(n_rows=2_000, n_columns=8, r=0.5):
    """Return a decoder of known counts, and rows that it has made."""
    law = NegativeBinomial(n_columns, sized=False)
    law.raw.data.fill_(np.log(r))
    network = DecoderNetwork(2, (), n_columns, "tanh", generator=generator(1))
    network.head.weight.data.mul_(2.0)
    network.head.bias.data.fill_(1.5)
    parameters, _ = em.Parameters.from_covariances(
        "spherical",
        torch.zeros(1, 1, dtype=torch.float64),
        torch.zeros(1, 1, 2, dtype=torch.float64),
        torch.ones(1, 1, dtype=torch.float64),
    )
    prior = CodePrior([LatentBlock(0, 2, parameters, em.Priors())])
    joint = Joint(network, Blocks([law], [list(range(n_columns))]), prior)
    z = normal(n_rows, 2, seed=5)
    x = joint.blocks.sample(network(z).detach(), generator(6)).detach()
    return joint, z, joint.blocks.table(x)


def test_the_dispersion_of_counts_is_less_biased_than_the_joint_one():
    joint, z, table = counts()
    law = joint.blocks.laws[0]
    codes = descend(joint, z, table, None, Search()).codes
    for _ in range(3):
        fit_laws(joint, codes, table, None)
        codes = descend(joint, codes, table, None, Search()).codes
    found = law.shape().detach()
    cells, eta = table[0], joint.network(codes).detach()
    # Of the columns' own gradients at the codes: where the joint density is largest.
    slope = law.parameter_slopes(cells.values, eta, 0.0, 1.0).detach()
    assert bool((slope > 0.0).all())
    error = found.log().std() / 8**0.5
    assert abs(float(found.log().mean()) - np.log(0.5)) < max(4.0 * error, 0.05)


def test_laws_without_parameters_are_left_alone():
    joint, table = joint_of(("poisson", "bernoulli"))
    fit_laws(joint, normal(5, 2), table, None)


def test_several_laws_move_at_once():
    joint, table = joint_of(("gaussian", "poisson", "negative_binomial"))
    codes = descend(joint, normal(5, 2), table, None, Search()).codes
    before = [p.data.clone() for p in joint.blocks.parameters()]
    fit_laws(joint, codes, table, None)
    after = [p.data for p in joint.blocks.parameters()]
    assert all(
        bool((a != b).all()) and bool(a.isfinite().all())
        for a, b in zip(after, before, strict=True)
    )
