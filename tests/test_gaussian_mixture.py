"""The estimator of Gaussian mixtures: what is new beside scikit-learn's."""

import pickle

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmdn.gaussian_mixture import MAPGaussianMixture
from skmdn.priors import (
    Dirichlet,
    InverseGamma,
    InverseWishart,
    LogNormalScale,
    Softball,
)

KINDS = ["full", "tied", "diag", "spherical"]
ALL_KINDS = [*KINDS, "fixed"]
PRIORS = {
    "weights_prior": Dirichlet(2.0),
    "means_prior": Softball(8.0),
    "scales_prior": LogNormalScale(1.0),
}


def groups(n_samples=300, n_features=3, n_groups=3, seed=0, spread=4.0):
    rng = np.random.RandomState(seed)
    centers = spread * rng.normal(size=(n_groups, n_features))
    mix = rng.normal(size=(n_groups, n_features, n_features)) / n_features
    y = rng.randint(n_groups, size=n_samples)
    noise = rng.normal(size=(n_samples, n_features))
    X = centers[y] + noise + np.einsum("nij,nj->ni", mix[y], noise)
    return X, y


def with_holes(X, share=0.2, seed=1):
    X = X.copy()
    X[np.random.RandomState(seed).uniform(size=X.shape) < share] = np.nan
    return X


def make(kind="full", n_components=3, **params):
    if kind == "fixed":
        params.setdefault("precisions_init", np.full(n_components, 0.7))
    return MAPGaussianMixture(
        n_components, covariance_type=kind, random_state=0, **params
    )


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_scikit_learn(kind):
    # Well separated groups: the first candidate wins, which is scikit-learn's.
    X, _ = groups()
    ours = make(kind, tol=1e-8, max_iter=500).fit(X)
    theirs = GaussianMixture(
        3, covariance_type=kind, random_state=0, tol=1e-8, max_iter=500
    ).fit(X)
    assert ours.n_iter_ == theirs.n_iter_
    for name in ("weights_", "means_", "covariances_", "precisions_", "lower_bounds_"):
        np.testing.assert_allclose(
            getattr(ours, name), getattr(theirs, name), atol=1e-8, err_msg=name
        )
    np.testing.assert_allclose(
        ours.precisions_cholesky_, theirs.precisions_cholesky_, atol=1e-8
    )
    other, _ = groups(seed=5)
    for method in ("score_samples", "predict_proba", "predict"):
        np.testing.assert_allclose(
            getattr(ours, method)(other), getattr(theirs, method)(other), atol=1e-8
        )
    assert ours.bic(X) == pytest.approx(theirs.bic(X), rel=1e-9)
    assert ours.aic(X) == pytest.approx(theirs.aic(X), rel=1e-9)


@pytest.mark.parametrize("shift", [1e3, 1e6])
@pytest.mark.parametrize("kind", KINDS)
def test_data_far_from_the_origin_are_as_good(kind, shift):
    X, _ = groups()
    near = make(kind).fit(X)
    far = make(kind).fit(X + shift)
    np.testing.assert_allclose(far.means_ - shift, near.means_, atol=1e-9 * shift)
    np.testing.assert_allclose(far.covariances_, near.covariances_, rtol=1e-6)
    np.testing.assert_allclose(
        far.score_samples(X + shift), near.score_samples(X), rtol=1e-5
    )


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_weights_are_repetitions(kind):
    X, _ = groups(60)
    weights = np.arange(60) % 4
    start = {"means_init": X[:3], "weights_init": np.full(3, 1 / 3)}
    precisions = {
        "full": np.stack([np.eye(3)] * 3),
        "tied": np.eye(3),
        "diag": np.ones((3, 3)),
    }.get(kind, np.ones(3))
    model = make(
        kind, precisions_init=precisions, max_iter=500, **start, **priors(kind)
    )
    weighted = clone(model).fit(X, sample_weight=weights)
    repeated = clone(model).fit(np.repeat(X, weights, axis=0))
    dropped = clone(model).fit(X[weights > 0], sample_weight=weights[weights > 0])
    for other in (repeated, dropped):
        np.testing.assert_allclose(weighted.means_, other.means_, rtol=1e-9)
        np.testing.assert_allclose(weighted.covariances_, other.covariances_, rtol=1e-9)
        assert weighted.log_posterior_ == pytest.approx(other.log_posterior_)


