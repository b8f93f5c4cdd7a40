"""Flows over mixtures: where they start, their gradients, what trains them."""

import math

import pytest
import torch

from skmdn.covering.descent import log_mixture
from skmdn.covering.flowing import Flowed, FlowTraining, flow_loss, over_mixture
from skmdn.covering.minimise import Steps
from skmdn.covering.normals import Normals
from skmdn.covering.objectives import Objective
from skmdn.covering.pool import Batch, Pool, Proposal
from skmdn.flows import Flow, make_flow
from tests.covering.densities import line, target_of
from tests.covering.test_objectives import GRID, WIDTH, bimodal
from tests.helpers import generator, randn, tensor

UNCLIPPED = 10**9


def two_normals():
    means = tensor([[-3.0, -3.0], [3.0, 3.0]])
    roots = torch.diag_embed(tensor([[1.0, 1.0], [0.5, 0.5]]))
    return Normals(tensor([0.7, 0.3]).log(), means, roots)


def over(name, normals, n_transforms=2, seed=0):
    flow = make_flow(
        name,
        normals.n_features,
        n_transforms=n_transforms,
        hidden_layer_sizes=(8,),
        generator=generator(seed),
    )
    return over_mixture(flow, normals, generator(seed))


def training(normals, target, n_iter=200, rate=0.01):
    return FlowTraining(target, normals, Steps(n_iter, rate), 128, generator())


def log_two(theta):
    return log_mixture(two_normals(), theta)


# The start.


@pytest.mark.parametrize("name", ["maf", "nsf", "nice"])
def test_a_flow_over_a_mixture_is_the_mixture(name):
    normals = two_normals()
    flow = over(name, normals)
    u, _ = normals.draw(200, generator())
    torch.testing.assert_close(flow(u), normals.log_prob(u))
    target = target_of(log_two, line(1.0, 2))
    assert training(normals, target).imitate(flow) is None
    assert target.n_evals == 0
    draws = flow.draw(4000, generator())
    assert abs(float((draws[:, 0] > 0).double().mean()) - 0.3) < 0.001
    # In random order, so that groups of importance-weighted bounds are alike.
    first = float((draws[:1000, 0] > 0).double().mean())
    assert abs(first - 0.3) < 4.0 * math.sqrt(0.21 / 1000)


@pytest.mark.parametrize(
    "name", ["gf", "naf", pytest.param("sospf", marks=pytest.mark.slow)]
)
def test_the_others_imitate_it_and_integrate_to_one(name):
    normals = two_normals()
    flow = over(name, normals)
    training(normals, target_of(log_two, line(1.0, 2))).imitate(flow)
    u, _ = normals.draw(2000, generator(1))
    ends = torch.linspace(-9.0, 9.0, 121, dtype=torch.float64)
    with torch.no_grad():
        gap = float((normals.log_prob(u) - flow(u)).mean())
        total = float(flow(torch.cartesian_prod(ends, ends)).exp().sum())
    assert gap < 0.05
    assert abs(total * float(ends[1] - ends[0]) ** 2 - 1.0) < 2e-3


# Gradients: a flow of one variable, whose exact losses are sums over a grid.


def line_flow():
    normals = Normals(
        tensor([0.3, 0.7]).log(),
        tensor([[1.0], [-0.7]]),
        tensor([[[0.9]], [[0.6]]]),
    )
    flow = over("nsf", normals, n_transforms=1)
    with torch.no_grad():
        for position, value in enumerate(flow.parameters()):
            value.add_(0.3 * randn(*value.shape, seed=position))
    return flow


def exact_loss(objective, flow):
    log_p, log_q = bimodal(GRID), flow(GRID)
    if objective.method == "fKL":
        return -(torch.softmax(log_p, 0) * log_q).sum()
    if objective.method == "rKL":
        return -(log_q.exp() * (log_p - log_q)).sum() * WIDTH
    power = 1.0 - objective.alpha_order
    powers = (log_q + power * (log_p - log_q)).exp()
    return -(powers.sum() * WIDTH).log() / power


def gradient(loss, flow):
    parts = torch.autograd.grad(loss, list(flow.parameters()))
    return torch.cat([part.flatten() for part in parts])


def estimates(objective, flow, n_draws, n_times):
    source, target = generator(), target_of(bimodal, line(1.0, 1))
    target.max_evals = UNCLIPPED
    table = torch.stack(
        [
            gradient(flow_loss(target, objective, flow, n_draws, source), flow)
            for _ in range(n_times)
        ]
    )
    std = table.std(0)
    return table.mean(0), std / math.sqrt(n_times), std


CASES = [
    (Objective("rKL"), 50),
    (Objective("rKL", stick_the_landing=True), 50),
    (Objective("fKL"), 5_000),
    (Objective("alpha", alpha_order=0.5), 5_000),
    (Objective("alpha", alpha_order=0.2, dreg=True), 5_000),
    (Objective("IW", n_importance=5_000), 5_000),
    (Objective("IW", n_importance=20_000, dreg=True), 20_000),
]


