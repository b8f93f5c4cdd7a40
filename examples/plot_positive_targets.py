"""
What will the claim cost?
=========================

Most policies have no claim in a year, and the claims there are range from small to
very large. The target is either 0 or positive: a point mass and a gamma component say
exactly that, and normal components promise negative amounts.
"""

# %%
# The chance of a claim and its size both depend on the driver's age, from 18 to 80.

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import expit

from skmdn import MixtureDensityRegressor
from skmdn.families import PointMass

rng = np.random.RandomState(0)


def make_claims(n):
    age = rng.uniform(18, 80, size=(n, 1))
    z = (age[:, 0] - 49) / 31
    chance = expit(-1 - 0.5 * z + 1.5 * z**2)
    size = 800 * np.exp(1.2 * z**2) * rng.gamma(1.5, size=n)
    return age, np.where(rng.uniform(size=n) < chance, size, 0.0)


X, y = make_claims(3000)
X_new, y_new = make_claims(2000)
print(f"{np.mean(y == 0):.0%} without a claim, the largest {y.max():.0f}")

# %%
# Names make the parts of the mixture easy to find again.

settings = {"embedding": "none", "n_estimators": 2, "max_iter": 40, "random_state": 0}
family = {"none": PointMass(0.0), "claim": "gamma"}
model = MixtureDensityRegressor(family=family, **settings).fit(X, y)
normal = MixtureDensityRegressor(3, **settings).fit(X, y)
for name, fitted in {"normal": normal, "point mass and gamma": model}.items():
    below = fitted.predict_distribution(X_new).cdf(np.full(2000, -1e-6))
    print(f"{name:>20}: probability of less than nothing {below.mean():.1%}")

# %%
# The density at 0 is the probability of no claim. The other component is the
# distribution of the claims.

age = np.linspace(18, 80, 120).reshape(-1, 1)
dist = model.predict_distribution(age)
nothing = dist.pdf(np.zeros(120))
claims = dist.component("claim")

fig, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
z = (age[:, 0] - 49) / 31
axes[0].plot(age, 1 - nothing, label="predicted")
axes[0].plot(age, expit(-1 - 0.5 * z + 1.5 * z**2), "k:", label="true")
axes[0].set(xlabel="age", ylabel="chance of a claim", ylim=(0, 1))
axes[0].legend(frameon=False)
low, median, high = claims.ppf([0.05, 0.5, 0.95]).T
axes[1].fill_between(age[:, 0], low, high, alpha=0.25, label="90 % of the claims")
axes[1].plot(age, median, label="median claim")
paid = y > 0
axes[1].scatter(X[paid][:400], y[paid][:400], s=4, color="gray")
axes[1].set(xlabel="age", ylabel="amount", yscale="log", ylim=(10, None))
axes[1].legend(frameon=False)
plt.show()

# %%
# The mean of the whole mixture is the price of the risk.

print(f"mean per policy: {model.predict(X_new).mean():.0f}, was {y_new.mean():.0f}")
