"""Transforms of named variables: inverses, Jacobians, bounds, shapes, clones."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from sklearn.base import clone
from sklearn.model_selection import ParameterGrid
from torch import distributions as td

from skmdn.simulation import Prior, make_simulator
from skmdn.spaces import (
    AsSet,
    AsTimeSeries,
    Broadcast,
    Concatenate,
    Constrain,
    Custom,
    Drop,
    Log,
    OneHot,
    Rename,
    Space,
    Sqrt,
    Standardize,
    space_from_prior,
)


def cube(x):
    return x**3 + x


def uncube(z):
    """The real root of x^3 + x = z."""
    root = (0.25 * z**2 + 1 / 27).sqrt()
    first = 0.5 * z + root
    return first.abs().pow(1 / 3) * first.sign() + (
        (0.5 * z - root).abs().pow(1 / 3) * (0.5 * z - root).sign()
    )


# Maps of numbers: the step, and a law whose draws it can take.
MAPS = {
    "standardize": (Standardize("x"), stats.norm(5.0, 3.0)),
    "log": (Log("x"), stats.lognorm(1.0)),
    "log1p": (Log("x", plus_one=True), stats.gamma(2.0)),
    "sqrt": (Sqrt("x"), stats.gamma(3.0)),
    "lower": (Constrain("x", low=2.0), stats.gamma(2.0, 2.0)),
    "upper": (Constrain("x", high=-1.0), stats.uniform(-9.0, 8.0)),
    "both": (Constrain("x", low=-2.0, high=3.0), stats.uniform(-2.0, 5.0)),
    "probit": (
        Constrain("x", low=-2.0, high=3.0, link="probit"),
        stats.uniform(-2.0, 5.0),
    ),
    "custom": (Custom("x", cube, uncube), stats.norm()),
}


@pytest.fixture(params=MAPS)
def mapped(request):
    step, law = MAPS[request.param]
    x = law.rvs(200, random_state=np.random.default_rng(0))
    return clone(step).fit({"x": x}), law, x


def test_the_inverse_is_exact(mapped):
    step, _, x = mapped
    z = step.transform({"x": x})["x"]
    np.testing.assert_allclose(step.inverse_transform({"x": z})["x"], x, rtol=1e-11)
    np.testing.assert_array_less(0.0, np.diff(z[np.argsort(x)]))


def test_the_jacobian_is_that_of_finite_differences(mapped):
    step, _, x = mapped
    x = x[(x > np.quantile(x, 0.05)) & (x < np.quantile(x, 0.95))]
    h = 1e-6 * np.maximum(1.0, np.abs(x))
    up, down = (step.transform({"x": x + s * h})["x"] for s in (1, -1))
    slope = np.log((up - down) / (2 * h))
    np.testing.assert_allclose(step.log_det_jacobian({"x": x}), slope, atol=1e-6)


def test_the_jacobian_of_the_way_back_is_its_negative(mapped):
    step, _, x = mapped
    there = step.transform({"x": x})
    np.testing.assert_allclose(
        step.inverse_log_det_jacobian(there),
        -step.log_det_jacobian({"x": x}),
        rtol=1e-9,
        atol=1e-9,
    )


def test_densities_taken_back_integrate_to_one(mapped):
    step, law, x = mapped
    low, high = law.support()
    # A density of the transformed variable, as a network would learn it.
    z = step.transform({"x": x})["x"]
    learned = stats.norm(z.mean(), z.std())
    if isinstance(step, Sqrt):
        learned = stats.gamma(2.0)

    def density(x):
        there = {"x": np.array([x])}
        log = learned.logpdf(step.transform(there)["x"])
        return np.exp(log + step.log_det_jacobian(there))[0]

    if isinstance(step, Constrain):
        low = -np.inf if step.low is None else step.low
    if isinstance(step, Log):
        low = -1.0 if step.plus_one else 0.0
    middle = np.quantile(x, [0.01, 0.5, 0.99])
    edges = [low, *middle, high]
    total = sum(integrate.quad(density, a, b, limit=200)[0] for a, b in pairwise(edges))
    assert total == pytest.approx(1.0, abs=1e-5)


def test_tensors_stay_tensors_with_gradients(mapped):
    step, _, x = mapped
    values = torch.tensor(x[:20], requires_grad=True)
    z = step.transform({"x": values})["x"]
    (slope,) = torch.autograd.grad(z.sum(), values, retain_graph=True)
    log_det = step.log_det_jacobian({"x": values})
    np.testing.assert_allclose(slope.log().detach(), log_det.detach(), atol=1e-9)
    np.testing.assert_allclose(
        log_det.detach(), step.log_det_jacobian({"x": x[:20]}), rtol=1e-12
    )
    back = step.inverse_transform({"x": z})["x"]
    np.testing.assert_allclose(back.detach(), x[:20], rtol=1e-10)


def test_steps_are_cloned_pickled_and_searched(mapped):
    step, _, x = mapped
    assert clone(step).get_params().keys() == step.get_params().keys()
    if not isinstance(step, Custom):
        again = pickle.loads(pickle.dumps(step))
        np.testing.assert_array_equal(
            again.transform({"x": x})["x"], step.transform({"x": x})["x"]
        )


# Bounds.


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("high", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("link", ["logit", "probit"])
def test_values_on_a_bound_stay_finite(dtype, high, link):
    step = Constrain("x", low=0.1, high=high, link=link)
    x = np.array([0.1, high], dtype=dtype)
    step.fit({"x": x})
    z = step.transform({"x": x})["x"]
    assert np.isfinite(z).all()
    assert (np.abs(z) < 50).all()
    assert np.isfinite(step.log_det_jacobian({"x": x})).all()
    tensor = {"x": torch.tensor(x)}
    assert step.transform(tensor)["x"].isfinite().all()
    assert step.log_det_jacobian(tensor).isfinite().all()


@pytest.mark.parametrize("link", ["logit", "probit"])
@pytest.mark.parametrize(
    "bounds", [(0.0, 1.0), (-1e6, 1e6), (0.0, None), (None, 3.0), (1e6, 1e6 + 1)]
)
def test_what_comes_back_is_strictly_inside(link, bounds):
    low, high = bounds
    step = Constrain("x", low=low, high=high, link=link).fit({"x": np.array([])})
    z = np.concatenate([np.linspace(-900, 900, 301), [-1e300, 1e300]])
    x = step.inverse_transform({"x": z})["x"]
    assert np.isfinite(x).all()
    assert low is None or (x > low).all()
    assert high is None or (x < high).all()
    assert np.isfinite(step.transform({"x": x})["x"]).all()
    # Exact where the value cannot be told from the bound.
    log_det = step.inverse_log_det_jacobian({"x": z[:-2]})
    assert np.isfinite(log_det).all()
    if None not in bounds and link == "logit":
        expected = (
            np.log(high - low) - np.abs(z[:-2]) - 2 * np.log1p(np.exp(-np.abs(z[:-2])))
        )
        np.testing.assert_allclose(log_det, expected, rtol=1e-9)


def test_large_values_do_not_overflow():
    step = Constrain("x", low=0.0).fit({"x": np.array([800.0])})
    for x in (800.0, 1e300):
        log_det = step.log_det_jacobian({"x": np.array([x])})
        np.testing.assert_allclose(log_det, -np.log(x))
        back = step.inverse_transform(step.transform({"x": np.array([x])}))["x"]
        np.testing.assert_allclose(back, x, rtol=1e-12)
    assert np.isfinite(Log("x").inverse_transform({"x": np.array([1e9])})["x"]).all()


@pytest.mark.parametrize("x", [-0.1, 1.1, np.nan, np.inf])
def test_values_outside_are_refused(x):
    step = Constrain("x", low=0.0, high=1.0)
    with pytest.raises(ValueError, match=r"'x' has 1 value\(s\) outside of the open"):
        step.fit({"x": np.array([0.5])}).transform({"x": np.array([0.5, x])})


def test_bounds_of_each_entry():
    x = np.array([[0.5, -3.0, 7.0]])
    step = Constrain("x", low=(0.0, None, 5.0), high=(1.0, None, None), link="probit")
    z = step.fit({"x": x}).transform({"x": x})
    np.testing.assert_allclose(z["x"], [[0.0, -3.0, np.log(2.0)]])
    np.testing.assert_allclose(step.inverse_transform(z)["x"], x)
    log_det = 0.5 * np.log(2 * np.pi) - np.log(2.0)
    np.testing.assert_allclose(step.log_det_jacobian({"x": x}), [log_det])
    with pytest.raises(ValueError, match="3 bounds were given for the 2"):
        step.transform({"x": x[:, :2]})


def test_wrong_bounds_are_refused():
    with pytest.raises(ValueError, match="below"):
        Constrain("x", low=1.0, high=0.0).fit({"x": [0.5]})
    with pytest.raises(ValueError, match="link"):
        Constrain("x", low=1.0, link="cauchit").fit({"x": [0.5]})
    with pytest.raises(ValueError, match="not above 0"):
        Log("x").transform({"x": [0.0]})
    with pytest.raises(ValueError, match="below 0"):
        Sqrt("x").transform({"x": [-1.0]})


# Standardising.


def test_standardize_learns_in_fit_only():
    rng = np.random.default_rng(0)
    variables = {"a": rng.normal(5, 2, 100), "b": rng.normal(size=(100, 3))}
    step = Standardize().fit(variables)
    z = step.transform(variables)
    np.testing.assert_allclose(z["a"].std(), 1.0)
    np.testing.assert_allclose(z["b"].mean(0), 0.0, atol=1e-12)
    first = step.transform({"a": np.array([9.0]), "b": np.zeros((1, 3))})
    again = step.transform({"a": np.array([9.0]), "b": np.zeros((1, 3))})
    np.testing.assert_array_equal(first["a"], again["a"])
    expected = -np.log(variables["a"].std()) - np.log(variables["b"].std(0)).sum()
    np.testing.assert_allclose(step.log_det_jacobian(variables), expected)


@pytest.mark.parametrize("n_features", [None, 2])
def test_standardize_heeds_the_mask(n_features):
    def x(n, rng):
        return rng.normal(3.0, 2.0, size=(n, n_features) if n_features else n)

    simulator = make_simulator({"n": lambda rng: rng.integers(2, 20), "x": x})
    data = simulator.sample(300, random_state=0)
    step = Standardize("x").fit(data)
    z = step.transform(data)
    real = data["x"][data["x_mask"]].reshape(-1, n_features or 1)
    np.testing.assert_allclose(step.scalers_["x"].mean, real.mean(0))
    np.testing.assert_allclose(step.scalers_["x"].scale, real.std(0))
    assert (z["x"][~data["x_mask"]] == 0).all()
    back = step.inverse_transform(z)["x"]
    np.testing.assert_allclose(back, data["x"], rtol=1e-12, atol=1e-12)
    expected = -data["n"] * np.log(real.std(0)).sum()
    np.testing.assert_allclose(step.log_det_jacobian(data), expected)


def test_standardize_leaves_constants_and_refuses_nan():
    step = Standardize("x").fit({"x": np.full(5, 3.0)})
    np.testing.assert_array_equal(step.transform({"x": [3.0, 4.0]})["x"], [0.0, 1.0])
    with pytest.raises(ValueError, match="'x' contains NaN"):
        Standardize("x").fit({"x": [np.nan, 1.0]})


# Your own maps.


def test_custom_maps_of_vectors_have_their_determinant():
    matrix = torch.tensor([[2.0, 1.0], [0.5, 3.0]], dtype=torch.float64)
    step = Custom("x", lambda x: x @ matrix, lambda z: z @ torch.linalg.inv(matrix))
    x = np.random.default_rng(0).normal(size=(5, 2))
    step.fit({"x": x})
    np.testing.assert_allclose(step.log_det_jacobian({"x": x}), np.log(5.5))
    np.testing.assert_allclose(step.inverse_log_det_jacobian({"x": x}), -np.log(5.5))


def test_custom_maps_must_fit_together():
    with pytest.raises(ValueError, match="inverse does not undo forward for 'x'"):
        Custom("x", torch.sinh, torch.tanh).fit({"x": [1.0]})
    with pytest.raises(ValueError, match="changed the shape"):
        Custom("x", lambda x: x[..., :1], lambda x: x).fit({"x": np.ones((3, 2))})


# Shapes and names.


@pytest.mark.parametrize("step", [AsSet("x"), AsTimeSeries("x")])
@pytest.mark.parametrize(
    ("shape", "after"), [((4,), (4, 1, 1)), ((4, 3), (4, 3, 1)), ((4, 3, 1),) * 2]
)
def test_sets_keep_their_rows_and_come_back(step, shape, after):
    x = np.arange(np.prod(shape), dtype=float).reshape(shape)
    step = clone(step).fit({"x": x})
    there = step.transform({"x": x})
    assert there["x"].shape == after
    np.testing.assert_array_equal(step.inverse_transform(there)["x"], x)
    assert (step.log_det_jacobian({"x": x}) == 0).all()
    with pytest.raises(ValueError, match="axes instead of"):
        step.transform({"x": x[None]})


def test_concatenate_remembers_what_fit_has_seen():
    variables = {"a": np.arange(3.0), "b": np.ones((3, 2)), "c": np.zeros(3)}
    step = Concatenate(["b", "a"], into="ab").fit(variables)
    # Other rows do not change what was learned.
    step.transform({name: value[:1] for name, value in variables.items()})
    there = step.transform(variables)
    assert list(there) == ["c", "ab"]
    back = step.inverse_transform(there)
    for name, value in variables.items():
        np.testing.assert_array_equal(back[name], value)
    # Further rows come back, too: draws of a posterior, for instance.
    assert step.inverse_transform({"ab": np.ones((7, 3))})["b"].shape == (7, 2)
    with pytest.raises(ValueError, match="2 columns instead of 3"):
        step.inverse_transform({"ab": np.ones((7, 2))})


def test_a_missing_variable_is_an_error_not_dropped():
    variables = {"a": np.arange(3.0), "b": np.ones((3, 2))}
    step = Concatenate(["a", "b"], into="ab").fit(variables)
    with pytest.raises(ValueError, match=r"Concatenate needs 'b'; there are \['a'\]"):
        step.transform({"a": np.arange(3.0)})
    with pytest.raises(ValueError, match="rows of the shape"):
        step.transform({"a": np.arange(3.0), "b": np.ones((3, 5))})
    with pytest.raises(ValueError, match="Only the last axis"):
        Concatenate(["a", "b"], into="ab").fit({"a": [1.0], "b": np.ones((1, 2, 2))})
    with pytest.raises(ValueError, match="'b' already"):
        Concatenate(["a"], into="b").fit(variables)


@pytest.mark.parametrize("shape", [(4,), (4, 2)])
def test_broadcast_has_an_inverse(shape):
    variables = {"n": np.random.default_rng(0).normal(size=shape), "x": np.ones((4, 5))}
    step = Broadcast("n", to="x").fit(variables)
    there = step.transform(variables)
    assert there["n"].shape == (4, 5, 2 if len(shape) > 1 else 1)
    back = step.inverse_transform(there)["n"]
    np.testing.assert_array_equal(back, variables["n"])
    with pytest.raises(ValueError, match="numbers and vectors"):
        Broadcast("x", to="n").fit({"n": np.ones((4, 2)), "x": np.ones((4, 2, 2))})
    with pytest.raises(ValueError, match="no axis for items"):
        Broadcast("x", to="n").fit({"n": [1.0], "x": [1.0]}).transform(
            {"n": [1.0], "x": [1.0]}
        )


@pytest.mark.parametrize("tensors", [False, True])
def test_one_hot_comes_back(tensors):
    k = np.array([2, 0, 1])
    variables = {"k": torch.tensor(k) if tensors else k}
    step = OneHot("k", 3).fit({"k": k})
    there = step.transform(variables)
    np.testing.assert_array_equal(there["k"], np.eye(3)[k])
    np.testing.assert_array_equal(step.inverse_transform(there)["k"], k)
    for wrong in ([3], [-1], [0.5]):
        with pytest.raises(ValueError, match="values other than"):
            step.transform({"k": wrong})


def test_rename_and_drop():
    variables = {"a": np.ones(2), "b": np.zeros(2)}
    swap = Rename({"a": "b", "b": "a"}).fit(variables)
    np.testing.assert_array_equal(swap.transform(variables)["b"], variables["a"])
    assert list(swap.inverse_transform(swap.transform(variables))) == ["a", "b"]
    with pytest.raises(ValueError, match="the same name"):
        Rename({"a": "b"}).fit(variables)
    assert list(Drop("a").fit(variables).transform(variables)) == ["b"]


# Chains.


def model():
    return Space(
        [
            Constrain("sigma", low=0.0),
            Constrain("p", low=0.0, high=1.0, link="probit"),
            Standardize(["mu", "sigma", "p"]),
            Concatenate(["mu", "sigma", "p"], into="theta"),
        ]
    )


def variables(n=200):
    prior = Prior(
        {"mu": stats.norm(5, 2), "sigma": stats.halfnorm(), "p": stats.beta(2, 2)}
    )
    return prior.sample(n, random_state=0)


def test_a_space_goes_there_and_back():
    data = variables()
    space = model().fit(data)
    there = space.transform(data)
    assert list(there) == ["theta"]
    np.testing.assert_allclose(there["theta"].std(0), 1.0)
    back = space.inverse_transform(there)
    assert back.keys() == data.keys()
    for name, value in data.items():
        np.testing.assert_allclose(back[name], value, rtol=1e-10)
    np.testing.assert_allclose(
        space.inverse_log_det_jacobian(there), -space.log_det_jacobian(data)
    )


def test_log_determinants_of_a_space_are_those_of_autograd():
    data = variables(5)
    space = model().fit(variables())
    tensors = {name: torch.tensor(value) for name, value in data.items()}

    def function(mu, sigma, p):
        row = {"mu": mu, "sigma": sigma, "p": p}
        return space.transform({k: v[None] for k, v in row.items()})["theta"][0]

    for i, log_det in enumerate(space.log_det_jacobian(data)):
        rows = tuple(value[i] for value in tensors.values())
        jacobian = torch.stack(torch.autograd.functional.jacobian(function, rows), 1)
        expected = torch.linalg.slogdet(jacobian).logabsdet
        assert log_det == pytest.approx(float(expected), rel=1e-9)


def test_using_a_space_changes_nothing():
    data = variables()
    before = {name: value.copy() for name, value in data.items()}
    for value in data.values():
        value.flags.writeable = False
    space = model()
    steps = [step.get_params() for step in space.steps]
    fitted = space.fit(data)
    constants = fitted.steps_[2].scalers_["mu"].mean.copy()
    fitted.inverse_transform(fitted.transform(data))
    fitted.log_det_jacobian({name: value[:3] for name, value in data.items()})
    assert [step.get_params() for step in space.steps] == steps
    assert not hasattr(space.steps[2], "scalers_")
    np.testing.assert_array_equal(fitted.steps_[2].scalers_["mu"].mean, constants)
    for name, value in data.items():
        np.testing.assert_array_equal(value, before[name])


def test_spaces_are_cloned_pickled_and_searched():
    data = variables()
    space = model().fit(data)
    fresh = clone(space)
    assert not hasattr(fresh, "steps_")
    again = pickle.loads(pickle.dumps(space))
    np.testing.assert_array_equal(
        again.transform(data)["theta"], space.transform(data)["theta"]
    )
    links = [[Constrain("p", low=0.0, high=1.0, link=k)] for k in ("logit", "probit")]
    spaces = [
        clone(Space([])).set_params(**point)
        for point in ParameterGrid({"steps": links})
    ]
    z = [each.fit(data).transform(data)["p"] for each in spaces]
    assert (z[0] != z[1]).any()


def test_the_order_of_steps_is_kept_and_spaces_nest():
    data = {"x": np.array([1.0, 10.0])}
    inner = Space([Log("x"), Standardize("x")])
    space = Space([inner, Rename({"x": "z"})]).fit(data)
    np.testing.assert_allclose(space.transform(data)["z"], [-1.0, 1.0])
    np.testing.assert_allclose(
        space.inverse_transform({"z": [-1.0, 1.0]})["x"], data["x"]
    )


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="not fitted"):
        model().transform(variables())
    with pytest.raises(TypeError, match="dict of arrays by name"):
        model().fit(np.ones(3))
    with pytest.raises(TypeError, match="'x' must be an array of numbers"):
        Log("x").fit({"x": ["a"]})
    with pytest.raises(ValueError, match="numbers of rows"):
        Log("x").fit({"x": [1.0], "y": [1.0, 2.0]})
    with pytest.raises(ValueError, match="no axis for the rows"):
        Log("x").fit({"x": 1.0})


# Priors.


@pytest.mark.parametrize(
    "prior",
    [
        {"a": stats.uniform(-1, 3), "b": stats.gamma(2.0), "c": stats.norm()},
        {"a": td.Uniform(-1.0, 2.0), "b": td.Gamma(2.0, 1.0), "c": td.Normal(0.0, 1.0)},
    ],
)
def test_a_prior_sets_its_support_by_itself(prior):
    draws = Prior(prior).sample(4000, random_state=0)
    space = space_from_prior(prior).fit(draws)
    z = space.transform(draws)["theta"]
    np.testing.assert_allclose(z[:, 1], np.log(draws["b"]))
    np.testing.assert_array_equal(z[:, 2], draws["c"])
    # The uniform part is standard normal by the probit link.
    assert stats.kstest(z[:, 0], "norm").statistic < 2.2 / np.sqrt(4000)
    far = np.random.default_rng(0).normal(0, 50, size=(1000, 3))
    back = space.inverse_transform({"theta": far})
    assert np.isfinite(Prior(prior).log_prob(back)).all()
    # The density of the prior in the new space integrates to one there.
    log_density = Prior(prior).log_prob(draws) - space.log_det_jacobian(draws)
    expected = stats.norm.logpdf(z[:, [0, 2]]).sum(1)
    expected += stats.gamma(2.0).logpdf(draws["b"]) + np.log(draws["b"])
    np.testing.assert_allclose(log_density, expected, rtol=1e-5, atol=1e-5)


def test_a_prior_of_vectors():
    prior = Prior({"a": stats.uniform([0.0, -5.0], [1.0, 10.0])})
    draws = prior.sample(100, random_state=0)
    space = space_from_prior(prior, link="logit", into="z").fit(draws)
    there = space.transform(draws)
    assert there["z"].shape == (100, 2)
    np.testing.assert_allclose(space.inverse_transform(there)["a"], draws["a"])
    with pytest.raises(ValueError, match="neither a number nor a vector"):
        space_from_prior({"a": stats.norm(np.zeros((2, 2)))})
