"""Chains of functions: names, rows, seeds, jobs, failures, conditioning."""

import pickle
import warnings
from functools import partial

import numpy as np
import pytest
from joblib import parallel_config
from scipy import stats

from skmdn.simulation import ModelSimulator, make_simulator, vectorized
from tests.helpers import within_standard_errors


def context(rng):
    return {"n": rng.integers(10, 101)}


def prior(rng):
    return {"mu": rng.normal(), "sigma": rng.uniform(0.5, 2.0)}


def x(mu, sigma, n, rng):
    return rng.normal(mu, sigma, size=n)


@vectorized
def all_mu(n_samples, rng):
    return {"mu": rng.normal(size=n_samples)}


@vectorized(batch_size=7)
def all_x(mu, rng):
    return mu[:, None] + rng.normal(size=(len(mu), 3))


def talk():
    return make_simulator([context, prior, x])


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


# How functions are put together.


def test_outputs_feed_the_next_by_name():
    def theta(rng):
        return rng.normal()

    def twice(theta):
        return 2.0 * theta

    def both(twice, theta):
        return {"a": twice + theta, "b": [theta, twice]}

    data = make_simulator([theta, twice, both]).sample(20, random_state=0)
    assert list(data) == ["theta", "twice", "a", "b"]
    np.testing.assert_allclose(data["a"], 3.0 * data["theta"])
    np.testing.assert_allclose(data["b"][:, 1], data["twice"])


def test_defaults_are_used_unless_an_output_has_the_name():
    def a():
        return 1.0

    def b(a=5.0, c=7.0):
        return a + c

    np.testing.assert_array_equal(make_simulator([a, b]).sample(2)["b"], [8.0, 8.0])
    np.testing.assert_array_equal(make_simulator(b).sample(2)["b"], [12.0, 12.0])


def test_kwargs_get_every_output_so_far():
    def total(**variables):
        return sum(variables.values())

    simulator = make_simulator({"a": lambda: 1.0, "b": lambda: 2.0, "c": total})
    assert simulator.sample(1)["c"] == 3.0


def test_a_missing_argument_is_named():
    with pytest.raises(ValueError, match=r"x\(\) needs 'n'.*\['mu', 'sigma'\]"):
        make_simulator([prior, x]).sample(3)

    def by_count(n_samples, rng):
        return rng.normal(size=n_samples)

    with pytest.raises(ValueError, match="mark them by vectorized"):
        make_simulator(by_count).sample(3)


@pytest.mark.parametrize(
    ("functions", "match"),
    [
        (lambda: 1.0, "as a mapping"),
        ([partial(x, n=3)], "as a mapping"),
        ([3], "made of functions"),
        (stats.norm(), "needs a name"),
        ({"a": lambda mu, /: mu}, "cannot be given by name"),
        ({"a": lambda *mu: mu}, "cannot be given by name"),
    ],
)
def test_what_cannot_be_called_by_names_is_refused(functions, match):
    with pytest.raises(TypeError, match=match):
        make_simulator(functions)


def test_no_functions_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        make_simulator([])


@pytest.mark.parametrize(
    ("result", "error", "match"),
    [
        (None, TypeError, "returned None"),
        ({"not a name": 1.0}, TypeError, "identifiers"),
        ("text", TypeError, "no array of numbers"),
        ([[1.0], [1.0, 2.0]], TypeError, "no array of numbers"),
    ],
)
def test_what_is_no_output_is_refused(result, error, match):
    with pytest.raises(error, match=match):
        make_simulator({"a": lambda: result}).sample(3)


def test_an_output_is_returned_once():
    with pytest.raises(ValueError, match=r"again\(\) returned 'mu', which"):
        make_simulator([prior, {"again": lambda: {"mu": 1.0}}]).sample(3)


def test_rows_must_have_the_same_outputs():
    def either(rng):
        return {"a": 1.0} if rng.uniform() < 0.5 else {"b": 1.0}

    with pytest.raises(ValueError, match="the same outputs for every row"):
        make_simulator(either).sample(30, random_state=0)


def test_simulators_compose():
    first = make_simulator([context, prior])
    whole = make_simulator([first, x])
    assert repr(whole) == "Simulator(context -> prior -> x)"
    assert_same(whole.sample(9, random_state=0), talk().sample(9, random_state=0))
    padded = make_simulator([make_simulator([context, prior, x], pad_to={"x": 120})])
    assert padded.sample(3, random_state=0)["x"].shape == (3, 120)


