"""
A banana and five modes
=======================

A density that is known up to a constant is fitted by a mixture of normals. The mixture
starts from draws of the prior that are followed to the target, so that no mode is left
out on the way, and a report says how good it is.
"""

# %%
# Two targets, as log densities of rows of parameters. Their integrals are known.

import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy import stats

from skmdn import VariationalPosterior


def banana(theta):
    x, y = theta.unbind(1)
    unit = math.log(2 * math.pi * 0.3)
    return -0.5 * (x**2 + ((y - x**2) / 0.3) ** 2) - unit


angles = torch.arange(5).double() * 2 * math.pi / 5
centers = 3 * torch.stack([angles.cos(), angles.sin()], 1)
weights = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05]).double()


def modes(theta):
    square = (theta[:, None] - centers).square().sum(2) / 0.09
    return torch.logsumexp(weights.log() - square / 2, 1) - math.log(2 * math.pi * 0.09)


fits = {
    "banana": VariationalPosterior(banana, [stats.norm(0, 5)] * 2, random_state=0),
    "five modes": VariationalPosterior(modes, [(-10, 10)] * 2, random_state=0),
}
for name, fit in fits.items():
    report = fit.fit().report_
    print(
        f"{name}: log evidence {report.log_evidence:.3f}, se "
        f"{report.log_evidence_se:.3f} (true 0), {report.efficiency:.0%} of the draws "
        f"effective, {fit.posterior_.n_components} components, doubts: {report.doubts}"
    )

# %%
# All modes are found with their shares, down to the smallest.

found, _ = fits["five modes"].map(return_all=True)
draws = fits["five modes"].sample(20_000)
nearest = np.linalg.norm(draws[:, None] - found, axis=2).argmin(1)
print(np.bincount(nearest) / len(draws))

# %%
# Lines are the target, colours the fit, crosses the modes of the target.

fig, axes = plt.subplots(1, 2, figsize=(9, 4))
windows = {"banana": (-3.5, 3.5, -1.5, 8), "five modes": (-4.5, 4.5, -4.5, 4.5)}
for ax, (name, fit) in zip(axes, fits.items(), strict=True):
    left, right, low, high = windows[name]
    x, y = np.meshgrid(np.linspace(left, right, 200), np.linspace(low, high, 200))
    grid = np.stack([x.ravel(), y.ravel()], 1)
    density = np.exp(fit.score_samples(grid)).reshape(x.shape)
    exact = np.exp(fit.log_potential(grid)).reshape(x.shape)
    ax.contourf(x, y, density, levels=12, cmap="Blues")
    levels = exact.max() * np.array([0.02, 0.1, 0.4, 0.8])
    ax.contour(x, y, exact, levels=levels, colors="k", linewidths=0.6)
    ax.plot(*fit.map(return_all=True)[0].T, "rx")
    ax.set_title(name)
fig.tight_layout()
