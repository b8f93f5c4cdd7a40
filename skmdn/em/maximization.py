r"""The most probable parameters given the statistics: the maximisation step.

Weights have a closed form; so have variances, and means given the covariances are one
root of one equation. Means are moved first, then covariances about the new means: each
move raises the posterior, so that it never falls. The prior is counted once.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from skmdn.priors import Dirichlet, InverseWishart, Prior, Softball

from .classes import Classes
from .means import softball_means
from .parameters import Parameters
from .scales import matrix_mode, variance_mode
from .statistics import Statistics

__all__ = ["Priors", "log_prior", "m_step", "start_step"]

# A component that explains less than this of a row keeps its place.
_NOTHING = 10.0 * torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Priors:
    """Priors on the three kinds of parameters; None is flat.

    Attributes
    ----------
    weights : Dirichlet, optional
        On the weights.
    means : Softball, optional
        On each mean.
    scales : ScalesPrior or InverseWishart, optional
        On each standard deviation; in covariance matrices on the principal ones, or
        on the matrix.
    reg_covar : float, default=0.0
        Added to the variances where their prior is flat.
    classes : Classes, optional
        The classes that components belong to; none of them loses its last one.
    """

    weights: Dirichlet | None = None
    means: Softball | None = None
    scales: Prior | None = None
    reg_covar: float = 0.0
    classes: Classes | None = None


def m_step(
    statistics: Statistics, parameters: Parameters, priors: Priors
) -> tuple[Parameters, Tensor]:
    """Return better parameters, and which runs are sound.

    Parameters
    ----------
    statistics : Statistics
        From the expectation step.
    parameters : Parameters
        Those it was made with.
    priors : Priors
        What is known beforehand.

    Returns
    -------
    parameters : Parameters
        The new ones.
    sound : Tensor of shape (n_runs,)
        False where a covariance is no longer positive definite.
    """
    log_weights = _weights(statistics.counts, priors)
    idle = (statistics.counts <= _NOTHING).unsqueeze(-1)
    means = statistics.means
    if priors.means is not None:
        means = softball_means(priors.means, statistics.counts, means, parameters)
    else:
        means = torch.where(idle, parameters.means, means)
    return _with_covariances(statistics, parameters, log_weights, means, priors)


def start_step(
    covariance_type: str, statistics: Statistics, priors: Priors, fixed: Tensor | None
) -> tuple[Parameters, Tensor]:
    """Return first parameters from statistics alone, and which runs are sound.

    Parameters
    ----------
    covariance_type : str
        One of ``COVARIANCE_TYPES``.
    statistics : Statistics
        Of a first assignment of the rows.
    priors : Priors
        What is known beforehand.
    fixed : Tensor of shape (n_components,), optional
        The variances if they are "fixed".

    Returns
    -------
    parameters, sound
        As from :func:`m_step`.
    """
    counts, means = statistics.counts, statistics.means
    n_runs, n_components, _ = means.shape
    if fixed is None:
        fixed = counts.new_ones(n_components)
    # What a component without rows keeps is never used: it has the weight 0.
    before = Parameters(
        covariance_type,
        counts,
        means,
        fixed.expand(n_runs, -1),
        fixed.expand(n_runs, -1),
    )
    log_weights = _weights(counts, priors)
    made = _with_covariances(
        statistics, before, log_weights, means, priors, keep_idle=False
    )
    if priors.means is None or not bool(made[1].all()):
        return made
    means = softball_means(priors.means, counts, means, made[0])
    return _with_covariances(
        statistics, made[0], log_weights, means, priors, keep_idle=False
    )


def log_prior(parameters: Parameters, priors: Priors) -> Tensor:
    """Return the log density of the parameters, ``(n_runs,)``; flat priors add 0.

    Components that are switched off have left the model: neither their weights nor
    their means and scales count.
    """
    alive = parameters.log_weights > -math.inf
    total = parameters.means.new_zeros(len(alive))
    if priors.weights is not None:
        total += _weights_log_prior(parameters.log_weights, alive, priors)
    if priors.means is not None:
        total += (priors.means.log_prob(parameters.means) * alive).sum(-1)
    if priors.scales is None or parameters.covariance_type == "fixed":
        return total
    values = _scales_log_prior(parameters, priors.scales)
    if parameters.covariance_type == "tied":
        return total + values
    return total + (values * alive).sum(-1)


def _weights_log_prior(log_weights: Tensor, alive: Tensor, priors: Priors) -> Tensor:
    """Return the density of the weights of the living, as if there were no others.

    Where the weights of classes are given, only those within classes are free: given
    the sums of its parts, a Dirichlet law is one within each of them.
    """
    assert priors.weights is not None
    concentrations = [a + 1.0 for a in priors.weights.excess(log_weights.shape[-1])]
    if priors.classes is None or priors.classes.shares is None:
        return _dirichlet(log_weights, alive, concentrations)
    total = log_weights.new_zeros(len(log_weights))
    for k in priors.classes.each():
        within = torch.log_softmax(log_weights[:, k], -1)
        total += _dirichlet(within, alive[:, k], [concentrations[j] for j in k])
    return total


def _dirichlet(
    log_weights: Tensor, alive: Tensor, concentrations: list[float]
) -> Tensor:
    """Return the log density of the weights of the living, run by run."""
    if bool(alive.all()):
        return Dirichlet(concentrations).log_prob(log_weights)
    total = []
    for row, lives in zip(log_weights, alive, strict=True):
        kept = [a for a, on in zip(concentrations, lives.tolist(), strict=True) if on]
        total.append(Dirichlet(kept).log_prob(row[lives]))
    return torch.stack(total)


def _scales_log_prior(parameters: Parameters, prior: Prior) -> Tensor:
    """Return one number for each covariance."""
    covariances = parameters.covariances
    if isinstance(prior, InverseWishart):
        return prior.log_prob(covariances)
    if parameters.matrices:
        principal = torch.linalg.eigvalsh(covariances).clamp_min(0.0)
        return prior.log_prob(principal.sqrt()).sum(-1)
    values = prior.log_prob(covariances.sqrt())
    return values.sum(-1) if parameters.covariance_type == "diag" else values


def _weights(counts: Tensor, priors: Priors) -> Tensor:
    r"""Return log weights: :math:`\pi_k \propto \max(0, N_k + a_k - 1)`."""
    classes = priors.classes
    if classes is None:
        everything = torch.zeros(counts.shape[-1], dtype=torch.int64)
        classes = Classes(everything.to(counts.device), 1)
    mass = counts
    if priors.weights is not None:
        mass = counts + counts.new_tensor(priors.weights.excess(counts.shape[-1]))
        mass = _with_survivors(mass, counts, classes)
    return classes.log_weights(mass)


def _with_survivors(mass: Tensor, counts: Tensor, classes: Classes) -> Tensor:
    """Return masses that are not negative, and in each class not all of them 0.

    Where no component explains enough, whoever has most gets all that the class has.
    """
    belongs = classes.belongs
    most = mass.unsqueeze(1).masked_fill(~belongs, -math.inf).argmax(-1)
    mass, belongs = mass.clamp_min(0.0), belongs.to(mass).T
    lost = mass @ belongs == 0.0
    rescue = torch.where(lost, (counts @ belongs).clamp_min(1e-12), 0.0)
    return mass.scatter_add(-1, most, rescue)


def _with_covariances(
    statistics: Statistics,
    parameters: Parameters,
    log_weights: Tensor,
    means: Tensor,
    priors: Priors,
    keep_idle: bool = True,
) -> tuple[Parameters, Tensor]:
    """Return parameters with the most probable covariances about given means."""
    kind = parameters.covariance_type
    if kind == "fixed":
        fixed = parameters.covariances
        return Parameters.from_covariances(kind, log_weights, means, fixed)
    counts = statistics.counts
    scatters = statistics.scatters_about(means)
    idle = counts <= _NOTHING
    if kind == "tied":
        scatters, counts = scatters.sum(1), counts.sum(1)
    elif kind == "spherical":
        counts = counts * means.shape[-1]
        scatters = scatters.sum(-1)
    if parameters.matrices or kind == "tied":
        covariances = matrix_mode(priors.scales, priors.reg_covar, counts, scatters)
    else:
        if kind == "diag":
            counts = counts.unsqueeze(-1)
        covariances = variance_mode(priors.scales, priors.reg_covar, counts, scatters)
    if keep_idle and priors.scales is None and kind != "tied":
        idle = idle.view(idle.shape + (1,) * (covariances.ndim - 2))
        covariances = torch.where(idle, parameters.covariances, covariances)
    return Parameters.from_covariances(kind, log_weights, means, covariances)
