"""The displays: what they compute and what they draw."""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from skmdn import MixtureDensityRegressor
from skmdn.plotting import PredictiveDensityDisplay


def test_the_density_is_the_models(fitted):
    model, X, y = fitted
    display = PredictiveDensityDisplay.from_estimator(model, X, y)
    dist = model.predict_distribution(display.feature_values[:, None])
    np.testing.assert_allclose(
        display.density, dist.pdf(display.target_values[None]), rtol=1e-12
    )
    assert display.target_values[0] <= y.min()
    assert display.target_values[-1] >= y.max()
    steps = np.diff(display.target_values)
    np.testing.assert_allclose(display.density[:, :-1] @ steps, 1.0, atol=0.02)
    assert display.ax_.get_xlabel() == "x"
    assert len(display.ax_.collections) == 2


def test_quantile_bands_nest_and_are_labelled(fitted):
    model, X, _ = fitted
    display = PredictiveDensityDisplay.from_estimator(
        model, X, kind="quantiles", levels=[0.9, 0.1, 0.5, 0.25, 0.75]
    )
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels == ["80 % interval", "50 % interval", "median"]
    assert display.quantiles.shape == (200, 5)


def test_it_draws_where_it_is_told(fitted):
    model, X, y = fitted
    _, axes = plt.subplots(1, 2)
    display = PredictiveDensityDisplay.from_estimator(model, X, y, ax=axes[1])
    assert display.ax_ is axes[1]
    assert display.plot(axes[0], kind="quantiles").ax_ is axes[0]
    with pytest.raises(ValueError, match="kind"):
        display.plot(kind="pie")


def test_other_features_are_held_at_typical_values():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(200, 3))
    model = MixtureDensityRegressor(1, max_iter=5, random_state=0).fit(X, X[:, 0])
    display = PredictiveDensityDisplay.from_estimator(model, X, feature=2)
    rows = np.tile(np.median(X, axis=0), (200, 1))
    rows[:, 2] = display.feature_values
    np.testing.assert_allclose(
        display.quantiles, model.predict_quantiles(rows, display.levels)
    )
    assert display.ax_.get_xlabel() == "feature 2"


def test_frames_with_categories_and_several_outputs():
    rng = np.random.RandomState(0)
    frame = pd.DataFrame(
        {"size": rng.uniform(size=200), "kind": rng.choice(["a", "b"], 200)}
    )
    frame.loc[3, "size"] = np.nan
    target = np.c_[rng.normal(size=200), 5 + rng.normal(size=200)]
    pipe = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(sparse_output=False), ["kind"]), remainder="passthrough"
        ),
        MixtureDensityRegressor(1, max_iter=5, random_state=0),
    )
    pipe.fit(frame.fillna(0.5), target)
    display = PredictiveDensityDisplay.from_estimator(
        pipe, frame, target, feature="size", output=1
    )
    assert display.ax_.get_xlabel() == "size"
    assert 4 < display.quantiles.mean() < 6


def test_frames_of_any_kind():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(50, 3))
    model = MixtureDensityRegressor(1, max_iter=3, random_state=0)
    draw = PredictiveDensityDisplay.from_estimator
    plain = pd.DataFrame(X)
    display = draw(model.fit(plain, X[:, 0]), plain, X[:, 0], feature=np.int64(1))
    assert display.ax_.get_xlabel() == "1"
    odd = pd.DataFrame(X, columns=["self", "a$x^$", "constant"]).assign(constant=1.0)
    display = draw(model.fit(odd, X[:, 0]), odd, feature="a$x^$")
    display.figure_.canvas.draw()
    display = draw(model, odd, feature="constant")
    assert np.ptp(display.feature_values) > 0


@pytest.mark.parametrize(
    ("feature", "message"),
    [("zz", "not one of"), (7, "not one of"), ("kind", "not numeric"), ("e", "value")],
)
def test_features_that_cannot_be_drawn_are_explained(fitted, feature, message):
    model, _, _ = fitted
    frame = pd.DataFrame({"x": [0.0, 1.0], "kind": ["a", "b"], "e": [np.nan] * 2})
    with pytest.raises(ValueError, match=message):
        PredictiveDensityDisplay.from_estimator(model, frame, feature=feature)
    with pytest.raises(ValueError, match="not one of"):
        PredictiveDensityDisplay.from_estimator(model, np.zeros((2, 1)), feature=3)


def test_a_named_target_labels_its_axis(fitted):
    model, X, y = fitted
    display = PredictiveDensityDisplay.from_estimator(model, X, pd.Series(y, name="h"))
    assert display.ax_.get_ylabel() == "h"


def test_a_missing_matplotlib_is_explained(fitted, monkeypatch):
    model, X, y = fitted
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"skmdn\[plot\]"):
        PredictiveDensityDisplay.from_estimator(model, X, y)
