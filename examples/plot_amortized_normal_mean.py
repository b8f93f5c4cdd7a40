"""
From a simulator to a checked posterior
=======================================

The mean of a normal distribution, seen through 10 to 100 observations: a posterior that
can be written down, so that every step can be checked. Only the simulator is shown to
the network. It learns the posterior for all data sets at once, whatever their size.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from skmdn import AmortizedPosterior
from skmdn.diagnostics import RankEcdfDisplay, RecoveryDisplay, sbc
from skmdn.simulation import make_simulator
from skmdn.summaries import DeepSet

# %%
# What one function returns, the next one gets by name. Rows of different lengths are
# padded.


def n(rng):
    return rng.integers(10, 101)


def mu(rng):
    return rng.normal()


def x(mu, n, rng):
    return rng.normal(mu, 1, size=n)


simulator = make_simulator([n, mu, x], pad_to={"x": 100})
data = simulator.sample(6000, random_state=0)

# %%
# Observations have no order, so that a deep set summarises them. It is trained together
# with the posterior.

model = AmortizedPosterior(
    [stats.norm()],
    summary=DeepSet(8, hidden_layer_sizes=(16,), pooled_layer_sizes=()),
    n_components=2,
    activation="silu",
    n_estimators=2,
    max_iter=40,
    random_state=0,
)
model.fit(data.padded("x"), data["mu"])

# %%
# Simulation-based calibration: among posterior draws, the rank of the mean that the
# data were simulated with must be uniform. The report flags nothing.

report = sbc(model, simulator, parameters="mu", random_state=1)
print(report)

# %%
# The exact posterior is normal with precision n + 1. Left and middle, the report's
# pictures. Right, the standard deviation, which the network had to learn from the
# number of observations.

fig, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
RankEcdfDisplay(report).plot([axes[0]])
RecoveryDisplay(report).plot([axes[1]])
test = simulator.sample(500, random_state=2)
dist = model.predict_distribution(test.padded("x"))
axes[2].scatter(test["n"], np.ravel(dist.std()), s=6, label="learned")
sizes = np.arange(10, 101)
axes[2].plot(sizes, 1 / np.sqrt(sizes + 1), color="black", lw=1, label="exact")
axes[2].set(xlabel="observations n", ylabel="posterior std", title="how sure?")
axes[2].legend(frameon=False)
plt.show()
