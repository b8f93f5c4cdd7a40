"""The data of a fit in columns, and the blocks in which they are worked on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Block", "Rows"]

# A pattern with fewer rows is not worth matrices of its own.
_MANY = 256


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
    gone : Tensor of shape (n_rows, n_missing) or None
        The features that each row misses, where patterns stand together.
    kinds : Tensor of shape (n_rows,) or None
        The numbers of these patterns; equal ones are neighbours.
    """

    columns: Tensor
    places: Tensor | slice
    weights: Tensor | None
    observed: Tensor | None
    labels: Tensor | None
    gone: Tensor | None = None
    kinds: Tensor | None = None


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
        self._groups: _Groups | None = None

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
        """Yield many rows that miss the same features: those present, and blocks."""
        if self.complete:
            yield list(range(self.n_features)), self.blocks(n_rows)
            return
        for present, members in self._pattern_groups().alike:
            yield present, self._blocks_of(present, members, n_rows)

    def scattered(self, n_rows: Callable[[int], int]) -> Iterator[Iterator[Block]]:
        """Yield blocks of the other rows, those that miss as many features together.

        Rows of a pattern are neighbours, and missing numbers are 0. How many rows make
        a block is a function of how many features they miss.
        """
        if self.complete:
            return
        for members, gone, kinds in self._pattern_groups().scattered:
            yield self._scattered_blocks(members, gone, kinds, n_rows(gone.shape[1]))

    def _scattered_blocks(
        self, members: Tensor, gone: Tensor, kinds: Tensor, n_rows: int
    ) -> Iterator[Block]:
        parts = zip(
            members.split(n_rows), gone.split(n_rows), kinds.split(n_rows), strict=True
        )
        for places, missed, kind in parts:
            columns = self.columns[:, places]
            missing = columns.isnan()
            observed = (~missing).to(columns.dtype)
            columns = columns.masked_fill(missing, 0.0)
            yield Block(columns, places, *self._beside(places, observed), missed, kind)

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

    def _pattern_groups(self) -> "_Groups":
        if self._groups is None:
            self._groups = _Groups.of(self.columns.isnan().T)
        return self._groups


@dataclass(frozen=True)
class _Groups:
    """Rows by what they miss, found once.

    Attributes
    ----------
    alike : list of tuple
        For each pattern of many rows the features present and the rows' numbers.
    scattered : list of tuple
        For each number of missing features the other rows' numbers, ordered by
        pattern, what each of them misses, and the number of its pattern.
    """

    alike: list[tuple[list[int], Tensor]]
    scattered: list[tuple[Tensor, Tensor, Tensor]]

    @classmethod
    def of(cls, missing: Tensor) -> "_Groups":
        """Group rows by their masks, ``(n_samples, n_features)``."""
        kinds, member = missing.unique(dim=0, return_inverse=True)
        order = member.argsort(stable=True)
        sizes = member.bincount(minlength=len(kinds))
        many = sizes >= _MANY
        alike = [
            ((~kind).nonzero().view(-1).tolist(), rows)
            for kind, rows, keep in zip(
                kinds, order.split(sizes.tolist()), many.tolist(), strict=True
            )
            if keep
        ]
        rest = order[~many[member[order]]]
        n_missing = kinds.sum(1)[member[rest]]
        scattered = []
        for n in n_missing.unique().tolist():
            rows = rest[n_missing == n]
            gone = missing[rows].nonzero()[:, 1].view(len(rows), n)
            scattered.append((rows, gone, member[rows]))
        return cls(alike, scattered)
