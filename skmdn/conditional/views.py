"""Views: what each network of an ensemble sees of the features.

Some tables are smooth in their features, some jump, and one cannot tell beforehand.
So networks with different input blocks are trained side by side on the same rows, and
the rows they hold out decide how much each of them counts
(:func:`skmdn.learning.stacking.stacking_weights`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from skmdn.base import ChosenRows, Standardizer, bin_edges
from skmdn.bridge import to_tensor
from skmdn.learning.embeddings import FeatureEmbedding
from skmdn.learning.networks import MixtureNetwork

__all__ = ["EMBEDDINGS", "View", "usual_decay", "views_for"]

EMBEDDINGS = ("auto", "none", "ple", "ple+cos")

# More rows than this say nothing new about the quantiles of a feature.
_MAX_ROWS = 200_000

# So many numbers of them are standardised together.
_MAX_NUMBERS = 2**22


# Bins per feature: a large table has something to say about smaller steps, and many
# features share out a layer of bounded width.
_N_BINS = 16
_N_BINS_LARGE = 48
_LARGE = 5_000
_MAX_WIDTH = 1_024
_N_COSINES = 8

# Hidden layers up to so many rows, then those of larger tables; and those behind bins
# of a table with few rows: the bins have made steps of the features already.
_LAYERS = {_LARGE: (48, 48, 48), 20_000: (64, 64, 64)}
_LAYERS_LARGE = (96, 96)
_LAYERS_BINS = (128,)
_FEW = 2_000

# Weight decay; and that of networks which see the features alone in a fit that holds
# out rows: behind bins steps must stay possible, and a stream needs little.
_DECAY = 0.01
_DECAY_SMOOTH = 0.1


def usual_decay(network: MixtureNetwork, held_out: bool) -> float:
    """Return the weight decay of a network by what it sees of the features."""
    block: Any = network.block
    return _DECAY_SMOOTH if held_out and block.sees_features_alone else _DECAY


def views_for(
    embedding: str | Sequence[str], n_samples: int, n_features: int, held_out: bool
) -> "tuple[View, ...]":
    """Return the views that a value of the parameter ``embedding`` stands for.

    Without held-out rows nothing can tell which views a table wants: then "auto" is
    the raw features alone.
    """
    n_bins = _N_BINS if n_samples < _LARGE else _N_BINS_LARGE
    n_bins = max(2, min(n_bins, _MAX_WIDTH // n_features))
    n_cosines = max(1, min(_N_COSINES, _MAX_WIDTH // (2 * n_features)))
    views = {"none": View(), "ple": View(n_bins), "ple+cos": View(n_bins, n_cosines)}
    if embedding == "auto":
        embedding = tuple(views) if held_out else "none"
    names = (embedding,) if isinstance(embedding, str) else tuple(embedding)
    known = tuple(views)
    if not names or any(name not in known for name in names):
        raise ValueError(
            "embedding must be 'auto' or one or more of "
            f"{', '.join(map(repr, known))}, got {embedding!r}."
        )
    return tuple(views[name] for name in names)


@dataclass(frozen=True)
class View:
    """An input block before it has seen data.

    Parameters
    ----------
    n_bins : int, default=0
        Piecewise-linear bins per feature.
    n_cosines : int, default=0
        Cosines with learned frequencies per feature.
    """

    n_bins: int = 0
    n_cosines: int = 0

    def hidden_layer_sizes(self, n_samples: int) -> tuple[int, ...]:
        """Return the layers of ``hidden_layer_sizes="auto"``."""
        if self.n_bins and n_samples < _FEW:
            return _LAYERS_BINS
        fitting = (layers for end, layers in _LAYERS.items() if n_samples < end)
        return next(fitting, _LAYERS_LARGE)

    def input_block(
        self,
        n_members: int,
        X: np.ndarray | ChosenRows,
        weights: np.ndarray,
        scaler: Standardizer,
        generator: torch.Generator,
    ) -> FeatureEmbedding:
        """Place the bins on the rows and return the module."""
        edges = []
        if self.n_bins:
            some = slice(None, None, max(1, len(X) // _MAX_ROWS))
            edges = [
                to_tensor(bin_edges(column, weights[some], self.n_bins))
                for column in _columns(X, some, scaler)
            ]
        return FeatureEmbedding(
            n_members,
            X.shape[1],
            edges=edges,
            n_cosines=self.n_cosines,
            generator=generator,
        )


def _columns(
    X: np.ndarray | ChosenRows, rows: slice, scaler: Standardizer
) -> Iterator[np.ndarray]:
    """Yield standardised columns; a copy of a few of them is made at a time."""
    n_rows = len(range(*rows.indices(len(X))))
    n_columns = max(1, _MAX_NUMBERS // n_rows)
    for start in range(0, X.shape[1], n_columns):
        part = slice(start, start + n_columns)
        scaled = Standardizer(scaler.mean[part], scaler.scale[part])
        yield from scaled.transform(X[rows, part]).T