def test_distributions_can_stand_first():
    def y(mu, rng):
        return rng.normal(mu)

    simulator = make_simulator([{"mu": stats.norm(3.0, 0.5), "p": stats.beta(2, 2)}, y])
    data = simulator.sample(4000, random_state=0)
    assert within_standard_errors(data["mu"], 3.0, 0)
    assert within_standard_errors(data["p"], 0.5, 0)
    mapped = make_simulator({"mu": stats.norm(3.0, 0.5), "y": y})
    assert mapped.sample(5, random_state=0).keys() == {"mu", "y"}


# Vectorized functions.


def test_vectorized_functions_make_all_rows_in_one_call():
    calls = []

    @vectorized
    def y(mu, n_samples):
        calls.append(n_samples)
        return mu**2

    data = make_simulator([all_mu, y]).sample(50, random_state=0)
    assert calls == [50]
    np.testing.assert_array_equal(data["y"], data["mu"] ** 2)


def test_batches_have_numbers_of_their_own():
    data = make_simulator([all_mu, all_x]).sample(50, random_state=0)
    noise = data["x"] if "x" in data else data["all_x"]
    noise = noise - data["mu"][:, None]
    assert len(np.unique(noise)) == noise.size
    assert within_standard_errors(noise.ravel(), 0.0, 0)


def test_a_vectorized_function_must_return_rows():
    @vectorized
    def wrong(n_samples):
        return np.ones(n_samples + 1)

    with pytest.raises(ValueError, match=r"'wrong' has the shape \(6,\)"):
        make_simulator(wrong).sample(5)
    with pytest.raises(TypeError, match="takes a function"):
        vectorized(3.0)
    with pytest.raises(ValueError, match="batch_size"):
        vectorized(x, batch_size=0)


def test_a_marked_function_can_still_be_called():
    np.testing.assert_array_equal(vectorized(np.sin)(0.0), 0.0)


# Seeds and jobs.


def test_the_seed_determines_the_simulations():
    simulator = talk()
    a = simulator.sample(20, random_state=3)
    assert_same(a, simulator.sample(20, random_state=3))
    assert (a["mu"] != simulator.sample(20, random_state=4)["mu"]).all()
    assert (simulator.sample(5)["mu"] != simulator.sample(5)["mu"]).all()


@pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState])
def test_a_generator_is_advanced(make):
    rng = make(0)
    simulator = make_simulator(prior)
    a, b = (simulator.sample(5, random_state=rng)["mu"] for _ in range(2))
    assert (a != b).all()
    np.testing.assert_array_equal(a, simulator.sample(5, random_state=make(0))["mu"])


@pytest.mark.parametrize("random_state", [-1, "seed", 1.5])
def test_what_is_no_seed_is_refused(random_state):
    with pytest.raises(ValueError, match="random_state"):
        talk().sample(3, random_state=random_state)


def test_rows_do_not_depend_on_other_rows():
    few = talk().sample(5, random_state=0)
    many = talk().sample(50, random_state=0)
    np.testing.assert_array_equal(few["mu"], many["mu"][:5])
    for i in range(5):
        a, b = (data["x"][i][data["x_mask"][i]] for data in (few, many))
        np.testing.assert_array_equal(a, b)


def test_rows_and_functions_are_independent():
    def a(rng):
        return rng.normal(size=4)

    data = make_simulator({"a": a, "b": a}).sample(2000, random_state=0)
    both = np.hstack([data["a"], data["b"]])
    assert len(np.unique(both)) == both.size
    correlation = np.corrcoef(both, rowvar=False) - np.eye(8)
    assert np.abs(correlation).max() < 4.5 / np.sqrt(2000)
    lagged = np.corrcoef(both[:-1].T, both[1:].T)[:8, 8:]
    assert np.abs(lagged).max() < 4.5 / np.sqrt(2000)
    assert stats.kstest(both.ravel(), "norm").statistic < 2.2 / np.sqrt(both.size)


@pytest.mark.parametrize("steps", [[context, prior, x], [all_mu, all_x]])
def test_results_do_not_depend_on_n_jobs(steps):
    simulator = make_simulator(steps)
    alone = simulator.sample(30, random_state=0)
    with parallel_config("threading"):
        assert_same(alone, simulator.sample(30, random_state=0, n_jobs=3))


