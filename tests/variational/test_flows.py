"""VariationalPosterior with flows, factories and warm starts."""

import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from skmdn import VariationalPosterior
from skmdn.bridge import gaussian_mixture
from tests.covering.densities import two_modes

FEW = {
    "max_potential_evals": 30_000,
    "max_iter": 40,
    "n_particles": 64,
    "n_transforms": 2,
    "hidden_layer_sizes": (8,),
    "random_state": 0,
}
PRIOR = [stats.norm(0, 5)] * 2


def bimodal(theta):
    return two_modes(theta)


def edged(theta):
    """Half of a box has no density, and the rest a slope."""
    values = 3.0 * theta[:, 0]
    return torch.where(theta[:, -1] > 0, values, -torch.inf)


def plain_flow(n_features):
    import zuko

    return zuko.flows.NICE(n_features, transforms=2, hidden_features=[16])


class Shifted(torch.nn.Module):
    """A family of one's own: independent normals."""

    def __init__(self, n_features):
        super().__init__()
        self.loc = torch.nn.Parameter(torch.zeros(n_features))
        self.log_scale = torch.nn.Parameter(torch.zeros(n_features))

    def forward(self):
        law = torch.distributions.Normal(self.loc, self.log_scale.exp())
        return torch.distributions.Independent(law, 1)


@pytest.fixture(scope="module")
def fitted():
    return VariationalPosterior(bimodal, PRIOR, q="maf", **FEW).fit()


# One flow, all queries.


def test_a_flow_keeps_both_modes(fitted):
    draws = fitted.sample(4000, random_state=1)
    assert abs(np.mean(draws[:, 0] > 0) - 0.1) < 4 * math.sqrt(0.09 / 4000) + 0.005
    assert fitted.report_.efficiency > 0.9
    assert not fitted.report_.suspicious
    assert fitted.log_evidence_ == pytest.approx(0.0, abs=0.05)
    expected = two_modes(torch.from_numpy(draws)).numpy()
    gap = expected - fitted.score_samples(draws)
    assert np.mean(np.abs(gap)) < 0.1


def test_moments_are_those_of_draws_and_the_rest_is_refused(fitted):
    mean, std = fitted.predict(return_std=True)
    np.testing.assert_allclose(mean, [-2.4, -2.4], atol=0.08)
    np.testing.assert_allclose(std, math.sqrt(0.9 + 0.025 + 36 * 0.09), atol=0.08)
    np.testing.assert_array_equal(mean, fitted.posterior_.mean())
    for query in (
        lambda: fitted.posterior_.weights,
        lambda: fitted.posterior_.n_components,
        lambda: fitted.posterior_.marginal(0),
        lambda: fitted.posterior_.condition(0, 1.0),
    ):
        with pytest.raises(AttributeError, match="has no components"):
            query()


def test_modes_resampling_and_the_report(fitted):
    modes, _ = fitted.map(return_all=True)
    np.testing.assert_allclose(modes, [[-3, -3], [3, 3]], atol=1e-3)
    for method in ("sir", "psir"):
        draws = fitted.sample(1000, method=method, random_state=0)
        assert abs(np.mean(draws[:, 0] > 0) - 0.1) < 4 * math.sqrt(0.09 / 1000)
    assert fitted.evaluate(2000, random_state=1).ess > 1700
    assert [len(losses) for losses in fitted.losses_]


def test_pickles_and_seeds(fitted):
    again = VariationalPosterior(bimodal, PRIOR, q="maf", **FEW).fit()
    loaded = pickle.loads(pickle.dumps(fitted))
    for other in (again, loaded):
        np.testing.assert_array_equal(other.sample(5), fitted.sample(5))


