"""Which views an ensemble keeps, and what happens to it in the end."""

import numpy as np
import pytest
import torch

from skmdn import AmortizedPosterior, MixtureDensityRegressor
from skmdn.learning.ensemble import EnsembleTraining, Race
from skmdn.learning.objectives import MixtureObjective
from skmdn.learning.training import Settings


def jagged(n_samples=600, seed=0):
    """Return a target that jumps with each feature: raw features learn it slowly."""
    rng = np.random.RandomState(seed)
    X = rng.uniform(size=(n_samples, 4))
    y = (np.floor(8 * X) % 2).sum(1) + 0.2 * rng.normal(size=n_samples)
    return X, y


def smooth(n_samples=600, seed=0):
    """Return a target that all views learn in a few passes."""
    rng = np.random.RandomState(seed)
    X = rng.normal(size=(n_samples, 2))
    return X, X[:, 0] + rng.normal(size=n_samples)


def quick(**kwargs):
    params = {
        "max_iter": 40,
        "batch_size": 12,
        "n_estimators": 2,
        "hidden_layer_sizes": (32,),
    }
    return MixtureDensityRegressor(**{**params, "random_state": 0, **kwargs})


def n_bins(model):
    return [len(network.block.bin_slope) for network in model.module_.networks]


def test_a_view_that_is_far_behind_drops_out_and_others_get_its_passes():
    X, y = jagged()
    model = quick(n_iter_no_change=100).fit(X, y)
    assert 0 not in n_bins(model)
    assert 1 <= len(n_bins(model)) < 3
    # 27 passes were left to each view that dropped out.
    n_left = len(n_bins(model))
    assert model.n_iter_ == 40 + round(0.65 * 27 * (3 - n_left) / n_left)
    dist = model.predict_distribution(X[:4])
    assert dist.weights.shape == (4, 2 * 5 * n_left)
    np.testing.assert_allclose(dist.weights.sum(1), 1.0)


def test_the_race_costs_no_likelihood(monkeypatch):
    X, y = jagged()
    X_test, y_test = jagged(2_000, seed=1)
    raced = quick(n_estimators=4).fit(X, y)
    monkeypatch.setattr(EnsembleTraining, "_is_race", lambda self: False)
    complete = quick(n_estimators=4).fit(X, y)
    assert len(complete.module_.networks) == 3
    assert raced.score(X_test, y_test) > complete.score(X_test, y_test) - 0.05


@pytest.mark.parametrize(("favour", "left"), [(0.0, 1), (0.2, 0), (0.5, 0)])
def test_the_first_view_can_be_favoured(favour, left):
    class Run:
        def __init__(self, loss):
            self.best_loss = lambda: loss

        def run(self, until):
            """Do nothing."""

    class Module:
        def keep(self, chosen):
            self.kept = chosen

    nothing = torch.zeros((1, 0))
    settings = Settings(max_iter=100, batch_size=1, learning_rate=1.0)
    race = Race(share=0.1, behind=0.0, passed_on=0.0, favour=favour)
    training = EnsembleTraining(
        Module(),
        None,
        (nothing, nothing),
        settings,
        None,
        False,
        None,
        False,
        race=race,
    )
    assert training._race([Run(1.1), Run(1.0)])
    assert training.module.kept == [left]


def test_views_that_are_alike_all_stay():
    model = quick().fit(*smooth())
    assert len(model.module_.networks) == 3


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"max_iter": 8, "batch_size": 4}, "too few passes to tell"),
        ({"batch_size": 32}, "too few steps to tell"),
        ({"embedding": "ple"}, "one view"),
    ],
)
def test_there_is_not_always_a_race(change, why):
    X, y = jagged()
    model = quick(**change).fit(X, y)
    n_views = 1 if "embedding" in change else 3
    assert len(model.module_.networks) == n_views, why


def test_views_make_their_shares_of_the_passes(monkeypatch):
    lengths, run = [], EnsembleTraining.run

    def recording(self, states=()):
        histories = run(self, states)
        lengths.extend(len(history.loss) for history in histories)
        return histories

    monkeypatch.setattr(EnsembleTraining, "run", recording)
    settings = {"n_estimators": 1, "hidden_layer_sizes": (4,), "random_state": 0}
    AmortizedPosterior(early_stopping=False, **settings).fit(*smooth(200))
    # 300 steps of two to a pass for relu, 0.48 of them for silu.
    assert lengths == [72, 150]


def test_on_a_lattice_no_view_drops_out():
    X, y = jagged()
    model = quick().fit(X, np.round(y))
    assert len(model.module_.networks) == 3


def levelled(model):
    (share,) = {float(net.head.share_levelled) for net in model.module_.networks}
    return share


def test_no_weight_is_below_its_part_of_the_levelled_share():
    X, y = smooth()
    model = quick(max_iter=4).fit(X, y)
    share = levelled(model)
    assert 0.0 < share < 0.1
    weights = model.predict_distribution(10.0 * X).weights
    least = model.module_.log_weights.exp().numpy().repeat(5) * share / 5
    assert (weights >= least * (1 - 1e-9)).all()
    assert (weights < 2.0 * least).any()


