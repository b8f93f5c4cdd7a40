"""A learned posterior of sets of 10 to 100 observations, judged as the guide says."""

import numpy as np
import pytest
from scipy import stats

from skmdn import AmortizedPosterior
from skmdn.diagnostics import sbc
from skmdn.summaries import DeepSet

from .test_report import simulator


def test_the_learned_posterior_is_calibrated_and_close_to_the_exact_one():
    data = simulator().sample(4000, random_state=0)
    model = AmortizedPosterior(
        [stats.norm()],
        summary=DeepSet(4, hidden_layer_sizes=(8,), pooled_layer_sizes=()),
        n_components=1,
        activation="silu",
        n_estimators=2,
        max_iter=30,
        random_state=0,
    )
    model.fit(data.padded("x"), data["theta"])
    report = sbc(model, simulator(), n_simulations=500, random_state=1)
    assert report.rank_test[0][0] > 0
    assert report.flags() == {}
    mean_error, std_error = errors(model)
    assert mean_error < 0.02
    # Two small networks and few passes.
    assert std_error < 0.035


@pytest.mark.slow
def test_the_default_is_within_two_percent():
    data = simulator().sample(5000, random_state=0)
    model = AmortizedPosterior([stats.norm()], summary="deep_set", random_state=0)
    assert max(errors(model.fit(data.padded("x"), data["theta"]))) < 0.02


def errors(model):
    """Return how far means and deviations are from the exact ones on average."""
    test = simulator().sample(2000, random_state=2)
    precision = 1.0 + test["n"]
    exact = test["x"].sum(1) / precision
    mean, std = model.predict(test.padded("x"), return_std=True)
    mean_error = np.abs(mean - exact).mean() / np.abs(exact).mean()
    return mean_error, np.abs(std * np.sqrt(precision) - 1.0).mean()
