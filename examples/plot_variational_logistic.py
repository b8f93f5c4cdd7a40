"""
Bayesian logistic regression
============================

The posterior of the coefficients of a logistic regression, by a fit of a fraction of a
second, and by a long run of a random-walk sampler for comparison.
"""

# %%
# Sixty patients, three coefficients, a prior that keeps them moderate.

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy import stats

from skmdn import VariationalPosterior

rng = np.random.RandomState(0)
X = np.column_stack([np.ones(60), rng.normal(size=(60, 2))])
truth = np.array([-0.5, 2.0, -1.0])
y = rng.uniform(size=60) < 1 / (1 + np.exp(-X @ truth))
signs = torch.from_numpy(np.where(y, 1.0, -1.0)[:, None] * X)
prior = [stats.norm(0, 3)] * 3


def log_likelihood(theta):
    return torch.nn.functional.logsigmoid(theta @ signs.T).sum(1)


vp = VariationalPosterior(log_likelihood, prior, add_prior=True, random_state=0).fit()
mean, std = vp.predict(return_std=True)
print("report:", vp.report_.doubts or "no doubts", f"khat {vp.report_.khat:.2f}")

# %%
# The sampler: two hundred chains side by side, each proposing a normal step and taking
# it with Metropolis' probability. ``log_potential`` is the same density.

walkers = vp.posterior_.mean() + rng.normal(size=(200, 3))
height = vp.log_potential(walkers)
kept = []
for step in range(3000):
    moved = walkers + 0.5 * rng.normal(size=walkers.shape)
    reached = vp.log_potential(moved)
    taken = np.log(rng.uniform(size=200)) < reached - height
    walkers = np.where(taken[:, None], moved, walkers)
    height = np.where(taken, reached, height)
    if step >= 500 and step % 10 == 0:
        kept.append(walkers)
chain = np.concatenate(kept)
for i, name in enumerate(["intercept", "first", "second"]):
    print(
        f"{name:10s} fit {mean[i]:6.3f} +- {std[i]:.3f}   "
        f"chains {chain[:, i].mean():6.3f} +- {chain[:, i].std():.3f}"
    )

# %%
# Bars are the chains, lines the exact marginals of the fitted mixture.

fig, axes = plt.subplots(1, 3, figsize=(9, 3))
for i, ax in enumerate(axes):
    ax.hist(chain[:, i], bins=60, density=True, color="lightgray")
    line = np.linspace(chain[:, i].min(), chain[:, i].max(), 200)[:, None]
    ax.plot(line, np.exp(vp.posterior_.marginal(i).log_prob(line)))
    ax.axvline(truth[i], color="k", linewidth=0.6)
    ax.set_xlabel(["intercept", "first", "second"][i])
fig.tight_layout()
