"""The arithmetic of a block of rows, for each form of covariances."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .parameters import Parameters
from .rows import Block

__all__ = [
    "LOG_2PI",
    "Kernel",
    "block_length",
    "expanded_is_safe",
    "make_kernel",
]

LOG_2PI = math.log(2.0 * math.pi)
# Numbers at work at a time: few enough for the processor's cache.
_NUMBERS = {"cpu": 2**18, "cuda": 2**24}
_MOST_ROWS = {"cpu": 2**12, "cuda": 2**17}
# The expanded form loses at most about this many units in the last place.
_LARGEST_SQUARE = 1e8


def expanded_is_safe(parameters: Parameters, reach: Tensor) -> bool:
    """Whether the expanded quadratic form keeps about ten digits after the point.

    Its terms are at most the number of features times the sum of the squares of the
    largest values in units of the components' conditional standard deviations.
    """
    whitening = parameters.each_whitening()
    precision = (
        whitening.square().sum(-2) if parameters.matrices else whitening.square()
    )
    largest = (precision @ reach.square()).amax() * len(reach)
    return bool(largest <= _LARGEST_SQUARE)


def block_length(parameters: Parameters, *, expanded: bool) -> int:
    """Return how many rows make a block."""
    n_runs, n_components, n_features = parameters.shape
    width = n_runs * n_components
    if not expanded:
        width *= n_features
    elif parameters.matrices:
        width = max(width, n_features * (n_features + 3) // 2 + 1)
    device = "cpu" if parameters.means.device.type == "cpu" else "cuda"
    return max(128, min(_MOST_ROWS[device], _NUMBERS[device] // width))


def make_kernel(parameters: Parameters, present: list[int], expanded: bool) -> "Kernel":
    """Return the kernel of rows in which these features are present."""
    if parameters.matrices:
        kind: type[Kernel] = ExpandedMatrices if expanded else DeviatedMatrices
    else:
        kind = ExpandedVectors if expanded else DeviatedVectors
    return kind(parameters, present)


class Kernel(ABC):
    """Joint log densities of blocks of rows, and moments gathered over them.

    Parameters
    ----------
    parameters : Parameters
        The mixtures; runs and components become one axis, of length n.
    present : list of int
        The features that the rows have.
    """

    def __init__(self, parameters: Parameters, present: list[int]) -> None:
        self.log_weights = parameters.log_weights.flatten()
        self.means = parameters.means.flatten(0, 1)
        self.present = present
        self.n, self.n_features = self.means.shape
        self._buffers: dict[str, Tensor] = {}

    @abstractmethod
    def logits(self, block: Block) -> Tensor:
        """Return joint log densities, ``(n, n_rows)``, in memory that is used again."""

    @abstractmethod
    def gather(self, shares: Tensor, block: Block) -> None:
        """Add the rows of the last block, with these shares, to the moments."""

    @abstractmethod
    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return sums of 1, of the deviations from the means and of their squares.

        All features are meant: those missing by what is expected of them.
        """

    @abstractmethod
    def expected(self, shares: Tensor, block: Block) -> Tensor:
        """Return expected values of all features, ``(n_features, n_rows)``."""

    def _buffer(self, name: str, n_lines: int, n_rows: int) -> Tensor:
        """Return memory for a block: fresh pages cost more than the arithmetic."""
        if name not in self._buffers:
            self._buffers[name] = self.means.new_empty((n_lines, n_rows))
        return self._buffers[name][:, :n_rows]


