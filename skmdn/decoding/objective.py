r"""What a code is judged by: the joint density of a row and its code.

.. math:: f(z) = -\log p(x \mid z) - \log p(z)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .network import DecoderNetwork
from .prior import CodePrior, Local
from .table import Blocks, Table

__all__ = ["Joint"]


@dataclass(frozen=True)
class Joint:
    """Decoder, laws of the columns and density of the codes.

    Attributes
    ----------
    network : DecoderNetwork
        From codes to outputs.
    blocks : Blocks
        From outputs to rows.
    prior : CodePrior
        The density of codes.
    """

    network: DecoderNetwork
    blocks: Blocks
    prior: CodePrior

    def value(self, z: Tensor, table: Table, labels: Tensor | None = None) -> Tensor:
        """Return f for every row, in nats."""
        with torch.no_grad():
            log_prob = self.blocks.log_prob(self.network(z), table)
            return -log_prob - self.prior.log_prob(z, labels)

    def local(self, z: Tensor, table: Table, labels: Tensor | None = None) -> Local:
        """Return f around the codes, to second order.

        The Hessian is exact. Its bound leaves out what may be negative: the bends of
        the network, and what components apart take away.
        """
        with torch.no_grad():
            tape = self.network.tape(z)
            first, decline = self.blocks.slopes(tape.outputs, table)
            gradient, bend, tangents = self.network.curvature(tape, -first)
            gram = self.blocks.gram(tangents, decline)
            prior = self.prior.local(z, labels)
            return Local(
                prior.value - self.blocks.log_prob(tape.outputs, table),
                prior.gradient + gradient,
                prior.hessian + gram + bend,
                prior.bound + gram,
            )
