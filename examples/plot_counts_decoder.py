"""
Cells without their batch
=========================

Two laboratories counted transcripts in the same eight types of cells, and each has its
own bias. A code for the cell, another one for the laboratory: the first is to be free
of what the second explains.
"""

# %%
# Simulated counts, more scattered than any Poisson law. The bias of a laboratory is a
# factor for each gene.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, silhouette_score

from skmdn import DeepGenerativeDecoder

rng = np.random.RandomState(0)
n_cells, n_genes, dispersion = 800, 100, 0.7
kind, batch = rng.randint(8, size=n_cells), rng.randint(2, size=n_cells)
log_mean = rng.normal(1.5, 0.5, n_genes) + rng.normal(0.0, 0.8, (8, n_genes))
log_bias = rng.normal(0.0, 0.7, (2, n_genes))
depth = np.exp(rng.normal(0.0, 0.3, (n_cells, 1)))
mean = depth * np.exp(log_mean[kind] + log_bias[batch])
X = rng.poisson(mean * rng.gamma(dispersion, 1.0 / dispersion, mean.shape)).astype(
    float
)

model = DeepGenerativeDecoder(
    n_latent=6,
    n_components=8,
    likelihood="negative_binomial",
    hidden_layer_sizes=(64,),
    column_scales="evidence",
    max_iter=60,
    random_state=0,
).fit(X, covariates=batch)

# %%
# The components are the types of cells, the batches lie on each other, and the learned
# dispersions are near the true one, below 1.

codes = model.transform(X)
plain = PCA(6, random_state=0).fit_transform(np.log1p(X))
learned = model.module_.blocks.laws[0].shape().median()
print(
    f"adjusted Rand index of the types: {adjusted_rand_score(kind, model.labels_):.3f}"
)
print(f"silhouette of the batch in PCA: {silhouette_score(plain, batch):.3f}")
print(f"silhouette of the batch in codes: {silhouette_score(codes, batch):.3f}")
print(f"dispersion: {learned:.2f}, true {dispersion}")

# %%
# The same cells in both spaces; then what no one has measured: what would the other
# laboratory have counted? Cells of the first, decoded as the second's, against the
# means of that one's own cells.

fig, axes = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained")
flat = PCA(2, random_state=0).fit_transform(codes)
for ax, points, title in ((axes[0], plain, "PCA"), (axes[1], flat, "codes")):
    for one, marker in ((0, "o"), (1, "x")):
        rows = batch == one
        ax.scatter(*points[rows, :2].T, c=kind[rows], s=8, marker=marker, cmap="tab10")
    ax.set(title=f"{title}: colour by type, mark by batch", xticks=[], yticks=[])
other = model.inverse_transform(
    codes[batch == 0], covariates=np.ones((batch == 0).sum())
)
size = X.sum(1, keepdims=True) / X.sum(1).mean()
for one in range(8):
    seen = (X / size)[(batch == 1) & (kind == one)].mean(0)
    guess = other[kind[batch == 0] == one].mean(0)
    axes[2].scatter(seen, guess, s=4, color=f"C{one}")
axes[2].plot([0.1, 200], [0.1, 200], color="gray", linewidth=1)
axes[2].set(
    xscale="log", yscale="log", xlabel="counted by the second", ylabel="counterfactual"
)
plt.show()
