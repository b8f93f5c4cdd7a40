r"""Objectives of variational inference, in log space, from stratified draws.

With n draws :math:`u_{ik}` of every component k of q, whose shares are :math:`w_k`, and
:math:`\log r = \log p - \log q`, the losses are

.. math::
    \text{rKL} &= -\sum_k w_k \tfrac1n \sum_i \log r(u_{ik}) \\
    \text{alpha} &= -\tfrac{1}{1 - \alpha} \log \sum_k w_k \tfrac1n \sum_i
        r(u_{ik})^{1 - \alpha} \\
    \text{IW} &= -\tfrac1G \sum_g \log \tfrac1M \sum_{m \in g} \sum_k w_k \,
        r(u_{mk}) \\
    \text{fKL} &= -\sum_{ik} \bar r_{ik} \log q(u_{ik}), \qquad
        \bar r_{ik} \propto w_k \, r(u_{ik})

No component is chosen at random, so that gradients flow through the shares as well. A
single component is the usual case of each of them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["METHODS", "Objective"]

METHODS = ("rKL", "fKL", "IW", "alpha")


@dataclass(frozen=True)
class Objective:
    """What is minimised, and how its gradient is estimated.

    Parameters
    ----------
    method : {"rKL", "fKL", "IW", "alpha"}
        The divergence or bound.
    alpha_order : float, default=0.5
        The order of Renyi's bound: 1 is the evidence lower bound, 0 the evidence.
    n_importance : int, default=8
        Draws, of every component, in each group of IW.
    stick_the_landing : bool, default=False
        Whether the density's own parameters are held fixed in log q [1]_: less
        variance near the optimum. Unbiased for rKL only.
    dreg : bool, default=False
        Whether gradients of IW and alpha are doubly reparametrised [2]_, for a q of a
        single component.
    weight_transform : callable, optional
        Applied to the normalised weights of fKL, which are normalised again.

    References
    ----------
    .. [1] G. Roeder, Y. Wu, D. Duvenaud, "Sticking the landing", Advances in Neural
       Information Processing Systems 30, 2017.
    .. [2] G. Tucker, D. Lawson, S. Gu, C. J. Maddison, "Doubly reparameterized gradient
       estimators for Monte Carlo objectives", International Conference on Learning
       Representations, 2019.
    """

    method: str
    alpha_order: float = 0.5
    n_importance: int = 8
    stick_the_landing: bool = False
    dreg: bool = False
    weight_transform: Callable[[Tensor], Tensor] | None = None

    @property
    def holds_density(self) -> bool:
        """Whether log q is to be taken at fixed parameters."""
        return self.stick_the_landing or (
            self.dreg and self.method in ("IW", "alpha") and not self._is_elbo
        )

    @property
    def _is_elbo(self) -> bool:
        return self.method == "rKL" or (
            self.method == "alpha" and self.alpha_order == 1.0
        )

    @property
    def needs_gradient(self) -> bool:
        """Whether the target's gradient is used."""
        return self.method != "fKL"

    @property
    def plain(self) -> "Objective":
        """The same loss by an estimator whose value is the loss."""
        return replace(self, stick_the_landing=False, dreg=False)

    def whole_groups(self, n_draws: int) -> int:
        """Return how many draws of a component to take, of about as many."""
        size = self.n_importance if self.method == "IW" else 1
        return max(1, n_draws // size) * size

    def loss(self, log_p: Tensor, log_q: Tensor, log_shares: Tensor) -> Tensor:
        """Return the loss of draws; where p = 0 they are left out of rKL.

        Parameters
        ----------
        log_p, log_q : Tensor of shape (n_draws, n_components)
            Log densities at draws of every component.
        log_shares : Tensor of shape (n_components,)
            Logarithms of the components' weights.
        """
        possible = log_p > -torch.inf
        ratio = torch.where(possible, log_p - log_q, 0.0)
        if self.method == "fKL":
            return self._forward(
                ratio.masked_fill(~possible, -torch.inf), log_q, log_shares
            )
        if self._is_elbo:
            mean = ratio.sum(0) / possible.sum(0).clamp_min(1)
            return -(log_shares.exp() * mean).sum()
        power = 1.0 - self.alpha_order if self.method == "alpha" else 1.0
        size = len(log_p) if self.method == "alpha" else self.n_importance
        powers = (power * ratio).masked_fill(~possible, -torch.inf) + log_shares
        groups = powers.reshape(-1, size * powers.shape[1])
        if self.dreg:
            return self._doubly_reparametrised(groups, ratio.reshape(groups.shape))
        bounds = torch.logsumexp(groups, 1) - math.log(size)
        return -bounds[bounds.isfinite()].mean() / power

    def _doubly_reparametrised(self, groups: Tensor, ratio: Tensor) -> Tensor:
        """Return a loss with this gradient; its value has no meaning."""
        weights = torch.softmax(groups.detach(), 1)
        order = self.alpha_order if self.method == "alpha" else 0.0
        factor = order * weights + (1.0 - order) * weights.square()
        return -(factor * ratio).sum(1).mean()

    def _forward(self, ratio: Tensor, log_q: Tensor, log_shares: Tensor) -> Tensor:
        """Return the weighted negative log density."""
        weights = torch.softmax((ratio + log_shares).detach().flatten(), 0)
        if self.weight_transform is not None:
            weights = self.weight_transform(weights)
            weights = weights / weights.sum()
        return -(weights * log_q.flatten()).sum()
