"""Flows: what zuko makes, in a frame, with a generator of one's own."""

import sys

import pytest
import torch

from skmdn.flows import FLOWS, Flow, lent, make_flow
from tests.helpers import generator, randn, tensor

SLOW = pytest.mark.slow


def made(name, n_features=2, n_context=0, seed=0):
    return make_flow(
        name,
        n_features,
        n_context,
        n_transforms=2,
        hidden_layer_sizes=(8,),
        generator=generator(seed),
    )


def framed(name, n_features=2, n_context=0, seed=0):
    root = torch.eye(n_features).double() * 0.5
    root[-1, 0] = 0.3 if n_features > 1 else 0.5
    shift = torch.full((n_features,), 0.2, dtype=torch.float64)
    return Flow(made(name, n_features, n_context, seed), shift, root)


def stirred(flow, size=0.2):
    """Move every weight, so that the flow is no longer the identity."""
    with torch.no_grad():
        for position, value in enumerate(flow.parameters()):
            value.add_(size * randn(*value.shape, seed=position))
    return flow


@pytest.mark.parametrize("name", ["maf", "nsf", "nice", "unaf"])
@pytest.mark.parametrize("n_features", [1, 3])
def test_some_begin_as_the_identity(name, n_features):
    t = randn(50, n_features)
    normal = torch.distributions.Normal(tensor(0.0), tensor(1.0))
    expected = normal.log_prob(t).sum(1)
    torch.testing.assert_close(made(name, n_features)().log_prob(t), expected)


# sospf is bounded until it is trained: tests/covering/test_flowing.py.
@pytest.mark.parametrize(
    "name", ["maf", "nsf", "nice", "gf", "naf", pytest.param("unaf", marks=SLOW)]
)
def test_densities_of_two_variables_integrate_to_one(name):
    flow = stirred(framed(name), 0.1 if name == "naf" else 0.2)
    line = torch.linspace(-6.0, 6.0, 161, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        total = float(flow(grid).exp().sum()) * float(line[1] - line[0]) ** 2
    assert abs(total - 1.0) < 2e-3


@pytest.mark.parametrize("name", FLOWS)
def test_draws_have_the_density(name):
    flow = stirred(framed(name), 0.05)
    with torch.no_grad():
        u, log_q = flow.rsample_and_log_prob(64, generator())
        torch.testing.assert_close(flow(u), log_q, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["maf", "nsf", "gf"])
def test_a_context_conditions(name):
    flow = stirred(framed(name, n_context=3))
    context = randn(4, 3)
    u, log_q = flow.rsample_and_log_prob(5, generator(), context)
    assert u.shape == (5, 4, 2)
    torch.testing.assert_close(flow(u, context), log_q, atol=1e-4, rtol=1e-4)
    one = flow(u[:, 1], context[1])
    torch.testing.assert_close(one, log_q[:, 1], atol=1e-4, rtol=1e-4)


def test_held_densities_have_gradients_of_points_only():
    flow = stirred(framed("maf"))
    u = randn(6, 2).requires_grad_()
    held = flow.held_log_prob(u)
    torch.testing.assert_close(held, flow(u))
    (slope,) = torch.autograd.grad(held.sum(), u)
    step = 1e-6 * tensor([1.0, 0.0])
    with torch.no_grad():
        expected = (flow(u + step) - flow(u - step)) / 2e-6
    torch.testing.assert_close(slope[:, 0], expected, atol=1e-6, rtol=1e-6)
    values = list(flow.parameters())
    loss = flow.held_log_prob(u.detach())
    assert not loss.requires_grad
    assert all(value.requires_grad for value in values)


def test_the_generator_decides_and_no_other_is_touched():
    before = torch.random.get_rng_state()
    first, second, other = (framed("nsf", seed=seed) for seed in (0, 0, 1))
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two)
    pairs = zip(first.parameters(), other.parameters(), strict=True)
    assert not all(torch.equal(one, two) for one, two in pairs)
    source = generator()
    draws = first.draw(3, source)
    assert torch.equal(draws, first.draw(3, generator()))
    assert not torch.equal(draws, first.draw(3, source))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_lent_generator_goes_on_where_it_was():
    source, same = generator(), generator()
    with lent(source):
        first = torch.randn(3)
    assert torch.equal(first, torch.randn(3, generator=same))
    assert torch.equal(torch.rand(2, generator=source), torch.rand(2, generator=same))
    with pytest.raises(ZeroDivisionError), lent(source):
        1 / 0  # noqa: B018


def test_a_frame_reaches_all_draws():
    u = randn(2000, 2) @ tensor([[2.0, 0.0], [1.0, 0.1]]) + 5.0
    u[0] = tensor([40.0, 6.0])
    shift, root = Flow.frame(u)
    t = torch.linalg.solve_triangular(root, (u - shift).mT, upper=False)
    assert float(t.abs().max()) <= 4.0 + 1e-9
    torch.testing.assert_close(shift, u.mean(0))


def test_without_zuko_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(ImportError, match=r"skmdn\[flows\]"):
        made("maf")
