"""Stochastic descent on an objective, for the parameters of a mixture of normals."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from .judging import falls, falls_forward
from .minimise import Record, Steps, minimise
from .normals import Normals
from .objectives import Objective
from .pool import Proposal
from .target import Density

__all__ = [
    "Parameters",
    "descend",
    "improved",
    "log_mixture",
    "log_target",
    "loss_of",
    "repeats",
]

# A noise is known from at least this many losses.
_REPEATS = 16
_LOG_2PI = math.log(2.0 * math.pi)


class Parameters:
    r"""A mixture of normals as free numbers, relative to where it starts.

    .. math:: \mu_k = \mu_k^0 + L_k^0 \delta_k, \qquad L_k = L_k^0 T_k

    with a triangular matrix T whose diagonal is :math:`e^{\tau}`. All numbers are 0 at
    the start, and a step of a size means the same for all of them.

    Parameters
    ----------
    start : Normals
        The mixture at 0.
    diagonal : bool, default=False
        Whether the covariances stay diagonal.
    """

    def __init__(self, start: Normals, diagonal: bool = False) -> None:
        self.start = start
        self.diagonal = diagonal
        n_components, n_features = start.means.shape
        n_lower = 0 if diagonal else n_features * (n_features - 1) // 2
        size = n_components * (1 + 2 * n_features + n_lower)
        self.values = torch.zeros(size, dtype=start.means.dtype, requires_grad=True)

    def normals(self, values: Tensor) -> Normals:
        """Return the mixture at some values."""
        n_components, n_features = self.start.means.shape
        table = values.reshape(n_components, -1)
        shift, log_scale = table[:, 1 : 1 + n_features], table[:, 1 + n_features :]
        triangle = torch.diag_embed(log_scale[:, :n_features].exp())
        if not self.diagonal:
            i, j = torch.tril_indices(n_features, n_features, -1)
            triangle = triangle.index_put(
                (torch.arange(n_components)[:, None], i, j), log_scale[:, n_features:]
            )
        roots = self.start.roots
        means = self.start.means + (roots @ shift.unsqueeze(-1)).squeeze(-1)
        log_weights = torch.log_softmax(self.start.log_weights + table[:, 0], 0)
        return Normals(log_weights, means, roots @ triangle)


def log_mixture(normals: Normals, u: Tensor) -> Tensor:
    """Return the log density of points ``(..., n_features)``, differentiably."""
    flat = u.reshape(-1, u.shape[-1])
    gaps = (flat - normals.means.unsqueeze(1)).mT
    z = torch.linalg.solve_triangular(normals.roots, gaps, upper=False)
    log_det = normals.roots.diagonal(dim1=1, dim2=2).log().sum(1)
    at_mean = normals.log_weights - log_det - 0.5 * u.shape[-1] * _LOG_2PI
    joint = at_mean.unsqueeze(1) - 0.5 * z.square().sum(1)
    return torch.logsumexp(joint, 0).reshape(u.shape[:-1])


def _held(normals: Normals) -> Normals:
    return Normals(
        normals.log_weights.detach(), normals.means.detach(), normals.roots.detach()
    )


def log_target(target: Density, u: Tensor) -> Tensor:
    """Return log p of points ``(..., n_features)``, through which gradients flow."""
    value, slope = target.log_prob_and_gradient(u.detach().reshape(-1, u.shape[-1]))
    # The same value, and the gradient with respect to u.
    moved = (u - u.detach()) * slope.reshape(u.shape)
    return value.reshape(u.shape[:-1]) + moved.sum(-1)


def loss_of(
    target: Density, objective: Objective, normals: Normals, noise: Tensor
) -> Tensor:
    """Return the loss of draws made of noise (n_draws, n_components, n_features)."""
    u = normals.means + (normals.roots @ noise.unsqueeze(-1)).squeeze(-1)
    flat = u.detach().reshape(-1, u.shape[-1])
    if not objective.needs_gradient:
        log_p = target.log_prob(flat).reshape(u.shape[:-1])
        u, shares = u.detach(), normals.log_weights.detach()
        return objective.loss(log_p, log_mixture(normals, u), shares)
    log_p = log_target(target, u)
    density = _held(normals) if objective.holds_density else normals
    return objective.loss(log_p, log_mixture(density, u), normals.log_weights)


def descend(
    target: Density,
    objective: Objective,
    parameters: Parameters,
    *,
    n_particles: int,
    steps: Steps,
    generator: torch.Generator,
) -> tuple[Normals, Record]:
    """Minimise an objective from where the parameters start.

    Parameters
    ----------
    target : Density
        What is approximated.
    objective : Objective
        The loss.
    parameters : Parameters
        Where it starts.
    n_particles : int
        Draws in a step, of all components together.
    steps : Steps
        How many there may be; the rate is in standard deviations of the start.
    generator : torch.Generator
        For the draws.

    Returns
    -------
    normals : Normals
        The mixture.
    record : Record
        How the descent went.
    """
    n_components, n_features = parameters.start.means.shape
    n_each = objective.whole_groups(n_particles // n_components)
    values = parameters.values

    def loss() -> Tensor:
        noise = values.new_empty((n_each, n_components, n_features))
        noise.normal_(generator=generator)
        return loss_of(target, objective, parameters.normals(values), noise)

    steps = steps.within(target.left // (n_each * n_components))
    record = minimise(loss, [values], steps)
    with torch.no_grad():
        return parameters.normals(values), record


def improved(
    target: Density,
    objective: Objective,
    pair: Sequence[Normals],
    *,
    n_particles: int,
    n_draws: int,
    generator: torch.Generator,
) -> bool:
    """Tell whether the second mixture has the lower loss, by more than its noise.

    Parameters
    ----------
    target : Density
        What is approximated.
    objective : Objective
        The loss.
    pair : sequence of two Normals
        With as many components: the start of a descent and its end.
    n_particles : int
        Draws in a step of the descent.
    n_draws : int
        Draws that this may take.
    generator : torch.Generator
        For the draws.
    """
    if not objective.needs_gradient:
        proposals = [Proposal(q, 0.0) for q in pair]
        transform = objective.weight_transform
        return falls_forward(target, proposals, n_draws, generator, transform)
    n_components, n_features = pair[0].means.shape
    objective, n_each, seeds = repeats(
        objective, n_particles, n_components, n_draws, generator
    )

    def loss(normals: Normals, generator: torch.Generator) -> float:
        noise = normals.means.new_empty((n_each, n_components, n_features))
        noise.normal_(generator=generator)
        with torch.no_grad():
            return float(loss_of(target, objective, normals, noise))

    return falls([partial(loss, q) for q in pair], seeds)


def repeats(
    objective: Objective,
    n_particles: int,
    n_components: int,
    n_draws: int,
    generator: torch.Generator,
) -> tuple[Objective, int, range]:
    """Return how two losses are compared with some draws: several times, side by side.

    Returns
    -------
    objective : Objective
        One that these draws allow.
    n_each : int
        Draws of a component at a time.
    seeds : range
        Of the times.
    """
    most = max(1, n_draws // (2 * _REPEATS * n_components))
    objective = replace(objective.plain, n_importance=min(objective.n_importance, most))
    n_each = objective.whole_groups(min(n_particles // n_components, most))
    n_times = n_draws // (2 * n_each * n_components)
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    return objective, n_each, range(seed, seed + n_times)
