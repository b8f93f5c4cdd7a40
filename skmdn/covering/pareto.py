"""Pareto-smoothed importance weights, and the shape of their tail."""

import math

import torch
from torch import Tensor

__all__ = ["fit_generalized_pareto", "pareto_smoothed"]

_FEWEST = 5


def pareto_smoothed(log_weights: Tensor) -> tuple[Tensor, float]:
    r"""Replace the largest weights by quantiles of a generalised Pareto law.

    The law is fitted to what the largest :math:`\min(n / 5, 3 \sqrt n)` weights exceed
    the next one by [1]_.

    Parameters
    ----------
    log_weights : Tensor of shape (n_draws,)
        Log importance weights.

    Returns
    -------
    smoothed : Tensor of shape (n_draws,)
        Log weights, none of them above the largest.
    k : float
        The shape: above 0.7 estimates by these weights cannot be trusted. NaN for
        fewer than 25 draws; infinite if there is no weight.

    References
    ----------
    .. [1] A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry, "Pareto smoothed
       importance sampling", Journal of Machine Learning Research 25(72), 2024.
    """
    n_draws, largest = len(log_weights), log_weights.max()
    n_tail = math.ceil(min(n_draws / 5, 3.0 * math.sqrt(n_draws)))
    if not bool(largest.isfinite()):
        return log_weights, math.inf
    if n_tail < _FEWEST:
        return log_weights, math.nan
    order = log_weights.argsort()
    tail = order[n_draws - n_tail :]
    log_w = log_weights - largest
    cutoff = torch.maximum(log_w[order[n_draws - n_tail - 1]], log_w.new_tensor(-700.0))
    excess = log_w[tail].exp() - cutoff.exp()
    if not bool((excess > 0).any()) or float(log_w[tail[0]]) == float(log_w[tail[-1]]):
        return log_weights, -math.inf
    k, sigma = fit_generalized_pareto(excess.clamp_min(1e-300))
    levels = (torch.arange(n_tail, dtype=log_w.dtype) + 0.5) / n_tail
    grown = torch.expm1(-k * torch.log1p(-levels)) / k if k else -torch.log1p(-levels)
    smoothed = log_w.clone()
    smoothed[tail] = (sigma * grown + cutoff.exp()).log().clamp_max(0.0)
    return smoothed + largest, k


def fit_generalized_pareto(excess: Tensor) -> tuple[float, float]:
    r"""Fit the law with distribution function :math:`1 - (1 + k x / s)^{-1/k}`.

    The mean over a weakly informative prior, in a single parameter [1]_, with the
    shape drawn towards 1/2 by as much as ten observations.

    Parameters
    ----------
    excess : Tensor of shape (n_values,)
        Positive and ascending.

    Returns
    -------
    k, sigma : float
        Shape and scale.

    References
    ----------
    .. [1] J. Zhang, M. A. Stephens, "A new and efficient estimation method for the
       generalized Pareto distribution", Technometrics 51(3), 2009.
    """
    n = len(excess)
    n_points = 30 + int(math.sqrt(n))
    steps = torch.arange(1, n_points + 1, dtype=excess.dtype) - 0.5
    quartile = excess[int(n / 4 + 0.5) - 1]
    b = 1.0 / excess[-1] + (1.0 - (n_points / steps).sqrt()) / (3.0 * quartile)
    k = torch.log1p(-b.unsqueeze(1) * excess).mean(1)
    log_likelihood = n * ((-b / k).log() - k - 1.0)
    weights = torch.softmax(log_likelihood, 0)
    b_mean = (weights * b).sum()
    shape = float(torch.log1p(-b_mean * excess).mean())
    sigma = -shape / float(b_mean)
    return (n * shape + 10.0 * 0.5) / (n + 10.0), sigma
