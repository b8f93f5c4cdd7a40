"""
Intervals that keep their promise
=================================

A network that trains for too long believes that it knows the targets better than it
does. Rows that it has not seen repair its distributions.
"""

# %%
# The noise is skewed, the model is one normal component, and nothing stops training.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import ShuffleSplit

from skmdn import MixtureDensityRegressor
from skmdn.calibration import CalibratedDensityRegressor
from skmdn.metrics import interval_coverage, mean_crps
from skmdn.plotting import PredictiveCalibrationDisplay

rng = np.random.default_rng(0)
X = rng.uniform(-1, 1, size=(1500, 1))
y = np.sin(3 * X[:, 0]) + rng.exponential(0.3, size=1500)
X_train, X_test, y_train, y_test = X[:300], X[300:], y[:300], y[300:]

model = MixtureDensityRegressor(
    n_components=1,
    n_estimators=1,
    early_stopping=False,
    max_iter=400,
    embedding="ple+cos",
    random_state=0,
)

# %%
# A third of the training rows calibrate. The conformal method guarantees the coverage
# of its intervals; the isotonic one makes the smoother density.

split = ShuffleSplit(1, test_size=1 / 3, random_state=0)
models = {"as trained": model.fit(X_train, y_train)}
for method in ("temperature", "isotonic", "conformal"):
    calibrated = CalibratedDensityRegressor(model, method=method, cv=split)
    models[method] = calibrated.fit(X_train, y_train)

for name, fitted in models.items():
    coverage = interval_coverage(fitted, X_test, y_test, 0.9)
    crps = mean_crps(fitted, X_test, y_test)
    print(f"{name:12} coverage of 90 % intervals {coverage:.3f}   CRPS {crps:.4f}")

# %%
# Where the curve leaves the diagonal, the distribution promises what it does not keep.

fig, axes = plt.subplots(2, 2, figsize=(9, 7))
for row, name in zip(axes, ("as trained", "conformal"), strict=True):
    PredictiveCalibrationDisplay.from_estimator(models[name], X_test, y_test, axes=row)
    row[0].set_title(name)
fig.tight_layout()
plt.show()