@pytest.mark.parametrize(("objective", "n_draws"), CASES)
def test_gradients_are_the_exact_ones(objective, n_draws):
    flow = line_flow()
    known = objective if objective.method != "IW" else Objective("alpha", 0.0)
    expected = gradient(exact_loss(known, flow), flow)
    mean, se, _ = estimates(objective, flow, n_draws, 40 if n_draws > 50 else 150)
    # The floor: bounds of finitely many draws, and knots that hardly a draw reaches,
    # whose standard errors are not known either. The largest entry is about 0.5.
    allowed = 4.0 * se + 1e-3
    assert bool(((mean - expected).abs() <= allowed).all())


def test_double_reparametrisation_keeps_the_mean_and_lowers_the_spread():
    flow = line_flow()
    mean, se, spread = estimates(Objective("IW"), flow, 64, 100)
    other, other_se, smaller = estimates(Objective("IW", dreg=True), flow, 64, 100)
    assert bool(((mean - other).abs() <= 4.0 * (se + other_se)).all())
    assert float(smaller.norm()) < 0.8 * float(spread.norm())


def test_sticking_the_landing_has_no_noise_at_the_optimum():
    normals = two_normals()
    target = target_of(log_two, line(1.0, 2))
    objective = Objective("rKL", stick_the_landing=True)
    flow = over("maf", normals)
    slope = gradient(flow_loss(target, objective, flow, 64, generator()), flow)
    # What is left is the rounding of two ways to the same density.
    assert float(slope.abs().max()) < 1e-6


def test_the_bound_tightens_and_renyis_meets_the_evidence_lower_bound():
    flow, target = line_flow(), target_of(bimodal, line(1.0, 1))
    target.max_evals = UNCLIPPED

    def bound(*args, **kwargs):
        objective = Objective(*args, **kwargs)
        with torch.no_grad():
            return -float(flow_loss(target, objective, flow, 4096, generator()))

    bounds = [bound("IW", n_importance=m) for m in (1, 4, 64)]
    assert bounds[0] < bounds[1] < bounds[2] < 0.01
    assert math.isclose(bounds[0], bound("rKL"), rel_tol=1e-9)
    assert math.isclose(bound("alpha", 1.0 - 1e-7), bound("rKL"), abs_tol=1e-5)


@pytest.mark.parametrize("method", ["rKL", "fKL", "IW", "alpha"])
def test_a_constant_changes_no_gradient(method):
    slopes = []
    for offset in (0.0, -5_000.0):
        target = target_of(lambda theta, c=offset: bimodal(theta, c), line(1.0, 1))
        flow = line_flow()
        loss = flow_loss(target, Objective(method), flow, 64, generator())
        slopes.append(gradient(loss, flow))
    torch.testing.assert_close(*slopes, atol=1e-7, rtol=1e-7)


def test_draws_where_there_is_no_density_are_called_back():
    """The gradient of -log P(p > 0), by a sum over the grid."""
    target = target_of(
        lambda theta: torch.where(theta[:, 0] > 0, 0.0 * theta[:, 0], -torch.inf),
        line(1.0, 1),
    )
    target.max_evals = UNCLIPPED
    flow, source = line_flow(), generator()
    objective = Objective("rKL", stick_the_landing=True)
    inside = GRID[:, 0] > 0

    def expected_part():
        return -(flow(GRID).exp()[inside].sum() * WIDTH).log()

    expected = gradient(expected_part(), flow)
    table = []
    for _ in range(60):
        state = source.get_state()
        loss = flow_loss(target, objective, flow, 512, source)
        source.set_state(state)
        moved, _ = flow.rsample_and_log_prob(512, source)
        held = flow.held_log_prob(moved)[moved[:, 0].detach() > 0].mean()
        table.append(gradient(loss - held, flow))
    table = torch.stack(table)
    se = table.std(0) / math.sqrt(len(table))
    assert bool(((table.mean(0) - expected).abs() <= 4.0 * se + 2e-3).all())


# Training.


def test_weighted_draws_teach_what_the_mixture_lacks():
    def bent(theta):
        rest = theta[:, 1] - 0.5 * theta[:, 0].square()
        return -0.5 * (theta[:, 0].square() + (rest / 0.4).square())

    normals = Normals.standard(2)
    target = target_of(bent, line(1.0, 2))
    flow = over("maf", normals)
    steps = training(normals, target)
    before = Flowed(flow)
    u, _ = before.draw(4000, generator(1))

    def forward_divergence(flow):
        log_p = target.log_prob(u)
        weights = torch.softmax(log_p - normals.log_prob(u), 0)
        return float(weights @ (log_p - Flowed(flow).log_prob(u)))

    first = forward_divergence(flow)
    pool = Pool(1)
    pool.add(Batch.draw(target, Proposal(normals), 8000, generator()))
    record = steps.learn(flow, pool)
    assert len(record.losses) == 200
    assert forward_divergence(flow) < first - 0.3
    again = over("maf", normals)
    fresh = Batch.draw(target, Proposal(normals), 2000, generator(2))
    assert steps.best([again, flow], fresh) is flow


def test_a_flow_has_no_density_where_it_is_not_a_number():
    class Nowhere(torch.nn.Module):
        def forward(self):
            return torch.distributions.MultivariateNormal(
                torch.zeros(2).double(), torch.eye(2).double(), validate_args=False
            )

    flow = Flow(Nowhere(), torch.zeros(2).double(), torch.eye(2).double())
    u = tensor([[math.nan, 0.0], [0.0, 0.0]])
    assert Flowed(flow).log_prob(u).isinf().tolist() == [True, False]
