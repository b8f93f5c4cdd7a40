"""Pictures of components: the marginal ellipses, the colours, the shares."""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture

from skmdn import MAPGaussianMixture
from skmdn.plotting import GaussianMixtureDisplay, ResponsibilityDisplay

KINDS = ["full", "tied", "diag", "spherical"]


@pytest.fixture(scope="module")
def iris():
    return load_iris(as_frame=True).data


@pytest.mark.parametrize("make", [MAPGaussianMixture, GaussianMixture])
@pytest.mark.parametrize("kind", KINDS)
def test_ellipses_are_those_of_the_marginal(iris, kind, make):
    model = make(3, covariance_type=kind, random_state=0).fit(iris)
    display = GaussianMixtureDisplay.from_estimator(model, iris, features=(3, -3))
    places = [3, 1]
    for k in range(3):
        S = np.asarray(model.covariances_)
        S = {"full": lambda S=S, k=k: S[k], "tied": lambda S=S: S}.get(
            kind, lambda S=S, k=k: np.eye(4) * S[k]
        )()
        np.testing.assert_allclose(
            display.covariances[k], S[np.ix_(places, places)], rtol=1e-12
        )
        np.testing.assert_allclose(display.means[k], model.means_[k][places])
    np.testing.assert_allclose(
        display.responsibilities, model.predict_proba(iris), atol=1e-6
    )
    assert display.ax_.get_xlabel() == "petal width (cm)"
    assert display.ax_.get_ylabel() == "sepal width (cm)"


def test_an_ellipse_holds_its_probability():
    S = np.array([[[2.0, 1.2], [1.2, 1.0]]])
    display = GaussianMixtureDisplay(
        weights=np.ones(1), means=np.array([[1.0, -1.0]]), covariances=S
    ).plot(levels=[0.8])
    outline = display.ax_.lines[0].get_xydata() - [1.0, -1.0]
    squares = np.einsum("ni,ij,nj->n", outline, np.linalg.inv(S[0]), outline)
    np.testing.assert_allclose(stats.chi2.cdf(squares, 2), 0.8, rtol=1e-9)


def test_colours_say_whose_the_rows_are():
    display = GaussianMixtureDisplay(
        weights=np.array([0.5, 0.5, 0.0]),
        means=np.zeros((3, 2)),
        covariances=np.repeat(np.eye(2)[None], 3, axis=0),
        points=np.zeros((2, 2)),
        responsibilities=np.array([[1.0, 0.0, 0.0], [0.4, 0.6, 0.0]]),
    )
    tab = plt.get_cmap("tab10")(range(2))[:, :3]
    mixed = display.plot().ax_.collections[0].get_facecolor()[:, :3]
    np.testing.assert_allclose(mixed, [tab[0], 0.4 * tab[0] + 0.6 * tab[1]])
    hard = display.plot(kind="component").ax_.collections[0].get_facecolor()[:, :3]
    np.testing.assert_allclose(hard, tab)
    # A line for each level and a centre, of the two that are not switched off.
    assert len(display.ax_.lines) == 2 * 3


def test_rows_with_holes_and_many_components(iris):
    X = iris.to_numpy().copy()
    X[:10, 0], X[20:25, 3] = np.nan, np.nan
    model = MAPGaussianMixture(12, covariance_type="diag", random_state=0, tol=0.1)
    display = GaussianMixtureDisplay.from_estimator(model.fit(X), X)
    assert display.points.shape == (140, 2)
    assert display.feature_names == ("feature 0", "feature 1")
    named = MAPGaussianMixture(1).fit(iris)
    without = GaussianMixtureDisplay.from_estimator(
        named, features=["petal length (cm)", 0]
    )
    assert without.points is None
    assert without.feature_names[0] == "petal length (cm)"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"features": (0, 0)}, "two different features"),
        ({"features": (0, 1, 2)}, "two different features"),
        ({"features": (0, 9)}, "not one of 4 features"),
        ({"features": (0, "size")}, "'size' is not one of"),
        ({"kind": "colour"}, "kind must be"),
    ],
)
def test_what_cannot_be_drawn_is_explained(iris, params, message):
    model = MAPGaussianMixture(1).fit(iris)
    with pytest.raises(ValueError, match=message):
        GaussianMixtureDisplay.from_estimator(model, iris, **params)
    with pytest.raises(ValueError, match="LinearRegressionLike has no weights_"):
        GaussianMixtureDisplay.from_estimator(LinearRegressionLike())


class LinearRegressionLike:
    pass


def test_shares_are_ordered_by_component_and_certainty(iris):
    model = MAPGaussianMixture(3, random_state=0).fit(iris)
    _, ax = plt.subplots()
    display = ResponsibilityDisplay.from_estimator(model, iris, ax=ax)
    assert display.ax_ is ax
    image = np.asarray(ax.images[0].get_array())
    best, top = image.argmax(axis=1), image.max(axis=1)
    assert (np.diff(best) >= 0).all()
    for k in range(3):
        assert (np.diff(top[best == k]) <= 0).all()
    np.testing.assert_allclose(
        np.sort(image[:, 0]), np.sort(model.predict_proba(iris)[:, 0])
    )


def test_a_missing_matplotlib_is_explained(iris, monkeypatch):
    model = MAPGaussianMixture(1).fit(pd.DataFrame(iris))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for display in (GaussianMixtureDisplay, ResponsibilityDisplay):
        with pytest.raises(ImportError, match=r"skmdn\[plot\]"):
            display.from_estimator(model, iris)