def test_simulators_can_be_pickled():
    for simulator in (talk(), make_simulator([all_mu, all_x, vectorized(prior)])):
        again = pickle.loads(pickle.dumps(simulator))
        assert repr(again) == repr(simulator)
    again = pickle.loads(pickle.dumps(talk()))
    assert_same(again.sample(4, random_state=0), talk().sample(4, random_state=0))
    data = talk().sample(4, random_state=0)
    copy = pickle.loads(pickle.dumps(data))
    assert_same(copy, data)
    assert copy.n_failed == 0


# Ragged outputs.


def test_the_talks_context_is_padded_with_a_mask():
    data = talk().sample(200, random_state=0)
    assert data["x"].shape == data["x_mask"].shape == (200, data["n"].max())
    np.testing.assert_array_equal(data["x_mask"].sum(1), data["n"])
    assert (np.diff(data["x_mask"].astype(int), axis=1) <= 0).all()
    assert (data["x"][~data["x_mask"]] == 0.0).all()
    error = data["x"].sum(1) / data["n"] - data["mu"]
    z = error * np.sqrt(data["n"]) / data["sigma"]
    assert within_standard_errors(z, 0.0, 0)


def test_later_functions_see_rows_without_padding():
    def mean(x, x_mask):
        assert x_mask.all()
        assert len(x_mask) == len(x)
        return x.mean()

    @vectorized
    def also_mean(x, x_mask):
        return (x * x_mask).sum(1) / x_mask.sum(1)

    simulator = make_simulator([talk(), mean, also_mean])
    data = simulator.sample(20, random_state=0)
    np.testing.assert_allclose(data["mean"], data["also_mean"])


def test_padding_can_be_nan():
    data = talk().sample(50, random_state=0)
    padded = data.padded("x")
    np.testing.assert_array_equal(np.isnan(padded), ~data["x_mask"])
    np.testing.assert_array_equal(np.nan_to_num(padded), data["x"])
    assert data.padded("mu") is data["mu"]


def test_pad_to_fixes_the_shape():
    simulator = make_simulator([context, prior, x], pad_to={"x": 100})
    one = simulator.sample(1, random_state=0)
    assert one["x"].shape == one["x_mask"].shape == (1, 100)
    assert one["x_mask"].sum() == one["n"][0]
    with pytest.raises(ValueError, match=r"pad_to=\{'x': 9\}, but a row has"):
        make_simulator([context, prior, x], pad_to={"x": 9}).sample(2)
    with pytest.raises(ValueError, match="single numbers"):
        make_simulator([context, prior], pad_to={"mu": 9}).sample(2)


def test_ragged_items_with_features():
    def items(n):
        return np.ones((n, 2), dtype=int)

    data = make_simulator([context, items]).sample(9, random_state=0)
    assert data["items"].shape == (9, data["n"].max(), 2)
    assert data["items"].dtype.kind == "i"
    np.testing.assert_array_equal(data["items"][..., 0], data["items_mask"])

    def wrong(n):
        return np.ones((2, n))

    with pytest.raises(ValueError, match="Only the first axis may differ"):
        make_simulator([context, wrong]).sample(9, random_state=0)


def test_a_name_that_a_mask_needs_is_taken():
    simulator = make_simulator([context, {"x_mask": lambda: 1.0}, prior, x])
    with pytest.raises(ValueError, match="'x_mask' is the mask of 'x'"):
        simulator.sample(5, random_state=0)


# Failures.


def sometimes(mu, rng):
    if mu > 1.0:
        raise ValueError("too large")
    return {"y": np.nan if mu < -1.0 else mu, "rest": rng.normal(size=2)}


def test_failed_simulations_are_left_out_and_counted():
    whole = make_simulator(prior).sample(400, random_state=0)["mu"]
    with pytest.warns(UserWarning, match="of 400 simulations were rejected") as record:
        data = make_simulator([prior, sometimes]).sample(400, random_state=0)
    kept = np.flatnonzero(np.abs(whole) <= 1.0)
    np.testing.assert_array_equal(data.kept, kept)
    np.testing.assert_array_equal(data["mu"], whole[kept])
    np.testing.assert_array_equal(data["y"], whole[kept])
    assert data.n_failed == 400 - len(kept)
    assert data.failures == {
        "sometimes() raised ValueError: too large": (whole > 1).sum(),
        "sometimes() returned NaN or infinity in 'y'": (whole < -1).sum(),
    }
    assert "too large" in str(record[0].message)
    assert "n_failed" in repr(data)


