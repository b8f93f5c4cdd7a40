"""
An epidemic while it runs
=========================

How contagious is it, and how long does it last? One posterior is learned for epidemics
that have been seen for 3 to 10 samples of a thousand people each. A recurrent network
summarises the series so far, so that the same model answers at every stage.
"""

import matplotlib.pyplot as plt
import numpy as np

from skmdn import AmortizedPosterior
from skmdn.datasets import inference_task
from skmdn.diagnostics import predictive_check, sbc
from skmdn.summaries import RecurrentSummary

task = inference_task("sir")
rng = np.random.default_rng(0)


def seen_until(x, n_seen):
    """Return series of counts as far as they have been seen, then padding."""
    series = np.log1p(x)[:, :, None]
    return np.where(np.arange(10)[:, None] < n_seen[:, None, None], series, np.nan)


data = task.sample(4000, random_state=0)
X = seen_until(data["x"], rng.integers(3, 11, size=4000))
model = AmortizedPosterior(
    task.prior,
    summary=RecurrentSummary(8, hidden_layer_sizes=(16,)),
    activation="silu",
    n_components=3,
    n_estimators=2,
    max_iter=40,
    random_state=0,
)
model.fit(X, data["theta"])

# %%
# Is it calibrated on epidemics that it was not trained on?

fresh = task.sample(300, random_state=1)
pairs = seen_until(fresh["x"], rng.integers(3, 11, size=300)), fresh["theta"]
print(sbc(model, pairs, random_state=0))

# %%
# The posterior of one epidemic after 3, 6 and 10 samples, and what the last one
# predicts: epidemics simulated from it must look like the one that was seen.

truth = np.array([[0.5, 0.11]])
x = task.sample(given={"theta": truth}, random_state=3)["x"]
stages = np.array([3, 6, 10])
draws = model.sample(seen_until(np.repeat(x, 3, 0), stages), 1000, random_state=0)
replicated = task.sample(given={"theta": draws[-1]}, random_state=4)["x"]
check = predictive_check(x[0], replicated, random_state=0)
print({name: round(p, 2) for name, p in check.p_values.items()})

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for n_seen, of_stage in zip(stages, draws, strict=True):
    left.scatter(*of_stage.T, s=3, alpha=0.5, label=f"after {n_seen} samples")
left.plot(*truth[0], "k+", ms=12, label="truth")
left.set(xlabel="contact rate", ylabel="recovery rate", xlim=(0.2, 0.8), ylim=(0, 0.25))
left.legend(frameon=False, fontsize="small", markerscale=2)
days = 17 * np.arange(10)
right.plot(days, replicated[:100].T, color="C0", lw=0.3, alpha=0.4)
right.plot(days, x[0], "ko-", ms=4, label="observed")
right.set(xlabel="day", ylabel="infected of 1000", title="simulated from the posterior")
right.legend(frameon=False)
plt.show()
