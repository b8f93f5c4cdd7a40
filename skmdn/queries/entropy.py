"""The entropy of mixtures of any families."""

from typing import Any

import torch
from torch import Tensor

from .blocks import by_measure, pulled_back
from .panels import Panels, integration_matrix, log_density, masses

__all__ = ["mixture_entropy", "sampled_entropy"]

# Nodes of the rule in each panel.
_N_NODES = 12


def mixture_entropy(mixture: Any) -> Tensor:
    r"""Return the entropy of mixtures of one output in nats.

    .. math:: H = -\int p(y) \log p(y) \, dy - \sum_i P_i \log P_i

    The integral, over the density of the continuous components, comes from
    Gauss-Legendre quadrature over :class:`skmdn.queries.panels.Panels`, so that every
    component, however narrow, has nodes of its own; the sum is over the points with a
    probability. If all components are images of the real line under one map g, the
    integral is taken there: :math:`H = -\int p_Z \, (\log p_Z - \log g') \, dz`.

    Parameters
    ----------
    mixture : Mixture
        Of batch shape (...).

    Returns
    -------
    entropy : Tensor of shape (...)

    Raises
    ------
    ValueError
        If a discrete component spreads over too many integers to add them up.
    """
    inner, onto = pulled_back(mixture)
    continuous, discrete = by_measure(inner)
    entropy = mixture.log_weights.new_zeros(mixture.batch_shape)
    if discrete is not None:
        _, probability = masses(discrete)
        entropy = entropy + torch.special.entr(probability).sum(-1)
    if continuous is None:
        return entropy
    rule = integration_matrix(_N_NODES)
    nodes, weights = (part.to(entropy) for part in rule[:2])
    points, slopes = Panels(continuous).points(nodes)
    points, slopes = points.flatten(-2), (slopes * weights).flatten(-2)
    log_prob = log_density(continuous, points)
    surprise = -log_prob.clamp_min(torch.finfo(log_prob.dtype).min)
    if onto is not None:
        surprise = surprise + onto.log_jacobian(points)
    return entropy + (slopes * log_prob.exp() * surprise).sum(-1)


def sampled_entropy(
    mixture: Any, n_draws: int, generator: torch.Generator | None
) -> Tensor:
    """Estimate the entropy of a joint distribution by an average over draws."""
    draws = mixture.sample(n_draws, generator)
    return -mixture.unsqueeze().log_prob(draws).mean(-1)
