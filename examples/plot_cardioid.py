"""
Where do the mixture components sit?
====================================

The cardioid r = 2 (1 - cos t) has up to four values of y for one x. A mixture density
network describes them by components whose weights, means and standard deviations
depend on x. All three are plain arrays on the predictive distribution, in the units of
the data.
"""

import matplotlib.pyplot as plt
import numpy as np

from skmdn import MixtureDensityRegressor
from skmdn.datasets import make_cardioid
from skmdn.plotting import PredictiveDensityDisplay

X, y = make_cardioid(2000, random_state=0)
model = MixtureDensityRegressor(
    n_components=5, n_estimators=1, embedding="none", max_iter=150, random_state=0
).fit(X, y)

# %%
# A single network keeps the picture simple: five components for every x.

x = np.linspace(-2.6, 2.6, 80)
dist = model.predict_distribution(x[:, None])
print("shapes:", dist.weights.shape, dist.means.shape, dist.stds.shape)

# %%
# A dot is a component's mean, its area the weight, and a colour belongs to one
# component.

fig, ax = plt.subplots(figsize=(6.4, 6), layout="constrained")
display = PredictiveDensityDisplay.from_estimator(model, X, ax=ax)
for k in range(dist.n_components):
    ax.scatter(x, dist.means[:, k], s=80 * dist.weights[:, k], color=f"C{k + 1}", lw=0)
ax.set(aspect="equal", ylim=display.target_values[[0, -1]])
ax.set_title("component means over the density; area = weight")
plt.show()

# %%
# Look at how a component serves different branches at different x: it fades out where
# its branch ends. Components are a description of the density, not classes of rows.
