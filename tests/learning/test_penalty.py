"""Priors of mixtures: what they add up, and fits whose maximum is known."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import wrightomega
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skmdn import MixtureDensityRegressor
from skmdn.composition import Composition
from skmdn.families import MultivariateNormal, Normal, PointMass, StudentT
from skmdn.learning.penalty import MixturePrior, start_and_end
from skmdn.priors import Dirichlet, InverseGamma, LogNormalScale
from tests.helpers import random_mixture, tensor

# The sum itself.


def test_a_prior_is_the_sum_over_weights_and_scales():
    mixture = random_mixture("mixed", (2, 5))
    prior = MixturePrior(Dirichlet(0.7), InverseGamma(2.0, 0.3))
    expected = Dirichlet(0.7).log_prob(mixture.log_weights)
    for block in mixture.blocks:
        std = block.family.scales(block.params).numpy()
        each = stats.invgamma(2.0, scale=0.3).logpdf(std**2)
        expected = expected + tensor(each.sum((-2, -1)))
    torch.testing.assert_close(prior.log_prob(mixture), expected)
    assert torch.equal(MixturePrior().log_prob(mixture), torch.zeros(2, 5).double())


@pytest.mark.parametrize("layout", ["diag", "spherical", "full", "tied"])
def test_scales_are_measured_in_units(layout):
    mixture = random_mixture(layout, (4,), n_outputs=2)
    inside = LogNormalScale(0.5)
    found = MixturePrior(scales=inside, units=tensor([7.0, 0.1])).log_prob(mixture)
    if layout == "spherical":
        # One scale for both outputs: their root mean square.
        factor = torch.full((2,), 1.0 / np.sqrt(0.5 * (7.0**2 + 0.1**2)))
    else:
        factor = 1.0 / tensor([7.0, 0.1])
    (block,) = mixture.blocks
    scales = block.family.scales(block.params)
    expected = inside.log_prob(scales * factor[: scales.shape[-1]]).sum((-2, -1))
    torch.testing.assert_close(found, expected)


def test_what_parameters_mean():
    composition = Composition.make("normal", 3)
    assert MixturePrior.make(None, None, composition, 10.0) == MixturePrior()
    auto = MixturePrior.make(2.0, "auto", composition, 1e3)
    assert auto == MixturePrior(Dirichlet(2.0), InverseGamma(1.0, 0.075**2 + 0.1))
    auto = MixturePrior.make(2.0, "auto", composition, 20.0)
    assert auto == MixturePrior(Dirichlet(2.0), InverseGamma(1.0, 1.75 + 0.002))
    auto = MixturePrior.make(None, "auto", composition, 150.0, rounded=True)
    assert auto == MixturePrior(None, InverseGamma(1.0, 0.25 + 0.2))
    given = Dirichlet([1.0, 2.0, 3.0]), LogNormalScale(0.2)
    made = MixturePrior.make(*given, composition, 10.0)
    assert (made.weights, made.scales) == given


def test_concentrations_are_in_the_users_order():
    family = ["normal", StudentT(), "normal", PointMass(0.0), StudentT()]
    composition = Composition.make(family, 1)
    concentration = [0.5, 1.5, 2.5, 3.5, 4.5]
    prior = MixturePrior.make(Dirichlet(concentration), None, composition, 10.0)
    log_weights = torch.log_softmax(tensor([0.3, -1.0, 2.0, 0.1, -0.4]), -1)
    # Computed: normal, normal, Student, Student, point.
    computed = log_weights[[0, 2, 1, 4, 3]]

    class Weights:
        pass

    mixture = Weights()
    mixture.log_weights = computed
    found = prior.log_prob(mixture)
    torch.testing.assert_close(found, Dirichlet(concentration).log_prob(log_weights))


def test_temperatures_are_a_number_or_a_pair():
    assert start_and_end(2) == (2.0, 2.0)
    assert start_and_end([5, np.float32(0.5)]) == (5.0, 0.5)
    for wrong in (0.0, -1.0, np.nan, np.inf, (1.0, 0.0), (-1.0, 1.0), (np.inf, 1.0)):
        with pytest.raises(ValueError, match="temperature must be a positive number"):
            start_and_end(wrong)
    for wrong in ((1.0,), (1.0, 2.0, 3.0), ("hot", "cold"), (), (None, 1.0)):
        with pytest.raises(ValueError, match=r"or a pair \(start, end\) of them"):
            start_and_end(wrong)


# Fits whose maximum has a closed form: parameters that do not depend on X.


def constant(y, n_components=2, **kwargs):
    """Return the distribution of a fit on features that say nothing."""
    params = {
        "n_estimators": 1,
        "hidden_layer_sizes": (),
        "embedding": "none",
        "weight_decay": 0.0,
        "early_stopping": False,
        "batch_size": len(y),
        "learning_rate_init": 0.05,
        "max_iter": 200,
        "random_state": 0,
    }
    model = MixtureDensityRegressor(n_components, **{**params, **kwargs})
    return model.fit(np.zeros((len(y), 1)), y).predict_distribution([[0.0]])


def two_groups(n_first=30, n_second=10):
    rng = np.random.RandomState(0)
    return np.r_[rng.normal(0, 0.1, n_first), rng.normal(5, 0.1, n_second)]


@pytest.mark.parametrize("concentration", [None, 0.1, 11.0, [5.0, 1.0], [1.0, 5.0]])
def test_weights_are_those_of_the_posterior_mode(concentration):
    prior = concentration
    if isinstance(prior, list):
        prior = Dirichlet(concentration)
    dist = constant(two_groups(), weights_prior=prior)
    excess = np.zeros(2) if prior is None else np.ones(2) * concentration - 1.0
    # The target may be turned round inside, so that either component comes first.
    counts = np.where(dist.means[0] > 2.5, 10, 30)
    expected = (counts + excess) / (40 + excess.sum())
    np.testing.assert_allclose(dist.weights[0], expected, atol=1e-4)


def test_a_component_of_one_row_keeps_what_the_prior_leaves_it():
    rng = np.random.RandomState(0)
    y = np.r_[rng.normal(0, 0.3, 30), 6.0]
    settings = {"max_iter": 300, "learning_rate_init": 0.3}
    for concentration in (0.1, 0.3, 1.0, 4.0):
        dist = constant(y, weights_prior=concentration, **settings)
        expected = concentration / (31 + 2 * (concentration - 1.0))
        assert dist.weights.min() == pytest.approx(expected, rel=1e-2)


def test_concentrations_above_one_keep_components_and_below_one_prune_them():
    y = two_groups()
    few, plain, many = (
        np.sort(constant(y, 5, weights_prior=prior, max_iter=300).weights[0])
        for prior in (0.02, None, 4.0)
    )
    assert (few[:3] < 1e-4).all()
    assert few[3] > 0.2
    assert (plain[:3] < 0.01).all()
    # The rows that each is granted.
    assert (many > 0.99 * 3.0 / (40 + 5 * 3.0)).all()


def test_concentrations_follow_the_names_of_the_components():
    rng = np.random.RandomState(0)
    parts = [rng.normal(at, 0.1, 12) for at in (0.0, 5.0, 11.0)]
    family = {"a": "normal", "b": "laplace", "c": "normal"}
    concentration = np.array([1.0, 13.0, 7.0])
    dist = constant(
        np.concatenate(parts),
        family=family,
        weights_prior=Dirichlet(concentration),
        scales_prior=None,
    )
    assert np.ptp(np.sort(dist.means[0].round()) - [0.0, 5.0, 11.0]) == 0.0
    expected = (11.0 + concentration) / (36 + concentration.sum() - 3)
    np.testing.assert_allclose(dist.weights[0], expected, atol=1e-3)


@pytest.mark.parametrize(
    "prior",
    [None, "auto", InverseGamma(3.0, 0.5), LogNormalScale(0.3, 0.5)],
    ids=str,
)
def test_scales_are_those_of_the_posterior_mode(prior):
    y = np.random.RandomState(1).normal(2.0, 3.0, 40)
    dist = constant(y, 1, scales_prior=prior)
    # In standardised units the sum of squares is the number of rows.
    half = 20.0
    if prior is None:
        variance = 1.0
    elif isinstance(prior, LogNormalScale):
        tau2 = prior.sd_sd**2
        a = tau2 * half - 2.0 * np.log(prior.sd_mean)
        variance = np.exp(wrightomega(a + np.log(tau2 * half)) - a)
    else:
        known = InverseGamma(1.0, 1.004) if prior == "auto" else prior
        variance = (half + known.scale) / (half + known.shape + 1.0)
    found = (dist.stds[0, 0] / y.std()) ** 2
    assert found == pytest.approx(variance, rel=1e-4)


def test_the_unit_of_the_scales_follows_a_target_that_is_not_standardised():
    rng = np.random.RandomState(0)
    counts = rng.poisson(1.0, 20).astype(float)
    y = np.r_[counts, rng.normal(12.0, 1.0, 20)]
    prior = InverseGamma(2.0, 0.5)
    dist = constant(
        y,
        family=["poisson", "normal"],
        scales_prior=prior,
        max_iter=400,
        learning_rate_init=0.1,
    )
    squares = ((y[20:] - y[20:].mean()) ** 2).sum()
    variance = (0.5 * squares + prior.scale * y.var()) / (10.0 + prior.shape + 1.0)
    assert dist.stds[0, 1] ** 2 == pytest.approx(variance, rel=2e-3)
    # In raw units the prior would have said almost nothing.
    assert variance > 1.5 * (0.5 * squares + prior.scale) / 13.0


# In the estimator.


def table(n_samples=40, n_outputs=1):
    rng = np.random.RandomState(0)
    X = rng.normal(size=(n_samples, 2))
    Y = X[:, :1] + rng.normal(size=(n_samples, n_outputs)) * [[1.0, 3.0][:n_outputs]]
    return X, Y[:, 0] if n_outputs == 1 else Y


def quick(**kwargs):
    params = {
        "n_components": 3,
        "n_estimators": 1,
        "hidden_layer_sizes": (8,),
        "embedding": "none",
        "max_iter": 30,
        "random_state": 0,
    }
    return MixtureDensityRegressor(**{**params, **kwargs})


SEVERAL = [
    {"weights_prior": 5.0},
    {"weights_prior": Dirichlet([0.2, 1.0, 9.0]), "scales_prior": None},
    {"scales_prior": LogNormalScale(0.3)},
    {"weights_prior": 0.3, "family": ["normal", "poisson", "normal"]},
    {"weights_prior": 3.0, "temperature": (4.0, 0.7)},
]


@pytest.mark.parametrize("params", SEVERAL, ids=str)
def test_a_weight_of_two_is_a_repeated_row(params):
    X, y = table(20)
    weights = np.random.RandomState(1).randint(1, 3, 20)
    model = quick(max_iter=100, **params)
    weighted = clone(model).fit(X, y, sample_weight=weights)
    repeated = clone(model).fit(np.repeat(X, weights, 0), np.repeat(y, weights))
    np.testing.assert_allclose(
        weighted.log_prob(X, y), repeated.log_prob(X, y), atol=1e-8
    )


def test_the_prior_counts_once_for_the_sum_of_the_weights():
    X, y = table(20)
    heavy = quick(weights_prior=50.0).fit(X, y, sample_weight=np.full(20, 1e6))
    plain = quick(weights_prior=None).fit(X, y, sample_weight=np.full(20, 1e6))
    np.testing.assert_allclose(heavy.log_prob(X, y), plain.log_prob(X, y), atol=1e-2)
    strong = quick(weights_prior=1e6).fit(X, y).predict_distribution(X)
    np.testing.assert_allclose(strong.weights, 1.0 / 3.0, atol=0.02)


def test_batches_share_the_prior():
    X, y = table(400)
    strong = [
        quick(weights_prior=401.0, batch_size=size, max_iter=20).fit(X, y)
        for size in (400, 40)
    ]
    weights = [model.predict_distribution(X).weights.mean(0) for model in strong]
    np.testing.assert_allclose(*weights, atol=0.05)


def test_clone_and_search_reach_the_numbers_of_a_prior():
    model = quick(weights_prior=Dirichlet(2.0), scales_prior=InverseGamma())
    assert clone(model).weights_prior is not model.weights_prior
    assert clone(model).get_params()["weights_prior__concentration"] == 2.0
    X, y = table(60)
    grid = {"weights_prior__concentration": [0.5, 1e3], "scales_prior__scale": [0.1]}
    search = GridSearchCV(model.set_params(max_iter=4), grid, cv=2).fit(X, y)
    chosen = search.best_params_["weights_prior__concentration"]
    assert search.best_estimator_.weights_prior == Dirichlet(chosen)
    assert search.best_estimator_.scales_prior.scale == 0.1
    assert model.weights_prior == Dirichlet(2.0)
    priors = {"weights_prior": [None, 3.0, Dirichlet(0.5)]}
    search = GridSearchCV(model, priors, cv=2, refit=False).fit(X, y)
    assert len(search.cv_results_["params"]) == 3
    with pytest.raises(ValueError, match="Dirichlet has no parameter 'alpha'"):
        model.set_params(weights_prior__alpha=1.0)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"weights_prior": -1.0}, "weights_prior"),
        ({"weights_prior": "even"}, "weights_prior"),
        ({"weights_prior": Dirichlet(0.0)}, "concentration of Dirichlet must be"),
        ({"weights_prior": Dirichlet([1.0, 2.0])}, "2 numbers for 3 components"),
        ({"scales_prior": 1.0}, "scales_prior"),
        ({"scales_prior": Dirichlet(1.0)}, "scales_prior"),
        ({"scales_prior": InverseGamma(scale=0.0)}, "scale of InverseGamma must be"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": (2.0, 0.0)}, "temperature must be a positive number"),
        ({"temperature": [1.0, 2.0, 3.0]}, "or a pair"),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_what_cannot_be_used_is_refused_and_leaves_nothing(params, match, method):
    X, y = table()
    model = quick(**params)
    with pytest.raises(ValueError, match=match):
        getattr(model, method)(X, y)
    assert not hasattr(model, "module_")


@pytest.mark.parametrize(
    "family", [Normal("spherical"), MultivariateNormal("tied")], ids=str
)
@pytest.mark.parametrize("prior", [LogNormalScale(0.2), InverseGamma(2.0, 0.1), None])
def test_several_outputs_have_priors_too(family, prior):
    X, Y = table(60, n_outputs=2)
    model = quick(family=family, scales_prior=prior, weights_prior=2.0).fit(X, Y)
    assert np.isfinite(model.log_prob(X, Y)).all()


# Temperatures that fall.


def test_a_fall_of_nothing_is_a_constant_temperature():
    X, y = table(80)
    for temperature in (1.0, 0.5):
        one = quick(temperature=temperature).fit(X, y)
        pair = quick(temperature=[temperature, temperature]).fit(X, y)
        np.testing.assert_array_equal(one.predict(X), pair.predict(X))


def test_everything_after_the_fall_is_at_its_end():
    X, y = table(80)
    model = quick(temperature=(6.0, 0.5)).fit(X, y)
    constant_end = quick(temperature=0.5).fit(X, y)
    assert not np.allclose(model.predict(X), constant_end.predict(X))
    dist = model.predict_distribution(X)
    same = model.predict_distribution(X, temperature=0.5)
    np.testing.assert_allclose(same.weights, dist.weights)
    np.testing.assert_allclose(model.log_prob(X, y), dist.log_prob(y))
    power = dist.weights ** (0.5 / 2.0)
    np.testing.assert_allclose(
        model.predict_distribution(X, temperature=2.0).weights,
        power / power.sum(1, keepdims=True),
    )
    head = model.module_.networks[0].head
    assert head.temperature == 0.5
    # The start may change between fits that go on, the end may not.
    model.set_params(warm_start=True, temperature=(3.0, 0.5)).fit(X, y)
    with pytest.raises(ValueError, match="temperature changed"):
        model.set_params(temperature=(3.0, 1.0)).fit(X, y)


def test_passes_of_partial_fit_are_at_the_end():
    X, y = table(80)
    models = [quick(temperature=t) for t in (0.5, (6.0, 0.5))]
    for start in range(0, 80, 40):
        rows = slice(start, start + 40)
        one, pair = (model.partial_fit(X[rows], y[rows]) for model in models)
        np.testing.assert_array_equal(one.predict(X), pair.predict(X))


def test_states_are_judged_at_the_end_while_the_temperature_falls():
    # Without steps that move anything every judgement is that of the start.
    X, y = table(200)
    judged = [
        quick(temperature=t, learning_rate_init=1e-12, max_iter=10)
        .fit(X, y)
        .validation_loss_curve_
        for t in (0.5, (50.0, 0.5))
    ]
    np.testing.assert_allclose(*judged, rtol=1e-6)
