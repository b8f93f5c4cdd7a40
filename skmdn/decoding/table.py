"""Rows of data in blocks of columns, each with a law of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from .laws import ColumnLaw

__all__ = ["Blocks", "Cells", "Table"]


@dataclass(frozen=True)
class Cells:
    """A block's values of some rows.

    Attributes
    ----------
    values : Tensor of shape (n_rows, n_columns)
        Prepared by the block's law.
    observed : Tensor of shape (n_rows, n_columns) or None
        1 where a value is there, 0 where it is missing; None if nothing is.
    log_size : Tensor of shape (n_rows, 1) or float
        The logarithms of the rows' sizes.
    """

    values: Tensor
    observed: Tensor | None
    log_size: Tensor | float

    def __getitem__(self, rows: Tensor) -> "Cells":
        return Cells(
            self.values[rows],
            None if self.observed is None else self.observed[rows],
            self.log_size[rows] if isinstance(self.log_size, Tensor) else self.log_size,
        )


class Table(list[Cells]):
    """The blocks of some rows."""

    def of(self, rows: Tensor) -> "Table":
        """Return some of the rows."""
        return Table(cells[rows] for cells in self)

    def log_sizes(self) -> "list[Tensor | float]":
        """Return the logarithms of the rows' sizes in each block."""
        return [cells.log_size for cells in self]


