"""The estimator of classes that are Gaussian mixtures."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import trapezoid
from scipy.special import logsumexp, softmax
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, load_wine, make_moons
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmdn import GaussianMixtureClassifier, MAPGaussianMixture
from skmdn.latent import SupervisedGaussianMixture
from skmdn.priors import (
    Dirichlet,
    InverseGamma,
    InverseWishart,
    LogNormalScale,
    Softball,
)
from tests.helpers import algebra

KINDS = ["full", "tied", "diag", "spherical"]
PRIORS = {
    "weights_prior": Dirichlet(2.0),
    "means_prior": Softball(8.0),
    "scales_prior": LogNormalScale(1.0),
}


def groups(n_samples=240, n_features=2, n_classes=3, n_each=1, seed=0, spread=3.0):
    """Rows of classes, each made of several clusters; class 0 is twice as frequent."""
    rng = np.random.RandomState(seed)
    centers = spread * rng.normal(size=(n_classes, n_each, n_features))
    mix = np.eye(n_features) + 0.5 * rng.normal(
        size=(n_classes, n_features, n_features)
    )
    y = np.minimum(rng.randint(n_classes + 1, size=n_samples), n_classes) % n_classes
    noise = rng.normal(size=(n_samples, n_features))
    X = centers[y, rng.randint(n_each, size=n_samples)]
    return X + np.einsum("nij,nj->ni", mix[y], noise), y


def hidden(y, n_labels=4, seed=0):
    """Hide all but some labels of each class."""
    rng = np.random.RandomState(seed)
    known = [
        rng.choice(np.flatnonzero(y == c), n_labels, replace=False)
        for c in np.unique(y)
    ]
    result = np.full(len(y), -1)
    result[np.concatenate(known)] = y[np.concatenate(known)]
    return result


def make(kind="full", n_components=1, **params):
    params.setdefault("random_state", 0)
    return GaussianMixtureClassifier(n_components, covariance_type=kind, **params)


def dense(model, k):
    """Return the covariance matrix of a component."""
    covariance = model.covariances_
    if model.covariance_type == "full":
        return covariance[k]
    if model.covariance_type == "tied":
        return covariance
    return np.eye(model.means_.shape[1]) * covariance[k]


def reference_joint(model, X):
    """Log p(x, class) by scipy, class by class; NaN is integrated out."""
    joint = np.full((len(X), len(model.weights_)), -np.inf)
    for i, row in enumerate(X):
        o = ~np.isnan(row)
        for k, weight in enumerate(model.weights_):
            joint[i, k] = np.log(weight)
            if o.any():
                law = multivariate_normal(
                    model.means_[k][o], dense(model, k)[np.ix_(o, o)]
                )
                joint[i, k] += law.logpdf(row[o])
    return np.stack(
        [
            logsumexp(joint[:, model.component_class_ == c], axis=1)
            for c in range(len(model.classes_))
        ],
        axis=1,
    )


# What it becomes in the limit.


@pytest.mark.parametrize("load", [load_iris, load_wine])
@pytest.mark.parametrize(
    ("kind", "known"),
    [
        ("diag", GaussianNB(var_smoothing=0.0)),
        ("tied", LinearDiscriminantAnalysis(solver="lsqr")),
        ("full", QuadraticDiscriminantAnalysis(solver="eigen")),
    ],
)
def test_one_component_and_flat_priors_are_what_scikit_learn_has(kind, known, load):
    X, y = load(return_X_y=True)
    model = make(kind, reg_covar=0.0).fit(X[::2], y[::2])
    known.fit(X[::2], y[::2])
    np.testing.assert_allclose(
        model.predict_proba(X), known.predict_proba(X), atol=1e-10
    )
    np.testing.assert_array_equal(model.predict(X), known.predict(X))
    assert model.score(X, y) == pytest.approx(known.score(X, y))
    assert model.converged_
    assert model.n_unlabeled_ == 0


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_each_class_is_a_mixture_by_itself(kind):
    X, y = groups(400, n_each=2, spread=6.0)
    settings = {"tol": 1e-10, "max_iter": 2000}
    model = make(kind, 2, n_init=5, **settings).fit(X, y)
    for c in range(3):
        alone = MAPGaussianMixture(2, covariance_type=kind, random_state=0, **settings)
        density = model.log_density(X, np.full(len(X), c)) - np.log((y == c).mean())
        np.testing.assert_allclose(
            density, alone.fit(X[y == c]).score_samples(X), rtol=1e-4, atol=1e-4
        )


def test_one_class_is_a_mixture():
    X, _ = groups()
    model = make("full", 3, n_init=5, tol=1e-8, max_iter=1000)
    model.fit(X, np.zeros(len(X)))
    known = GaussianMixture(3, tol=1e-8, max_iter=1000, random_state=0, n_init=5)
    assert model.score_samples(X).mean() == pytest.approx(
        known.fit(X).score(X), abs=1e-3
    )
    assert model.predict_proba(X).tolist() == [[1.0]] * len(X)


# The objective.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_components", [1, 2])
def test_densities_and_probabilities_are_those_of_the_definition(kind, n_components):
    X, y = groups()
    X[::7, 0] = np.nan
    model = make(kind, n_components).fit(X, hidden(y, 30))
    rows, labels = X[:21].copy(), y[:21].copy()
    rows[3] = np.nan
    joint = reference_joint(model, rows)
    total = logsumexp(joint, axis=1)
    np.testing.assert_allclose(model.score_samples(rows), total, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(
        model.predict_log_proba(rows), joint - total[:, None], rtol=1e-6, atol=1e-8
    )
    np.testing.assert_allclose(model.predict_proba(rows), softmax(joint, axis=1))
    expected = joint[np.arange(21), labels]
    expected[-1] = total[-1]
    labels[-1] = -1
    np.testing.assert_allclose(model.log_density(rows, labels), expected, rtol=1e-8)
    np.testing.assert_allclose(model.predict_proba(rows)[3], model.class_prior_)


@pytest.mark.parametrize("factor", [1.0, 0.3])
def test_the_posterior_is_both_likelihoods_and_the_prior_once(factor):
    X, y = groups()
    y = hidden(y, 10)
    weights = np.random.RandomState(0).uniform(0.5, 2.0, len(X))
    model = make("full", 2, unlabeled_weight=factor, **PRIORS)
    model.fit(X, y, sample_weight=weights)
    each = weights * np.where(y < 0, factor, 1.0)
    expected = each @ model.log_density(X, y) + model.log_prior_
    assert model.log_posterior_ == pytest.approx(expected)
    assert len(model.lower_bounds_) == model.n_iter_
    assert model.lower_bound_ <= model.log_posterior_ / each.sum() + 1e-9
    assert model.n_unlabeled_ == (y < 0).sum()
    assert make().fit(X, y).log_prior_ == 0.0


@algebra
@given(st.data())
def test_the_log_posterior_never_falls(data):
    kind = data.draw(st.sampled_from(KINDS))
    scales = [None, InverseGamma(2.0, 0.5), LogNormalScale(0.5, 0.7)]
    if kind in ("full", "tied"):
        scales.append(InverseWishart(4.0, 0.8))
    prior = data.draw(st.sampled_from(scales))
    # Without a prior a component may end on one row, and reg_covar is not a prior.
    counts = [1] if prior is None else [1, 2, [1, 2, 3]]
    model = make(
        kind,
        data.draw(st.sampled_from(counts)),
        tol=0.0,
        max_iter=15,
        class_prior=data.draw(st.sampled_from([None, "empirical", [0.2, 0.3, 0.5]])),
        unlabeled_weight=data.draw(st.sampled_from([0.2, 1.0])),
        reg_covar=0.0,
        weights_prior=data.draw(st.sampled_from([None, Dirichlet(1.5)])),
        means_prior=data.draw(st.sampled_from([None, Softball(2.0)])),
        scales_prior=prior,
    )
    X, y = groups(60, seed=data.draw(st.integers(0, 20)), spread=1.0)
    if data.draw(st.booleans()):
        X[::5, 1] = np.nan
    y = hidden(y, data.draw(st.integers(5 if prior is None else 1, 6)))
    weights = np.random.RandomState(0).uniform(0.2, 2.0, len(X))
    with pytest.warns(ConvergenceWarning):
        model.fit(X, y, sample_weight=weights)
    assert np.diff(model.lower_bounds_).min() > -1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_all_have_labels_leave_nothing_to_the_mark(kind):
    X, y = groups()
    models = [
        make(kind, 2, unlabeled_label=mark, unlabeled_weight=factor).fit(X, y)
        for mark, factor in (("auto", 1.0), (-1, 0.0), (None, 0.5))
    ]
    for other in models[1:]:
        np.testing.assert_array_equal(models[0].means_, other.means_)
        np.testing.assert_array_equal(models[0].covariances_, other.covariances_)


@pytest.mark.parametrize("kind", KINDS)
def test_unlabelled_rows_of_no_weight_are_not_there(kind):
    X, y = groups()
    y = hidden(y, 20)
    without = make(kind, 2).fit(X[y >= 0], y[y >= 0])
    weightless = make(kind, 2, unlabeled_weight=0.0).fit(X, y)
    dropped = make(kind, 2).fit(X, y, sample_weight=(y >= 0).astype(float))
    for other in (weightless, dropped):
        np.testing.assert_array_equal(without.means_, other.means_)
    assert (weightless.n_unlabeled_, dropped.n_unlabeled_) == ((y < 0).sum(), 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_components", [1, 2])
@pytest.mark.parametrize("n_labels", [15, None])
def test_weights_are_repetitions(kind, n_components, n_labels):
    X, y = groups(150)
    y = y if n_labels is None else hidden(y, n_labels)
    weights = np.arange(150) % 4
    model = make(kind, n_components, max_iter=500, **PRIORS)
    weighted = clone(model).fit(X, y, sample_weight=weights)
    repeated = clone(model).fit(np.repeat(X, weights, axis=0), np.repeat(y, weights))
    kept = weights > 0
    dropped = clone(model).fit(X[kept], y[kept], sample_weight=weights[kept])
    for other in (repeated, dropped):
        np.testing.assert_allclose(weighted.means_, other.means_, rtol=1e-8)
        np.testing.assert_allclose(weighted.covariances_, other.covariances_, rtol=1e-8)
        assert weighted.log_posterior_ == pytest.approx(other.log_posterior_)


def test_missing_values_cost_little():
    X, y = groups(2000, 3)
    holes = X.copy()
    holes[np.random.RandomState(1).uniform(size=X.shape) < 0.2] = np.nan
    whole, model = make().fit(X, y), make().fit(holes, y)
    np.testing.assert_allclose(model.means_, whole.means_, atol=0.25)
    assert model.score(X, y) > whole.score(X, y) - 0.01
    filled = model.impute(holes)
    there = ~np.isnan(holes)
    np.testing.assert_array_equal(filled[there], X[there])
    means = np.nanmean(holes, axis=0) - X
    assert np.mean((filled - X)[~there] ** 2) < 0.75 * np.mean(means[~there] ** 2)


# The classes' weights.


def test_class_priors_are_learned_or_given():
    X, y = groups(600)
    y = hidden(y, 20)
    learned = make().fit(X, y)
    shares = np.bincount(groups(600)[1]) / 600
    np.testing.assert_allclose(learned.class_prior_, shares, atol=0.06)
    empirical = make(class_prior="empirical").fit(X, y)
    np.testing.assert_allclose(empirical.class_prior_, 1 / 3)
    given = make(n_components=2, class_prior=[0.5, 0.3, 0.2]).fit(X, y)
    np.testing.assert_allclose(given.class_prior_, [0.5, 0.3, 0.2])
    weights = np.where(y == 0, 3.0, 1.0)
    weighted = make(class_prior="empirical").fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(weighted.class_prior_, [0.6, 0.2, 0.2])


@pytest.mark.parametrize(
    ("n_components", "counts"),
    [(2, [2, 2, 2]), ({0: 1, 1: 3, 2: 2}, [1, 3, 2]), (np.array([2, 1, 4]), [2, 1, 4])],
)
def test_numbers_of_components(n_components, counts):
    X, y = groups()
    model = make("diag", n_components).fit(X, y)
    assert np.bincount(model.component_class_).tolist() == counts
    assert (np.diff(model.component_class_) >= 0).all()
    table = model.class_component_weights_
    assert table.shape == (3, max(counts))
    np.testing.assert_allclose(table.sum(axis=1), 1.0)
    assert [(row > 0).sum() for row in table] == counts
    joint = table * model.class_prior_[:, None]
    np.testing.assert_allclose(joint[joint > 0], model.weights_)
    assert model.predict_component(X).max() < sum(counts)
    assert model.log_component_prob(X).shape == (len(X), sum(counts))


def test_several_components_follow_a_class_of_any_shape():
    X, y = make_moons(400, noise=0.15, random_state=0)
    one, many = make().fit(X, y), make(n_components=4, n_init=3).fit(X, y)
    test = make_moons(2000, noise=0.15, random_state=1)
    assert many.score(*test) > one.score(*test) + 0.08
    assert many.score_samples(test[0]).mean() > one.score_samples(test[0]).mean() + 0.1


def test_a_small_concentration_leaves_every_class_a_component():
    X, y = groups(60)
    y = hidden(y, 1)
    model = make("diag", 3, weights_prior=Dirichlet(1e-3), scales_prior=InverseGamma())
    model.set_params(max_iter=500).fit(X, y)
    assert (model.class_prior_ > 0).all()
    assert np.isfinite(model.log_density(X, y)).all()


def test_a_class_with_one_row_near_begins_with_others():
    rng = np.random.RandomState(0)
    X = np.r_[rng.normal(size=(30, 2)), [[9.0, 0.0]]]
    y = np.r_[[0, 0], np.full(28, -1), [1]]
    model = make("spherical", 2, scales_prior=InverseGamma(), max_iter=500)
    model.fit(X, np.where(y == 1, 2, y))
    assert (model.weights_ > 0).all()
    assert model.predict(X[-1:]) == 2


# Labels.


@pytest.mark.parametrize(
    ("labels", "unknown"),
    [
        (["a", "b", "c"], None),
        (["a", "b", "c"], np.nan),
        ([0.0, 1.0, 2.0], np.nan),
        ([0, 1, 2], -1),
        ([10, 20, 999], -1),
    ],
)
def test_labels_of_all_kinds(labels, unknown):
    X, y = groups()
    kept = hidden(y, 10)
    dtype = float if isinstance(labels[0], float) else object
    target = np.array([labels[c] if c >= 0 else unknown for c in kept], dtype=dtype)
    if unknown == -1:
        target = target.astype(int)
    model = make().fit(X, target)
    expected = make().fit(X, kept)
    np.testing.assert_array_equal(model.means_, expected.means_)
    assert model.classes_.tolist() == labels
    assert model.n_unlabeled_ == (kept < 0).sum()
    predicted = model.predict(X)
    assert set(predicted.tolist()) <= set(labels)
    # A row without label does not count.
    assert model.score(X, target) == expected.score(X[kept >= 0], y[kept >= 0])
    table = pd.DataFrame(X, columns=["one", "two"])
    framed = make().fit(table, pd.Series(target))
    np.testing.assert_allclose(framed.means_, model.means_)
    assert framed.feature_names_in_.tolist() == ["one", "two"]


def test_minus_one_and_one_are_two_classes():
    X, y = groups(n_classes=2)
    model = make().fit(X, 2 * y - 1)
    assert model.classes_.tolist() == [-1, 1]
    assert model.n_unlabeled_ == 0
    np.testing.assert_array_equal(model.means_, make().fit(X, y).means_)
    three = make(unlabeled_label=None).fit(*_shifted(groups()))
    assert three.classes_.tolist() == [-1, 0, 1]


def _shifted(rows):
    return rows[0], rows[1] - 1


def test_a_class_of_the_test_rows_alone_is_never_right():
    X, y = groups()
    model = make().fit(X[y < 2], y[y < 2])
    right = (model.predict(X) == y).mean()
    assert model.score(X, y) == pytest.approx(right)
    with pytest.raises(ValueError, match=r"2, which is none of the classes \[0, 1\]"):
        model.log_density(X, y)
    with pytest.raises(ValueError, match="nothing to compare"):
        model.score(X, np.full(len(X), -1))
    weights = np.random.RandomState(0).uniform(size=len(X))
    weighted = np.average(model.predict(X) == y, weights=weights)
    assert model.score(X, y, sample_weight=weights) == pytest.approx(weighted)


# Digits with two labels for each class.


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return PCA(20, random_state=0).fit_transform(X), y


def gains(digits, seeds, **params):
    """Accuracy on the unlabelled rows: with them, from labels alone, from means."""
    X, y = digits
    result = []
    for seed in seeds:
        labels = hidden(y, 2, seed)
        known = labels >= 0
        model = make(**params)
        fits = [
            model.fit(X, labels),
            clone(model).fit(X[known], y[known]),
            NearestCentroid().fit(X[known], y[known]),
        ]
        result.append([(fit.predict(X) == y)[~known].mean() for fit in fits])
    return np.mean(result, axis=0)


def test_unlabelled_digits_are_worth_ten_points(digits):
    both, alone, nearest = gains(digits, range(12))
    assert both > alone + 0.10
    assert both > nearest + 0.10


def test_a_prior_on_scales_makes_them_worth_more(digits):
    both, alone, _ = gains(digits, range(8), scales_prior=InverseGamma(20.0, 400.0))
    assert both > alone + 0.12


@pytest.mark.parametrize("kind", KINDS)
def test_two_labels_in_64_dimensions_do_not_break(kind):
    X, y = load_digits(return_X_y=True)
    labels = hidden(y[:900], 2)
    for params in ({}, {"scales_prior": InverseGamma(1.0, 10.0)}):
        model = make(kind, tol=0.1, **params).fit(X[:900], labels)
        assert np.isfinite(model.log_density(X[:900], labels)).all()
        assert np.isfinite(model.predict_proba(X)).all()
        alone = make(kind, **params).fit(X[:900][labels >= 0], labels[labels >= 0])
        assert np.isfinite(alone.predict_proba(X)).all()


# Draws.


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_of_the_classes_asked_for(kind):
    X, y = groups(n_each=2)
    model = make(kind, 2).fit(X, np.array(["a", "b", "c"])[y])
    drawn, labels = model.sample(20_000, random_state=1)
    for c, name in enumerate("abc"):
        n, p = (labels == name).sum(), model.class_prior_[c]
        assert abs(n - 20_000 * p) < 4 * np.sqrt(20_000 * p * (1 - p))
        own = drawn[labels == name]
        within = model.class_component_weights_[c]
        mean = within @ model.means_[model.component_class_ == c]
        assert (np.abs(own.mean(0) - mean) < 4 * own.std(0) / np.sqrt(n)).all()
    only, names = model.sample(5000, y="b", random_state=2)
    assert set(names) == {"b"}
    components = model.component_class_ == 1
    mean = model.class_component_weights_[1] @ model.means_[components]
    assert (np.abs(only.mean(0) - mean) < 4 * only.std(0) / np.sqrt(5000)).all()
    wanted = np.array(["c", "a", "c", "b"])
    rows, names = model.sample(4, y=wanted)
    assert (rows.shape, names.tolist()) == ((4, 2), wanted.tolist())
    np.testing.assert_array_equal(rows, model.sample(4, y=wanted)[0])
    assert model.sample_components(5).shape == (5, 6, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "Invalid value for 'n_samples'"),
        ((2, [0, 1, 2]), r"y has shape \(3,\) for n_samples=2"),
        ((2, 7), "7, which is none of the classes"),
        ((2, [0, -1]), "Every draw needs a class"),
    ],
)
def test_draws_that_cannot_be(arguments, message):
    model = make().fit(*groups())
    with pytest.raises(ValueError, match=message):
        model.sample(*arguments)


# Going on, copies, searches.


def test_warm_start_goes_on():
    X, y = groups(n_each=2)
    settings = {"n_components": 2, "tol": 1e-9, "max_iter": 500}
    whole = make(**settings).fit(X, hidden(y, 20))
    model = make(**(settings | {"max_iter": 3, "warm_start": True}))
    with pytest.warns(ConvergenceWarning):
        model.fit(X, hidden(y, 20))
    model.set_params(max_iter=500).fit(X, hidden(y, 20))
    assert model.lower_bound_ == pytest.approx(whole.lower_bound_, abs=1e-6)
    before = model.means_
    with pytest.raises(ValueError, match="warm_start=True goes on with the classes"):
        model.fit(X, y % 2)
    assert model.means_ is before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_components", [1, 2])
def test_estimator_and_module_are_one(kind, n_components):
    X, y = groups()
    y = hidden(y, 20)
    model = make(kind, n_components, **PRIORS).fit(X, y)
    module, x = model.to_torch(), torch.tensor(X)
    np.testing.assert_allclose(
        module.log_prob(x, y).detach(), model.log_density(X, y), rtol=1e-8
    )
    assert module.log_prior().item() == pytest.approx(model.log_prior_, rel=1e-9)
    posterior = module.log_prob(x, y).sum() + module.log_prior()
    assert posterior.item() == pytest.approx(model.log_posterior_, rel=1e-9)
    back = GaussianMixtureClassifier.from_torch(module, classes=[0, 1, 2], tol=0.5)
    np.testing.assert_allclose(back.predict_proba(X), model.predict_proba(X), atol=1e-9)
    expected = {**model.get_params(), "tol": 0.5, "random_state": None}
    assert back.get_params() == expected
    # What expectation maximisation has found, gradients leave where it is.
    (-posterior / len(X)).backward()
    assert max(p.grad.abs().max() for p in module.parameters()) < 0.05


def test_fixed_modules_become_spherical_classifiers():
    module = SupervisedGaussianMixture(
        2, 1, 3, "fixed", sd_init=(0.5, 1.0), generator=torch.Generator().manual_seed(0)
    )
    model = GaussianMixtureClassifier.from_torch(module)
    np.testing.assert_allclose(model.covariances_, 0.25)
    x = torch.ones(2, 3)
    np.testing.assert_allclose(
        model.log_density(x.numpy(), [0, 1]), module.log_prob(x, [0, 1]).detach(), 1e-5
    )


def test_modules_have_as_many_components_for_each_class():
    model = make("diag", [1, 2, 1]).fit(*groups())
    with pytest.raises(ValueError, match=r"Classes have \[1, 2, 1\] components"):
        model.to_torch()


@pytest.mark.parametrize("kind", KINDS)
def test_from_params(kind):
    X, y = groups()
    fitted = make(kind, [2, 1, 3]).fit(X, np.array(["a", "b", "c"])[y])
    made = GaussianMixtureClassifier.from_params(
        fitted.weights_,
        fitted.means_,
        fitted.covariances_,
        fitted.component_class_,
        classes=["a", "b", "c"],
        covariance_type=kind,
    )
    np.testing.assert_array_equal(made.predict(X), fitted.predict(X))
    np.testing.assert_allclose(made.class_prior_, fitted.class_prior_)
    for wrong in ([0, 0, 1, 2, 2], [0, 0, 1, 1, 1, 1], [0, 0, 1, 2, 2, 3]):
        with pytest.raises(ValueError, match="component_class must give"):
            GaussianMixtureClassifier.from_params(
                fitted.weights_,
                fitted.means_,
                fitted.covariances_,
                wrong,
                classes=["a", "b", "c"],
                covariance_type=kind,
            )
    with pytest.raises(ValueError, match="classes must ascend"):
        GaussianMixtureClassifier.from_params(
            [0.5, 0.5], np.eye(2), np.ones(2), [0, 1], classes=["b", "a"]
        )


def test_a_search_over_priors_and_components():
    X, y = groups(120, n_each=2)
    pipeline = make_pipeline(StandardScaler(), make("diag", **PRIORS))
    name = "gaussianmixtureclassifier"
    grid = {
        f"{name}__weights_prior__concentration": [1.0, 5.0],
        f"{name}__n_components": [1, 2],
    }
    search = GridSearchCV(pipeline, grid, cv=3).fit(X, np.array(["u", "v", "w"])[y])
    chosen = search.best_estimator_[-1]
    best = search.best_params_
    assert chosen.n_components == best[f"{name}__n_components"]
    assert (
        chosen.weights_prior.concentration
        == best[f"{name}__weights_prior__concentration"]
    )
    assert PRIORS["weights_prior"].concentration == 2.0
    assert 0.8 < search.best_score_ <= 1.0
    assert cross_val_score(pipeline, X, hidden(y, 20), cv=3).min() > 0.6


def test_copies_are_equal():
    X, y = groups()
    model = make("full", 2, **PRIORS).fit(X, hidden(y))
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.predict_proba(X), model.predict_proba(X))
    again = clone(model).fit(X, hidden(y))
    np.testing.assert_array_equal(again.means_, model.means_)
    single = make("full").fit(X.astype(np.float32), y)
    assert single.means_.dtype == np.float32
    assert single.predict_proba(X).dtype == np.float64


def test_verbose_prints_steps(capsys):
    make("diag", verbose=2, verbose_interval=1).fit(*groups())
    assert "Iteration 1\t change" in capsys.readouterr().out


def test_before_a_fit_there_is_nothing():
    model = make()
    for name in ("class_prior_", "class_component_weights_", "classes_"):
        assert not hasattr(model, name)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_components": {0: 1, 1: 2}}, r"n_components has the classes \[0, 1\]"),
        ({"n_components": [1, 2]}, r"n_components has shape \(2,\) for 3 classes"),
        ({"n_components": [1, 2, 0]}, "integers of at least 1"),
        ({"n_components": [1, 2, 1.5]}, "integers of at least 1"),
        ({"n_components": 100}, r"Class 1 has at most \d+ rows for 100 components"),
        ({"class_prior": [0.5, 0.5]}, r"class_prior has shape \(2,\) for 3 classes"),
        ({"class_prior": [0.5, 0.5, 0.0]}, "class_prior must be positive with sum 1"),
        ({"class_prior": [0.5, 0.5, 0.5]}, "class_prior must be positive with sum 1"),
        ({"weights_prior": Dirichlet([1.0, 2.0])}, "2 numbers for 3 components"),
        ({"scales_prior": InverseWishart(1.0)}, "df of InverseWishart"),
        ({"means_prior": Softball(0.0)}, "radius of Softball must be positive"),
        ({"unlabeled_weight": -1.0}, "unlabeled_weight"),
        ({"covariance_type": "fixed"}, "covariance_type"),
        ({"device": "nowhere"}, "cannot be used here"),
    ],
)
def test_bad_parameters_are_named_and_leave_nothing(params, message):
    model = GaussianMixtureClassifier(**params)
    with pytest.raises(ValueError, match=message):
        model.fit(*groups())
    assert not any(name.endswith("_") for name in vars(model))


def test_data_that_cannot_be_used():
    X, y = groups()
    with pytest.raises(ValueError, match="requires y to be passed"):
        make().fit(X, None)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        make().fit(X, y[:-1])
    with pytest.raises(ValueError, match="at least one row needs a label"):
        make().fit(X, np.full(len(X), np.nan))
    with pytest.raises(ValueError, match="ill-defined"):
        make(reg_covar=0.0).fit(
            np.repeat(np.eye(3), 4, axis=0), np.repeat([0, 1, 2], 4)
        )
    X[:, 1] = np.nan
    with pytest.raises(ValueError, match="Feature 1 has no observed value"):
        make().fit(X, y)


# Defects of the classifier this one takes the place of, by name.


def test_a_class_is_the_sum_of_its_components_not_their_product():
    X, y = groups(n_each=3, n_features=1)
    model = make("full", 3).fit(X, y)
    grid = np.linspace(-40.0, 40.0, 40_001)[:, None]
    for c in range(3):
        density = np.exp(model.log_density(grid, np.full(len(grid), c)))
        mass = trapezoid(density, grid[:, 0])
        assert mass == pytest.approx(model.class_prior_[c], rel=1e-6)


def test_the_number_of_classes_multiplies_nothing():
    X, y = groups()
    model = make().fit(X, y)
    law = multivariate_normal(model.means_[1], model.covariances_[1])
    expected = np.log(model.class_prior_[1]) + law.logpdf(X)
    np.testing.assert_allclose(model.log_density(X, np.ones(len(X))), expected)


def test_the_class_prior_is_learned():
    X, y = groups()
    np.testing.assert_allclose(make().fit(X, y).class_prior_, np.bincount(y) / len(y))


@pytest.mark.parametrize("kind", KINDS)
def test_several_components_per_class_do_not_crash(kind):
    X, y = groups()
    assert make(kind, 3).fit(X, hidden(y, 5)).means_.shape == (9, 2)


def test_labels_and_unlabelled_rows_attract_the_mixture():
    X, y = groups()
    y = hidden(y, 10)
    with pytest.warns(ConvergenceWarning):
        short = make(max_iter=1, tol=1e-9).fit(X, y)
    long = make(max_iter=500, tol=1e-9).fit(X, y)
    gain = long.log_density(X, y) - short.log_density(X, y)
    assert gain.sum() > 0
    assert gain[y < 0].sum() > 0


def test_densities_above_one_are_ordinary():
    X, y = groups()
    y = hidden(y, 10)
    wide, narrow = make(reg_covar=0.0).fit(X, y), make(reg_covar=0.0).fit(1e-4 * X, y)
    assert narrow.log_density(1e-4 * X, y).min() > 0
    np.testing.assert_allclose(
        narrow.predict_proba(1e-4 * X), wide.predict_proba(X), atol=1e-6
    )


def test_labels_can_be_a_list():
    X, y = groups()
    model = make().fit(X.tolist(), y.tolist())
    np.testing.assert_array_equal(model.means_, make().fit(X, y).means_)
    assert len(model.log_density(X.tolist(), y.tolist())) == len(X)


def test_999_is_a_class_and_minus_one_is_not_the_last():
    X, y = groups()
    model = make().fit(X, np.where(y == 2, 999, y))
    assert model.classes_.tolist() == [0, 1, 999]
    np.testing.assert_allclose(
        model.log_density(X, np.full(len(X), -1)), model.score_samples(X)
    )


def test_component_weights_are_within_classes_not_across_rows():
    X, y = groups()
    table = make("full", 2).fit(X, y).class_component_weights_
    assert table.shape == (3, 2)
    np.testing.assert_allclose(table.sum(axis=1), 1.0)
    assert table.min() > 0.0


def test_draws_of_a_class_come_from_its_components():
    model = GaussianMixtureClassifier.from_params(
        np.full(6, 1 / 6),
        10.0 * np.arange(6.0)[:, None],
        np.full(6, 1e-4),
        np.repeat([0, 1, 2], 2),
        covariance_type="spherical",
    )
    labels = np.tile([1, 0, 2], 50)
    rows, _ = model.sample(150, y=labels, random_state=0)
    component = np.rint(rows[:, 0] / 10.0).astype(int)
    np.testing.assert_array_equal(component // 2, labels)
    assert len(np.unique(component)) == 6
