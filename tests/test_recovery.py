"""Families find the parameters of 20 000 draws again, through the estimator."""

import numpy as np
import pytest
import torch

from skmdn import MixtureDensityRegressor
from skmdn.families import Beta, PointMass, StudentT, TruncatedNormal, make_family
from tests.helpers import generator

N_ROWS = 20_000

# What made the draws; numbers that are not learned are left out of the comparison.
LAWS = {
    "normal": {"mean": 40.0, "scale": 3.0},
    "student_t": {"loc": -20.0, "scale": 4.0, "df": 5.0},
    "laplace": {"loc": 1.0, "scale": 0.02},
    "logistic": {"loc": 1e4, "scale": 50.0},
    "gumbel": {"loc": -3.0, "scale": 2.0},
    "lognormal": {"loc": 6.0, "scale": 0.8},
    "gamma": {"concentration": 2.5, "rate": 0.01},
    "weibull": {"concentration": 1.7, "scale": 300.0},
    "exponential": {"rate": 0.02},
    "beta": {"a": 1.4, "b": 4.0},
    "truncated_normal": {"loc": 6.0, "scale": 5.0},
    "poisson": {"rate": 3.7},
    "negative_binomial": {"mean": 80.0, "concentration": 0.7},
    "bernoulli": {"logit": -1.2},
}
OBJECTS = {
    "beta": Beta(-1.0, 3.0),
    "student_t": StudentT(),
    "truncated_normal": TruncatedNormal(0.0, 9.0),
}
REPRESENTATIVE = ("student_t", "gamma", "beta", "negative_binomial")


def linear(family, **kwargs):
    """Return an estimator that is linear on the scale of the links."""
    params = {
        "n_estimators": 1,
        "embedding": "none",
        "hidden_layer_sizes": (),
        "weight_decay": 0.0,
        "early_stopping": False,
        "batch_size": N_ROWS,
        "learning_rate_init": 0.05,
        "max_iter": 150,
        "random_state": 0,
    }
    return MixtureDensityRegressor(1, family=family, **(params | kwargs))


def draws(family, truth, n=N_ROWS, seed=1):
    params = {name: torch.full((n, 1, 1), value) for name, value in truth.items()}
    params = {name: value.double() for name, value in params.items()}
    return family.draw(family.pinned(full(family, params)), generator(seed)).flatten()


def full(family, params):
    """Return the parameters with the family's fixed numbers."""
    like = next(iter(params.values()))
    fixed = {n: like * 0.0 for n in family.event_ranks if n not in params}
    return params | fixed


def standard_errors(family, truth, y):
    """Return those of maximum likelihood, from the products of the rows' scores."""
    scores = []
    for name, value in truth.items():
        step = 1e-4 * abs(value)
        sides = []
        for moved in (value + step, value - step):
            numbers = (truth | {name: moved}).items()
            params = {n: torch.full((1, 1), v).double() for n, v in numbers}
            params = family.pinned(full(family, params))
            sides.append(family.log_prob(params, y.view(-1, 1, 1)).flatten())
        scores.append((sides[0] - sides[1]) / (2.0 * step))
    scores = torch.stack(scores)
    return torch.linalg.inv(scores @ scores.mT).diagonal().sqrt().tolist()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in REPRESENTATIVE else pytest.mark.slow)
        for name in LAWS
    ],
)
def test_a_family_finds_its_own_parameters(name):
    family = OBJECTS.get(name) or make_family(name)
    y = draws(family, LAWS[name])
    model = linear(family).fit(np.zeros((N_ROWS, 1)), y.numpy())
    (block,) = model._mixture(np.zeros((1, 1))).blocks
    errors = standard_errors(family, LAWS[name], y)
    # The prior on the scales counts as one row in 20 000: a hundredth of an error.
    for (parameter, truth), error in zip(LAWS[name].items(), errors, strict=True):
        found = float(block.params[parameter])
        assert abs(found - truth) < 4.0 * error, (parameter, found, truth, error)


def test_a_point_mass_finds_its_share():
    rng = np.random.RandomState(2)
    y = rng.normal(5.0, 2.0, size=N_ROWS)
    zero = rng.uniform(size=N_ROWS) < 0.3
    y[zero] = 0.0
    model = linear(["normal", PointMass(0.0)]).fit(np.zeros((N_ROWS, 1)), y)
    dist = model.predict_distribution(np.zeros((1, 1)))
    n, rest = N_ROWS, y[~zero]
    assert abs(dist.weights[0, 1] - 0.3) < 4.0 * np.sqrt(0.21 / n)
    assert abs(dist.means[0, 0] - 5.0) < 4.0 * 2.0 / np.sqrt(len(rest))
    assert abs(dist.stds[0, 0] - 2.0) < 4.0 * 2.0 / np.sqrt(2.0 * len(rest))


@pytest.mark.parametrize("name", ["poisson", "student_t"])
def test_a_law_that_is_linear_in_a_feature(name):
    # On the scale of the link: log rates, and locations.
    family, coefficients = make_family(name), torch.tensor([0.5, 0.7]).double()
    x = torch.empty(N_ROWS).double().uniform_(-2.0, 2.0, generator=generator(3))
    design = torch.stack([torch.ones_like(x), x])

    def params(coefficients):
        line = (coefficients @ design).view(-1, 1, 1)
        if name == "poisson":
            return {"rate": line.exp()}
        ones = torch.ones_like(line)
        return {"loc": line, "scale": 0.4 * ones, "df": 5.0 * ones}

    y = family.draw(params(coefficients), generator(4)).flatten()

    def log_prob(coefficients):
        return family.log_prob(params(coefficients), y.view(-1, 1, 1)).flatten()

    steps = 1e-4 * torch.eye(2).double()
    scores = torch.stack(
        [
            (log_prob(coefficients + h) - log_prob(coefficients - h)) / 2e-4
            for h in steps
        ]
    )
    errors = torch.linalg.inv(scores @ scores.mT).diagonal().sqrt().numpy()
    model = linear(name).fit(x.view(-1, 1).numpy(), y.numpy())
    at = model.predict([[0.0], [1.0]])
    line = np.log(at) if name == "poisson" else at
    found = np.array([line[0], line[1] - line[0]])
    assert (np.abs(found - coefficients.numpy()) < 4.0 * errors).all()
