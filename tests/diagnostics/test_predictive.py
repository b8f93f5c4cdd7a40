"""Posterior predictive checks."""

import numpy as np
import pytest
from scipy import stats

from skmdn.diagnostics import predictive_check


def test_p_values_are_uniform_for_exchangeable_data():
    rng = np.random.default_rng(0)
    p_values = []
    for seed in range(300):
        data = rng.normal(size=(51, 4))
        check = predictive_check(
            data[0], data[1:], statistics={"max": np.max}, random_state=seed
        )
        p_values.append(check.p_values["max"])
    for level in (0.1, 0.5):
        n_below = (np.array(p_values) <= level).sum()
        assert n_below < stats.binom.isf(1e-4, 300, level + 0.02)
        assert n_below > stats.binom.ppf(1e-4, 300, level - 0.05)


def test_what_the_data_lack_is_seen():
    rng = np.random.default_rng(0)
    observed = rng.standard_t(1, size=100)
    check = predictive_check(observed, rng.normal(size=(400, 100)), random_state=0)
    assert check.p_values["std"] < 0.01
    assert check.observed["std"] == pytest.approx(observed.std())
    assert check.replicated["std"].shape == (400,)


def test_the_median_distance():
    check = predictive_check(
        np.zeros(2), [[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]], random_state=0
    )
    assert check.median_distance == 5.0


def test_ties_do_not_look_extreme():
    check = predictive_check(np.ones(3), np.ones((100, 3)), random_state=0)
    assert check.p_values["mean"] > 0.01


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"shape \(3,\), the observed"):
        predictive_check(np.ones(2), np.ones((5, 3)), random_state=0)
    with pytest.raises(ValueError, match="'bad' is not finite"):
        predictive_check(
            np.ones(2), np.ones((5, 2)), statistics={"bad": lambda x: np.nan}
        )