def priors(kind):
    return dict(PRIORS, scales_prior=None if kind == "fixed" else LogNormalScale(1.0))


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_the_posterior_is_likelihood_and_prior_once(kind):
    X, _ = groups()
    weights = np.random.RandomState(0).uniform(0.5, 2.0, len(X))
    model = make(kind, **priors(kind)).fit(X, sample_weight=weights)
    expected = weights @ model.score_samples(X) + model.log_prior_
    assert model.log_posterior_ == pytest.approx(expected)
    assert model.lower_bound_ <= model.log_posterior_ / weights.sum() + 1e-9
    assert len(model.lower_bounds_) == model.n_iter_
    flat = make(kind).fit(X)
    assert flat.log_prior_ == 0.0


def test_the_prior_is_where_the_user_says_not_where_the_data_are():
    X, _ = groups()
    ball = Softball(0.5, 50.0, center=[2.0, -1.0, 3.0])
    model = make("diag", means_prior=ball, n_components=1).fit(X)
    # More than a radius away the pull is s / r = 100, against 300 rows.
    distance = np.linalg.norm(model.means_ - [2.0, -1.0, 3.0])
    assert distance < np.linalg.norm(X.mean(0) - [2.0, -1.0, 3.0])
    moved = make(
        "diag",
        n_components=1,
        means_prior=Softball(0.5, 50.0, center=[102.0, 99.0, 103.0]),
    ).fit(X + 100.0)
    np.testing.assert_allclose(moved.means_ - 100.0, model.means_, atol=1e-8)


def test_missing_values_count_with_the_marginal_density():
    X, _ = groups()
    model = make("full").fit(X)
    rows = X[:4].copy()
    rows[0, 1] = rows[1, [0, 2]] = rows[2] = np.nan
    expected = np.zeros(4)
    for i, row in enumerate(rows):
        o = ~np.isnan(row)
        if o.any():
            parts = [
                w * multivariate_normal(m[o], S[np.ix_(o, o)]).pdf(row[o])
                for w, m, S in zip(
                    model.weights_, model.means_, model.covariances_, strict=True
                )
            ]
            expected[i] = np.log(sum(parts))
    np.testing.assert_allclose(model.score_samples(rows), expected, atol=1e-9)
    np.testing.assert_allclose(model.predict_proba(rows)[2], model.weights_)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_values_cost_little(kind):
    X, _ = groups(2000)
    whole = make(kind).fit(X)
    holes = make(kind).fit(with_holes(X))
    order, other = whole.means_[:, 0].argsort(), holes.means_[:, 0].argsort()
    np.testing.assert_allclose(holes.means_[other], whole.means_[order], atol=0.3)
    assert holes.score(X) > whole.score(X) - 0.02


def test_a_feature_that_is_never_there_is_named():
    X, _ = groups()
    X[:, 1] = np.nan
    with pytest.raises(ValueError, match="Feature 1 has no observed value"):
        make().fit(X)


def test_imputation_beats_the_means_of_columns():
    X = load_digits().data[:600, 18:31]
    # A dozen patterns: each takes a decomposition of its own.
    rng = np.random.RandomState(0)
    patterns = rng.uniform(size=(12, X.shape[1])) < 0.2
    holes = np.where(patterns[rng.randint(12, size=len(X))], np.nan, X)
    missing = np.isnan(holes)
    model = make("full", 5, scales_prior=InverseGamma(1.0, 1.0), tol=0.02)
    filled = model.fit(holes).impute(holes)
    np.testing.assert_array_equal(filled[~missing], X[~missing])
    means = np.broadcast_to(np.nanmean(holes, axis=0), X.shape)
    ours = np.mean((filled - X)[missing] ** 2)
    assert ours < 0.75 * np.mean((means - X)[missing] ** 2)


def test_a_scale_prior_keeps_components_from_collapsing():
    X = np.repeat(np.eye(3), 5, axis=0)
    for kind in KINDS:
        with pytest.raises(ValueError, match="ill-defined"):
            make(kind, reg_covar=0.0).fit(X)
        for prior in (InverseGamma(), LogNormalScale(0.5)):
            model = make(kind, reg_covar=0.0, scales_prior=prior).fit(X)
            assert np.isfinite(model.log_posterior_)


def test_a_small_concentration_prunes_what_is_not_needed():
    X, _ = groups(400, spread=8.0)
    params = {"scales_prior": InverseGamma(1.0, 1.0), "max_iter": 500}
    many = make("full", 8, weights_prior=Dirichlet(0.5), **params)
    many.set_params(weights_prior__concentration=0.001).fit(X)
    assert (many.weights_ > 0).sum() <= 8
    assert np.isfinite(many.log_posterior_)
    assert np.isfinite(many.score_samples(X)).all()
    more = make("full", 8, weights_prior=Dirichlet(20.0), **params).fit(X)
    assert more.weights_.min() > many.weights_.min()


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_fixed_or_not_runs_beside_each_other_do_not_lose(kind):
    X, _ = groups(200, spread=1.0)
    one = make(
        kind, init_params="random_from_data", reg_covar=0.1, tol=1e-6, max_iter=1000
    )
    best = clone(one).set_params(n_init=8).fit(X)
    assert best.lower_bound_ >= one.fit(X).lower_bound_ - 1e-9


