"""
Which model made the data?
==========================

Twenty counts: from a Poisson or from a geometric law, of unknown rate? Simulate from
both and let a classifier learn the answer: its probabilities estimate those of the
models given the data. Both marginal likelihoods are known here, so that the answer can
be checked.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy import special, stats
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmdn.simulation import ModelSimulator


def poisson(rate, rng):
    return {"x": rng.poisson(rate, size=20)}


def geometric(p, rng):
    return {"x": rng.geometric(p, size=20) - 1}


simulator = ModelSimulator(
    {
        "Poisson": [{"rate": stats.gamma(2.0)}, poisson],
        "geometric": [{"p": stats.beta(2.0, 2.0)}, geometric],
    }
)
data = simulator.sample(10_000, random_state=0)

# %%
# The order of the counts does not matter, and a classifier need not learn that: it gets
# them sorted.

classifier = make_pipeline(
    StandardScaler(),
    MLPClassifier((50, 50), early_stopping=True, random_state=0),
)
classifier.fit(np.sort(np.log1p(data["x"])), data["model"])

# %%
# The exact probability, from the marginal likelihoods; its score is the best possible.


def exact_probability(x):
    n, s = x.shape[1], x.sum(1)
    log_poisson = special.gammaln(s + 2) - (s + 2) * np.log(n + 1)
    log_poisson -= special.gammaln(x + 1).sum(1)
    log_geometric = special.betaln(2 + n, 2 + s) - special.betaln(2, 2)
    return special.expit(log_geometric - log_poisson)


test = simulator.sample(2000, random_state=1)
exact = exact_probability(test["x"])
learned = classifier.predict_proba(np.sort(np.log1p(test["x"])))[:, 1]
losses = [log_loss(test["model"], p) for p in (learned, exact)]
print("log loss, learned and exact:", np.round(losses, 3))

# %%
# Left, the learned probability against the exact one. Right, both are calibrated: of
# data with the probability 0.8 eight in ten are geometric.

fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 4), layout="constrained")
left.scatter(exact, learned, s=4, alpha=0.4)
left.plot([0, 1], [0, 1], color="black", lw=0.8)
left.set(xlabel="exact p(geometric | x)", ylabel="learned")
for name, probability in (("learned", learned), ("exact", exact)):
    CalibrationDisplay.from_predictions(
        test["model"], probability, n_bins=10, strategy="quantile", name=name, ax=right
    )
plt.show()
