"""
Meters that end, and readings in whole steps
============================================

Almost half of the targets of this example are known in part only: a meter ends at 3 and
shows 3 for all that is more, and another one shows whole numbers. Taken as they stand,
these numbers bend the answer. Given as intervals, they say what they know.
"""

# %%
# The noise grows with x. One third of the rows are exact, one third come from the meter
# that ends, one third are rounded. ``y`` holds lower ends and ``y_upper`` upper ones;
# where both are equal, the number is known.

import matplotlib.pyplot as plt
import numpy as np

from skmdn import MixtureDensityRegressor

rng = np.random.RandomState(0)
X = rng.uniform(0, 3, size=(900, 1))
center, spread = 1 + X[:, 0] ** 2 / 2, 0.3 + 0.4 * X[:, 0]
target = center + spread * rng.normal(size=900)

kind = np.arange(900) % 3
y, y_upper = target.copy(), target.copy()
ended = (kind == 1) & (target > 3)
y[ended], y_upper[ended] = 3, np.inf
rounded = kind == 2
y[rounded] = np.round(target[rounded]) - 0.5
y_upper[rounded] = y[rounded] + 1
print(f"{ended.sum()} rows beyond the end, {rounded.sum()} in whole steps")

# %%
# The same network twice: on what the meters show, and on what is known.

shown = np.where(ended, 3, np.where(rounded, np.round(target), target))
model = MixtureDensityRegressor(
    2, n_estimators=2, embedding="none", max_iter=60, random_state=0
)
naive = MixtureDensityRegressor(**model.get_params()).fit(X, shown)
model.fit(X, y, y_upper=y_upper)

# %%
# New rows, all of them exact, tell which one is right. The score is the log-likelihood
# in nats per row.

X_new = rng.uniform(0, 3, size=(2000, 1))
center_new, spread_new = 1 + X_new[:, 0] ** 2 / 2, 0.3 + 0.4 * X_new[:, 0]
y_new = center_new + spread_new * rng.normal(size=2000)
print(f"as shown  {naive.score(X_new, y_new):.3f}")
print(f"as known  {model.score(X_new, y_new):.3f}")

# %%
# 90 % intervals and medians, with the true quantiles dotted.

grid = np.linspace(0, 3, 100).reshape(-1, 1)
fig, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
fits = {"as shown": naive, "as known": model}
for ax, (name, fitted) in zip(axes, fits.items(), strict=True):
    low, median, high = fitted.predict_quantiles(grid, [0.05, 0.5, 0.95]).T
    ax.fill_between(grid[:, 0], low, high, alpha=0.25)
    ax.plot(grid[:, 0], median)
    for z in (-1.645, 0, 1.645):
        truth = 1 + grid[:, 0] ** 2 / 2 + z * (0.3 + 0.4 * grid[:, 0])
        ax.plot(grid[:, 0], truth, "k:", linewidth=1)
    ax.scatter(X[:, 0], shown, s=4, color="gray")
    ax.set(title=name, xlabel="x")
axes[0].set_ylabel("y")
plt.show()
