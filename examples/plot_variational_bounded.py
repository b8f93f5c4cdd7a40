"""
A simulator with bounds
=======================

The moons of a well-known benchmark: a point on a half-circle, shifted by the absolute
value of a sum. Its likelihood is exact, zero on the other half, and its parameters lie
in a box. Nothing that is fitted leaves the box.
"""

# %%
# The simulator, and the likelihood that belongs to it.

import math

import matplotlib.pyplot as plt
import numpy as np
import torch

from skmdn import VariationalPosterior

rng = np.random.RandomState(1)


def simulate(theta):
    angle = rng.uniform(-np.pi / 2, np.pi / 2, size=len(theta))
    radius = rng.normal(0.1, 0.01, size=len(theta))
    moon = np.column_stack([radius * np.cos(angle) + 0.25, radius * np.sin(angle)])
    first, second = theta.T
    shift = np.column_stack([-np.abs(first + second), second - first]) / np.sqrt(2)
    return moon + shift


def log_likelihood(theta, x):
    first, second = theta.unbind(1)
    u = x[0] + (first + second).abs() / math.sqrt(2) - 0.25
    v = x[1] + (first - second) / math.sqrt(2)
    radius = torch.hypot(u, v)
    log_p = -0.5 * ((radius - 0.1) / 0.01) ** 2 - radius.log()
    return torch.where(u > 0, log_p, -torch.inf)


# %%
# Two observations, the second of parameters beside an edge of the box.

truth = np.array([[0.2, 0.3], [0.97, 0.4]])
X = simulate(truth)
vp = VariationalPosterior(log_likelihood, [(-1, 1)] * 2, random_state=0).fit(X)
draws = vp.sample(3000)
print("largest parameter drawn:", np.abs(draws).max().round(4))

# %%
# What is drawn brings the observation back: simulations from it scatter around X as the
# simulator's own noise does.

for row, x in zip(draws, X, strict=True):
    again = simulate(row)
    print(
        "observed", x.round(3), "simulated", again.mean(0).round(3), "+-", again.std(0)
    )

# %%
# Two moons in the middle; beside the edge the box cuts them.

fig, axes = plt.subplots(1, 2, figsize=(9, 4.2))
for ax, row, theta in zip(axes, draws, truth, strict=True):
    ax.plot(*row.T, ".", markersize=2, alpha=0.5)
    ax.plot(*theta, "kx")
    ax.add_patch(plt.Rectangle((-1, -1), 2, 2, fill=False, linewidth=0.6))
    ax.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), aspect="equal")
fig.tight_layout()
