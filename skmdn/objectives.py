r"""What the loop minimises: the penalised negative log-likelihood of a mixture.

.. math::
    L = -\frac{1}{\sum_i v_i} \sum_i v_i \Bigl[ \log p(y_i \mid x_i)
    + \frac{1}{n} \sum_k \log \pi(\sigma_k^2(x_i)) \Bigr]

with row weights v and an inverse-gamma prior on the variances, averaged over the
rows and counted once for the n rows they are worth.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .mixture import Mixture

__all__ = ["MixtureObjective", "ScalePrior"]


# Factors of the scales that held-out rows choose from.
_LOG_SPREADS = [0.07 * step for step in range(-5, 21)]


@dataclass(frozen=True)
class ScalePrior:
    r"""Inverse-gamma prior on the components' variances, up to a constant.

    .. math:: \log \pi(\sigma^2) = -(a + 1) \log \sigma^2 - b / \sigma^2

    Parameters
    ----------
    shape, scale : float
        The numbers a and b, in standardised units.
    """

    shape: float
    scale: float

    def log_prob(self, mixture: Mixture) -> Tensor:
        """Return the log density summed over components, one per mixture."""
        total = torch.zeros_like(mixture.log_weights[..., 0])
        for block in mixture.blocks:
            scales = block.family.scales(block.params)
            log_scale = 2.0 * (self.shape + 1.0) * scales.log()
            total = total - (log_scale + self.scale / scales.square()).sum((-2, -1))
        return total


class MixtureObjective:
    """Losses of a network that maps features to mixtures, member by member.

    Parameters
    ----------
    network : nn.Module
        Maps ``(n_members, n_rows, n_features)`` to a :class:`Mixture`.
    x, y : Tensor of shape (n_samples, n_features) and (n_samples, n_outputs)
        Standardised data.
    weights : Tensor of shape (n_samples,)
        Positive row weights.
    prior : ScalePrior
        Keeps the likelihood bounded.
    n_rows : float
        The number of rows the prior is shared out over.
    log_scale : float
        Added to every loss: the log volume of the target's units.
    x_noise, y_noise : float
        Standard deviation of fresh noise in every batch.
    generator : torch.Generator
        Its source.
    """

    def __init__(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        weights: Tensor,
        *,
        prior: ScalePrior,
        n_rows: float,
        log_scale: float,
        x_noise: float,
        y_noise: float,
        generator: torch.Generator,
    ) -> None:
        self.network = network
        self.x, self.y = x, y
        self.flat_y = y.flatten()
        self.weights = weights / weights.mean()
        self.prior = prior
        self.n_rows = n_rows
        self.log_scale = log_scale
        self.x_noise, self.y_noise = x_noise, y_noise
        self.generator = generator

    def training_loss(self, rows: Tensor) -> Tensor:
        """Return the loss of each member on its rows ``(n_members, n_batch)``."""
        x = self._noisy(self.x[rows], self.x_noise)
        y = self._noisy(self.y[rows], self.y_noise)
        mixture = self.network(x)
        log_prior = self.prior.log_prob(mixture) / self.n_rows
        gain = self.weights[rows] * (mixture.log_prob(y) + log_prior)
        return self.log_scale - gain.mean(1)

    def held_out_loss(self, rows: Tensor) -> Tensor:
        r"""Return the negative log-likelihood of each member on its rows.

        Every member is judged at the factor t of its scales that suits it best, with
        :math:`(\log t)^2` added once, and keeps that factor in ``head.log_spread``:
        scales that are too small are repaired, not punished.
        """
        mixture = self.network(self.x[rows]).unsqueeze()
        log_spread = self.x.new_tensor(_LOG_SPREADS)
        y = self.y[rows].unsqueeze(2)
        log_prob = mixture.widen(log_spread.exp()).log_prob(y)
        weights = self.weights[rows].unsqueeze(-1)
        losses = -(weights * log_prob).sum(1) / weights.sum(1)
        losses += log_spread.square() / rows.shape[1]
        best = losses.min(1)
        self.network.head.log_spread.copy_(log_spread[best.indices].unsqueeze(1))
        return self.log_scale + best.values

    def held_out_log_prob(self, rows: Tensor) -> Tensor:
        """Return the log density of each member on its rows, with its spread."""
        log_prob: Tensor = self.network(self.x[rows]).log_prob(self.y[rows])
        return log_prob

    def to(self, dtype: torch.dtype) -> None:
        """Convert the data and the network."""
        self.network.to(dtype)
        self.x, self.y = self.x.to(dtype), self.y.to(dtype)
        self.flat_y, self.weights = self.y.flatten(), self.weights.to(dtype)

    def _noisy(self, values: Tensor, size: float) -> Tensor:
        if size == 0.0:
            return values
        noise = torch.empty_like(values).normal_(0.0, size, generator=self.generator)
        return values + noise


def stacking_weights(
    log_prob: Tensor, weights: Tensor, *, n_pseudo: float = 1.0, n_iter: int = 200
) -> Tensor:
    r"""Return the weights of views that make held-out rows most likely.

    .. math::
        \max_w \sum_i v_i \log \sum_j w_j \, p_j(y_i \mid x_i)
        + c \sum_j \log w_j

    by expectation maximisation [1]_.

    Parameters
    ----------
    log_prob : Tensor of shape (n_views, n_samples)
        Log densities of rows that no view was trained on.
    weights : Tensor of shape (n_samples,)
        Row weights v.
    n_pseudo : float, default=1.0
        Rows that each view is granted, the number c.
    n_iter : int, default=200
        Number of iterations.

    Returns
    -------
    shares : Tensor of shape (n_views,)
        Positive, with sum 1.

    References
    ----------
    .. [1] Y. Yao, A. Vehtari, D. Simpson and A. Gelman, "Using stacking to average
       Bayesian predictive distributions", Bayesian Analysis 13(3), 2018.
    """
    shares = torch.full_like(log_prob[:, 0], 1.0 / len(log_prob))
    for _ in range(n_iter):
        joint = log_prob + shares.log().unsqueeze(1)
        expected = torch.softmax(joint, 0) @ weights + n_pseudo
        shares = expected / expected.sum()
    return shares
