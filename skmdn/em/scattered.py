r"""The arithmetic of rows that miss many different features.

With u the missing features of a row and :math:`\Lambda` the inverse covariance of a
component, what is missing has given the rest the covariance
:math:`\Lambda_{uu}^{-1}`, and the expected deviation from the mean is the one that
minimises the quadratic form of the whole row:

.. math:: \log |\Sigma_{oo}| = \log |\Sigma| + \log |\Lambda_{uu}|, \qquad
    z_o^\top \Sigma_{oo}^{-1} z_o = \min_{z_u} z^\top \Lambda z

Whatever is missing, all rows share the products with whole matrices; of each pattern
only a matrix as large as the number of missing features is decomposed, for many
patterns at once.
"""

import torch
from torch import Tensor

from .kernels import LOG_2PI, Kernel
from .parameters import Parameters
from .rows import Block

__all__ = ["ScatteredMatrices", "scattered_length"]

# Numbers at work at a time.
_NUMBERS = {"cpu": 2**19, "cuda": 2**25}


def scattered_length(parameters: Parameters, n_missing: int) -> int:
    """Return how many rows that miss so many features make a block."""
    n_runs, n_components, n_features = parameters.shape
    width = n_runs * n_components * max(n_features, n_missing**2)
    device = "cpu" if parameters.means.device.type == "cpu" else "cuda"
    return max(16, _NUMBERS[device] // width)


class ScatteredMatrices(Kernel):
    """Rows of many patterns, all of which miss as many features.

    Parameters
    ----------
    parameters : Parameters
        The mixtures.
    """

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters, list(range(parameters.shape[2])))
        self.whitening = parameters.each_whitening().flatten(0, 1)
        self.precision = self.whitening.mT @ self.whitening
        diagonal = self.whitening.diagonal(dim1=-2, dim2=-1)
        self.at_mean = self.log_weights + diagonal.log().sum(-1)
        self.counts = torch.zeros_like(self.log_weights)
        self.first = torch.zeros_like(self.means)
        self.second = torch.zeros_like(self.precision)

    def logits(self, block: Block) -> Tensor:
        """Complete the rows as each component expects, then sum the squares."""
        half_log_det, whitened = self._complete(block)
        n_present = self.n_features - self._gone.shape[1]
        at_mean = self.at_mean - 0.5 * n_present * LOG_2PI
        squares = whitened.square_().sum(1)
        return at_mean.unsqueeze(-1) - half_log_det - 0.5 * squares

    def _complete(self, block: Block) -> tuple[Tensor, Tensor]:
        """Prepare the deviations of completed rows; return log dets and whitened."""
        assert block.observed is not None
        assert block.gone is not None
        assert block.kinds is not None
        _, self._kind = block.kinds.unique_consecutive(return_inverse=True)
        # The first row of each pattern stands for it.
        heads = torch.ones_like(self._kind, dtype=torch.bool)
        heads[1:] = self._kind[1:] != self._kind[:-1]
        self._gone_of_kind = block.gone[heads]
        self._gone = block.gone
        some, other = self._gone_of_kind.unsqueeze(-1), self._gone_of_kind.unsqueeze(-2)
        root = torch.linalg.cholesky(self.precision[:, some, other])
        self.spread = torch.cholesky_inverse(root)
        half_log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        self._deviation = block.columns - self.means.unsqueeze(-1)
        self._deviation *= block.observed
        place = block.gone.T.expand(self.n, -1, -1)
        spread = self.spread[:, self._kind]
        # The second round takes back what the decomposition has lost to rounding
        # (corrected seminormal equations).
        for _ in range(2):
            slope = self.whitening.mT @ (self.whitening @ self._deviation)
            slope = slope.gather(1, place).mT.unsqueeze(-2)
            step = (spread * slope).sum(-1).mT
            self._deviation.scatter_add_(1, place, -step)
        whitened = self.whitening @ self._deviation
        return half_log_det[:, self._kind], whitened

    def gather(self, shares: Tensor, block: Block) -> None:
        """Sum the completed deviations, their products and what is uncertain."""
        weighted = self._deviation * shares.unsqueeze(1)
        self.counts += shares.sum(-1)
        self.first += weighted.sum(-1)
        self.second += weighted @ self._deviation.mT
        n_kinds = len(self._gone_of_kind)
        of_kind = shares.new_zeros((self.n, n_kinds)).index_add_(1, self._kind, shares)
        uncertain = self.spread * of_kind[..., None, None]
        place = self._gone_of_kind.unsqueeze(-1) * self.n_features
        place = (place + self._gone_of_kind.unsqueeze(-2)).flatten()
        self.second.view(self.n, -1).index_add_(1, place, uncertain.flatten(1))

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums."""
        return self.counts, self.first, self.second

    def expected(self, shares: Tensor, block: Block) -> Tensor:
        """Add up what the components expect."""
        values = self._deviation + self.means.unsqueeze(-1)
        return (values * shares.unsqueeze(1)).sum(0)
