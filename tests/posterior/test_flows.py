"""AmortizedPosterior with flows in the place of mixtures."""

import math
import pickle
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.base import clone

from skmdn import AmortizedPosterior
from skmdn.bridge import generator_from
from skmdn.flows import REACH, Flow, make_flow
from skmdn.posterior import flows as posterior_flows
from skmdn.posterior.flows import (
    AMORTIZED_FLOWS,
    FlowEnsemble,
    FlowNetwork,
    FlowObjective,
    flow_units,
)
from tests.helpers import randn, tensor

pytest.importorskip("zuko", reason="flows are an extra")

SMALL = {
    "density": "nsf",
    "n_estimators": 2,
    "hidden_layer_sizes": (16,),
    "activation": "silu",
    "max_iter": 6,
    "random_state": 0,
}
BOX = [(-1, 1)] * 2


def boxed(n_samples, seed=0):
    """Simulate noisy sums and squares of parameters in a box."""
    rng = np.random.default_rng(seed)
    theta = rng.uniform(-1, 1, (n_samples, 2))
    exact = np.stack([theta.sum(1), theta[:, 0] ** 2], 1)
    return exact + rng.normal(0, 0.2, (n_samples, 2)), theta


def banana(n_samples, seed=0):
    """Simulate parameters along a parabola and return their exact density."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_samples, 1))
    laws = [stats.norm(x[:, 0], 0.7)]
    first = laws[0].rvs(random_state=rng)
    laws.append(stats.norm(first**2 - x[:, 0], 0.3))
    theta = np.stack([first, laws[1].rvs(random_state=rng)], 1)
    exact = sum(law.logpdf(t) for law, t in zip(laws, theta.T, strict=True))
    return x, theta, exact


@pytest.fixture(scope="module")
def fitted():
    return AmortizedPosterior(BOX, **SMALL).fit(*boxed(800))


@pytest.fixture(scope="module")
def one_variable():
    """Return a fit of one variable that is positive, with half of its normal noise."""
    rng = np.random.default_rng(0)
    theta = rng.exponential(size=600)
    X = np.log(theta)[:, None] + rng.normal(0, 0.5, (600, 1))
    return AmortizedPosterior([stats.expon()], **SMALL).fit(X, theta)


# The networks.


def normal(*shape):
    """Return normal numbers, always the same."""
    return torch.from_numpy(np.random.default_rng(0).normal(size=shape))


def small_network(name, n_members=3, n_outputs=2, n_features=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    line = torch.randn(n_outputs, n_features, generator=generator).double()
    network = FlowNetwork(
        name,
        torch.nn.Identity(),
        line.repeat(n_members, 1, 1),
        shift=torch.full((n_outputs,), 0.3).double(),
        scale=torch.full((n_outputs,), 0.5).double(),
        hidden_layer_sizes=(8,),
        activation="silu",
        generator=generator,
    )
    with torch.no_grad():
        for parameter in network.flow.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.2 * noise.double())
    return network


@pytest.mark.parametrize("name", AMORTIZED_FLOWS)
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_stacked_members_are_flows_by_themselves(name, n_outputs):
    network = small_network(name, n_outputs=n_outputs)
    x, u = normal(3, 7, 4), normal(3, 7, n_outputs)
    found = network.log_prob(x, u)
    for m in range(3):
        plain = make_flow(
            name,
            n_outputs,
            4,
            n_transforms=posterior_flows._N_TRANSFORMS[name],
            hidden_layer_sizes=(8,),
            activation=torch.nn.SiLU,
            generator=torch.Generator(),
        )
        values = network.flow.module.named_parameters()
        plain.load_state_dict({n: v[m] for n, v in values}, strict=False)
        flow = Flow(plain, network.flow.shift, network.flow.root)
        expected = flow.log_prob(u[m] - x[m] @ network.line[m].mT, x[m])
        torch.testing.assert_close(found[m], expected)


@pytest.mark.parametrize("name", ["naf", "sospf", "gf"])
def test_flows_that_are_taken_one_by_one_learn_as_well(name):
    x, theta, exact = banana(800)
    settings = {**SMALL, "density": name, "max_iter": 15}
    model = AmortizedPosterior(**settings).fit(x, theta)
    blind = sum(stats.norm(t.mean(), t.std()).logpdf(t).mean() for t in theta.T)
    assert blind + 0.5 < model.score(x, theta) < exact.mean() + 0.1
    assert np.isfinite(model.sample(x[:2], 20, random_state=0)).all()
    copied = pickle.loads(pickle.dumps(model))
    assert copied.score(x[:50], theta[:50]) == model.score(x[:50], theta[:50])


def test_draws_of_an_ensemble_follow_its_density():
    ensemble = FlowEnsemble([small_network("nsf", n_outputs=1) for _ in range(2)])
    x = normal(2, 4)
    with torch.no_grad():
        draws = ensemble.draw(x, 20_000, generator_from(0))[..., 0]
        for row, own in zip(x, draws, strict=True):
            points = own.mean() + own.std() * torch.linspace(-12, 12, 8001).double()
            heights = ensemble.log_prob(row.expand(8001, -1), points[:, None]).exp()
            mass = torch.cumulative_trapezoid(heights, points)
            assert float(mass[-1]) == pytest.approx(1.0, abs=1e-3)
            cdf = np.interp(own.numpy(), points[1:].numpy(), mass.numpy())
            assert stats.kstest(cdf, "uniform").pvalue > 1e-3


def test_losses_are_weighted_means_of_each_member():
    network = small_network("maf")
    x, u = normal(9, 4), normal(9, 2)
    weights = torch.linspace(0.5, 1.5, 9).double()
    objective = FlowObjective(network, x, u, weights, log_scale=0.7)
    rows = torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    log_prob = network.log_prob(x[rows], u[rows])
    expected = 0.7 - (weights[rows] * log_prob).mean(1)
    torch.testing.assert_close(objective.training_loss(rows), expected)
    expected = 0.7 - (weights[rows] * log_prob).sum(1) / weights[rows].sum(1)
    torch.testing.assert_close(objective.held_out_loss(rows), expected)
    counts = torch.tensor([[1.0, 0.0, 0.0]] * 3).double()
    expected = 0.7 - log_prob[:, 0]
    torch.testing.assert_close(objective.held_out_loss(rows, counts), expected)


def test_units_put_residuals_within_reach():
    near = randn(50, 2).clamp(-2.0, 2.0) * tensor([1.0, 20.0])
    scale = near.square().mean(0).sqrt()
    torch.testing.assert_close(flow_units(near), scale)
    far = torch.cat([near, tensor([[0.0, 4_000.0]])])
    units = flow_units(far)
    torch.testing.assert_close((far / units).abs().max(), tensor(REACH))
    ratio = far.square().mean(0).sqrt() / units
    torch.testing.assert_close(ratio[0], ratio[1])
    assert bool((flow_units(torch.zeros(3, 2)) > 0).all())


# The answers.


def test_a_curved_posterior_is_learned():
    x, theta, _ = banana(2000)
    settings = SMALL | {"density": "maf", "max_iter": 16, "hidden_layer_sizes": (32,)}
    model = AmortizedPosterior(**settings).fit(x, theta)
    x, theta, exact = banana(2000, seed=1)
    gap = exact - model.log_prob(x, theta)
    error = gap.std() / math.sqrt(len(gap))
    assert -4 * error < gap.mean() < 0.1
    mean, std = model.predict([[0.5]], return_std=True)
    np.testing.assert_allclose(mean, [[0.5, 0.24]], atol=0.15)
    first = 2 * 0.5 * 0.7
    second = math.sqrt(0.3**2 + first**2 + 2 * 0.7**4)
    np.testing.assert_allclose(std, [[0.7, second]], rtol=0.2)


def test_a_density_in_a_box_integrates_to_one_and_holds_all_draws(fitted):
    X, _ = boxed(2, seed=1)
    nodes, weights = np.polynomial.legendre.leggauss(120)
    grid = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
    density = np.exp(fitted.log_prob(np.repeat(X[:1], len(grid), 0), grid))
    total = (density.reshape(120, 120) * weights * weights[:, None]).sum()
    assert total == pytest.approx(1.0, abs=2e-3)
    outside = fitted.log_prob(np.repeat(X[:1], 3, 0), [[1, 0], [3, 0], [0, -1.1]])
    assert (outside == -np.inf).all()
    with pytest.raises(ValueError, match="y contains NaN"):
        fitted.log_prob(X[:1], [[math.nan, 0.0]])
    draws = fitted.sample(X, 2000, random_state=1)
    assert draws.shape == (2, 2000, 2)
    assert np.abs(draws).max() < 1.0


def test_one_variable(one_variable):
    X = [[0.0], [1.0]]
    ends = np.geomspace(1e-6, 200, 6001)
    density = np.exp(one_variable.log_prob(np.zeros((6001, 1)), ends))
    assert np.trapezoid(density, ends) == pytest.approx(1.0, abs=2e-3)
    draws = one_variable.sample(X, 4000, random_state=1)
    assert draws.shape == (2, 4000)
    assert (draws > 0).all()
    mean, std = one_variable.predict(X, return_std=True)
    assert mean.shape == std.shape == one_variable.map(X).shape == (2,)
    assert (np.abs(draws.mean(1) - mean) < 4 * std * math.sqrt(2 / 4000)).all()
    first_moment = np.trapezoid(ends * density, ends)
    assert abs(mean[0] - first_moment) < 4 * std[0] / math.sqrt(4000)
    peak = np.exp(one_variable.log_prob([[0.0]], one_variable.map([[0.0]])))
    assert peak[0] >= density.max() * (1 - 1e-6)


def test_quantiles_are_those_of_draws(fitted):
    X, _ = boxed(3, seed=1)
    quantiles = fitted.predict_quantiles(X, [0.1, 0.5, 0.9])
    assert quantiles.shape == (3, 3, 2)
    draws = fitted.sample(X, 4000, random_state=1)
    below = (draws[:, :, None] < quantiles[:, None]).mean(1)
    levels = np.array([0.1, 0.5, 0.9])[:, None]
    error = np.sqrt(2 * levels * (1 - levels) / 4000)
    assert (np.abs(below - levels) < 4 * error).all()
    interval = fitted.predict_interval(X, 0.8)
    np.testing.assert_allclose(interval, quantiles[:, [0, 2]])
    # What is asked beside a row does not matter.
    np.testing.assert_allclose(fitted.predict(X)[1:2], fitted.predict(X[1:2]))
    with pytest.raises(ValueError, match="between 0 and 1"):
        fitted.predict_interval(X, 1.0)


def test_modes_are_the_highest_points(fitted):
    X, _ = boxed(2, seed=3)
    modes = fitted.map(X)
    heights = fitted.log_prob(X, modes)
    line = np.linspace(-0.999, 0.999, 60)
    grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    for row, height in zip(X, heights, strict=True):
        on_grid = fitted.log_prob(np.repeat(row[None], len(grid), 0), grid)
        assert height > on_grid.max() - 1e-3


def test_a_fit_is_a_start_for_one_observation(fitted):
    def log_joint(theta, x):
        exact = torch.stack([theta.sum(1), theta[:, 0] ** 2], 1)
        return -0.5 * ((x - exact) / 0.2).square().sum(1)

    x = boxed(1, seed=1)[0][0]
    refined = fitted.refine(x, log_joint, max_potential_evals=20_000, max_iter=30)
    assert refined.report_.efficiency > 0.8
    assert np.abs(refined.sample(500)).max() < 1.0


# The estimator.


def test_seeds_members_and_pickles(fitted):
    X, theta = boxed(5, seed=1)
    again = clone(fitted).fit(*boxed(800))
    loaded = pickle.loads(pickle.dumps(fitted))
    for other in (again, loaded):
        np.testing.assert_array_equal(
            other.log_prob(X, theta), fitted.log_prob(X, theta)
        )
        np.testing.assert_array_equal(other.sample(X, 3), fitted.sample(X, 3))
    # What was fitted counts, not what the next fit is to be.
    loaded.set_params(density="mixture")
    np.testing.assert_array_equal(loaded.map(X), fitted.map(X))
    (network,) = fitted.module_.networks
    own = [p for p in network.flow.parameters() if p[0].numel()]
    assert all(len(p) == 2 for p in own)
    assert any(not torch.equal(p[0], p[1]) for p in own)


def test_what_needs_a_mixture_is_refused(fitted):
    with pytest.raises(AttributeError, match="no predictive distribution"):
        fitted.predict_distribution([[0.0, 0.0]])
    bound = AmortizedPosterior(
        BOX, **SMALL, objective="elbo", potential=lambda t, x: t.sum(-1)
    )
    with pytest.raises(ValueError, match="needs density='mixture'"):
        bound.fit(*boxed(100))
    with pytest.raises(ValueError, match="density changed"):
        clone(fitted).fit(*boxed(100)).set_params(
            density="mixture", warm_start=True
        ).fit(*boxed(100))


def test_without_zuko_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(ImportError, match=r"flows"):
        AmortizedPosterior(BOX, **SMALL).fit(*boxed(50))


def test_parts_fresh_simulations_and_summaries():
    X, theta = boxed(600)
    parts = AmortizedPosterior(BOX, **SMALL)
    for _ in range(3):
        parts.partial_fit(X, theta)
    assert parts.n_iter_ == 3
    assert parts.loss_curve_[-1] < parts.loss_curve_[0]

    def simulator(n_samples, rng):
        return boxed(n_samples, rng.randint(2**31 - 1))

    online = AmortizedPosterior(BOX, **SMALL, batch_size=50)
    online.fit_online(simulator, n_batches=60, weigh=50)
    assert online.score(X, theta) > parts.loss_curve_[0] * -1

    sets = AmortizedPosterior(BOX, **SMALL | {"max_iter": 3}, summary="deep_set")
    sets.fit(X[:200, :, None], theta[:200])
    assert np.isfinite(sets.log_prob(X[:5, :, None], theta[:5])).all()
    assert sets.sample(X[:2, :, None], 4).shape == (2, 4, 2)


def test_kinds_of_activation_are_raced_or_averaged():
    model = AmortizedPosterior(BOX, **SMALL | {"activation": "auto", "max_iter": 1})
    model.fit(*boxed(200))
    assert [n.activation for n in model.module_.networks] == ["silu", "relu"]
    assert model.sample([[0.0, 0.1]], 50).shape == (1, 50, 2)
