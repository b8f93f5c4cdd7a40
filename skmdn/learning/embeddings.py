r"""What the trunk sees of the features: themselves, and bins and waves beside them.

A network on raw features learns smooth functions first; tables are often jagged.
Beside the standardised features an embedding puts

.. math::
    \mathrm{ple}_b(x) = \mathrm{clip}\Bigl(\frac{x - l_b}{r_b - l_b}, 0, 1\Bigr) -
    \tfrac12, \qquad
    \cos(2 \pi \omega x + \beta)

that is, one number for each bin between quantiles of a feature and cosines whose
frequencies and phases are learned; [1]_ compares both.

References
----------
.. [1] Y. Gorishniy, I. Rubachev and A. Babenko, "On embeddings for numerical features
   in tabular deep learning", Advances in Neural Information Processing Systems 35,
   2022.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["FeatureEmbedding"]


class FeatureEmbedding(nn.Module):
    """Raw features, piecewise-linear bins and trainable cosines, side by side.

    Parameters
    ----------
    n_members, n_features : int
        The number of members and of features.
    edges : sequence of Tensor, optional
        For each feature the ascending edges of its bins; fewer than two edges make
        no bin. The outer bins go on beyond their outer edge, so that nothing is
        constant outside the data.
    n_cosines : int, default=0
        Cosines per feature and member.
    generator : torch.Generator, optional
        The source of frequencies (standard normal) and phases (uniform).
    """

    bin_feature: Tensor
    bin_slope: Tensor
    bin_offset: Tensor
    bin_low: Tensor
    bin_high: Tensor

    def __init__(
        self,
        n_members: int,
        n_features: int,
        *,
        edges: Sequence[Tensor] = (),
        n_cosines: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_features = n_features
        self.n_cosines = n_cosines
        self._place_bins(edges)
        if n_cosines:
            shape = (n_members, 1, n_features * n_cosines)
            frequency = torch.empty(shape, dtype=torch.float64)
            self.frequency = nn.Parameter(frequency.normal_(generator=generator))
            phase = torch.empty_like(frequency)
            phase.uniform_(-math.pi, math.pi, generator=generator)
            self.phase = nn.Parameter(phase)

    def _place_bins(self, edges: Sequence[Tensor]) -> None:
        """Lay the bins of all features end to end."""
        counts = torch.tensor([max(0, len(edge) - 1) for edge in edges] or [0])
        feature = torch.repeat_interleave(torch.arange(len(counts)), counts)
        empty = torch.empty(0, dtype=torch.float64)
        left = torch.cat([empty, *(edge[:-1] for edge in edges if len(edge) > 1)])
        right = torch.cat([empty, *(edge[1:] for edge in edges if len(edge) > 1)])
        slope = 1.0 / (right - left)
        low, high = torch.full_like(left, -0.5), torch.full_like(left, 0.5)
        ends = counts.cumsum(0)[counts > 0]
        low[ends - counts[counts > 0]] = -math.inf
        high[ends - 1] = math.inf
        for name, value in {
            "bin_feature": feature,
            "bin_slope": slope,
            "bin_offset": -left * slope - 0.5,
            "bin_low": low,
            "bin_high": high,
        }.items():
            self.register_buffer(name, value)

    @property
    def n_out(self) -> int:
        """The number of columns the trunk sees."""
        return self.n_constant + self.n_features * self.n_cosines

    @property
    def sees_features_alone(self) -> bool:
        """Whether there is nothing beside the raw features."""
        return self.n_out == self.n_features

    @property
    def n_constant(self) -> int:
        """The number of columns without parameters."""
        return self.n_features + len(self.bin_slope)

    def constant(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the columns without parameters: raw features and bins.

        They are written to ``out`` if it is given.
        """
        if out is None:
            if not len(self.bin_slope):
                return x
            out = x.new_empty((*x.shape[:-1], self.n_constant))
        # In place, since the bins are far more than what they are made of.
        out[..., : self.n_features] = x
        bins = out[..., self.n_features :]
        torch.addcmul(
            self.bin_offset, x[..., self.bin_feature], self.bin_slope, out=bins
        ).clamp_(self.bin_low, self.bin_high)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Embed ``(members, rows, n_features)`` as ``(members, rows, n_out)``."""
        constant = self.constant(x)
        if not self.n_cosines:
            return constant
        waves = x.repeat_interleave(self.n_cosines, -1) * self.frequency
        cosines = torch.cos(2.0 * math.pi * waves + self.phase)
        return torch.cat([constant, cosines], -1)
