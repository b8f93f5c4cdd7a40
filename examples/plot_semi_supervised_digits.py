"""
Two labels for each digit
=========================

Labels are dear and rows are cheap. Of 1797 handwritten digits only twenty have been
named, two of each. The others still say where digits lie and how they vary, and a
mixture whose components belong to classes learns from both kinds of rows.
"""

# %%
# Twenty principal components, found without any label. The prior on the scales steadies
# the covariances; its mode, a variance of 19, is what the last components have.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from skmdn import GaussianMixtureClassifier
from skmdn.priors import InverseGamma

X, y = load_digits(return_X_y=True)


def make_model(**params):
    params["scales_prior"] = InverseGamma(shape=20, scale=400)
    model = GaussianMixtureClassifier(random_state=0, **params)
    return make_pipeline(PCA(20, random_state=0), model)


# %%
# -1 marks a row without label. ``unlabeled_weight=0`` leaves such rows out.


def hide(n_labels, seed):
    rng = np.random.RandomState(seed)
    labels = np.full_like(y, -1)
    for digit in range(10):
        known = rng.choice(np.flatnonzero(y == digit), n_labels, replace=False)
        labels[known] = digit
    return labels


counts, weights = [1, 2, 5, 10, 20], {"labels alone": 0.0, "all rows": 1.0}
accuracy = {name: [] for name in weights}
for n_labels in counts:
    for name, weight in weights.items():
        runs = []
        for seed in range(5):
            labels = hide(n_labels, seed)
            model = make_model(unlabeled_weight=weight).fit(X, labels)
            runs.append(model.score(X[labels < 0], y[labels < 0]))
        accuracy[name].append(runs)
    both = ", ".join(f"{name} {np.mean(accuracy[name][-1]):.3f}" for name in weights)
    print(f"{n_labels:2d} labels per digit: {both}")

# %%
# The accuracy on the rows without label, over five choices of the labels.

fig, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
for name, runs in accuracy.items():
    ax.errorbar(counts, np.mean(runs, 1), np.std(runs, 1), marker="o", label=name)
ax.set(xscale="log", xlabel="labels per digit", ylabel="accuracy")
ax.set_xticks(counts, counts)
ax.minorticks_off()
ax.legend(frameon=False)
plt.show()

# %%
# What the model takes for each digit, from two labels: means, and below them draws.

model = make_model().fit(X, hide(2, seed=0))
drawn, _ = model[-1].sample(10, y=np.arange(10))
images = model[0].inverse_transform(np.vstack([model[-1].means_, drawn]))
fig, axes = plt.subplots(2, 10, figsize=(9, 2), layout="constrained")
for ax, image in zip(axes.flat, images, strict=True):
    ax.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=16)
    ax.axis("off")
plt.show()
