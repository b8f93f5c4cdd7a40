"""
Two moons: posteriors with two crescents
========================================

A benchmark of simulation-based inference whose posterior consists of two crescents,
inside a box that is the prior. The networks see simulations only. No draw can leave the
box, and densities integrate to one inside it. The exact posterior is known here, so the
answers can be compared with it.
"""

import matplotlib.pyplot as plt
import numpy as np

from skmdn import AmortizedPosterior
from skmdn.datasets import inference_task
from skmdn.diagnostics import c2st

task = inference_task("two_moons")
data = task.sample(5000, random_state=0)
model = AmortizedPosterior(
    task.prior, activation="silu", n_estimators=2, max_iter=60, random_state=0
)
model.fit(data["x"], data["theta"])

# %%
# One pass through the networks answers all observations. The score is the mean log
# density of the parameters that fresh data were simulated with; for the exact posterior
# it is the best possible.

fresh = task.sample(2000, random_state=1)
exact = np.mean(task.posterior.log_prob(fresh["x"], fresh["theta"]))
print(f"mean log density {model.score(fresh['x'], fresh['theta']):.2f}, ", end="")
print(f"exact {exact:.2f}")

# %%
# A classifier that should tell draws from those of the exact posterior hits in little
# more than half of all cases.

observations = fresh["x"][:3]
draws = model.sample(observations, 1000, random_state=0)
reference = task.posterior.sample(observations, 1000, random_state=1)
accuracy = [c2st(a, b, random_state=0) for a, b in zip(draws, reference, strict=True)]
print("C2ST", np.round(accuracy, 2))

# %%
# Above the density that was learned, below draws of the exact posterior.

fig, axes = plt.subplots(2, 3, figsize=(9, 6), layout="constrained")
for x, exact_draws, hits, (top, bottom) in zip(
    observations, reference, accuracy, axes.T, strict=True
):
    low, high = exact_draws.min(0) - 0.15, exact_draws.max(0) + 0.15
    first, second = np.linspace(low, high, 120).T
    points = np.stack(np.meshgrid(first, second), -1).reshape(-1, 2)
    density = np.exp(model.log_prob(np.tile(x, (len(points), 1)), points))
    top.pcolormesh(first, second, density.reshape(120, 120), cmap="Blues")
    top.set_title(f"x = {x.round(2)}, C2ST {hits:.2f}", fontsize="medium")
    bottom.scatter(*exact_draws.T, s=2, color="0.3")
    bottom.set(xlim=first[[0, -1]], ylim=second[[0, -1]], xlabel="theta[0]")
axes[0, 0].set_ylabel("learned: theta[1]")
axes[1, 0].set_ylabel("exact: theta[1]")
plt.show()
