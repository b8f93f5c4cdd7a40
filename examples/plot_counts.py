"""
How many will come?
===================

Visitors per hour are counts, and they scatter more than independent visitors would: the
weather is good or bad for all of them. Poisson components are too sure of themselves,
negative binomial ones learn how much the counts scatter.
"""

# %%
# Two peaks a day, and a common factor that nobody has measured.

import matplotlib.pyplot as plt
import numpy as np

from skmdn import MixtureDensityRegressor

rng = np.random.RandomState(0)


def make_visits(n):
    hour = rng.uniform(0, 24, size=(n, 1))
    morning = np.exp(-0.5 * ((hour[:, 0] - 9) / 1.5) ** 2)
    evening = np.exp(-0.5 * ((hour[:, 0] - 18) / 2.5) ** 2)
    mean = 2 + 40 * morning + 60 * evening
    return hour, rng.poisson(mean * rng.gamma(4.0, 0.25, size=n))


X, y = make_visits(2000)
X_new, y_new = make_visits(1000)
settings = {"embedding": "ple", "n_estimators": 2, "max_iter": 40, "random_state": 0}
models = {
    name: MixtureDensityRegressor(1, family=name, **settings).fit(X, y)
    for name in ("poisson", "negative_binomial")
}

# %%
# The score is the mean logarithm of the probability of the observed count, so that
# its exponential is that probability, in geometric mean. A 90 % interval of counts
# holds a little more than 90 %, as the counts at its ends belong to it.

for name, model in models.items():
    low, high = model.predict_interval(X_new, coverage=0.9).T
    inside = np.mean((low <= y_new) & (y_new <= high))
    chance = np.exp(model.score(X_new, y_new))
    print(f"{name:>18}: probability {chance:.3f}, inside {inside:.0%} of 90 %")

# %%
# Intervals over the day, and the probabilities of all counts at six in the evening.

hours = np.linspace(0, 24, 200).reshape(-1, 1)
counts = np.arange(140)
fig, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for color, (name, model) in zip(("C1", "C0"), models.items(), strict=True):
    low, high = model.predict_interval(hours, coverage=0.9).T
    label = name.replace("_", " ")
    axes[0].step(hours, low, color=color, label=label)
    axes[0].step(hours, high, color=color)
    evening = model.predict_distribution([[18.0]])[0]
    axes[1].step(counts, evening.pdf(counts), color=color, where="mid", label=label)
axes[0].scatter(X_new, y_new, s=4, color="gray")
axes[0].set(xlabel="hour", ylabel="visitors", title="90 % intervals")
axes[1].set(xlabel="visitors at 18:00", ylabel="probability")
axes[1].legend(frameon=False)
plt.show()
