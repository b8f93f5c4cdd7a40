"""Codes free of covariates, counterfactual rows, and classes that fit has not seen."""

import pickle

import numpy as np
import pytest
from sklearn import config_context
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skmdn import DeepGenerativeDecoder, GaussianMixtureClassifier
from tests.decoding.cells import counts_model, simulated_counts

SMALL = {"hidden_layer_sizes": (16,), "max_iter": 5, "random_state": 0}


@pytest.fixture(scope="module")
def cells():
    X, kind, batch, _, means = simulated_counts()
    model = counts_model(column_scales="evidence").fit(X, covariates=1 + 2 * batch)
    return X, kind, batch, means, model


def test_codes_of_counts_are_free_of_the_batch(cells):
    X, kind, batch, _, model = cells
    codes = model.transform(X)
    assert abs(silhouette_score(codes, batch)) < 0.02
    assert adjusted_rand_score(kind, model.predict(X)) > 0.9
    (mixture,) = model.covariate_mixtures_
    assert isinstance(mixture, GaussianMixtureClassifier)
    np.testing.assert_array_equal(mixture.classes_, [1, 3])


def test_dispersions_below_one_are_recovered(cells):
    shape = cells[-1].module_.blocks.laws[0].shape().detach().numpy()
    # Of 60 genes with the dispersion 0.5.
    assert abs(np.median(shape) - 0.5) < 0.05


@pytest.mark.parametrize(
    ("seed", "max_iter"), [(0, 60), pytest.param(1, 200, marks=pytest.mark.slow)]
)
def test_counterfactual_means_are_those_of_the_other_batch(seed, max_iter):
    X, kind, batch, size, means = simulated_counts(
        n=1200, n_genes=40, dispersion=2.0, n_types=4, seed=seed
    )
    model = counts_model(max_iter=max_iter).fit(X, covariates=batch, exposure=size)
    codes = model.transform(X, covariates=batch, exposure=size)
    z = []
    for target in (0, 1):
        rows = model.inverse_transform(codes, covariates=np.full(len(X), target))
        for k in range(4):
            there = (kind == k) & (batch == target)
            here = (kind == k) & (batch != target)
            mean = means[target, k]
            variance = mean / size[there].mean() + mean**2 / 2.0
            error = np.sqrt(variance / there.sum())
            z.append((rows[here].mean(axis=0) - mean) / error)
    # The standard error is that of the means of cells of the other batch.
    assert np.abs(z).max() < 4.0


def test_an_unseen_batch_gets_a_component_of_its_own(cells):
    X, kind, batch, _, model = cells
    rng = np.random.RandomState(9)
    factor = np.exp(rng.normal(0.0, 0.5, X.shape[1]))
    new = rng.poisson(X[batch == 0] * factor).astype(float)
    unseen = np.full(len(new), 2)
    codes = model.transform(new, covariates=unseen)
    predicted = model.predict(new, covariates=unseen)
    assert adjusted_rand_score(kind[batch == 0], predicted) > 0.8
    both = np.vstack([codes, model.embedding_])
    own = np.repeat([0, 1], [len(codes), len(model.embedding_)])
    assert silhouette_score(both, own) < 0.1
    # Nothing has been added to the model.
    assert model.covariate_classes_[0].tolist() == [1, 3]
    with pytest.raises(ValueError, match="add_covariate_classes learns others"):
        model.inverse_transform(codes, covariates=unseen)