def test_fixed_covariances_stay():
    X, _ = groups()
    model = make("fixed", precisions_init=[1.0, 2.0, 4.0]).fit(X)
    np.testing.assert_allclose(model.covariances_, [1.0, 0.5, 0.25])
    assert make("fixed", precisions_init=None).fit(X).covariances_.tolist() == [1.0] * 3


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_batches_reach_what_all_rows_reach(kind):
    X, _ = groups(6000)
    whole = make(kind).fit(X)
    batches = make(kind, batch_size=300, max_iter=2, tol=0.0)
    with pytest.warns(ConvergenceWarning):
        batches.fit(X)
    assert batches.score(X) > whole.score(X) - 0.005 * abs(whole.score(X))
    assert batches.n_iter_ == 2
    expected = batches.score(X) * len(X)
    assert batches.log_posterior_ == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_partial_fit(kind):
    X, _ = groups(4000)
    whole = make(kind, **PRIORS).fit(X)
    model = make(kind, **PRIORS)
    for start in range(0, 4000, 400):
        model.partial_fit(X[start : start + 400])
    assert model.score(X) > whole.score(X) - 0.005 * abs(whole.score(X))
    assert model.n_iter_ == 10
    # A fit goes on with what it has learned.
    before = whole.means_.copy()
    whole.partial_fit(X[:400])
    assert 0 < np.abs(whole.means_ - before).max() < 0.3
    copy = pickle.loads(pickle.dumps(whole)).partial_fit(X[400:800])
    np.testing.assert_array_equal(copy.means_, whole.partial_fit(X[400:800]).means_)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_draws_have_the_moments_of_components(kind):
    X, _ = groups()
    model = make(kind).fit(X)
    draws = model.sample_components(20_000, random_state=1)
    assert draws.shape == (20_000, 3, 3)
    for k in range(3):
        S = dense(model, k)
        error = draws[:, k].mean(0) - model.means_[k]
        assert (np.abs(error) < 4 * np.sqrt(np.diag(S) / 20_000)).all()
        np.testing.assert_allclose(np.cov(draws[:, k].T), S, atol=0.1 * S.max())
    rows, labels = model.sample(5000, random_state=2)
    counts = np.bincount(labels, minlength=3)
    error = np.sqrt(5000 * model.weights_ * (1 - model.weights_))
    assert (np.abs(counts - 5000 * model.weights_) < 4 * error).all()
    again, _ = model.sample(5000, random_state=2)
    np.testing.assert_array_equal(rows, again)


def dense(model, k):
    """Return the covariance matrix of a component."""
    covariance = model.covariances_
    if model.covariance_type == "full":
        return covariance[k]
    if model.covariance_type == "tied":
        return covariance
    return np.eye(model.means_.shape[1]) * covariance[k]


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_log_component_prob_and_from_params(kind):
    X, _ = groups()
    fitted = make(kind).fit(X)
    made = MAPGaussianMixture.from_params(
        fitted.weights_, fitted.means_, fitted.covariances_, covariance_type=kind
    )
    np.testing.assert_allclose(made.score_samples(X), fitted.score_samples(X))
    log_prob = made.log_component_prob(X)
    for k in range(3):
        law = multivariate_normal(fitted.means_[k], dense(fitted, k))
        np.testing.assert_allclose(log_prob[:, k], law.logpdf(X), rtol=1e-8)
    assert made.sample(7, random_state=0)[0].shape == (7, 3)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (([0.5, 0.6], np.eye(2), np.ones(2)), "should be normalized"),
        (([0.5, 0.5], np.eye(2), [1.0, -1.0]), "should be positive"),
        (([0.5, 0.5], np.eye(2), np.ones(3)), "should have the shape of"),
        (([1.0], np.eye(2), np.ones(2)), "should have the shape of"),
    ],
)
def test_from_params_checks(params, message):
    with pytest.raises(ValueError, match=message):
        MAPGaussianMixture.from_params(*params, covariance_type="spherical")