def test_failures_do_not_depend_on_n_jobs():
    simulator = make_simulator([prior, sometimes])
    with pytest.warns(UserWarning, match="rejected"):
        alone = simulator.sample(40, random_state=0)
    with parallel_config("threading"), pytest.warns(UserWarning, match="rejected"):
        assert_same(alone, simulator.sample(40, random_state=0, n_jobs=3))


def test_later_functions_do_not_see_failed_rows():
    @vectorized
    def z(y):
        assert np.isfinite(y).all()
        return y

    with pytest.warns(UserWarning, match="rejected"):
        make_simulator([prior, sometimes, z]).sample(100, random_state=0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectorized_functions_mark_failed_rows(bad):
    @vectorized
    def y(mu):
        return np.where(mu[:, None] > 0, bad, [1.0, 2.0])

    with pytest.warns(UserWarning, match="NaN or infinity in 'y'"):
        data = make_simulator([all_mu, y]).sample(50, random_state=0)
    assert (data["mu"] <= 0).all()


def test_nan_can_mean_missing():
    def y(rng):
        return np.where(rng.uniform(size=3) < 0.3, np.nan, 1.0)

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # noqa: TID251
        data = make_simulator(y, allow_nan="y").sample(50, random_state=0)
    assert np.isnan(data["y"]).any()
    assert len(data["y"]) == 50


def test_failures_can_be_raised():
    simulator = make_simulator([prior, sometimes])
    with pytest.raises(ValueError, match="too large") as info:
        simulator.sample(100, random_state=0, failed="raise")
    assert "sometimes() raised this for simulation" in info.value.__notes__[0]
    nan = make_simulator({"y": lambda: np.nan})
    with pytest.raises(ValueError, match="NaN or infinity in 'y'"):
        nan.sample(3, failed="raise")
    with pytest.raises(RuntimeError, match="All simulations failed: 3 time"):
        nan.sample(3)
    with pytest.raises(ValueError, match='"drop" or "raise"'):
        nan.sample(3, failed="ignore")


def test_mistakes_in_the_code_are_raised():
    def y(mu):
        return mu + undefined  # noqa: F821

    with pytest.raises(NameError):
        make_simulator([prior, y]).sample(3)


# Conditioning.


def test_fixed_outputs_replace_what_functions_return():
    data = talk().sample(30, fixed={"mu": 5.0, "n": 12}, random_state=0)
    assert (data["mu"] == 5.0).all()
    assert data["x"].shape == (30, 12)
    assert within_standard_errors(
        ((data["x"] - 5.0) / data["sigma"][:, None]).ravel(), 0.0, 0
    )
    assert len(np.unique(data["sigma"])) == 30


def test_given_outputs_have_a_value_for_each_row():
    free = talk().sample(30, random_state=0)
    given = {name: free[name] for name in ("mu", "sigma", "n")}
    # The same parameters and the same seed: the same data.
    assert_same(talk().sample(given=given, random_state=0), free)
    moved = talk().sample(given=given | {"mu": free["mu"] + 1.0}, random_state=0)
    shift = (moved["x"] - free["x"])[free["x_mask"]]
    np.testing.assert_allclose(shift, 1.0)


def test_given_ragged_rows_keep_their_mask():
    free = talk().sample(20, random_state=0)

    def mean(x):
        return x.mean()

    inputs = {"x": free["x"], "x_mask": free["x_mask"]}
    data = make_simulator([mean]).sample(given=inputs)
    np.testing.assert_allclose(data["mean"], free["x"].sum(1) / free["n"])


def test_a_fixed_function_is_not_called():
    def never():
        raise AssertionError

    data = make_simulator([never, {"y": lambda never: never}]).sample(
        2, fixed={"never": [1.0, 2.0]}
    )
    np.testing.assert_array_equal(data["y"], [[1.0, 2.0], [1.0, 2.0]])


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({}, ValueError, "n_samples is missing"),
        ({"n_samples": 0}, ValueError, "positive integer"),
        ({"n_samples": 2.5}, ValueError, "positive integer"),
        ({"n_samples": 3, "given": {"n": [1, 2]}}, ValueError, "has 2 rows for 3"),
        ({"n_samples": 1, "given": {"n": 2}}, ValueError, "goes into fixed"),
        ({"fixed": {"n": 1}, "given": {"n": [1]}}, ValueError, "both fixed and given"),
        ({"n_samples": 3, "fixed": {"n": "a"}}, TypeError, "must be numbers"),
    ],
)
def test_inputs_are_checked(arguments, error, match):
    with pytest.raises(error, match=match):
        talk().sample(**arguments)