@pytest.mark.parametrize(
    ("q", "prior"),
    [
        ("nsf", [(-1, 1)]),
        ("nsf", [(0, math.inf)]),
        pytest.param("nice", [(-1, 1)], marks=pytest.mark.slow),
        pytest.param("gf", [(0, math.inf)], marks=pytest.mark.slow),
    ],
)
def test_one_variable_integrates_to_one_within_its_bounds(q, prior):
    estimator = VariationalPosterior(
        lambda theta: -8 * (theta[:, 0] - 0.2).square(), prior, q=q, **FEW
    ).fit()
    draws = estimator.sample(3000)
    low, high = prior[0]
    assert (draws > low).all()
    assert (draws < high).all()
    ends = np.linspace(max(low, -1) + 1e-9, min(high, 4) - 1e-9, 4001)
    density = np.exp(estimator.score_samples(ends[:, None]))
    assert np.trapezoid(density, ends) == pytest.approx(1.0, abs=3e-3)
    np.testing.assert_array_equal(estimator.score_samples([[low - 0.1]]), [-np.inf])
    law = stats.norm(0.2, 0.25)
    mass = math.sqrt(math.pi / 8) * (law.cdf(high) - law.cdf(low))
    assert estimator.log_evidence_ == pytest.approx(math.log(mass), abs=0.03)


def test_two_variables_integrate_to_one_beside_an_edge():
    estimator = VariationalPosterior(edged, [(-1, 1)] * 2, q="nsf", **FEW).fit()
    line = (np.arange(200) + 0.5) / 100 - 1
    grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    total = np.exp(estimator.score_samples(grid)).mean() * 4
    assert total == pytest.approx(1.0, abs=5e-3)
    assert estimator.report_.efficiency > 0.8
    expected = math.log(math.sinh(3.0) * 2 / 3)
    assert estimator.log_evidence_ == pytest.approx(expected, abs=0.03)


@pytest.mark.slow
def test_twenty_dimensions():
    def potential(theta):
        return -2 * (theta - 0.3).square().sum(1)

    estimator = VariationalPosterior(potential, [stats.norm(0, 1)] * 20, q="nice")
    estimator.set_params(**FEW).set_params(max_potential_evals=50_000).fit()
    np.testing.assert_allclose(estimator.predict(), 0.3, atol=0.03)
    assert estimator.report_.efficiency > 0.9


# Objectives and families.


@pytest.mark.parametrize(
    "params",
    [
        {"vi_method": "rKL"},
        {"vi_method": "fKL", "weight_transform": torch.sqrt},
        {"vi_method": "IW", "dreg": True},
        {"vi_method": "alpha", "stick_the_landing": True},
        pytest.param({"vi_method": "fKL"}, marks=pytest.mark.slow),
        pytest.param({"vi_method": "IW"}, marks=pytest.mark.slow),
        pytest.param({"vi_method": "alpha"}, marks=pytest.mark.slow),
        pytest.param({"vi_method": "alpha", "dreg": True}, marks=pytest.mark.slow),
    ],
)
def test_every_objective_keeps_a_bimodal_posterior(params):
    estimator = VariationalPosterior(bimodal, PRIOR, q="nsf", **FEW, **params).fit()
    share = np.mean(estimator.sample(4000)[:, 0] > 0)
    assert 0.07 < share < 0.13
    assert estimator.report_.efficiency > 0.8


@pytest.mark.draws_from_torch
@pytest.mark.parametrize("factory", [plain_flow, Shifted])
def test_a_factory_gives_the_family(factory):
    def potential(theta):
        return -2 * (theta - 1).square().sum(1)

    estimator = VariationalPosterior(potential, PRIOR, q=factory, **FEW)
    estimator.set_params(learning_rate_init=0.02, max_iter=150).fit()
    np.testing.assert_allclose(estimator.predict(), 1.0, atol=0.06)
    np.testing.assert_allclose(estimator.posterior_.cov(), np.eye(2) / 4, atol=0.06)


class NoDensity(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self):
        return torch.distributions.Normal(self.weight, 1.0)


@pytest.mark.parametrize(
    ("factory", "error", "match"),
    [
        (lambda n: "maf", TypeError, "torch.nn.Module"),
        (lambda n: torch.nn.Identity(), ValueError, "no parameters"),
        (lambda n: torch.nn.Linear(n, n), ValueError, "cannot be used"),
        (lambda n: NoDensity(), ValueError, "have shape"),
    ],
)
def test_bad_factories_are_told_what_is_wanted(factory, error, match):
    estimator = VariationalPosterior(bimodal, PRIOR, q=factory, **FEW)
    with pytest.raises(error, match=match):
        estimator.fit()
    assert not hasattr(estimator, "posterior_")


