"""The estimator: codes, densities, blocks, classes and covariates."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV

from skmdn import DeepGenerativeDecoder, GaussianMixtureClassifier
from skmdn.priors import LogNormalScale, Softball

SMALL = {"hidden_layer_sizes": (16,), "max_iter": 20, "random_state": 0}


def bent_rows(n=120, n_features=6, seed=0):
    """Return rows near a bent surface, in three clusters."""
    rng = np.random.RandomState(seed)
    z, label = make_blobs(n, 2, centers=3, cluster_std=0.5, random_state=seed)
    hidden = np.tanh(z @ rng.normal(size=(2, 8)) / 3.0)
    X = hidden @ rng.normal(size=(8, n_features))
    return X + 0.05 * rng.normal(size=X.shape), label


@pytest.fixture(scope="module")
def rows():
    return bent_rows()


@pytest.fixture(scope="module")
def model(rows):
    return DeepGenerativeDecoder(2, 3, **SMALL).fit(rows[0])


def test_learned_codes_are_where_transform_finds_them(rows, model):
    codes = model.transform(rows[0])
    close = np.abs(codes - model.embedding_).max(axis=1) < 1e-6
    # Elsewhere a search from the outside has found another code, mostly a better one.
    assert close.mean() > 0.7
    joint, table, labels, _ = model._asked(rows[0], None, None)
    from skmdn.bridge import to_numpy, to_tensor

    found = to_numpy(joint.value(to_tensor(codes), table, labels))
    learned = to_numpy(joint.value(to_tensor(model.embedding_), table, labels))
    assert found.mean() <= learned.mean() + 1e-3


def test_the_objective_falls_and_its_parts_add_up(rows, model):
    parts = model.loss_curve_
    total = parts["reconstruction"] + parts["latent"] + parts["prior"]
    assert total[-1] < total[0]
    assert len(total) == model.n_iter_ == model.best_iter_ == 20
    prior = parts["prior"][-1] * len(rows[0])
    from skmdn import em

    (block,) = model._latent_blocks()
    np.testing.assert_allclose(
        -prior, float(em.log_prior(block.parameters, block.priors)[0])
    )


def test_a_prior_counts_once_whatever_the_number_of_rows(rows):
    prior = {"scales_prior": LogNormalScale(0.5), "means_prior": Softball(2.0)}
    model = DeepGenerativeDecoder(2, 3, **SMALL, **prior)
    few = model.fit(rows[0]).loss_curve_["prior"][0] * len(rows[0])
    twice = np.vstack([rows[0], rows[0]])
    many = model.fit(twice).loss_curve_["prior"][0] * len(twice)
    # Other batches, about the same mixture.
    assert abs(many - few) < 0.2 * abs(few) + 1.0


def test_more_starts_and_steps_are_never_worse(rows, model):
    from skmdn.bridge import to_numpy

    reached = []
    for n_starts in (1, 3, 6):
        other = pickle.loads(pickle.dumps(model)).set_params(n_starts=n_starts)
        reached.append(to_numpy(other._placed(rows[0], None, None)[3].values))
    assert (reached[1] <= reached[0] + 1e-9).all()
    assert (reached[2] <= reached[1] + 1e-9).all()


def test_codes_of_new_rows_are_better_than_those_of_the_published_scheme(model):
    X, _ = bent_rows(60, seed=3)
    joint, table, labels, _ = model._asked(X, None, None)
    means = joint.prior.blocks[0].parameters.means[0]
    with torch.no_grad():
        fits = [
            joint.blocks.log_prob(joint.network(mean.expand(60, -1)), table)
            for mean in means
        ]
    codes = means[torch.stack(fits).argmax(0)].clone().requires_grad_(True)
    adam = torch.optim.Adam([codes], lr=0.01, betas=(0.5, 0.7), weight_decay=1e-4)
    for _ in range(100):
        codes.grad = joint.local(codes.detach(), table, labels).gradient
        adam.step()
    theirs = joint.value(codes.detach(), table, labels)
    ours = joint.value(torch.from_numpy(model.transform(X)), table, labels)
    assert bool((ours < theirs).double().mean() > 0.95)


def test_held_out_rows_choose_the_pass(rows):
    model = DeepGenerativeDecoder(
        2, 3, **(SMALL | {"max_iter": 40}), early_stopping=True, n_iter_no_change=5
    ).fit(rows[0])
    held_out = model.loss_curve_["held_out"]
    assert len(held_out) == model.n_iter_
    assert model.best_iter_ == 1 + held_out.argmin()
    assert len(model.embedding_) == len(rows[0])


def test_the_score_prefers_the_right_number_of_features():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 8))
    X += 0.3 * rng.normal(size=X.shape)
    model = DeepGenerativeDecoder(
        n_components=1, hidden_layer_sizes=(), max_iter=60, random_state=0
    )
    search = GridSearchCV(model, {"n_latent": [1, 2]}, cv=2).fit(X)
    assert search.best_params_ == {"n_latent": 2}


def test_both_kinds_of_evidence_agree(rows, model):
    drawn = pickle.loads(pickle.dumps(model))
    drawn.set_params(evidence="importance", n_draws=2_000)
    laplace, sampled = model.score_samples(rows[0]), drawn.score_samples(rows[0])
    assert np.median(np.abs(laplace - sampled)) < 0.1
    few = drawn.score_samples(rows[0][:3])
    np.testing.assert_allclose(few, sampled[:3], atol=1e-6)


def test_draws_come_from_their_component(model):
    X, y = model.sample(50, random_state=0)
    assert X.shape == (50, 6)
    assert set(y) <= {0, 1, 2}
    X, y = model.sample(200, component=1, random_state=0)
    assert (y == 1).all()
    assert (model.predict(X) == 1).mean() > 0.8
    with pytest.raises(ValueError, match="component=3 is not among"):
        model.sample(component=3)


@pytest.mark.parametrize("init", ["random", "zero", 0.5, 1])
def test_first_codes_by_name_or_number(rows, init):
    model = DeepGenerativeDecoder(2, 2, init=init, **SMALL).fit(rows[0])
    assert np.isfinite(model.embedding_).all()


def test_first_codes_as_an_array_are_copied(rows):
    codes = np.random.RandomState(0).normal(size=(120, 2))
    before = codes.copy()
    DeepGenerativeDecoder(2, 2, init=codes, **SMALL).fit(rows[0])
    np.testing.assert_array_equal(codes, before)
    with pytest.raises(ValueError, match=r"init has the shape \(120, 2\); expected"):
        DeepGenerativeDecoder(3, 2, init=codes, **SMALL).fit(rows[0])


def test_a_search_that_is_too_short_warns_and_keeps_its_best(rows, model):
    short = pickle.loads(pickle.dumps(model)).set_params(transform_max_iter=1)
    with pytest.warns(ConvergenceWarning, match="transform_max_iter"):
        codes = short.transform(rows[0])
    assert np.isfinite(codes).all()


def test_a_fit_that_fails_warns_and_keeps_the_best_state(rows):
    model = DeepGenerativeDecoder(2, 2, **SMALL).set_params(
        learning_rate_init=1e200, code_learning_rate=1e200
    )
    with pytest.warns(ConvergenceWarning, match="infinite or NaN"):
        model.fit(rows[0])
    assert np.isfinite(model.transform(rows[0])).all()


def test_missing_values_are_imputed_better_than_by_means(rows):
    X, _ = rows
    model = DeepGenerativeDecoder(2, 3, **(SMALL | {"max_iter": 80})).fit(X)
    rng = np.random.RandomState(1)
    holes = rng.rand(*X.shape) < 0.3
    holes[0] = True
    holed = np.where(holes, np.nan, X)
    filled = model.impute(holed)
    np.testing.assert_array_equal(filled[~holes], X[~holes])
    error = np.sqrt(np.mean((filled - X)[holes] ** 2))
    by_mean = np.sqrt(np.mean((X.mean(axis=0) - X)[holes] ** 2))
    assert error < 0.6 * by_mean
    assert np.isfinite(model.score_samples(holed)).all()
    assert np.isfinite(DeepGenerativeDecoder(2, 3, **SMALL).fit(holed).embedding_).all()


def several_blocks(seed=0, n=200):
    X, label = bent_rows(n, seed=seed)
    rng = np.random.RandomState(seed)
    counts = rng.poisson(np.exp(1.0 + X[:, :4] / 2.0))
    ones = rng.rand(n, 3) < 1.0 / (1.0 + np.exp(-3.0 * X[:, :3]))
    kinds = np.digitize(X[:, :2], [-0.7, 0.7])
    return np.hstack([X, counts, ones, kinds]).astype(float), label


BLOCKS = [
    ("numbers", slice(0, 6), "gaussian"),
    ("counts", [6, 7, 8, 9], "poisson"),
    ("ones", slice(10, 13), "bernoulli"),
    ("kinds", slice(13, None), "categorical"),
]


def test_blocks_of_columns_also_where_one_is_missing():
    X, _ = several_blocks()
    rng = np.random.RandomState(0)
    holed = X.copy()
    holed[rng.rand(len(X)) < 0.3, :6] = np.nan
    params = SMALL | {"max_iter": 60}
    model = DeepGenerativeDecoder(3, 3, likelihood=BLOCKS, **params).fit(holed)
    assert model.block_names_ == ["numbers", "counts", "ones", "kinds"]
    new, _ = several_blocks()
    new[:, :6] = np.nan
    rebuilt = model.reconstruct(new)
    assert rebuilt.shape == X.shape
    error = np.mean((rebuilt[:, :6] - X[:, :6]) ** 2)
    assert error < 0.7 * np.mean((X[:, :6].mean(axis=0) - X[:, :6]) ** 2)
    assert set(np.unique(rebuilt[:, 13:])) <= {0.0, 1.0, 2.0}
    drawn, _ = model.sample(20, random_state=0)
    for name, columns, law in (BLOCKS[1], BLOCKS[2], BLOCKS[3]):
        values = drawn[:, columns]
        assert (values == values.round()).all(), (name, law)


def test_blocks_by_names_of_columns():
    pd = pytest.importorskip("pandas")
    X, _ = bent_rows()
    frame = pd.DataFrame(X, columns=list("abcdef"))
    frame["n"] = np.arange(len(X)) % 5
    likelihood = [("x", list("abcdef"), "gaussian"), ("n", ["n"], "poisson")]
    model = DeepGenerativeDecoder(2, 2, likelihood=likelihood, **SMALL).fit(frame)
    out = model.set_output(transform="pandas").transform(frame)
    assert list(out.columns) == ["deepgenerativedecoder0", "deepgenerativedecoder1"]
    likelihood[1] = ("n", ["m"], "poisson")
    with pytest.raises(ValueError, match="names the column 'm'"):
        DeepGenerativeDecoder(2, 2, likelihood=likelihood, random_state=0).fit(frame)


@pytest.mark.parametrize(
    ("likelihood", "message"),
    [
        ("normal", "likelihood='normal' is not known"),
        ("bernoulli", "needs numbers from 0 to 1"),
        ("poisson", "needs non-negative integers"),
        ([("a", slice(0, 3), "gaussian")], "every feature into one block"),
        ([("a", slice(None), "gaussian"), ("b", [0], "gaussian")], "feature 0 is in 2"),
        ([("a", [99], "gaussian")], "are not among the 6 features"),
        (["gaussian"], "likelihood must be a name or a list"),
    ],
)
def test_wrong_likelihoods_are_explained(rows, likelihood, message):
    with pytest.raises(ValueError, match=message):
        DeepGenerativeDecoder(2, 2, likelihood=likelihood, random_state=0).fit(rows[0])


def test_a_failed_fit_leaves_the_estimator_as_it_was(rows, model):
    other = pickle.loads(pickle.dumps(model))
    before = set(vars(other))
    with pytest.raises(ValueError, match="n_components"):
        other.set_params(n_components=500).fit(rows[0])
    assert set(vars(other)) == before
    np.testing.assert_array_equal(other.embedding_, model.embedding_)


def test_classes_also_from_few_labels(rows):
    X, label = rows
    names = np.array(["ant", "bee", "cat"])[label]
    model = DeepGenerativeDecoder(2, 3, **(SMALL | {"max_iter": 60})).fit(X, names)
    assert (model.predict(X) == names).mean() > 0.95
    assert set(model.labels_) <= set(names)
    assert model.predict_proba(X).shape == (len(X), 3)
    few = np.where(np.arange(len(X)) < 30, label, -1)
    model = DeepGenerativeDecoder(2, 3, **(SMALL | {"max_iter": 60})).fit(X, few)
    np.testing.assert_array_equal(model.classes_, [0, 1, 2])
    assert (model.predict(X)[30:] == label[30:]).mean() > 0.9
    mixture = model.mixture_
    assert isinstance(mixture, GaussianMixtureClassifier)
    assert mixture.n_unlabeled_ == len(X) - 30
    codes = model.transform(X)
    np.testing.assert_allclose(model.predict_proba(X), mixture.predict_proba(codes))
    np.testing.assert_array_equal(model.labels_, mixture.predict(model.embedding_))
    _, drawn = model.sample(20, component=2, random_state=0)
    assert set(drawn) == {model.classes_[mixture.component_class_[2]]}
    with pytest.raises(ValueError, match="y must hold classes"):
        model.fit(X, np.linspace(0.0, 1.0, len(X)))
    with pytest.raises(ValueError, match="at least one row needs a label"):
        model.fit(X, np.full(len(X), None))


def test_pickles_do_not_hold_the_rows(rows):
    X = np.tile(rows[0], (1, 20))
    model = DeepGenerativeDecoder(2, 3, **(SMALL | {"max_iter": 2})).fit(X)
    data = pickle.dumps(model)
    assert X.astype(np.float64).tobytes()[:400] not in data
    longer = pickle.dumps(clone(model).fit(np.vstack([X] * 4)))
    # Codes and labels grow, rows of 120 numbers do not.
    assert len(longer) - len(data) < 3 * len(X) * 8 * 8
    np.testing.assert_array_equal(pickle.loads(data).transform(X), model.transform(X))


def test_codes_of_digits_tell_the_digits_apart():
    X, y = load_digits(return_X_y=True)
    X, y = X[:600] / 16.0, y[:600]
    model = DeepGenerativeDecoder(
        likelihood="bernoulli", max_iter=40, random_state=0
    ).fit(X)
    assert adjusted_rand_score(y, model.labels_) > 0.5
    holed = X.copy()
    holed[:, 32:] = np.nan
    filled = model.impute(holed)
    error = np.sqrt(np.mean((filled - X)[:, 32:] ** 2))
    assert error < 0.75 * np.sqrt(np.mean((X.mean(axis=0) - X)[:, 32:] ** 2))
