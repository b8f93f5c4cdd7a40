"""Draws in ArviZ's tree: names, axes and values stay what they were."""

import sys

import numpy as np
import pytest
from scipy import stats

from skmdn import AmortizedPosterior, VariationalPosterior
from skmdn.datasets import inference_task
from skmdn.exports import to_arviz


def draws(*shape):
    return np.random.default_rng(0).normal(size=shape)


def test_without_arviz_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz_base", None)
    with pytest.raises(ImportError, match=r"to_arviz needs arviz_base.*skmdn\[arviz\]"):
        to_arviz(draws(5, 2))


@pytest.fixture
def arviz():
    return pytest.importorskip("arviz_base", reason="the extra arviz is not installed")


def test_one_posterior(arviz):
    values, lp, x = draws(50, 2), draws(50), draws(7)
    tree = to_arviz(values, names=["mu", "sigma"], log_prob=lp, observed=x)
    assert set(tree.children) == {"posterior", "sample_stats", "observed_data"}
    posterior = tree["posterior"]
    assert posterior["mu"].dims == ("chain", "draw")
    np.testing.assert_array_equal(posterior["mu"].values, values[None, :, 0])
    np.testing.assert_array_equal(posterior["sigma"].values, values[None, :, 1])
    np.testing.assert_array_equal(tree["sample_stats"]["lp"].values, lp[None])
    np.testing.assert_array_equal(tree["observed_data"]["x"].values, x)
    # It is what ArviZ takes back apart.
    np.testing.assert_array_equal(arviz.extract(tree)["mu"].values, values[:, 0])


def test_a_posterior_for_each_observation(arviz):
    values, lp, x = draws(3, 50, 2), draws(3, 50), draws(3, 7)
    tree = to_arviz(values, log_prob=lp, observed=x)
    theta = tree["posterior"]["theta"]
    assert theta.dims == ("chain", "draw", "observation", "parameter")
    np.testing.assert_array_equal(theta.values[0], values.swapaxes(0, 1))
    assert tree["sample_stats"]["lp"].dims == ("chain", "draw", "observation")
    np.testing.assert_array_equal(tree["sample_stats"]["lp"].values[0], lp.T)
    assert tree["observed_data"]["x"].dims[0] == "observation"


@pytest.mark.parametrize(
    ("shape", "dims"),
    [
        ((50,), ()),
        ((50, 1), ()),
        ((50, 3), ("parameter",)),
        ((4, 50, 1), ("observation",)),
    ],
)
def test_parameters_without_names_are_one_variable(arviz, shape, dims):
    theta = to_arviz(draws(*shape))["posterior"]["theta"]
    assert theta.dims == ("chain", "draw", *dims)
    assert theta.sizes["draw"] == 50
    with_name = to_arviz(draws(50), names=["mu"])["posterior"]["mu"]
    assert with_name.shape == (1, 50)


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((2, 3, 4, 5), {}, r"got \(2, 3, 4, 5\)"),
        ((5, 2), {"names": ["mu"]}, "must be 2 different names"),
        ((5, 2), {"names": ["mu", "mu"]}, "must be 2 different names"),
        ((5, 2), {"log_prob": np.zeros(4)}, r"log_prob has the shape \(4,\)"),
        ((3, 5, 2), {"observed": np.zeros(4)}, "for 3 posteriors"),
    ],
)
def test_wrong_input_is_named(shape, arguments, message):
    with pytest.raises(ValueError, match=message):
        to_arviz(draws(*shape), **arguments)


def test_nan_is_refused():
    with pytest.raises(ValueError, match="draws contains NaN"):
        to_arviz([[np.nan, 1.0]])


def test_estimators_hand_out_trees(arviz):
    task = inference_task("gaussian_linear_uniform")
    data = task.sample(100, random_state=0)
    first = data["theta"][:, 0]
    model = AmortizedPosterior([(-1, 1)], max_iter=2, random_state=0)
    model.fit(data["x"], first)
    tree = model.to_arviz(data["x"][:3], 20, names=["mu"], random_state=1)
    drawn = model.sample(data["x"][:3], 20, random_state=1)
    assert tree["posterior"]["mu"].dims == ("chain", "draw", "observation")
    np.testing.assert_array_equal(tree["posterior"]["mu"][0].T, drawn)
    lp = model.log_prob(data["x"][[1] * 20], drawn[1])
    np.testing.assert_allclose(tree["sample_stats"]["lp"][0, :, 1], lp)
    np.testing.assert_array_equal(tree["observed_data"]["x"], data["x"][:3])

    rows = data["x"][:2, :1]
    fit = VariationalPosterior(
        lambda theta, x: -0.5 * ((theta - x) ** 2).sum(-1),
        [stats.norm()],
        random_state=0,
    ).fit(rows)
    tree = fit.to_arviz(30, names=["mu"], random_state=2)
    drawn = fit.sample(30, random_state=2)
    np.testing.assert_array_equal(tree["posterior"]["mu"][0].T, drawn[..., 0])
    lp = fit.score_samples(drawn[1], rows[1:])
    np.testing.assert_allclose(tree["sample_stats"]["lp"][0, :, 1], np.ravel(lp))
    tree = fit.fit(rows[:1]).to_arviz(30)
    assert tree["posterior"]["theta"].shape[:2] == (1, 30)
