"""
How far will the disease progress?
==================================

The diabetes data holds ten measurements of 442 patients and how far their disease had
progressed one year later. Two patients with the same measurements end up far apart, so
a single number answers the question badly. A mixture density network predicts the
whole distribution.
"""

# %%
# The estimator is an ordinary scikit-learn regressor. Features and target are
# standardised inside; every number that comes out is in the units of the target.

import matplotlib.pyplot as plt
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

from skmdn import MixtureDensityRegressor
from skmdn.metrics import interval_coverage, mean_crps
from skmdn.plotting import PredictiveDensityDisplay

X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
model = MixtureDensityRegressor(n_components=3, random_state=0)
model.fit(X_train, y_train)

# %%
# ``score`` is the mean log-likelihood of held-out rows: higher is better. The CRPS is
# an error in the units of the target, and a 90 % interval should hold about 90 % of
# the held-out targets.

print(f"log-likelihood  {model.score(X_test, y_test):.2f} nats per patient")
print(f"CRPS            {mean_crps(model, X_test, y_test):.1f}")
print(f"coverage        {interval_coverage(model, X_test, y_test, 0.9):.0%} of 90 %")

# %%
# Quantiles of three patients, exact for the mixture. They never cross.

print(model.predict_quantiles(X_test[:3], [0.05, 0.5, 0.95]).round())

# %%
# The distribution over the body mass index, with all other features at their median.
# The dots are the held-out patients, whose other features differ.

fig, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
PredictiveDensityDisplay.from_estimator(
    model, X_test, y_test, feature="bmi", kind="quantiles", ax=ax
)
ax.set(xlabel="body mass index", ylabel="disease progression after a year")
ax.legend(loc="upper left", fontsize="small", frameon=False)
plt.show()

# %%
# Look at the asymmetry of the bands: at a low body mass index the long tail points
# upwards, at a high one downwards. A mean with one standard deviation misses both.
