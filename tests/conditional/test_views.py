"""What the networks of an ensemble see, and which of them held-out rows prefer."""

import numpy as np
import pytest
import torch

from skmdn import MixtureDensityRegressor
from skmdn.base import Standardizer
from skmdn.conditional import views
from skmdn.conditional.views import EMBEDDINGS, View, usual_decay, views_for
from tests.helpers import generator


def test_each_embedding_stands_for_its_views():
    expected = {
        "none": [View()],
        "ple": [View(16)],
        "ple+cos": [View(16, 8)],
        "auto": [View(), View(16), View(16, 8)],
    }
    assert set(expected) == set(EMBEDDINGS)
    for embedding, some in expected.items():
        assert list(views_for(embedding, 1000, 5, True)) == some


def test_without_held_out_rows_auto_is_the_raw_features():
    assert views_for("auto", 1000, 5, False) == (View(),)
    assert views_for("ple", 1000, 5, False) == (View(16),)


def test_a_sequence_names_the_views():
    raw, _, waves = views_for("auto", 1000, 5, True)
    assert views_for(["none", "ple+cos"], 1000, 5, True) == (raw, waves)
    assert views_for(("ple+cos",), 1000, 5, False) == (waves,)


@pytest.mark.parametrize("embedding", [[], ["auto"], ("none", "cos"), [["none"]], [3]])
def test_a_sequence_of_something_else_is_refused(embedding):
    X, y = data()
    model = MixtureDensityRegressor(embedding=embedding, random_state=0)
    with pytest.raises(ValueError, match="embedding must be 'auto' or one or more of"):
        model.fit(X, y)
    assert not vars(model).keys() & {"module_", "n_outputs_"}


def test_a_pair_of_views_trains_both():
    X, y = data()
    model = MixtureDensityRegressor(
        3, embedding=["none", "ple+cos"], n_estimators=2, max_iter=3, random_state=0
    ).fit(X, y)
    assert model.predict_distribution(X).n_components == 2 * 2 * 3


@pytest.mark.parametrize(
    ("n_samples", "n_bins"), [(50, 16), (4999, 16), (5000, 48), (10**6, 48)]
)
def test_large_tables_get_more_bins(n_samples, n_bins):
    assert [view.n_bins for view in views_for("auto", n_samples, 3, True)] == [
        0,
        n_bins,
        n_bins,
    ]


def test_bins_of_a_small_table_have_one_layer_behind_them():
    raw, bins, waves = views_for("auto", 1999, 3, True)
    assert raw.hidden_layer_sizes(1999) == (48, 48, 48)
    for view in (bins, waves):
        assert view.hidden_layer_sizes(1999) == (128,)
        assert view.hidden_layer_sizes(2000) == (48, 48, 48)


@pytest.mark.parametrize(
    ("n_samples", "layers"),
    [
        (4_999, (48, 48, 48)),
        (5_000, (64, 64, 64)),
        (19_999, (64, 64, 64)),
        (20_000, (96, 96)),
    ],
)
def test_large_tables_get_wider_layers(n_samples, layers):
    for view in views_for("auto", n_samples, 3, True):
        assert view.hidden_layer_sizes(n_samples) == layers


def test_only_networks_that_see_the_features_alone_decay_fast():
    X, y = data()
    model = MixtureDensityRegressor(1, n_estimators=1, max_iter=1, random_state=0)
    raw, bins, waves = model.fit(X, y).module_.networks
    assert usual_decay(raw, held_out=True) == 0.1
    for network, held_out in [(raw, False), (bins, True), (waves, True)]:
        assert usual_decay(network, held_out) == 0.01


def test_weight_decay_shrinks_the_weights():
    X, y = data()
    settings = {"embedding": "none", "n_estimators": 1, "max_iter": 10}
    sizes = []
    for decay in (0.01, "auto", 0.1, 10.0):
        model = MixtureDensityRegressor(
            1, weight_decay=decay, random_state=0, **settings
        ).fit(X, y)
        trunk = model.module_.networks[0].trunk
        sizes.append(sum(float(layer.weight.norm()) for layer in trunk.layers))
    assert sizes[0] > sizes[1] == sizes[2] > sizes[3]


@pytest.mark.parametrize("n_features", [1, 21, 22, 65, 200, 5000])
def test_many_features_share_out_a_layer_of_bounded_width(n_features):
    _, bins, waves = views_for("auto", 10_000, n_features, True)
    assert 2 <= bins.n_bins == waves.n_bins <= 48
    assert 1 <= waves.n_cosines <= 8
    if n_features <= 500:
        assert bins.n_bins * n_features <= 1024
        assert waves.n_cosines * n_features <= 1024


