"""Expected rows against the normal law's conditional mean, and against quadrature."""

import numpy as np
import torch
from scipy.integrate import quad

from skmdn import em
from skmdn.decoding.codes import Search, place
from skmdn.decoding.modes import expected_rows
from skmdn.decoding.network import DecoderNetwork
from skmdn.decoding.objective import Joint
from skmdn.decoding.prior import CodePrior, LatentBlock
from skmdn.decoding.table import Blocks
from tests.decoding.helpers import generator, law_of, normal
from tests.decoding.test_codes import linear_model

SEARCH = Search(5)


def test_a_linear_decoder_gives_the_conditional_mean_of_the_normal_law():
    joint, x = linear_model(), normal(6, 4, seed=3)
    x[:, 2:] = torch.nan
    starts = 2.0 * normal(6, 5, 2, seed=4)
    found = expected_rows(joint, starts, joint.blocks.table(x), None, SEARCH)
    weight = joint.network.head.weight.detach()[0].numpy()
    noise = joint.blocks.laws[0].scale().detach().square().numpy()
    covariance = weight.T @ weight + np.diag(noise)
    gain = np.linalg.solve(covariance[:2, :2], covariance[:2, 2:])
    np.testing.assert_allclose(found[:, 2:], x[:, :2].numpy() @ gain, atol=1e-10)


def two_modes():
    """Return a decoder whose first column says little about the sign of the code."""
    network = DecoderNetwork(1, (8,), 3, "tanh", generator=generator(5))
    parameters, _ = em.Parameters.from_covariances(
        "spherical",
        torch.tensor([[0.3, 0.7]], dtype=torch.float64).log(),
        torch.tensor([[[-2.0], [2.0]]], dtype=torch.float64),
        torch.full((1, 2), 0.05, dtype=torch.float64),
    )
    prior = CodePrior([LatentBlock(0, 1, parameters, em.Priors())])
    joint = Joint(network, Blocks([law_of("gaussian")], [[0, 1, 2]]), prior)
    x = torch.tensor([[2.0, torch.nan, torch.nan]], dtype=torch.float64)
    return joint, joint.blocks.table(x)


def by_quadrature(joint, table, lowest):
    """Return the expected row, by the definition."""

    def weight(z):
        code = torch.full((1, 1), z, dtype=torch.float64)
        return float(torch.exp(lowest - joint.value(code, table)))

    def moment(z, column):
        code = torch.full((1, 1), z, dtype=torch.float64)
        eta = joint.network(code).detach()
        row = joint.blocks.values(joint.blocks.mean(eta))
        return weight(z) * float(row[0, column])

    options = {"points": [-2.0, 2.0], "limit": 200}
    mass, _ = quad(weight, -5.0, 5.0, **options)
    return [
        quad(moment, -5.0, 5.0, args=(column,), **options)[0] / mass
        for column in range(3)
    ]


def test_modes_are_averaged_with_the_mass_around_them():
    joint, table = two_modes()
    starts = torch.tensor([[[-2.0], [2.0]]], dtype=torch.float64)
    found = expected_rows(joint, starts, table, None, SEARCH)[0]
    placed = place(joint, starts, table, None, SEARCH)
    exact = np.array(by_quadrature(joint, table, placed.values))
    alone = joint.blocks.mean(joint.network(placed.codes).detach())[0].numpy()
    error = np.abs(found.detach().numpy() - exact)[1:]
    # Both modes count; what is left is the bend of the decoder within each.
    assert (error < 0.2 * np.abs(alone - exact)[1:]).all()


def test_a_mode_found_twice_counts_once():
    joint, table = two_modes()
    starts = torch.tensor([[[-2.0], [2.0]]], dtype=torch.float64)
    again = torch.cat([starts, starts[:, :1] + 0.01, starts[:, :1]], 1)
    torch.testing.assert_close(
        expected_rows(joint, again, table, None, SEARCH),
        expected_rows(joint, starts, table, None, SEARCH),
    )
