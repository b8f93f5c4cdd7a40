"""
When two rows in a hundred are wrong
====================================

A few targets are far off. A normal component has to become wide enough for them, and
its interval then says little about all others. A Student component learns that its
tails are heavy, and stays narrow.
"""

# %%
# A curve with small noise. Two in a hundred readings come from a broken sensor.

import matplotlib.pyplot as plt
import numpy as np

from skmdn import MixtureDensityRegressor
from skmdn.metrics import mean_crps

rng = np.random.RandomState(0)


def make_readings(n):
    x = rng.uniform(-1, 1, size=(n, 1))
    y = np.sin(3 * x[:, 0]) + 0.15 * rng.normal(size=n)
    broken = rng.uniform(size=n) < 0.02
    y[broken] += 5 * rng.normal(size=broken.sum())
    return x, y


X, y = make_readings(1000)
X_new, y_new = make_readings(2000)
settings = {"embedding": "none", "n_estimators": 2, "max_iter": 60, "random_state": 0}
models = {
    name: MixtureDensityRegressor(1, family=name, **settings).fit(X, y)
    for name in ("normal", "student_t")
}

# %%
# The gain in log-likelihood, row by row, with its standard error. The CRPS, an error
# in the units of the target, sees less of it.

gain = models["student_t"].log_prob(X_new, y_new)
gain = gain - models["normal"].log_prob(X_new, y_new)
print(f"gain {gain.mean():.2f} +- {gain.std() / np.sqrt(len(gain)):.2f} nats per row")
for name, model in models.items():
    print(f"{name:>10}: CRPS {mean_crps(model, X_new, y_new):.3f}")

# %%
# 90 % intervals and medians; the true curve is dotted.

grid = np.linspace(-1, 1, 120).reshape(-1, 1)
fig, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
for ax, (name, model) in zip(axes, models.items(), strict=True):
    low, median, high = model.predict_quantiles(grid, [0.05, 0.5, 0.95]).T
    ax.fill_between(grid[:, 0], low, high, alpha=0.25)
    ax.plot(grid[:, 0], median)
    ax.plot(grid[:, 0], np.sin(3 * grid[:, 0]), "k:", linewidth=1)
    ax.scatter(X, y, s=4, color="gray")
    ax.set(title=name.replace("_t", ""), xlabel="x", ylim=(-3, 3))
axes[0].set_ylabel("y")
plt.show()

# %%
# How unlikely is a reading? The probability of one at least as far from the median
# sorts the rows. Below one in a hundred, nearly all come from the broken sensor.

dist = models["student_t"].predict_distribution(X_new)
rare = 2 * np.minimum(dist.cdf(y_new), dist.sf(y_new)) < 0.01
far = np.abs(y_new - np.sin(3 * X_new[:, 0])) > 1
print(f"{rare.sum()} readings below 1 %, {far[rare].mean():.0%} of them far off")
