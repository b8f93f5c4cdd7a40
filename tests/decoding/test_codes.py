"""The search for codes: where it ends, and that rows are independent."""

import torch

from skmdn import em
from skmdn.decoding.codes import Search, descend, place
from skmdn.decoding.laws import Gaussian
from skmdn.decoding.network import DecoderNetwork
from skmdn.decoding.objective import Joint
from skmdn.decoding.prior import CodePrior, LatentBlock
from skmdn.decoding.table import Blocks
from tests.decoding.helpers import generator, joint_of, normal


def linear_model(n_latent=2, n_columns=4):
    """Return a factor analysis: a linear decoder of standard normal codes."""
    law = Gaussian(n_columns)
    law.raw.data.copy_(0.3 * normal(1, n_columns, seed=1) - 0.5)
    network = DecoderNetwork(n_latent, (), n_columns, "tanh", generator=generator(2))
    parameters, _ = em.Parameters.from_covariances(
        "spherical",
        torch.zeros(1, 1, dtype=torch.float64),
        torch.zeros(1, 1, n_latent, dtype=torch.float64),
        torch.ones(1, 1, dtype=torch.float64),
    )
    prior = CodePrior([LatentBlock(0, n_latent, parameters, em.Priors())])
    return Joint(network, Blocks([law], [list(range(n_columns))]), prior)


def test_codes_of_a_linear_decoder_are_the_posterior_means():
    joint, x = linear_model(), normal(6, 4, seed=3)
    table = joint.blocks.table(x)
    placed = place(joint, torch.zeros(6, 1, 2).double(), table, None, Search())
    weight = joint.network.head.weight.detach()[0]
    noise = joint.blocks.laws[0].scale().detach().square()
    precision = torch.eye(2).double() + (weight / noise) @ weight.T
    expected = torch.linalg.solve(precision, (weight / noise) @ x.T).T
    torch.testing.assert_close(placed.codes, expected, rtol=1e-12, atol=1e-12)
    assert placed.found.all()


def test_the_end_is_a_minimum_no_worse_than_the_beginning():
    joint, table = joint_of(("gaussian", "poisson"))
    start = 3.0 * normal(5, 2, seed=9)
    placed = descend(joint, start, table, None, Search())
    local = joint.local(placed.codes, table)
    assert placed.found.all()
    assert local.gradient.abs().max() < 1e-8
    assert (torch.linalg.eigvalsh(local.hessian) > 0).all()
    assert (placed.values <= joint.value(start, table)).all()
    torch.testing.assert_close(placed.values, local.value)


def test_more_starts_are_never_worse():
    joint, table = joint_of(("gaussian", "bernoulli"))
    starts = 3.0 * normal(5, 8, 2, seed=9)
    one, many = (
        place(joint, starts, table, None, Search(n_starts=n)).values for n in (1, 8)
    )
    best = torch.stack([joint.value(s, table) for s in starts.unbind(1)]).amin(0)
    assert (many <= one + 1e-10).all()
    assert (one <= best).all()


def test_rows_are_independent():
    joint, table = joint_of(("gaussian", "negative_binomial"))
    starts = 3.0 * normal(5, 4, 2, seed=9)
    together = place(joint, starts, table, None, Search()).codes
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = place(joint, starts[order], table.of(order), None, Search()).codes
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=1e-12)
    for row in order.split(1):
        alone = place(joint, starts[row], table.of(row), None, Search()).codes
        torch.testing.assert_close(alone, together[row], rtol=0, atol=1e-12)


def test_too_few_steps_are_told():
    joint, table = joint_of()
    start = 3.0 * normal(5, 2, seed=9)
    placed = descend(joint, start, table, None, Search(max_iter=1))
    assert not placed.found.any()
    assert (placed.values <= joint.value(start, table)).all()
