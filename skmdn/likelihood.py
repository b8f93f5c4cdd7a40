r"""Likelihood of targets that are known in part: rounded, censored or missing.

A target has a lower and an upper end in every output. Equal ends are a number that is
known, NaN in both is one that is missing, and all others say that it lies between.

.. math:: \log L(l, h) = \log \sum_k w_k
    \prod_{d: l_d = h_d} f_{kd}(l_d) \prod_{d: l_d < h_d} P_k(l_d \le Y_d \le h_d)
"""

import torch
from torch import Tensor

from .mixture import Mixture
from .numerics.basic import log_sum_exp

__all__ = ["cells", "log_likelihood"]


def cells(
    low: Tensor, high: Tensor | None, width: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Return the ends of rounded targets: cells around the numbers that are known.

    Parameters
    ----------
    low : Tensor of shape (..., n_outputs)
        Numbers, or lower ends.
    high : Tensor of shape (..., n_outputs) or None
        Upper ends; without them, all numbers are known.
    width : float or Tensor of shape (n_outputs,)
        What the numbers were rounded to.

    Returns
    -------
    low, high : Tensor of shape (..., n_outputs)
    """
    half = 0.5 * width
    if high is None:
        return low - half, low + half
    known = low == high
    return torch.where(known, low - half, low), torch.where(known, high + half, high)


def log_likelihood(mixture: Mixture, low: Tensor, high: Tensor | None = None) -> Tensor:
    """Return the log-likelihood of targets that may be known in part only, in nats.

    It is a log density in the numbers that are known, with the conventions of
    :class:`skmdn.mixture.Mixture`, and a log probability in the others.

    Parameters
    ----------
    mixture : Mixture
        The distribution.
    low : Tensor of shape (..., n_outputs)
        Numbers, or lower ends; they broadcast against the batch axes.
    high : Tensor of shape (..., n_outputs), optional
        Upper ends; without them, all numbers are known.

    Returns
    -------
    log_likelihood : Tensor of shape (...)
    """
    if high is None:
        return mixture.log_prob(low)
    low, high = low.unsqueeze(-2), high.unsqueeze(-2)
    parts = [b.family.log_likelihood(b.params, low, high) for b in mixture.blocks]
    discrete = [block.family.discrete for block in mixture.blocks]
    if any(discrete) and not all(discrete):
        parts = _without_mass_points(parts, discrete, (low == high).any(-1))
    return log_sum_exp(mixture.log_weights + torch.cat(parts, -1))


def _without_mass_points(
    parts: list[Tensor], discrete: list[bool], is_density: Tensor
) -> list[Tensor]:
    """Take the continuous components away from densities at points with a probability.

    A target without a number that is known has a probability from every component.
    """
    masses = zip(parts, discrete, strict=True)
    possible = torch.cat([part > -torch.inf for part, mass in masses if mass], -1)
    at_mass = possible.any(-1, keepdim=True) & is_density
    return [
        part if mass else part.masked_fill(at_mass, -torch.inf)
        for part, mass in zip(parts, discrete, strict=True)
    ]
