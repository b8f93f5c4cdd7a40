"""
Missing values
==============

Two measurements of the same thing, each of which is missing in many rows. A mixture is
fitted to what is there. It fills the holes with what it expects of them, which keeps
the shape of the data; the means of the columns do not.
"""

# %%
# Rows of three groups. Half of them lose one of their two numbers, without regard to
# what it was.

import matplotlib.pyplot as plt
import numpy as np

from skmdn import MAPGaussianMixture
from skmdn.plotting import GaussianMixtureDisplay
from skmdn.priors import LogNormalScale

rng = np.random.RandomState(0)
centers = np.array([[0.0, 0.0], [5.0, 3.5], [9.0, 6.5]])
slopes = np.array([[1.2, 0.8], [0.9, -0.9], [1.0, 0.7]])
group = rng.randint(3, size=600)
along = rng.normal(size=(600, 1)) * slopes[group]
X = centers[group] + along + 0.25 * rng.normal(size=(600, 2))
holes = X.copy()
lost = rng.uniform(size=600) < 0.5
holes[lost, rng.randint(2, size=lost.sum())] = np.nan
missing = np.isnan(holes)

# %%
# NaN is all that the fit needs to know.

model = MAPGaussianMixture(
    3, scales_prior=LogNormalScale(sd_mean=0.5), n_init=3, random_state=0
).fit(holes)
imputed = model.impute(holes)
by_means = np.where(missing, np.nanmean(holes, axis=0), holes)

# %%
# Filled rows lie on the ridges of the mixture. Where one number is compatible with two
# groups the expected value lies between them: an expectation is not a draw.

_, axes = plt.subplots(
    1, 3, figsize=(11, 3.8), sharex=True, sharey=True, layout="constrained"
)
display = GaussianMixtureDisplay.from_estimator(model, holes, ax=axes[0])
axes[0].set_title(f"{(~lost).sum()} complete rows, and the fit")
for ax, filled, title in [
    (axes[1], imputed, "imputed"),
    (axes[2], by_means, "means of columns"),
]:
    error = np.sqrt(np.mean((filled - X)[missing] ** 2))
    ax.scatter(*X[lost].T, s=10, color="0.8", label="truth")
    ax.scatter(*filled[lost].T, s=10, color="C3", label="filled")
    ax.set(title=f"{title}: error {error:.2f}", xlabel="feature 0")
axes[1].legend(frameon=False, loc="upper left")
plt.show()
