"""
What if several answers are right?
==================================

Predicting the effect x from its cause y is easy here: x = y + 0.3 sin(2 pi y) plus a
little noise. The other way round, an x near one half has three causes. The mean of the
three is none of them, and a regressor that predicts the mean is confidently wrong.
"""

import matplotlib.pyplot as plt

from skmdn import MixtureDensityRegressor
from skmdn.datasets import make_inverse_sine
from skmdn.plotting import PredictiveDensityDisplay

X, y = make_inverse_sine(1500, random_state=0)
model = MixtureDensityRegressor(max_iter=100, random_state=0).fit(X, y)

# %%
# Left, the predicted density with some of the data and the conditional mean on
# top. Right, a cut through it at x = 0.5, next to draws from ``sample``.

fig, (left, right) = plt.subplots(
    1, 2, figsize=(9, 4), sharey=True, width_ratios=[2, 1], layout="constrained"
)
display = PredictiveDensityDisplay.from_estimator(model, X[:400], y[:400], ax=left)
x_grid, y_grid = display.feature_values, display.target_values
left.plot(x_grid, model.predict(x_grid[:, None]), "tab:red", lw=2)
left.text(0.31, 0.35, "mean", color="tab:red", ha="right")
left.axvline(0.5, color="black", lw=0.8, ls="--")
left.set(ylim=y_grid[[0, -1]], xlabel="effect x", ylabel="cause y")
left.set_title("one effect, up to three causes")

dist = model.predict_distribution([[0.5]])[0]
draws = dist.sample(2000, random_state=0)
right.hist(
    draws, 40, density=True, orientation="horizontal", color="0.85", label="draws"
)
right.plot(dist.pdf(y_grid), y_grid, color="tab:blue", label="density")
right.axhline(dist.mean(), color="tab:red", lw=2, label="mean")
right.set(xlabel="density", title="cut at x = 0.5")
right.legend(loc="upper right", frameon=False)
plt.show()

# %%
# The mean sits on the middle branch only by symmetry; a little to either side it runs
# between the branches, where there is no data at all. The mode is a better point
# estimate, and the density there says by how much.

rows = model.predict_distribution([[0.35], [0.65]])
print("density at the mean:", rows.pdf(rows.mean()).round(2))
print("density at the mode:", rows.pdf(rows.mode()).round(2))

# %%
# Look at the red line between the branches: that is what least squares would answer.