class _Matrices(Kernel):
    """What both forms for covariance matrices share: features that are missing."""

    def __init__(self, parameters: Parameters, present: list[int]) -> None:
        super().__init__(parameters, present)
        self.whitening = parameters.each_whitening().flatten(0, 1)
        self.complete = len(present) == self.n_features
        self.center = self.means
        if not self.complete:
            self.center = self.means[:, present]
            self._regress(parameters.each_covariance().flatten(0, 1))
        diagonal = self.whitening.diagonal(dim1=-2, dim2=-1)
        self.at_mean = (
            self.log_weights + diagonal.log().sum(-1) - 0.5 * len(present) * LOG_2PI
        )

    def _regress(self, covariance: Tensor) -> None:
        """Prepare the law of the missing features given those present."""
        here = self.present
        gone = [j for j in range(self.n_features) if j not in here]
        root = torch.linalg.cholesky(covariance[:, here][:, :, here])
        eye = torch.eye(len(here), dtype=root.dtype, device=root.device)
        self.whitening = torch.linalg.solve_triangular(
            root, eye.expand_as(root), upper=False
        )
        half = self.whitening @ covariance[:, here][:, :, gone]
        full = covariance.new_zeros((self.n, self.n_features, len(here)))
        full[:, here] = eye
        full[:, gone] = (self.whitening.mT @ half).mT
        self.regression = full
        rest = covariance[:, gone][:, :, gone] - half.mT @ half
        spread = torch.zeros_like(covariance)
        rows, columns = torch.tensor(gone).unsqueeze(-1), torch.tensor(gone)
        spread[:, rows, columns] = rest
        self.spread = spread

    def _completed(
        self, counts: Tensor, first: Tensor, second: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if self.complete:
            return counts, first, second
        first = (self.regression @ first.unsqueeze(-1)).squeeze(-1)
        second = self.regression @ second @ self.regression.mT
        return counts, first, second + counts.view(-1, 1, 1) * self.spread

    def expected(self, shares: Tensor, block: Block) -> Tensor:
        """Add up what the components expect."""
        if self.complete:
            return block.columns
        deviation = block.columns - self.center.unsqueeze(-1)
        values = self.regression @ deviation + self.means.unsqueeze(-1)
        return (values * shares.unsqueeze(1)).sum(0)


class ExpandedMatrices(_Matrices):
    """Products of features, summed in one matrix product."""

    def __init__(self, parameters: Parameters, present: list[int]) -> None:
        super().__init__(parameters, present)
        d = len(present)
        self.pairs = torch.triu_indices(d, d, device=self.means.device)
        precision = self.whitening.mT @ self.whitening
        quadratic = -precision[:, self.pairs[0], self.pairs[1]]
        quadratic[:, self.pairs[0] == self.pairs[1]] *= 0.5
        whitened = (self.whitening @ self.center.unsqueeze(-1)).squeeze(-1)
        constant = self.at_mean - 0.5 * whitened.square().sum(-1)
        linear = (self.whitening.mT @ whitened.unsqueeze(-1)).squeeze(-1)
        self.theta = torch.cat([quadratic, linear, constant.unsqueeze(-1)], -1)
        self.sums = torch.zeros_like(self.theta)

    def logits(self, block: Block) -> Tensor:
        """Multiply features by natural parameters."""
        x = block.columns
        d, n_rows = x.shape
        features = self._buffer("features", self.theta.shape[1], n_rows)
        place = 0
        for j in range(d):
            torch.mul(x[j:], x[j], out=features[place : place + d - j])
            place += d - j
        features[place : place + d] = x
        features[-1] = 1.0
        logits = self._buffer("logits", self.n, n_rows)
        return torch.mm(self.theta, features, out=logits)

    def gather(self, shares: Tensor, block: Block) -> None:
        """Sum the features of the last block."""
        features = self._buffer("features", self.theta.shape[1], shares.shape[1])
        self.sums.addmm_(shares, features.T)

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Move the sums to the means."""
        d = len(self.present)
        raw = self.sums.new_empty((self.n, d, d))
        quadratic = self.sums[:, : -d - 1]
        raw[:, self.pairs[0], self.pairs[1]] = quadratic
        raw[:, self.pairs[1], self.pairs[0]] = quadratic
        counts, linear = self.sums[:, -1], self.sums[:, len(self.pairs[0]) : -1]
        first = linear - counts.unsqueeze(-1) * self.center
        cross = linear.unsqueeze(-1) * self.center.unsqueeze(-2)
        second = raw - cross - self.center.unsqueeze(-1) * first.unsqueeze(-2)
        return self._completed(counts, first, second)


class DeviatedMatrices(_Matrices):
    """Whitened deviations from every mean: slower, and as exact as can be."""

    def __init__(self, parameters: Parameters, present: list[int]) -> None:
        super().__init__(parameters, present)
        d = len(present)
        self.counts = torch.zeros_like(self.log_weights)
        self.first = torch.zeros_like(self.center)
        self.second = self.center.new_zeros((self.n, d, d))

    def logits(self, block: Block) -> Tensor:
        """Whiten and sum the squares."""
        d, n_rows = block.columns.shape
        whitened = self._buffer("whitened", self.n * d, n_rows)
        whitened = (
            whitened.view(self.n, d, n_rows)
            if d
            else whitened.new_zeros((self.n, 0, n_rows))
        )
        deviation = block.columns - self.center.unsqueeze(-1)
        self._whitened = torch.matmul(self.whitening, deviation, out=whitened)
        squares = whitened.square().sum(1)
        return torch.sub(self.at_mean.unsqueeze(-1), squares, alpha=0.5)

    def gather(self, shares: Tensor, block: Block) -> None:
        """Sum the whitened deviations and their products."""
        weighted = self._whitened * shares.unsqueeze(1)
        self.counts += shares.sum(-1)
        self.first += weighted.sum(-1)
        self.second += weighted @ self._whitened.mT

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Undo the whitening of the sums."""
        eye = torch.eye(
            len(self.present), dtype=self.first.dtype, device=self.first.device
        )
        root = torch.linalg.solve_triangular(
            self.whitening, eye.expand_as(self.whitening), upper=False
        )
        first = (root @ self.first.unsqueeze(-1)).squeeze(-1)
        return self._completed(self.counts, first, root @ self.second @ root.mT)


class _Vectors(Kernel):
    """What both forms for variances share. Missing features are masked."""

    def __init__(self, parameters: Parameters, present: list[int]) -> None:
        super().__init__(parameters, present)
        self.inverse_std = parameters.each_whitening().flatten(0, 1)
        self.variances = parameters.each_covariance().flatten(0, 1)
        self.log_peak = self.inverse_std.log() - 0.5 * LOG_2PI

    def expected(self, shares: Tensor, block: Block) -> Tensor:
        """Add up the means: features are independent given the component."""
        return self.means.T @ shares

    def _with_missing(
        self, counts: Tensor, seen: Tensor, first: Tensor, second: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Grant missing numbers the component's mean and variance."""
        return counts, first, second + (counts.unsqueeze(-1) - seen) * self.variances


class ExpandedVectors(_Vectors):
    """Squares of features, summed in one matrix product."""

    def __init__(self, parameters: Parameters, present: list[int]) -> None:
        super().__init__(parameters, present)
        precision = self.inverse_std.square()
        linear = precision * self.means
        constant = self.log_peak - 0.5 * linear * self.means
        total = (self.log_weights + constant.sum(-1)).unsqueeze(-1)
        self.parts = [-0.5 * precision, linear, constant]
        self.complete = torch.cat([-0.5 * precision, linear, total], -1)
        self.sums: Tensor | None = None

    def logits(self, block: Block) -> Tensor:
        """Multiply features by natural parameters."""
        x, observed = block.columns, block.observed
        d, n_rows = x.shape
        theta = self.complete
        if observed is not None:
            theta = torch.cat([*self.parts, self.log_weights.unsqueeze(-1)], -1)
        features = self._buffer("features", theta.shape[1], n_rows)
        torch.mul(x, x, out=features[:d])
        features[d : 2 * d] = x
        if observed is not None:
            features[2 * d : 3 * d] = observed
        features[-1] = 1.0
        logits = self._buffer("logits", self.n, n_rows)
        return torch.mm(theta, features, out=logits)

    def gather(self, shares: Tensor, block: Block) -> None:
        """Sum the features of the last block."""
        features = self._buffers["features"][:, : shares.shape[1]]
        if self.sums is None:
            self.sums = shares.new_zeros((self.n, len(features)))
        self.sums.addmm_(shares, features.T)

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Move the sums to the means."""
        assert self.sums is not None
        d = self.n_features
        square, linear = self.sums[:, :d], self.sums[:, d : 2 * d]
        counts = self.sums[:, -1]
        seen = counts.unsqueeze(-1)
        if self.sums.shape[1] > 2 * d + 1:
            seen = self.sums[:, 2 * d : 3 * d]
        first = linear - seen * self.means
        second = square - self.means * (linear + first)
        return self._with_missing(counts, seen, first, second)


class DeviatedVectors(_Vectors):
    """Deviations from every mean: slower, and as exact as can be."""

    def __init__(self, parameters: Parameters, present: list[int]) -> None:
        super().__init__(parameters, present)
        self.counts = torch.zeros_like(self.log_weights)
        self.seen, self.first, self.second = (
            torch.zeros_like(self.means) for _ in range(3)
        )

    def logits(self, block: Block) -> Tensor:
        """Standardise and sum the squares."""
        z = block.columns - self.means.unsqueeze(-1)
        z = z.mul_(self.inverse_std.unsqueeze(-1))
        if block.observed is None:
            at_mean = self.log_peak.sum(-1, keepdim=True)
        else:
            z.mul_(block.observed)
            at_mean = self.log_peak @ block.observed
        self._z = z
        at_mean = at_mean + self.log_weights.unsqueeze(-1)
        return torch.sub(at_mean, z.square().sum(1), alpha=0.5)

    def gather(self, shares: Tensor, block: Block) -> None:
        """Sum standardised deviations and their squares."""
        weighted = self._z * shares.unsqueeze(1)
        count = shares.sum(-1)
        self.counts += count
        if block.observed is None:
            self.seen += count.unsqueeze(-1)
        else:
            self.seen += shares @ block.observed.T
        self.first += weighted.sum(-1)
        self.second += weighted.mul_(self._z).sum(-1)

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Undo the standardisation of the sums."""
        std = self.inverse_std.reciprocal()
        first, second = std * self.first, std.square() * self.second
        return self._with_missing(self.counts, self.seen, first, second)
