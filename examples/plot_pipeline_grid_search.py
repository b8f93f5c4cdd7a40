"""
How many components does a table need?
======================================

A made-up table of commutes has numbers, categories and missing entries. Who takes the
bus may just catch it or wait for the next one, so that one normal distribution per row
is not enough. A grid search chooses the number of components by the likelihood of
held-out rows.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from skmdn import MixtureDensityRegressor
from skmdn.metrics import predict_distribution
from skmdn.plotting import PredictiveCalibrationDisplay

rng, n = np.random.RandomState(0), 900
X = pd.DataFrame(
    {
        "distance": rng.gamma(4.0, 1.5, n),
        "hour": rng.uniform(6, 10, n),
        "transport": rng.choice(["bike", "bus", "car"], n),
    }
)
pace = X["transport"].map({"bike": 4.0, "bus": 2.5, "car": 2.0})
jam = np.exp(-((X["hour"] - 8) ** 2)) * (X["transport"] == "car")
wait = 15.0 * rng.binomial(1, 0.4, n) * (X["transport"] == "bus")
y = 5 + pace * X["distance"] * (1 + jam * rng.uniform(0, 1, n)) + wait
y += rng.normal(0, 1.5, n)
X.loc[rng.uniform(size=n) < 0.05, "hour"] = np.nan
X.loc[rng.uniform(size=n) < 0.05, "transport"] = None

# %%
# The pipeline scales nothing: the estimator standardises inside. ``GridSearchCV``
# needs no ``scoring``, because ``score`` is the mean log-likelihood.

prepare = make_column_transformer(
    (SimpleImputer(add_indicator=True), ["distance", "hour"]),
    (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["transport"]),
)
model = MixtureDensityRegressor(max_iter=60, n_estimators=2, random_state=0)
grid = {"mixturedensityregressor__n_components": [1, 2, 4, 8]}
search = GridSearchCV(make_pipeline(prepare, model), grid, cv=3)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
search.fit(X_train, y_train)
print("chosen:", search.best_params_)

# %%
# ``predict_distribution`` finds its way through search and pipeline. The figure shows
# the scores with their spread over the folds, one trip by three means of transport,
# and the calibration on held-out rows.

trip = pd.DataFrame({"distance": 6.0, "hour": 8.0, "transport": ["bike", "bus", "car"]})
minutes = np.linspace(8, 45, 400)
density = predict_distribution(search, trip).pdf(minutes[None])
fig, axes = plt.subplots(2, 2, figsize=(9, 7), layout="constrained")
scores = search.cv_results_
k = grid["mixturedensityregressor__n_components"]
axes[0, 0].errorbar(k, scores["mean_test_score"], scores["std_test_score"], marker="o")
axes[0, 0].set(xlabel="n_components", ylabel="held-out log-likelihood", xticks=k)
axes[0, 1].plot(minutes, density.T, label=list(trip["transport"]))
axes[0, 1].set(xlabel="minutes for 6 km at 8 o'clock", ylabel="density", ylim=0)
axes[0, 1].legend(frameon=False)
PredictiveCalibrationDisplay.from_estimator(
    search, X_test, y_test, n_bins=10, axes=axes[1]
)
plt.show()

# %%
# Look at the two peaks of the bus. The step from one component to two matters; beyond
# that the scores differ by less than they vary from fold to fold.
