"""The data of a fit in columns, and the blocks in which they are worked on."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Block", "Rows"]


@dataclass(frozen=True)
class Block:
    """Some rows, in columns.

    Attributes
    ----------
    columns : Tensor of shape (n_present, n_rows)
        The features that are present, or all with 0 for missing numbers.
    places : Tensor or slice
        Where the rows stand in the user's order.
    weights : Tensor of shape (n_rows,) or None
        Their weights; None means 1.
    observed : Tensor of shape (n_features, n_rows) or None
        1 where a number is there, 0 where it is missing; None if nothing is.
    labels : Tensor of shape (n_rows,) or None
        Rows of a table of allowed components; None allows all.
    """

    columns: Tensor
    places: Tensor | slice
    weights: Tensor | None
    observed: Tensor | None
    labels: Tensor | None


class Rows:
    """Centred data in columns.

    Parameters
    ----------
    columns : Tensor of shape (n_features, n_samples)
        The data; NaN where a number is missing.
    weights : Tensor of shape (n_samples,), optional
        Weights, 1 by default.
    labels : Tensor of shape (n_samples,), optional
        For every row the row of a table that says which components it may have.

    Attributes
    ----------
    total : float
        The sum of the weights.
    reach : Tensor of shape (n_features,)
        The largest absolute value of each feature.
    """

    def __init__(
        self,
        columns: Tensor,
        weights: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> None:
        self.columns = columns
        self.weights = weights
        self.labels = labels
        self.n_features, self.n_samples = columns.shape
        self.total = float(self.n_samples if weights is None else weights.sum())
        low, high = columns.aminmax(dim=1)
        self.complete = not bool((low.isnan() | high.isnan()).any())
        if self.complete:
            self.reach = torch.maximum(low.abs(), high.abs())
        else:
            self.reach = columns.nan_to_num(nan=0.0).abs().amax(1)
        self._groups: list[tuple[list[int], Tensor]] | None = None

    def blocks(self, n_rows: int) -> Iterator[Block]:
        """Yield blocks of at most so many rows; missing numbers are masked."""
        for start in range(0, self.n_samples, n_rows):
            part = slice(start, min(start + n_rows, self.n_samples))
            columns, observed = self.columns[:, part], None
            if not self.complete:
                missing = columns.isnan()
                columns = columns.masked_fill(missing, 0.0)
                observed = (~missing).to(columns.dtype)
            yield Block(columns, part, *self._beside(part, observed))

    def patterns(self, n_rows: int) -> Iterator[tuple[list[int], Iterator[Block]]]:
        """Yield rows that miss the same features, as those present and their blocks."""
        if self.complete:
            yield list(range(self.n_features)), self.blocks(n_rows)
            return
        for present, members in self._pattern_groups():
            yield present, self._blocks_of(present, members, n_rows)

    def _blocks_of(
        self, present: list[int], members: Tensor, n_rows: int
    ) -> Iterator[Block]:
        for places in members.split(n_rows):
            columns = (
                self.columns[present][:, places]
                if present
                else (self.columns[:0, : len(places)])
            )
            yield Block(columns, places, *self._beside(places, None))

    def _beside(
        self, places: Tensor | slice, observed: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        weights = None if self.weights is None else self.weights[places]
        labels = None if self.labels is None else self.labels[places]
        return weights, observed, labels

    def _pattern_groups(self) -> list[tuple[list[int], Tensor]]:
        """Return the features present and the rows of every pattern, found once."""
        if self._groups is None:
            missing = self.columns.isnan().T
            kinds, member = missing.unique(dim=0, return_inverse=True)
            order = member.argsort(stable=True)
            sizes = member.bincount(minlength=len(kinds)).tolist()
            self._groups = [
                ((~kind).nonzero().view(-1).tolist(), rows)
                for kind, rows in zip(kinds, order.split(sizes), strict=True)
            ]
        return self._groups
