"""Figures that are closed again, and a fitted estimator."""

import matplotlib.pyplot as plt
import pytest

from skmdn import MixtureDensityRegressor
from skmdn.datasets import make_branches


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def fitted():
    X, y = make_branches(300, random_state=0)
    model = MixtureDensityRegressor(2, max_iter=30, random_state=0)
    return model.fit(X, y), X, y
