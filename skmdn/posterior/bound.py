r"""Amortized variational training: the evidence lower bound of a potential.

.. math::
    \mathcal L(x) = \sum_k w_k(x)\, \mathrm{E}_{u \sim q_k(\cdot \mid x)} \bigl[
    \log p(\theta(u), x) + \log |\partial \theta / \partial u| - \log q(u \mid x) \bigr]

Draws come from every component in turn and the weights are exact, so that gradients
reach them without a score function [1]_.

References
----------
.. [1] W. R. Morningstar et al., "Automatic differentiation variational inference with
   mixtures", AISTATS 2021.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from skmdn.coordinates import Coordinates

from .networks import PosteriorObjective

__all__ = ["BoundObjective"]

# Stands for the log density where it is not finite: far below all that count.
_LEAST = -1e4


class BoundObjective(PosteriorObjective):
    """The negative lower bound, perhaps beside the log score of simulated pairs.

    Parameters
    ----------
    *args, **settings
        Those of :class:`PosteriorObjective`.
    potential : callable
        Log densities of parameters ``(..., n_outputs)`` and data ``(..., n_features)``,
        up to a constant, as tensors.
    coordinates : Coordinates
        From which the parameters are made.
    data : object
        Returns rows of the data, in their own units, by index.
    share : float
        What the bound counts; the log score counts the rest.
    """

    def __init__(
        self,
        *args: Any,
        potential: Callable[[Tensor, Tensor], Tensor],
        coordinates: Coordinates,
        data: Any,
        share: float,
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self.potential = potential
        self.coordinates = coordinates
        self.data = data
        self.share = share

    def training_loss(self, rows: Tensor) -> Tensor:
        """Return the loss of each member on its rows ``(n_members, n_batch)``."""
        bound = (self.weights[rows.long()] * self.bound(rows.long())).mean(1)
        if self.share == 1.0:
            return -bound
        return (1.0 - self.share) * super().training_loss(rows) - self.share * bound

    def bound(self, rows: Tensor) -> Tensor:
        """Return an unbiased estimate of the bound of each row."""
        network: Any = self.network
        mixture = network(self.x[rows])
        (block,) = mixture.blocks
        u = block.family.draw(block.params, self.generator)
        log_q = mixture.unsqueeze().log_prob(u)
        gain = self._target(u, rows) - log_q
        return (mixture.weights * gain).sum(-1)

    def _target(self, u: Tensor, rows: Tensor) -> Tensor:
        """Return the log density of the coordinates, up to a constant."""
        u = u.double()
        x = self.data[rows].unsqueeze(2)
        theta = self.coordinates.forward(u)
        value = self.potential(theta, x.expand(*theta.shape[:-1], x.shape[-1]))
        if value.shape != theta.shape[:-1]:
            raise ValueError(
                f"potential returned the shape {tuple(value.shape)} for parameters of "
                f"shape {tuple(theta.shape)}; it has to return one number for each "
                "row of the leading axes."
            )
        value = value + self.coordinates.log_jacobian(u)
        return torch.where(value.isfinite(), value, _LEAST).to(self.y.dtype)