@pytest.mark.parametrize("params", [{"weights_prior": 1.0}, {"early_stopping": False}])
def test_a_prior_on_weights_or_no_held_out_rows_leave_them_alone(params):
    assert levelled(quick(max_iter=2, **params).fit(*smooth())) == 0.0


def repeated(n_samples=600, n_again=300, seed=0):
    """Return rows of which some occur again, with the same target."""
    X, y = smooth(n_samples, seed)
    return np.r_[X, X[:n_again]], np.r_[y, y[:n_again]]


def test_rows_that_repeat_have_networks_of_their_own():
    X, y = repeated()
    model = quick(warm_start=True, max_iter=10).fit(X, y)
    module = model.module_
    assert len(module.networks) == 4
    assert n_bins(model)[-1] == n_bins(model)[-2], "the widest view remembers"
    for weights in (module.log_weights, module.log_weights_seen):
        assert float(weights.exp().sum()) == pytest.approx(1.0)
    assert len(module.seen) == 600
    # Going on starts from the other networks: ensembles do not pile up.
    model.fit(X, y)
    assert len(model.module_.networks) == 4
    assert model.partial_fit(X, y).module_.n_joined == 0
    assert len(model.module_.networks) == 3
    assert model.module_.seen is None


def test_what_repeats_is_learned_by_heart_and_the_rest_is_as_good_as_before(
    monkeypatch,
):
    X, y = repeated()
    X_test, y_test = smooth(4_000, seed=1)
    model = quick(embedding="ple", hidden_layer_sizes=(64,), batch_size=24).fit(X, y)
    monkeypatch.setattr(EnsembleTraining, "_remember", lambda *args: None)
    plain = quick(embedding="ple", hidden_layer_sizes=(64,), batch_size=24).fit(X, y)
    assert model.score(X_test, y_test) > plain.score(X_test, y_test) - 0.02
    assert model.score(X[:300], y[:300]) > plain.score(X[:300], y[:300]) + 0.1
    # A row counts as seen by all of its features.
    moved = X[:300] + np.array([0.0, 1e-3])
    assert model.score(moved, y[:300]) < model.score(X[:300], y[:300]) - 0.1


@pytest.mark.parametrize(
    ("n_again", "n_networks"),
    [
        (0, 3),  # none is seen
        (30, 3),  # few are
        (600, 3),  # none is new
    ],
)
def test_there_is_not_always_something_to_remember(n_again, n_networks):
    model = quick(max_iter=4).fit(*repeated(n_again=n_again))
    assert len(model.module_.networks) == n_networks


def test_a_copy_of_a_training_row_does_not_judge_the_networks_for_new_rows(
    monkeypatch,
):
    X, y = repeated()
    seen = []
    weigh = EnsembleTraining.weigh

    def recording(self):
        rows, held_out = self.split
        for judges, own, others in zip(self.judges, held_out, rows, strict=True):
            for judge, row in zip(judges.tolist(), own.tolist(), strict=True):
                again = (X[others.numpy()] == X[row]).all(1).any()
                seen.append(judge != again)
        weigh(self)

    monkeypatch.setattr(EnsembleTraining, "weigh", recording)
    quick(max_iter=2).fit(X, y)
    assert len(seen) == 180
    assert all(seen)


@pytest.mark.parametrize("activation", ["silu", "relu"])
def test_each_view_cools_once_and_the_finish_stays_cold(activation, monkeypatch):
    seen = []
    ask = MixtureObjective.temperature

    def temperature(self):
        seen.append(ask(self))
        return seen[-1]

    if activation == "silu":
        # The gradient by hand asks for it.
        monkeypatch.setattr(MixtureObjective, "temperature", temperature)
    else:
        loss = MixtureObjective.training_loss
        monkeypatch.setattr(
            MixtureObjective,
            "training_loss",
            lambda self, rows: (temperature(self), loss(self, rows))[1],
        )
    monkeypatch.setattr(EnsembleTraining, "_is_late", lambda *args: True)
    model = quick(
        temperature=(8.0, 0.5),
        embedding="none",
        max_iter=20,
        activation=activation,
        hidden_layer_sizes=(4,),
    )
    X, y = smooth(600)
    model.fit(X, y)
    n_steps = 20 * 45
    expected = 0.5 * 16.0 ** np.maximum(0.0, 1.0 - 5.0 * np.arange(n_steps) / n_steps)
    np.testing.assert_allclose(seen[:n_steps], expected)
    assert len(seen) > 1.15 * n_steps
    assert set(seen[n_steps:]) == {0.5}
    seen.clear()
    model.set_params(warm_start=True).fit(X, y)
    assert set(seen) == {0.5}
    seen.clear()
    model.partial_fit(X, y)
    assert set(seen) == {0.5}


def test_a_view_that_is_prolonged_is_not_heated_again(monkeypatch):
    seen = []
    cool = MixtureObjective.cool

    def cooled(self, done):
        cool(self, done)
        seen.append(self.relative_temperature)

    monkeypatch.setattr(MixtureObjective, "cool", cooled)
    X, y = jagged()
    model = quick(n_iter_no_change=100, temperature=(2.0, 1.0)).fit(X, y)
    assert model.n_iter_ > 40
    # Each of the three views falls from 2 to 1, and none rises again.
    rises = np.diff(seen) > 0.0
    assert rises.sum() == 2
