"""
Repairing a model that is too sure of itself
============================================

A network that was trained for too long on a few rows believes its memory: its intervals
are too narrow for new rows. Other rows show by how much, and a calibrator learned from
them repairs the whole distribution.
"""

# %%
# The noise has heavy tails, and there is more of it on the outside. The network sees
# 150 rows and holds none of them out.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator

from skmdn import MixtureDensityRegressor
from skmdn.calibration import CalibratedDensityRegressor
from skmdn.plotting import PredictiveCalibrationDisplay, PredictiveDensityDisplay

rng = np.random.RandomState(0)
X = rng.uniform(-2, 2, size=(4150, 1))
noise = rng.standard_t(3, size=len(X))
y = np.sin(2 * X[:, 0]) + (0.2 + 0.1 * X[:, 0] ** 2) * noise
X_train, X_rest, X_test = np.split(X, [150, 1150])
y_train, y_rest, y_test = np.split(y, [150, 1150])
model = MixtureDensityRegressor(
    1, embedding="ple", max_iter=250, early_stopping=False, random_state=0
).fit(X_train, y_train)

# %%
# The same 1000 rows calibrate it in three ways. ``FrozenEstimator`` says that the
# network is not to be trained again.

models = {"as trained": model}
for method in ("temperature", "isotonic", "conformal"):
    calibrated = CalibratedDensityRegressor(FrozenEstimator(model), method=method)
    models[method] = calibrated.fit(X_rest, y_rest)
for name, one in models.items():
    low, high = one.predict_interval(X_test, 0.9).T
    share = np.mean((low <= y_test) & (y_test <= high))
    print(f"{name:12}  {one.score(X_test, y_test):6.2f} nats   {share:.1%} of 90 %")

# %%
# A calibrated model has a flat histogram, and intervals that hold what they promise.
# Before: too many targets in the lowest bin.

fig, axes = plt.subplots(2, 2, figsize=(8, 6.4), layout="constrained")
for (name, one), row in zip(list(models.items())[::2], axes, strict=True):
    PredictiveCalibrationDisplay.from_estimator(one, X_test, y_test, axes=row)
    row[0].set_title(name)
plt.show()

# %%
# The 90 % intervals, before and after. A map of the levels is the same for all rows:
# where the network was narrower, it still is.

fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
for name, ax in zip(("as trained", "isotonic"), axes, strict=True):
    PredictiveDensityDisplay.from_estimator(
        models[name],
        X_test[:400],
        y_test[:400],
        kind="quantiles",
        levels=(0.05, 0.5, 0.95),
        ax=ax,
    )
    ax.set(title=name, ylim=(-4, 4))
plt.show()
