r"""The gradient of the standard network by hand: no graph, no allocation.

For one target, a SiLU trunk and normal components, with the responsibilities r and the
weights :math:`\pi` of a row at the temperature T, :math:`z_k = (\mu_k - y) / \sigma_k`
and the priors :math:`c_1 \log \sigma_k + c_2 / (2 \sigma_k^2)` and
:math:`-e_k \log \pi_k` of the loss, with :math:`e = \sum_k e_k`,

.. math::
    \frac{\partial L}{\partial l_k} = \frac{(1 + e) \pi_k - r_k - e_k}{T}, \qquad
    \frac{\partial L}{\partial \mu_k} = \frac{r_k z_k}{\sigma_k}, \qquad
    \frac{\partial L}{\partial \sigma_k} =
    \frac{r_k (1 - z_k^2) + c_1 - c_2 / \sigma_k^2}{\sigma_k} .

The rest is the chain rule through affine layers. Everything is written into memory
that is taken once. The first of the inputs of a layer is a one, whose weights are the
bias, so that a product gives the gradients of both; the tensors of the head have the
rows on their last axis. Any other network, family or device is differentiated by
autograd; :mod:`skmdn.learning.training` compares both on the first batch.
"""

import itertools
import math
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from skmdn.families import Normal
from skmdn.priors import Dirichlet, InverseGamma

from .embeddings import FeatureEmbedding
from .networks import MixtureNetwork
from .objectives import MixtureObjective
from .passes import AVAILABLE, Pass, Workspace
from .penalty import MixturePrior

__all__ = ["ClosedFormGradient"]

# Members share the pass while a layer's rows of all of them have at most so many
# numbers; more would leave the cache between one operation and the next.
_GROUP_NUMBERS = 2**16

# Tables of what rows give the first layer may take this many bytes; larger ones are
# made per batch.
_TABLE_BYTES = 2**26

# Held-out rows that are judged together.
_ROWS_TOGETHER = 256


class ClosedFormGradient:
    """Losses and gradients of a :class:`MixtureObjective`, batch by batch.

    Parameters
    ----------
    objective : MixtureObjective
        One without noise, whose network :meth:`applies` to.
    gradients : dict of str to Tensor
        Where the gradient of each parameter of the network is written.
    """

    def __init__(
        self, objective: MixtureObjective, gradients: dict[str, Tensor]
    ) -> None:
        self.objective = objective
        self.network: Any = objective.network
        self.gradients = gradients
        self.table = self._columns_of_rows()
        equal = bool((objective.weights == 1.0).all())
        self.weights = None if equal else objective.weights
        self.groups: dict[tuple[int, ...], list[Pass]] = {}
        objective.by_hand = weakref.WeakMethod(self.log_prob_of_spreads)

    @staticmethod
    def applies(network: nn.Module, prior: MixturePrior) -> bool:
        """Tell whether network, on a processor, and prior are of the standard kind."""
        if not isinstance(network, MixtureNetwork) or not AVAILABLE:
            return False
        head: Any = network.head
        trunk: Any = network.trunk
        return (
            head.linear.weight.device.type == "cpu"
            and head.sizes == [head.n_components] * 3
            and type(head.parts[0][0]) is Normal
            and type(prior.weights) in (Dirichlet, type(None))
            and type(prior.scales) in (InverseGamma, type(None))
            and prior.units is None
            and isinstance(network.block, FeatureEmbedding)
            and trunk.activation == "silu"
            and len(trunk.layers) > 0
        )

    def _columns_of_rows(self) -> Tensor | None:
        """Return what all rows give the first layer, unless that is too much.

        Raw features, bins and the features again, once for each of their cosines.
        """
        x, block = self.objective.x, self.network.block
        n_bytes = len(x) * block.n_out * self.objective.y.element_size()
        large = not block.sees_features_alone and n_bytes > _TABLE_BYTES
        if not isinstance(x, Tensor) or large:
            return None
        columns = block.constant(x)
        if block.n_cosines:
            columns = torch.cat([columns, x.repeat_interleave(block.n_cosines, 1)], 1)
        return columns.contiguous()

    def __call__(self, rows: Tensor, with_loss: bool) -> Tensor | None:
        """Write the gradients of the loss of ``rows (n_members, n_batch)``.

        Returns the losses ``(n_members,)`` if they are asked for.
        """
        losses: list[Any] = []
        for group in self._loaded_groups(rows):
            losses.append(group.run(with_loss))
        if not with_loss:
            return None
        return self.objective.log_scale + torch.cat(losses)

    def log_prob_of_spreads(self, rows: Tensor, log_spread: Tensor) -> Tensor:
        """Return :meth:`MixtureObjective.log_prob_of_spreads`."""
        n_members, n_rows = rows.shape
        n_together = math.ceil(n_rows / math.ceil(n_rows / _ROWS_TOGETHER))
        out = log_spread.new_empty((n_members, log_spread.shape[1], n_rows))
        for start in range(0, n_rows, n_together):
            # The last part begins earlier, to be as large as the others.
            start = min(start, n_rows - n_together)
            part = slice(start, start + n_together)
            for group in self._loaded_groups(rows[:, part]):
                out[group.members, :, part] = group.log_prob(log_spread[group.members])
        return out.mT

    def _loaded_groups(self, rows: Tensor) -> Iterator[Pass]:
        """Yield groups of members, with their part of the rows gathered."""
        groups = self.groups.get(rows.shape)
        if groups is None:
            groups = self.groups[rows.shape] = self._make_groups(*rows.shape)
        for group in groups:
            own = rows if len(groups) == 1 else rows[group.members]
            group.load(own.reshape(-1), self.table, self.weights)
            yield group

    def _make_groups(self, n_members: int, n_batch: int) -> list[Pass]:
        widths = [layer.weight.shape[2] for layer in self.network.trunk.layers]
        n_groups = math.ceil(n_members * n_batch * max(widths) / _GROUP_NUMBERS)
        n_groups = min(n_groups, n_members)
        bounds = [round(i * n_members / n_groups) for i in range(n_groups + 1)]
        workspaces: dict[int, Workspace] = {}
        groups = []
        for start, stop in itertools.pairwise(bounds):
            size = stop - start
            if size not in workspaces:
                workspaces[size] = Workspace(self.objective, size, n_batch)
            members = slice(start, stop)
            groups.append(
                Pass(self.objective, self.gradients, members, workspaces[size])
            )
        return groups
