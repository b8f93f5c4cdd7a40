"""
How many components
===================

Two of the four groups below are not normal: one is skewed, one is a ring segment. How
many components are right depends on the question, and each criterion answers its own.
"""

# %%
# Four groups, 1000 rows.

import matplotlib.pyplot as plt
import numpy as np

from skmdn import MAPGaussianMixture
from skmdn.plotting import (
    GaussianMixtureDisplay,
    InformationCriterionDisplay,
    ResponsibilityDisplay,
)
from skmdn.priors import Dirichlet, LogNormalScale, Softball

rng = np.random.RandomState(3)
angle = rng.uniform(0.2, 2.4, 250)
arc = np.c_[5.0 * np.cos(angle), 5.0 * np.sin(angle)] + 0.3 * rng.normal(size=(250, 2))
skewed = np.c_[rng.gamma(1.5, 1.2, 250) - 7.0, 0.6 * rng.normal(size=250) - 4.0]
round_ones = [c + 0.7 * rng.normal(size=(250, 2)) for c in ([4.0, -4.0], [-0.5, 0.5])]
X = np.concatenate([arc, skewed, *round_ones])

# %%
# The priors say, in the units of the data, where means and widths may lie. With them
# no component can collapse, and the curves are smooth.

priors = {
    "weights_prior": Dirichlet(2.0),
    "means_prior": Softball(radius=10.0),
    "scales_prior": LogNormalScale(sd_mean=0.7, sd_sd=1.0),
}
models = [MAPGaussianMixture(n, random_state=0, **priors).fit(X) for n in range(2, 11)]

# %%
# The BIC wants a good density: it spends several components on the arc. The ICL wants
# groups that can be told apart. The log posterior charges a component only for its
# prior density, a few nats however many rows there are, and goes on to rise. Shades
# beside the dark blocks of the last picture are rows that two components share.

figure, axes = plt.subplots(2, 2, figsize=(10, 8), layout="constrained")
criteria = InformationCriterionDisplay.from_estimators(
    models, X, criteria=("bic", "icl", "log_posterior"), ax=axes[0, 0]
)
axes[0, 0].set_title("criteria, and what they choose")
for ax, name in [(axes[0, 1], "bic"), (axes[1, 0], "icl")]:
    chosen = models[criteria.best(name) - 2]
    GaussianMixtureDisplay.from_estimator(chosen, X, ax=ax)
    ax.set(title=f"{name.upper()}: {criteria.best(name)} components", aspect="equal")
by_bic = models[criteria.best("bic") - 2]
ResponsibilityDisplay.from_estimator(by_bic, X, ax=axes[1, 1])
axes[1, 1].set_title("whose rows are whose, by the BIC's choice")
plt.show()
