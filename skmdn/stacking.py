r"""How much each view counts, and how wide the ensemble is, from held-out rows.

A linear pool of good forecasts is wider than it should be: the spread within its
members is joined by the spread between them [1]_. So after the views' weights their
scales get a common factor t,

.. math::
    \hat w = \arg\max_w \sum_i v_i \log \sum_j w_j \, p_j(y_i \mid x_i) , \qquad
    \hat t = \arg\max_t \sum_i v_i \log \sum_j \hat w_j \, p_j^{(t)}(y_i \mid x_i)
    - c (\log t)^2

where :math:`p_j^{(t)}` has components t times as wide and c is a number of rows.

References
----------
.. [1] R. Ranjan and T. Gneiting, "Combining probability forecasts", Journal of the
   Royal Statistical Society B 72(1), 2010.
"""

import torch
from torch import Tensor

from .mixture import Mixture

__all__ = ["cell_log_prob", "stack", "stacking_weights"]

# Logarithms of the common factor.
_SPREADS = (-1.0, 0.6, 33)

# Rows that speak for the factor 1. The rows that judge have also chosen each member's
# state, so that they promise too much.
_N_PSEUDO_SPREAD = 10.0

# Iterations of EM; a view's share hardly moves after that.
_N_ITER = 200


def stack(
    views: Mixture,
    y: Tensor,
    weights: Tensor,
    *,
    resolution: float = 0.0,
    min_scale: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return the weights of views and the logarithm of their common factor.

    Parameters
    ----------
    views : Mixture of batch shape (n_views, n_samples)
        Predictions for rows that no view was trained on.
    y : Tensor of shape (n_samples, n_outputs)
        Targets.
    weights : Tensor of shape (n_samples,)
        Row weights v.
    resolution : float, default=0.0
        Distance of the lattice on which a single target lies; cells of this width
        are judged instead of points, whose density has no limit there.
    min_scale : float, default=0.0
        What no scale falls below.

    Returns
    -------
    shares : Tensor of shape (n_views,)
        Positive, with sum 1.
    log_factor : Tensor of shape ()
    """
    shares = stacking_weights(_score(views, y, resolution), weights)
    start, stop, count = _SPREADS
    log_factors = torch.linspace(start, stop, count, dtype=y.dtype, device=y.device)
    totals = []
    for log_factor in log_factors:
        log_prob = _score(views.widen(log_factor.exp(), min_scale), y, resolution)
        pooled = torch.logsumexp(log_prob + shares.log().unsqueeze(1), 0)
        totals.append(pooled @ weights - _N_PSEUDO_SPREAD * log_factor.square())
    return shares, log_factors[torch.stack(totals).argmax()]


def stacking_weights(
    log_prob: Tensor, weights: Tensor, *, n_pseudo: float = 1.0
) -> Tensor:
    r"""Return the weights of views that make held-out rows most likely.

    .. math::
        \max_w \sum_i v_i \log \sum_j w_j \, p_j(y_i \mid x_i)
        + c \sum_j \log w_j

    by expectation maximisation [1]_.

    Parameters
    ----------
    log_prob : Tensor of shape (n_views, n_samples)
        Log densities.
    weights : Tensor of shape (n_samples,)
        Row weights v.
    n_pseudo : float, default=1.0
        Rows that each view is granted, the number c.

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
    for _ in range(_N_ITER):
        joint = log_prob + shares.log().unsqueeze(1)
        expected = torch.softmax(joint, 0) @ weights + n_pseudo
        shares = expected / expected.sum()
    return shares


def cell_log_prob(mixture: Mixture, y: Tensor, width: float) -> Tensor:
    """Return the log probability of the cell around each target, in nats.

    Parameters
    ----------
    mixture : Mixture
        Of one output.
    y : Tensor of shape (..., 1)
        Centres of the cells.
    width : float
        Their width.
    """
    low, high = y - 0.5 * width, y + 0.5 * width
    lower = mixture.cdf(high) - mixture.cdf(low)
    upper = mixture.sf(low) - mixture.sf(high)
    tiny = torch.finfo(y.dtype).tiny
    inside = torch.where(mixture.cdf(y) < 0.5, lower, upper)
    return inside.clamp_min(tiny).log()[..., 0]


def _score(views: Mixture, y: Tensor, resolution: float) -> Tensor:
    if resolution:
        return cell_log_prob(views, y, resolution)
    return views.log_prob(y)
