"""The density of rows against factor analysis and against quadrature."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from skmdn import em
from skmdn.decoding.codes import Search, place
from skmdn.decoding.evidence import importance_evidence, laplace_evidence
from skmdn.decoding.network import DecoderNetwork
from skmdn.decoding.objective import Joint
from skmdn.decoding.prior import CodePrior, LatentBlock
from skmdn.decoding.table import Blocks
from tests.decoding.helpers import generator, law_of, normal, values_of
from tests.decoding.test_codes import linear_model


def placed_in(joint, table, n_rows):
    n_latent = joint.prior.n_latent
    starts = 2.0 * normal(n_rows, 5, n_latent, seed=4)
    return place(joint, starts, table, None, Search(5))


def test_a_linear_decoder_gives_the_density_of_factor_analysis():
    joint, x = linear_model(), normal(6, 4, seed=3)
    x[0, 2] = x[1, :3] = torch.nan
    table = joint.blocks.table(x)
    placed = placed_in(joint, table, 6)
    weight = joint.network.head.weight.detach()[0].numpy()
    noise = joint.blocks.laws[0].scale().detach().square().numpy()
    covariance = weight.T @ weight + np.diag(noise)
    expected = []
    for row in x.numpy():
        seen = ~np.isnan(row)
        law = stats.multivariate_normal(cov=covariance[np.ix_(seen, seen)])
        expected.append(law.logpdf(row[seen]))
    laplace = laplace_evidence(joint, placed, table, None)
    np.testing.assert_allclose(laplace, expected, rtol=1e-10)
    drawn = importance_evidence(joint, placed, table, None, 4_000, generator())
    np.testing.assert_allclose(drawn, expected, atol=0.1)


def one_latent(name, n_columns=3):
    """Return a bent decoder of one number, and rows."""
    law = law_of(name)
    network = DecoderNetwork(1, (6,), law.n_outputs, "tanh", generator=generator(5))
    parameters, _ = em.Parameters.from_covariances(
        "spherical",
        torch.tensor([[0.5, 0.5]], dtype=torch.float64).log(),
        torch.tensor([[[-1.0], [1.0]]], dtype=torch.float64),
        torch.full((1, 2), 0.5, dtype=torch.float64),
    )
    prior = CodePrior([LatentBlock(0, 1, parameters, em.Priors())])
    joint = Joint(network, Blocks([law], [list(range(n_columns))]), prior)
    return joint, joint.blocks.table(values_of(name, seed=6))


@pytest.mark.parametrize("name", ["gaussian", "bernoulli", "negative_binomial"])
def test_the_evidence_is_that_of_quadrature(name):
    joint, table = one_latent(name)
    placed = placed_in(joint, table, 5)
    constant = joint.blocks.constant(table)
    exact = []
    for row in range(5):
        part, shift = table.of(torch.tensor([row])), float(placed.values[row])

        def density(z, part=part, shift=shift):
            code = torch.full((1, 1), z, dtype=torch.float64)
            return math.exp(shift - float(joint.value(code, part)))

        mass, _ = quad(density, -8.0, 8.0, points=[-1.0, 0.0, 1.0], limit=200)
        exact.append(math.log(mass) - shift + float(constant[row]))
    drawn = importance_evidence(joint, placed, table, None, 20_000, generator())
    np.testing.assert_allclose(drawn, exact, atol=0.05)
    # Around one bend of several the density is not quite normal.
    laplace = laplace_evidence(joint, placed, table, None)
    np.testing.assert_allclose(laplace, exact, atol=0.6)