# What went wrong elsewhere.


def test_constants_reach_every_function_not_only_the_first():
    def first(scale, rng):
        return scale * rng.normal()

    def second(scale, first):
        return first / scale

    data = make_simulator([first, second]).sample(
        10, fixed={"scale": 10.0}, random_state=0
    )
    np.testing.assert_allclose(data["second"] * 10.0, data["first"])


def test_functions_without_arguments_can_stand_in_a_mapping():
    data = make_simulator({"n": lambda: 3, "x": lambda n: np.ones(n)}).sample(2)
    assert data["x"].shape == (2, 3)


def test_ragged_outputs_are_no_error():
    assert "x_mask" in talk().sample(10, random_state=0)


def test_single_calls_have_a_seed_too():
    a, b = (talk().sample(1, random_state=7)["mu"] for _ in range(2))
    assert a == b


def one(rng):
    return {"x": rng.normal(size=5), "a": 1.0}


def two(rng):
    return {"x": rng.normal(3.0, size=5), "b": 1.0}


def test_models_are_drawn_with_their_probabilities():
    simulator = ModelSimulator({"one": one, "two": two}, weights=[0.9, 0.1])
    data = simulator.sample(4000, random_state=0)
    assert set(data) == {"model", "x"}
    assert within_standard_errors(data["model"].astype(float), 0.1, 0)
    for model, mean in enumerate([0.0, 3.0]):
        assert within_standard_errors(
            data["x"][data["model"] == model].ravel(), mean, 0
        )
    again = simulator.sample(4000, random_state=0)
    assert_same(data, again)
    assert repr(simulator) == "ModelSimulator(one, two)"


@pytest.mark.parametrize("weights", [[0.9], [0.9, 0.2], [-0.1, 1.1], [0.0, 3.0]])
def test_weights_must_be_probabilities(weights):
    with pytest.raises(ValueError, match="weights"):
        ModelSimulator({"one": one, "two": two}, weights=weights)
    with pytest.raises(ValueError, match="dict of simulators"):
        ModelSimulator([one, two])


def test_shared_outputs_are_kept_and_used():
    def line(n, rng):
        return {"x": rng.normal(size=n)}

    def wide(n, rng):
        return {"x": 10.0 * rng.normal(size=n)}

    simulator = ModelSimulator({"line": line, "wide": wide}, shared=context)
    data = simulator.sample(200, random_state=0)
    assert set(data) == {"model", "n", "x", "x_mask"}
    np.testing.assert_array_equal(data["x_mask"].sum(1), data["n"])
    spread = np.sqrt((data["x"] ** 2).sum(1) / data["n"])
    np.testing.assert_array_equal(spread > 3.0, data["model"] == 1)


def test_models_of_different_lengths_are_padded():
    models = {
        "short": {"x": lambda: np.ones(3)},
        "long": {"x": lambda: np.ones(5)},
        "ragged": [context, {"x": lambda n: np.ones(n)}],
    }
    data = ModelSimulator(models).sample(60, random_state=0)
    lengths = data["x_mask"].sum(1)
    np.testing.assert_array_equal(lengths[data["model"] == 0], 3)
    np.testing.assert_array_equal(lengths[data["model"] == 1], 5)
    np.testing.assert_array_equal(data["x"], data["x_mask"])
    wrong = {"a": {"x": lambda: 1.0}, "b": {"x": lambda: np.ones(2)}}
    with pytest.raises(ValueError, match="cannot be padded"):
        ModelSimulator(wrong).sample(30, random_state=0)
    with pytest.raises(ValueError, match="'model'; rename"):
        ModelSimulator({"a": {"model": lambda: 1.0}}).sample(3)


def test_failures_of_models_are_counted():
    models = {"good": prior, "bad": make_simulator([prior, sometimes])}
    with pytest.warns(UserWarning, match="rejected"):
        data = ModelSimulator(models).sample(200, random_state=0)
    assert len(data["mu"]) == len(data.kept) == 200 - data.n_failed
    assert all(reason.startswith("bad: ") for reason in data.failures)