def data(n_samples=300, seed=0):
    rng = np.random.RandomState(seed)
    X = np.c_[rng.normal(3.0, 2.0, n_samples), rng.randint(0, 2, n_samples)]
    return X, np.ones(n_samples)


def block(view, X, weights):
    scaler = Standardizer.fit(X, weights)
    return view.input_block(2, X, weights, scaler, generator()), scaler


def left_edges(module):
    """Return where each bin begins."""
    return -(module.bin_offset + 0.5) / module.bin_slope


def test_bins_lie_at_quantiles_of_standardised_features():
    X, weights = data()
    module, scaler = block(View(4), X, weights)
    # The second feature takes two values: one bin.
    assert module.bin_feature.tolist() == [0, 0, 0, 0, 1]
    assert module.n_out == 2 + 5
    inner = scaler.transform(X)[:, 0]
    edges = left_edges(module)[:4].tolist()
    assert edges[0] == pytest.approx(inner.min())
    shares = [(inner < edge).mean() for edge in edges]
    np.testing.assert_allclose(shares, [0.0, 0.25, 0.5, 0.75], atol=0.01)


def test_a_view_without_bins_or_cosines_has_nothing_to_learn():
    module, _ = block(View(), *data())
    assert list(module.parameters()) == []
    assert module.n_out == 2


def test_cosines_differ_between_members():
    module, _ = block(View(4, 3), *data())
    assert module.n_out == 2 + 5 + 6
    assert module.frequency.shape == (2, 1, 6)
    assert (module.frequency[0] != module.frequency[1]).all()


def test_of_very_many_rows_some_place_the_bins(monkeypatch):
    X, weights = data(2000)
    whole, _ = block(View(8), X, weights)
    monkeypatch.setattr(views, "_MAX_ROWS", 500)
    some, _ = block(View(8), X, weights)
    assert some.n_out == whole.n_out
    some, whole = left_edges(some), left_edges(whole)
    assert (some != whole).any()
    np.testing.assert_allclose(some[1:8], whole[1:8], atol=0.25)


def shares_of(model):
    """Return how much each view counts."""
    log_weights = model.module_.log_weights
    return log_weights.exp().reshape(len(model.module_.networks), -1).sum(1).tolist()


def fitted(function, seed=0):
    rng = np.random.RandomState(seed)
    X = rng.uniform(-1.0, 1.0, size=(800, 3))
    y = function(X) + 0.1 * rng.normal(size=800)
    model = MixtureDensityRegressor(
        2, n_estimators=2, hidden_layer_sizes=(32, 32), max_iter=25, random_state=seed
    )
    return model.fit(X, y)


def jagged(X):
    steps = np.where(X[:, 0] > 0.2, 2.0, -1.0) * np.where(X[:, 1] > -0.3, 1.0, -1.0)
    return steps + np.sign(np.sin(12.0 * X[:, 0]))


def smooth(X):
    return X @ [1.0, -2.0, 1.5]


def test_a_step_function_is_left_to_the_bins():
    model = fitted(jagged)
    raw, bins, waves = shares_of(model)
    assert raw + bins + waves == pytest.approx(1.0)
    assert bins + waves > 0.9
    assert raw < 0.1


def test_a_linear_function_is_left_to_the_raw_features():
    raw, bins, waves = shares_of(fitted(smooth))
    assert raw > 0.5
    assert raw > 2.0 * max(bins, waves)


def test_members_of_a_view_share_its_weight():
    log_weights = fitted(smooth).module_.log_weights.reshape(3, 2)
    assert torch.equal(log_weights[:, 0], log_weights[:, 1])


def test_an_ensemble_of_views_scores_no_worse_than_the_wrong_view():
    rng = np.random.RandomState(5)
    X_test = rng.uniform(-1.0, 1.0, size=(1000, 3))
    for function, wrong in ((jagged, 0), (smooth, 2)):
        model = fitted(function)
        y_test = function(X_test) + 0.1 * rng.normal(size=1000)
        together = model.score(X_test, y_test)
        lone = torch.full_like(model.module_.log_weights, -torch.inf)
        lone[2 * wrong : 2 * wrong + 2] = -np.log(2.0)
        model.module_.log_weights.copy_(lone)
        assert together > model.score(X_test, y_test)
