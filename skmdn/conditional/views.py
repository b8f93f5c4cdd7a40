"""Views: what each network of an ensemble sees of the features.

Some tables are smooth in their features, some jump, and one cannot tell beforehand.
So networks with different input blocks are trained side by side on the same rows, and
the rows they hold out decide how much each of them counts
(:func:`skmdn.learning.stacking.stacking_weights`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from skmdn.base import ChosenRows, Standardizer, bin_edges
from skmdn.bridge import to_tensor
from skmdn.learning.embeddings import FeatureEmbedding

__all__ = ["EMBEDDINGS", "View", "views_for"]

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

# Hidden layers, and those behind bins of a table with few rows: the bins have made
# steps of the features already.
_LAYERS = (96, 96)
_LAYERS_BINS = (128,)
_FEW = 2_000


def views_for(
    embedding: str, n_samples: int, n_features: int, held_out: bool
) -> "tuple[View, ...]":
    """Return the views that a value of the parameter ``embedding`` stands for.

    Without held-out rows nothing can tell which views a table wants: then "auto" is
    the raw features alone.
    """
    n_bins = _N_BINS if n_samples < _LARGE else _N_BINS_LARGE
    n_bins = max(2, min(n_bins, _MAX_WIDTH // n_features))
    n_cosines = max(1, min(_N_COSINES, _MAX_WIDTH // (2 * n_features)))
    raw, bins, waves = View(), View(n_bins), View(n_bins, n_cosines)
    views = {
        "none": (raw,),
        "ple": (bins,),
        "ple+cos": (waves,),
        "auto": (raw, bins, waves) if held_out else (raw,),
    }
    return views[embedding]


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
        return _LAYERS_BINS if self.n_bins and n_samples < _FEW else _LAYERS

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
