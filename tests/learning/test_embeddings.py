"""Bins and cosines against their definitions."""

import itertools

import numpy as np
import pytest
import torch

from skmdn import MixtureDensityRegressor
from skmdn.base import bin_edges
from skmdn.learning.embeddings import FeatureEmbedding


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(*shape, seed=1):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def bins_by_hand(x, edges):
    """Return the bins of one number, one by one."""
    numbers = []
    last = len(edges) - 2
    for b, (left, right) in enumerate(itertools.pairwise(edges)):
        inside = (x - left) / (right - left)
        if b > 0:
            inside = max(inside, 0.0)
        if b < last:
            inside = min(inside, 1.0)
        numbers.append(inside - 0.5)
    return numbers


def test_without_anything_the_features_pass_through():
    block = FeatureEmbedding(2, 3)
    x = rows(2, 5, 3)
    assert block(x) is x
    assert block.n_out == 3
    assert not list(block.parameters())


def test_bins_follow_their_definition_for_each_feature():
    edges = [[-1.0, 0.0, 2.0], [0.5], [], [0.0, 0.1], [-2.0, -1.0, 0.0, 1.0]]
    block = FeatureEmbedding(2, 5, edges=[tensor(e) for e in edges])
    x = 2.0 * rows(2, 50, 5)
    embedded = block(x).numpy()
    assert embedded.shape == (2, 50, block.n_out) == (2, 50, 5 + 2 + 0 + 0 + 1 + 3)
    np.testing.assert_array_equal(embedded[..., :5], x.numpy())
    for member in range(2):
        for row in range(50):
            expected = []
            for value, feature_edges in zip(x[member, row], edges, strict=True):
                expected += bins_by_hand(float(value), feature_edges)
            np.testing.assert_allclose(embedded[member, row, 5:], expected, atol=1e-12)


def test_outside_the_data_bins_go_on_linearly():
    block = FeatureEmbedding(1, 1, edges=[tensor([0.0, 1.0, 3.0])])
    far = block(tensor([-10.0, -20.0, 30.0, 60.0]).reshape(1, 4, 1))[0]
    assert far[1, 1] - far[0, 1] == pytest.approx(-10.0)
    assert far[3, 2] - far[2, 2] == pytest.approx(15.0)


def test_cosines_follow_their_definition():
    block = FeatureEmbedding(2, 3, n_cosines=4, generator=generator())
    x = rows(2, 6, 3)
    embedded = block(x).detach()
    assert block.n_out == 3 + 12
    frequency, phase = block.frequency.detach(), block.phase.detach()
    for member in range(2):
        for feature in range(3):
            for k in range(4):
                column = 4 * feature + k
                angle = 2 * np.pi * x[member, :, feature] * frequency[member, 0, column]
                expected = torch.cos(angle + phase[member, 0, column])
                torch.testing.assert_close(embedded[member, :, 3 + column], expected)
    assert (frequency[0] != frequency[1]).all()
    assert phase.abs().max() <= np.pi


def test_edges_are_distinct_values_of_the_column():
    values = np.random.RandomState(0).normal(size=100)
    edges = bin_edges(values, np.ones(100), 16)
    assert len(edges) == 17
    assert edges[0] == values.min()
    assert edges[-1] == values.max()
    assert set(edges) <= set(values)
    counts = np.histogram(values, edges)[0]
    assert counts.min() >= 5
    np.testing.assert_array_equal(
        bin_edges(np.repeat([0.0, 1.0], 50), np.ones(100), 16), [0.0, 1.0]
    )
    assert len(bin_edges(np.full(9, 3.0), np.ones(9), 16)) == 1


def test_weights_move_edges_like_repetition():
    rng = np.random.RandomState(0)
    values, weights = rng.normal(size=60), rng.randint(1, 5, 60)
    weighted = bin_edges(values, weights.astype(float), 8)
    repeated = np.repeat(values, weights)
    np.testing.assert_array_equal(
        weighted, bin_edges(repeated, np.ones(len(repeated)), 8)
    )


@pytest.mark.parametrize("embedding", ["ple", "ple+cos"])
def test_an_estimator_with_an_embedding_keeps_its_promises(embedding):
    rng = np.random.RandomState(0)
    X = np.c_[rng.normal(size=(20, 2)), np.ones(20), rng.randint(0, 2, 20)]
    y, weights = rng.normal(size=20), rng.randint(1, 4, 20)
    model = MixtureDensityRegressor(
        2, embedding=embedding, n_estimators=2, max_iter=30, random_state=0
    )
    weighted = model.fit(X, y, sample_weight=weights).predict(X)
    moved = model.fit(5.0 * X - 3.0, y, sample_weight=weights).predict(5.0 * X - 3.0)
    np.testing.assert_allclose(moved, weighted, atol=1e-6)
    repeated = model.fit(np.repeat(X, weights, 0), np.repeat(y, weights)).predict(X)
    np.testing.assert_allclose(weighted, repeated, atol=1e-7)
    assert np.isfinite(model.predict(1e6 * X)).all()


def test_bins_fit_a_jump_that_raw_features_smear():
    rng = np.random.RandomState(0)
    X = rng.uniform(-1, 1, size=(600, 3))
    y = np.where(X[:, 0] > 0.2, 2.0, -1.0) * np.where(X[:, 1] > -0.3, 1.0, -1.0)
    y += 0.1 * rng.normal(size=600)
    scores = {}
    for embedding in ("none", "ple"):
        model = MixtureDensityRegressor(
            2,
            embedding=embedding,
            hidden_layer_sizes=(96, 96),
            n_estimators=2,
            max_iter=40,
            random_state=0,
        )
        model.fit(X[:400], y[:400])
        scores[embedding] = model.score(X[400:], y[400:])
    assert scores["ple"] > scores["none"]