def test_draws_from_the_prior():
    X, _ = groups()
    model = make("full", **dict(PRIORS, scales_prior=InverseWishart(8.0, 2.0))).fit(X)
    weights, means, covariances = model.sample_prior(4000, random_state=0)
    np.testing.assert_allclose(weights.sum(1), 1.0)
    assert means.shape == (4000, 3, 3)
    error = covariances.std(0) / np.sqrt(4000)
    assert (np.abs(covariances.mean(0) - np.eye(3) * 2.0 / 4.0) < 4.5 * error).all()
    for kind in ALL_KINDS:
        drawn = make(kind, **priors(kind)).fit(X).sample_prior(2)
        assert drawn[2].shape == (2, *make(kind).fit(X).covariances_.shape)
    with pytest.raises(ValueError, match="means_prior is None"):
        make(weights_prior=Dirichlet(2.0)).fit(X).sample_prior()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"means_prior": Softball(0.0)}, "radius of Softball must be positive"),
        ({"weights_prior": Dirichlet([1.0, 2.0])}, "2 numbers for 3 components"),
        (
            {"scales_prior": InverseGamma(-1.0)},
            "shape of InverseGamma must be positive",
        ),
        ({"scales_prior": InverseWishart(1.0)}, "df of InverseWishart"),
        (
            {"scales_prior": InverseWishart(9.0), "covariance_type": "diag"},
            "needs covariance_type 'full' or 'tied'",
        ),
        (
            {"scales_prior": InverseGamma(), "covariance_type": "fixed"},
            "must be None with covariance_type='fixed'",
        ),
        ({"means_prior": Softball(1.0, center=[1.0, 2.0])}, "in 3 dimensions"),
        ({"device": "nowhere"}, "cannot be used here"),
    ],
)
def test_bad_priors_are_named_and_leave_nothing(params, message):
    model = (
        make(**params)
        if "covariance_type" not in params
        else (MAPGaussianMixture(3, **params))
    )
    with pytest.raises(ValueError, match=message):
        model.fit(groups()[0])
    assert not any(
        name.endswith("_") and not name.startswith("_") for name in vars(model)
    )


def test_a_search_over_a_prior():
    X, _ = groups()
    pipeline = make_pipeline(StandardScaler(), make("diag", **PRIORS))
    grid = {"mapgaussianmixture__weights_prior__concentration": [1.0, 5.0]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(X)
    best = search.best_params_["mapgaussianmixture__weights_prior__concentration"]
    chosen = search.best_estimator_[-1]
    assert chosen.weights_prior.concentration == best
    # The prior that was given has not been touched.
    assert PRIORS["weights_prior"].concentration == 2.0


def test_icl_is_the_bic_of_completed_rows():
    X, _ = groups(200, spread=1.0)
    model = make("full").fit(X)
    share = model.predict_proba(X).max(axis=1)
    assert model.icl(X) == pytest.approx(model.bic(X) - 2.0 * np.log(share).sum())
    assert model.icl(X) > model.bic(X)
    assert make(n_components=1).fit(X).icl(X) == pytest.approx(
        make(n_components=1).fit(X).bic(X)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_likelihood_is_never_below_that_of_scikit_learns_start(kind):
    # Overlapping groups, where short runs do not always tell who wins.
    for seed in range(3):
        X, _ = groups(400, 3, 6, seed=seed, spread=1.0)
        ours = make(kind, 6).fit(X)
        theirs = GaussianMixture(6, covariance_type=kind, random_state=0).fit(X)
        assert ours.lower_bound_ >= theirs.lower_bound_ - 1e-9


def test_copies_are_equal():
    X, _ = groups()
    model = make("full", **PRIORS).fit(X)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.score_samples(X), model.score_samples(X))
    again = clone(model).fit(X)
    np.testing.assert_array_equal(again.means_, model.means_)


def test_verbose_prints_steps(capsys):
    make("diag", verbose=2, verbose_interval=1).fit(groups()[0])
    assert "Iteration 1\t change" in capsys.readouterr().out


def test_a_hard_start_is_found():
    # k-means alone leaves out some of the many groups.
    X, _ = groups(4000, 4, 15, spread=6.0, seed=3)
    ours, theirs = [], []
    for seed in range(3):
        ours.append(MAPGaussianMixture(15, random_state=seed).fit(X).score(X))
        theirs.append(GaussianMixture(15, random_state=seed).fit(X).score(X))
    assert (np.array(ours) >= np.array(theirs) - 1e-3).all()
    assert min(ours) > max(theirs) - 0.02


def test_many_rows_are_fitted_from_few():
    X, _ = groups(30_000)
    model = make("diag").fit(X)
    theirs = GaussianMixture(3, covariance_type="diag", random_state=0).fit(X)
    assert model.score(X) > theirs.score(X) - 1e-3
