"""
Which digit is this half of one?
================================

A decoder that has learned to write digits from ten numbers each knows what the lower
half of a digit looks like, given the upper one. It has never seen a label.
"""

# %%
# Ten numbers for every picture, and a mixture of ten normal laws over them. The pixels
# have the same units, so that one scale serves them all.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

from skmdn import DeepGenerativeDecoder
from skmdn.plotting import GaussianMixtureDisplay, ReconstructionDisplay

X, y = load_digits(return_X_y=True)
X_train, X_new, y_train, y_new = train_test_split(X / 16.0, y, random_state=0)
model = DeepGenerativeDecoder(
    n_latent=10,
    n_components=10,
    likelihood="spherical_gaussian",
    code_noise=0.3,
    max_iter=60,
    random_state=0,
).fit(X_train)

# %%
# The codes of new digits are found, not guessed by a second network. Their neighbours
# are mostly the same digit, and the components are mostly digits.

codes = model.transform(X_new)
neighbours = KNeighborsClassifier(10).fit(model.transform(X_train), y_train)
print(f"accuracy of ten neighbours: {neighbours.score(codes, y_new):.3f}")
print(f"adjusted Rand index: {adjusted_rand_score(y_new, model.predict(X_new)):.3f}")
print(f"log density of new digits: {model.score(X_new):.1f} nats")

# %%
# A map of the codes, along the two directions in which the digits' means vary most,
# with the mixture seen from there.

centers = np.stack([model.embedding_[y_train == digit].mean(0) for digit in range(10)])
axes = np.linalg.svd(centers - centers.mean(0))[2][:2]
mixture = GaussianMixtureDisplay(
    weights=model.mixture_.weights_,
    means=model.mixture_.means_ @ axes.T,
    covariances=axes @ model.mixture_.covariances_ @ axes.T,
    feature_names=("first direction", "second direction"),
)
fig, ax = plt.subplots(figsize=(7, 5), layout="constrained")
mixture.plot(ax, levels=(0.5,))
for digit, place in zip(y_new, codes @ axes.T, strict=True):
    ax.text(*place, str(digit), ha="center", va="center", fontsize=6, alpha=0.6)
ax.set_title("New digits and the components of their codes")

# %%
# New digits that never were, one from each component.

drawn = np.vstack([model.sample(1, component=k)[0] for k in range(10)])
ReconstructionDisplay.from_estimator(model, np.clip(drawn, 0.0, 1.0))

# %%
# The lower half is missing. Where the upper one leaves a doubt, the answer is an
# average over what it may be.

holed = X_new[:12].copy()
holed[:, 32:] = np.nan
ReconstructionDisplay.from_estimator(model, holed, truth=X_new[:12])
plt.show()