class Blocks(nn.Module):
    """The laws of all columns together: what the decoder's outputs stand for.

    Parameters
    ----------
    laws : sequence of ColumnLaw
        A law for each block.
    columns : sequence of list of int
        The block's columns in the data.
    """

    def __init__(
        self, laws: Sequence[ColumnLaw], columns: Sequence[Sequence[int]]
    ) -> None:
        super().__init__()
        self.laws = nn.ModuleList(laws)
        self.columns = [list(block) for block in columns]
        self.sizes = [law.n_outputs for law in laws]

    def _laws(self) -> list[ColumnLaw]:
        return cast(list[ColumnLaw], list(self.laws))

    def start(self, x: Tensor, exposure: Tensor | None = None) -> Tensor:
        """Let the laws see the training rows; return the marginal outputs."""
        parts = zip(self._laws(), self.columns, strict=True)
        return torch.cat([law.start(x[:, columns], exposure) for law, columns in parts])

    def table(self, x: Tensor, exposure: Tensor | None = None) -> Table:
        """Return rows as the other methods take them.

        Parameters
        ----------
        x : Tensor of shape (n_samples, n_features)
            Values; NaN is missing.
        exposure : Tensor of shape (n_samples, 1), optional
            The sizes of rows of counts; by default those that the laws find.

        Returns
        -------
        table : Table
        """
        result = Table()
        for law, columns in zip(self._laws(), self.columns, strict=True):
            values = x[:, columns]
            missing = values.isnan()
            observed = (~missing).to(x.dtype) if bool(missing.any()) else None
            log_size = law.log_size(values, exposure)
            result.append(Cells(law.prepared(values), observed, log_size))
        return result

    def _parts(
        self, eta: Tensor, table: Table
    ) -> list[tuple[ColumnLaw, Tensor, Cells]]:
        return list(zip(self._laws(), eta.split(self.sizes, 1), table, strict=True))

    def cells_log_prob(self, eta: Tensor, table: Table) -> list[Tensor]:
        """Return the log density of every value, block by block; 0 where missing."""
        result = []
        for law, outputs, cells in self._parts(eta, table):
            values = law.log_prob(cells.values, outputs, cells.log_size)
            result.append(values if cells.observed is None else values * cells.observed)
        return result

    def constant(self, table: Table) -> Tensor:
        """Return what of the log density of each row does not depend on the outputs."""
        parts = []
        for law, cells in zip(self._laws(), table, strict=True):
            values = law.constant(cells.values)
            if cells.observed is not None:
                values = values * cells.observed
            parts.append(values.sum(1).detach())
        return sum_of(parts)

    def log_prob(self, eta: Tensor, table: Table) -> Tensor:
        """Return the log density of what is there of every row, but for the constant.

        Parameters
        ----------
        eta : Tensor of shape (n_rows, n_outputs)
            Outputs of the decoder.
        table : Table
            The rows.

        Returns
        -------
        log_prob : Tensor of shape (n_rows,)
        """
        return sum_of([part.sum(1) for part in self.cells_log_prob(eta, table)])

    def slopes(self, eta: Tensor, table: Table) -> tuple[Tensor, Tensor]:
        """Return the derivative by each output and what :meth:`gram` takes."""
        firsts, declines = [], []
        for law, outputs, cells in self._parts(eta, table):
            first, decline = law.slopes(cells.values, outputs, cells.log_size)
            if cells.observed is not None:
                mask = law.spread_over_outputs(cells.observed)
                first, decline = first * mask, decline * mask
            firsts.append(first)
            declines.append(decline)
        if len(firsts) == 1:
            return firsts[0], declines[0]
        return torch.cat(firsts, 1), torch.cat(declines, 1)

    def gram(self, tangents: Tensor, decline: Tensor) -> Tensor:
        """Return minus the Hessian by the code of an unbent decoder."""
        parts = zip(
            self._laws(),
            tangents.split(self.sizes, 2),
            decline.split(self.sizes, 1),
            strict=True,
        )
        return sum_of([law.gram(tangent, one) for law, tangent, one in parts])

    def parameter_slopes(self, eta: Tensor, table: Table) -> list[Tensor]:
        """Return the gradients by the parameters of those laws that have some."""
        result = []
        for law, outputs, cells in self._parts(eta, table):
            observed = 1.0 if cells.observed is None else cells.observed
            slope = law.parameter_slopes(
                cells.values, outputs, cells.log_size, observed
            )
            if slope is not None:
                result.append(slope)
        return result

    def mean(
        self, eta: Tensor, log_sizes: Sequence[Tensor | float] | None = None
    ) -> Tensor:
        """Return an expected value for every output.

        ``log_sizes`` has those of the rows in each block; by default they are 0.
        """
        parts = zip(
            self._laws(),
            eta.split(self.sizes, 1),
            log_sizes or [0.0] * len(self.sizes),
            strict=True,
        )
        return torch.cat([law.mean(part, log_size) for law, part, log_size in parts], 1)

    def values(self, mean: Tensor) -> Tensor:
        """Return expected rows in the order of the data, from those of outputs."""
        parts = zip(self._laws(), mean.split(self.sizes, 1), strict=True)
        return self._gathered([law.values(part) for law, part in parts])

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        """Draw rows of size 1 in the order and the units of the data."""
        outputs = eta.split(self.sizes, 1)
        return self._gathered(
            [
                law.sample(part, 0.0, generator)
                for law, part in zip(self._laws(), outputs, strict=True)
            ]
        )

    def features(self, table: Table) -> Tensor:
        """Return the rows on scales for linear methods, and NaN for missing values."""
        parts = []
        for law, cells in zip(self._laws(), table, strict=True):
            part = law.features(cells.values, cells.log_size)
            if cells.observed is not None:
                missing = law.spread_over_outputs(cells.observed) == 0.0
                part = part.masked_fill(missing, torch.nan)
            parts.append(part)
        return torch.cat(parts, 1)

    def expected_features(self, eta: Tensor) -> Tensor:
        """Return about what :meth:`features` would be, given the outputs."""
        outputs = eta.split(self.sizes, 1)
        parts = zip(self._laws(), outputs, strict=True)
        return torch.cat([law.expected_features(part) for law, part in parts], 1)

    def _gathered(self, parts: Sequence[Tensor]) -> Tensor:
        """Return blocks side by side, each column where it stands in the data."""
        order = [column for block in self.columns for column in block]
        together = torch.cat(list(parts), 1)
        result = torch.empty_like(together)
        result[:, order] = together
        return result


def sum_of(parts: Sequence[Tensor]) -> Tensor:
    """Return the sum of tensors, at least one of them."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