def test_unseen_classes_can_be_kept(cells):
    X, _, batch, means, model = cells
    # A batch halfway between the others: the codes of two can say no more.
    rng = np.random.RandomState(9)
    ratio = np.sqrt(means[1] / means[0])[0]
    new = rng.poisson(X[batch == 0] * ratio).astype(float)
    unseen = np.full(len(new), 2)
    longer = pickle.loads(pickle.dumps(model))
    assert longer.add_covariate_classes(new, unseen) is longer
    assert longer.covariate_classes_[0].tolist() == [1, 2, 3]
    assert longer.covariate_mixtures_[0].n_unlabeled_ == 0
    # The query had done the same.
    codes = model.transform(new, covariates=unseen)
    again = longer.transform(new, covariates=unseen)
    np.testing.assert_allclose(again, codes, atol=1e-6)
    # One row alone now finds the place that all of them had.
    alone = longer.transform(new[:1], covariates=unseen[:1])
    np.testing.assert_allclose(alone, again[:1], atol=1e-6)
    # Old classes are where they were.
    np.testing.assert_allclose(
        longer.transform(X[:50], covariates=1 + 2 * batch[:50]),
        model.transform(X[:50], covariates=1 + 2 * batch[:50]),
        atol=1e-6,
    )
    here = model.transform(X[batch == 0], covariates=np.full(len(new), 1))
    first = longer.inverse_transform(here, covariates=np.full(len(new), 1))
    second = longer.inverse_transform(here, covariates=unseen)
    found = np.log(second.mean(axis=0) / first.mean(axis=0))
    assert np.corrcoef(found, np.log(ratio))[0, 1] > 0.8
    assert model.covariate_classes_[0].tolist() == [1, 3]


def test_several_new_classes_of_several_covariates():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(60, 5))
    batch = np.array(["b", "d"])[rng.randint(2, size=60)]
    donor = np.array(["x", "y", "z"])[rng.randint(3, size=60)]
    model = DeepGenerativeDecoder(2, 2, **SMALL).fit(X, covariates=np.c_[batch, donor])
    other = np.where(np.arange(60) % 3 == 0, "a", np.where(batch == "b", "c", batch))
    donor[:10] = "w"
    told = np.c_[other, donor]
    codes = model.transform(X, covariates=told)
    model.add_covariate_classes(X, told)
    assert [c.tolist() for c in model.covariate_classes_] == [
        ["a", "b", "c", "d"],
        ["w", "x", "y", "z"],
    ]
    np.testing.assert_allclose(model.transform(X, covariates=told), codes, atol=1e-6)
    for mixture in model.covariate_mixtures_:
        np.testing.assert_array_equal(mixture.component_class_, np.arange(4))
        np.testing.assert_allclose(mixture.weights_.sum(), 1.0)
        np.testing.assert_array_equal(mixture.predict(mixture.means_), mixture.classes_)
    before = model.covariate_mixtures_
    model.add_covariate_classes(X, told)
    assert model.covariate_mixtures_[0] is before[0]


@pytest.mark.parametrize("kind", ["tied", "diag", "fixed"])
def test_new_classes_with_covariances_of_any_kind(kind):
    rng = np.random.RandomState(0)
    X, batch = rng.normal(size=(40, 4)), np.arange(40) % 2
    model = DeepGenerativeDecoder(2, 2, covariance_type=kind, **SMALL)
    model.fit(X, covariates=np.where(batch, "b", "c"))
    told = np.where(batch, "a", "b")
    codes = model.transform(X, covariates=told)
    model.add_covariate_classes(X, told)
    np.testing.assert_allclose(model.transform(X, covariates=told), codes, atol=1e-6)


def test_wrong_covariates_are_refused(cells):
    X, _, batch, _, model = cells
    with pytest.raises(ValueError, match="covariates has the shape"):
        model.transform(X[:5], covariates=batch)
    with pytest.raises(ValueError, match="fitted with 1"):
        model.transform(X, covariates=np.c_[batch, batch])
    with pytest.raises(ValueError, match="give words or numbers as there"):
        model.transform(X[:3], covariates=["a", "b", "c"])


def test_covariates_and_exposures_pass_through_a_pipeline():
    X, _, batch, size, _ = simulated_counts(n=80, n_genes=10)
    metadata = {"covariates": batch, "exposure": size}
    asked = dict.fromkeys(metadata, True)
    with config_context(enable_metadata_routing=True):
        decoder = DeepGenerativeDecoder(2, 2, likelihood="poisson", **SMALL)
        decoder.set_fit_request(**asked).set_transform_request(**asked)
        pipeline = make_pipeline(FunctionTransformer(), decoder).fit(X, **metadata)
        codes = pipeline.transform(X, **metadata)
    assert len(pipeline[-1].covariate_mixtures_) == 1
    np.testing.assert_array_equal(pipeline[-1].transform(X, **metadata), codes)