def test_arrays_teach_a_flow_but_not_by_gradients():
    def potential(theta):
        return -2 * np.square(np.asarray(theta) - 1).sum(axis=1)

    estimator = VariationalPosterior(potential, PRIOR, q="maf", **FEW).fit()
    np.testing.assert_allclose(estimator.predict(), 1.0, atol=0.03)
    with pytest.raises(ValueError, match="gradients flow"):
        estimator.set_params(vi_method="IW").fit()


def test_a_potential_with_nan_leaves_a_flow_of_numbers():
    def potential(theta):
        values = -theta.square().sum(1)
        return torch.where(theta[:, 0] > 0.5, torch.nan, values)

    estimator = VariationalPosterior(potential, [(-1, 1)] * 2, q="nsf", **FEW)
    with pytest.warns(ConvergenceWarning, match="NaN or inf at"):
        estimator.fit()
    draws = estimator.sample(1000)
    assert np.isfinite(estimator.score_samples(draws)).all()
    assert np.mean(draws[:, 0] > 0.5) < 0.05


def test_a_descent_that_meets_nan_warns_and_goes_on():
    calls = []

    def transform(weights):
        calls.append(len(weights))
        return weights * (math.nan if len(calls) in (25, 26) else 1.0)

    estimator = VariationalPosterior(
        bimodal, PRIOR, vi_method="fKL", weight_transform=transform, **FEW
    )
    estimator.set_params(quality_control="off")
    with pytest.warns(ConvergenceWarning, match="NaN 2 time"):
        estimator.fit()
    assert np.isfinite(estimator.posterior_.means).all()


# Starts.


@pytest.mark.parametrize(
    "earlier",
    [
        lambda fitted: fitted,
        lambda fitted: fitted.posterior_,
        lambda fitted: gaussian_mixture(
            [[0.9, 0.1]],
            [[[-3.0, -3.0], [3.0, 3.0]]],
            covariances=[[np.eye(2), 0.25 * np.eye(2)]],
        )[0],
        lambda fitted: GaussianMixture(2, random_state=0).fit(fitted.sample(2000)),
    ],
)
def test_a_fit_starts_from_an_earlier_one(fitted, earlier):
    # The narrow prior of the second fit does not reach the minor mode.
    q = earlier(fitted)
    narrow = [stats.norm(-3, 1)] * 2
    few = FEW | {"max_potential_evals": 10_000}
    alone = VariationalPosterior(bimodal, narrow, **few)
    helped = VariationalPosterior(bimodal, narrow, q=q, **few)
    with warnings.catch_warnings(record=True):
        shares = [np.mean(e.fit().sample(2000)[:, 0] > 0) for e in (alone, helped)]
    assert shares[1] > 0.08
    assert hasattr(helped.posterior_._linked, "flowed") == (q is fitted)


def test_an_earlier_flow_goes_on(fitted):
    few = FEW | {"max_iter": 1, "vi_method": "rKL", "learning_rate_init": 1e-9}
    with warnings.catch_warnings(record=True):
        again = VariationalPosterior(bimodal, PRIOR, q=fitted, **few).fit()
    theta = fitted.sample(50)
    np.testing.assert_allclose(
        again.score_samples(theta), fitted.score_samples(theta), atol=1e-5
    )
    assert again.get_params()["q"] is fitted


def test_warm_start_begins_where_the_last_fit_ended():
    estimator = VariationalPosterior(bimodal, PRIOR, warm_start=True, **FEW).fit()
    estimator.set_params(prior=[stats.norm(-3, 1)] * 2, max_potential_evals=10_000)
    with warnings.catch_warnings(record=True):
        estimator.fit()
    assert np.mean(estimator.sample(2000)[:, 0] > 0) > 0.08


@pytest.mark.parametrize(
    ("q", "match"),
    [
        (GaussianMixture(1, random_state=0).fit(np.zeros((5, 3))), "2 parameters"),
        (
            GaussianMixture(1, random_state=0).fit(np.full((5, 2), 9.0)),
            "within the bounds",
        ),
    ],
)
def test_starts_that_do_not_fit_are_refused(q, match):
    with pytest.raises(ValueError, match=match):
        VariationalPosterior(bimodal, [(-1, 1)] * 2, q=q, **FEW).fit()


# The potential.


def log_likelihood(theta, x):
    return -(x - theta).square().sum(1)


def test_the_potential_is_what_is_approximated():
    prior = stats.multivariate_normal([1.0, 0.0], np.diag([1.0, 2.0]))
    estimator = VariationalPosterior(log_likelihood, prior, add_prior=True, **FEW)
    estimator.fit([[0.3, 1.0], [2.0, 2.0]])
    theta = np.array([[0.5, 0.5], [1.0, -1.0]])
    values = estimator.log_potential(theta)
    for row, x in zip(values, ([0.3, 1.0], [2.0, 2.0]), strict=True):
        expected = prior.logpdf(theta) - np.square(np.array(x) - theta).sum(1)
        np.testing.assert_allclose(row, expected)
    one = estimator.log_potential(theta, [[2.0, 2.0]])
    np.testing.assert_array_equal(one[0], values[1])
    tracked = torch.from_numpy(theta).requires_grad_()
    (slope,) = torch.autograd.grad(estimator.log_potential(tracked)[0].sum(), tracked)
    expected = 2 * (np.array([0.3, 1.0]) - theta) - (theta - [1.0, 0.0]) / [1.0, 2.0]
    np.testing.assert_allclose(slope.numpy(), expected, atol=1e-6)
    for wrong in (np.zeros((2, 3)), torch.zeros(2, 3)):
        with pytest.raises(ValueError, match="theta has"):
            estimator.log_potential(wrong)


def test_the_potential_is_minus_infinity_beyond_the_bounds():
    estimator = VariationalPosterior(lambda t: t.sum(1), [(0, 1)] * 2, **FEW).fit()
    values = estimator.log_potential([[0.5, 0.25], [2.0, 0.5]])
    np.testing.assert_array_equal(values, [0.75, -np.inf])
    nowhere = estimator.log_potential([[2.0, 0.5]])
    np.testing.assert_array_equal(nowhere, [-np.inf])


def test_the_potential_is_asked_in_parts():
    sizes = []

    def potential(theta):
        sizes.append(len(theta))
        return bimodal(theta)

    estimator = VariationalPosterior(potential, PRIOR, max_batch_size=700, **FEW)
    estimator.fit().sample(2000, method="psir")
    assert max(sizes) == 700
    whole = VariationalPosterior(bimodal, PRIOR, **FEW).fit()
    np.testing.assert_allclose(estimator.sample(5), whole.sample(5), atol=1e-8)


def test_many_draws_take_little_more_memory_than_themselves():
    estimator = VariationalPosterior(bimodal, PRIOR, **FEW).fit()
    draws = estimator.sample(200_000, random_state=0)
    assert abs(np.mean(draws[:, 0] > 0) - 0.1) < 0.005
    assert np.isfinite(draws).all()


def test_a_device_that_is_not_there_is_named():
    for device in ("nowhere", "cuda:99"):
        estimator = VariationalPosterior(bimodal, PRIOR, device=device, **FEW)
        with pytest.raises(ValueError, match="device"):
            estimator.fit()


def test_losses_are_printed_when_asked_for(capsys):
    params = FEW | {"vi_method": "rKL", "quality_control": "off"}
    VariationalPosterior(bimodal, PRIOR, verbose=1, **params).fit()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 20
    assert lines[0].startswith("[VariationalPosterior] step 2/40  loss ")


@pytest.mark.parametrize(
    "params",
    [
        {"n_transforms": 0},
        {"hidden_layer_sizes": 3},
        {"tol": -1.0},
        {"n_iter_no_change": 0},
        {"max_batch_size": 0},
        {"max_grad_norm": 0.0},
        {"max_iter": 0},
        {"n_importance": 0},
        {"alpha_order": -0.5},
        {"quality_control": "maybe"},
        {"learning_rate_init": "fast"},
        {"warm_start": "yes"},
        {"q": 3},
    ],
)
def test_bad_parameters_are_named(params):
    estimator = VariationalPosterior(bimodal, PRIOR, **FEW).set_params(**params)
    with pytest.raises(ValueError, match=next(iter(params))):
        estimator.fit()


def test_a_potential_that_raises_is_quoted():
    def potential(theta):
        raise KeyError("no data")

    estimator = VariationalPosterior(potential, PRIOR, q="maf", **FEW)
    with pytest.raises(ValueError, match="no data"):
        estimator.fit()
