"""Priors as users write them, and the coordinates in which they are standard normal."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributions as torch_distributions

from .bridge import to_numpy, to_tensor
from .coordinates import Coordinates

__all__ = ["ParameterSpace"]

_LEVELS = (0.15865525393145707, 0.5, 0.8413447460685429)
# A half-line without a distribution: this standard deviation of the logarithm.
_LOG_SPREAD = 1.5
_EXACT = ("uniform", "norm", "lognorm")
_HELP = (
    "give a sequence with one entry for each parameter, each a frozen distribution of "
    "scipy.stats or a pair (low, high); or a joint distribution, "
    "scipy.stats.multivariate_normal or one of torch.distributions; or a dict of such "
    "distributions"
)


@dataclass(frozen=True)
class ParameterSpace:
    """What a prior says about the parameters.

    Parameters
    ----------
    coordinates : Coordinates
        In which the prior is about standard normal.
    exact : bool
        Whether it is so exactly.
    log_prob : callable or None
        The prior's log density of a tensor of points.
    differentiable : bool
        Whether gradients flow through ``log_prob``.
    """

    coordinates: Coordinates
    exact: bool
    log_prob: Callable[[Tensor], Tensor] | None
    differentiable: bool

    @classmethod
    def of(cls, prior: Any, potential: Any, add_prior: bool) -> "ParameterSpace":
        """Understand a prior, or that of a potential.

        Raises
        ------
        ValueError
            If there is none, or one without a density where that is wanted.
        """
        if prior is None:
            prior = getattr(potential, "prior", None)
        if prior is None:
            raise ValueError(
                "prior=None and the potential has none: the search has to begin "
                "somewhere, for example prior=[(-1, 1), scipy.stats.norm(0, 10)]."
            )
        space = cls.parse(prior)
        if add_prior and not space.exact and space.log_prob is None:
            raise ValueError(
                "add_prior=True needs a prior with a density; a half-line has none."
            )
        return space

    @classmethod
    def parse(cls, prior: Any) -> "ParameterSpace":
        """Understand a prior.

        Parameters
        ----------
        prior : sequence, distribution, dict or Prior
            A sequence with one entry per parameter, each a frozen univariate
            distribution of scipy or a pair (low, high); or a frozen multivariate
            normal of scipy; or a distribution of torch. Or a dict of these, or a
            :class:`skmdn.simulation.Prior`: their variables stand side by side.

        Raises
        ------
        TypeError
            If it is none of these.
        ValueError
            If it describes no distribution that can be used.
        """
        prior = getattr(prior, "distributions", prior)
        if isinstance(prior, Mapping):
            return _side_by_side([cls.parse(part) for part in prior.values()])
        if isinstance(prior, torch_distributions.Distribution):
            return _from_torch(prior)
        if hasattr(prior, "cov_object") or type(prior).__name__.startswith(
            "multivariate_normal"
        ):
            mean = np.atleast_1d(np.asarray(prior.mean, dtype=np.float64))
            return _normal(to_tensor(mean), to_tensor(np.atleast_2d(prior.cov)))
        if hasattr(prior, "ppf"):
            return _independent([prior])
        if isinstance(prior, Sequence | np.ndarray) and not isinstance(prior, str):
            return _independent(list(prior))
        raise TypeError(f"prior={prior!r} is not understood: {_HELP}.")

    @property
    def n_features(self) -> int:
        """The number of parameters."""
        return self.coordinates.n_features


def _side_by_side(spaces: list[ParameterSpace]) -> ParameterSpace:
    """Return the space of independent parts."""
    if not spaces:
        raise ValueError("prior is empty: name at least one parameter.")
    parts = [space.coordinates for space in spaces]
    coordinates = Coordinates(
        *(torch.cat([getattr(c, name) for c in parts]) for name in _VECTORS),
        torch.block_diag(*(c.root for c in parts)),
    )
    sizes = [c.n_features for c in parts]

    def log_prob(theta: Tensor) -> Tensor:
        columns = theta.split(sizes, 1)
        values = [_log_prior(s, c) for s, c in zip(spaces, columns, strict=True)]
        return torch.stack(values).sum(0)

    known = all(space.exact or space.log_prob is not None for space in spaces)
    return ParameterSpace(
        coordinates,
        all(space.exact for space in spaces),
        log_prob if known else None,
        all(space.differentiable or space.exact for space in spaces),
    )


_VECTORS = ("low", "high", "shift")


def _log_prior(space: ParameterSpace, theta: Tensor) -> Tensor:
    """Return the log density; where the coordinates are exactly normal, by them."""
    if not space.exact:
        assert space.log_prob is not None
        return space.log_prob(theta)
    u = space.coordinates.inverse(theta)
    unit = 0.5 * space.n_features * math.log(2.0 * math.pi)
    at_u = -0.5 * u.square().sum(-1) - unit
    value = at_u - space.coordinates.log_jacobian(u)
    return torch.where(space.coordinates.contains(theta), value, -math.inf)


def _normal(mean: Tensor, covariance: Tensor) -> ParameterSpace:
    root, failed = torch.linalg.cholesky_ex(covariance)
    if bool(failed):
        raise ValueError("The prior's covariance has to be positive definite.")
    end = torch.full_like(mean, math.inf)
    return ParameterSpace(Coordinates(-end, end, mean, root), True, None, True)


def _independent(entries: list[Any]) -> ParameterSpace:
    """Put parameters side by side."""
    if not entries:
        raise ValueError("prior is empty: name at least one parameter.")
    ends, quantiles, exact = [], [], True
    for entry in entries:
        if hasattr(entry, "ppf") and hasattr(entry, "support"):
            levels = np.reshape(entry.ppf(np.reshape(_LEVELS, (3, 1))), (3, -1))
            pair = np.stack(entry.support(), -1)
            ends.append(np.broadcast_to(pair, (levels.shape[1], 2)))
            quantiles.append(levels)
            exact &= getattr(getattr(entry, "dist", None), "name", "") in _EXACT
        else:
            low, high, levels = _bounds(entry)
            ends.append([[low, high]])
            quantiles.append(levels.reshape(3, 1))
            exact &= math.isfinite(high - low)
    table = to_tensor(np.concatenate(quantiles, axis=1))
    if not bool(table.isfinite().all()):
        raise ValueError("prior has quantiles that are not finite.")
    low_ends, high_ends = to_tensor(np.concatenate(ends)).unbind(1)
    coordinates = Coordinates.from_quantiles(low_ends, high_ends, table)
    known = all(hasattr(entry, "logpdf") for entry in entries)
    log_prob = _ScipyLogProb(entries) if known else None
    return ParameterSpace(coordinates, exact, log_prob, False)


class _ScipyLogProb:
    """The sum of the log densities of independent distributions of scipy."""

    def __init__(self, entries: list[Any]) -> None:
        self.entries = entries

    def __call__(self, theta: Tensor) -> Tensor:
        points, first, total = to_numpy(theta), 0, np.zeros(len(theta))
        for entry in self.entries:
            size = np.size(entry.mean())
            part = np.asarray(entry.logpdf(points[:, first : first + size]))
            total += part.reshape(len(points), -1).sum(1)
            first += size
        return to_tensor(total)


def _bounds(pair: Any) -> tuple[float, float, np.ndarray]:
    """Return the ends of a pair and the quantiles of the law that stands for it."""
    try:
        low, high = (float(end) for end in pair)
    except (TypeError, ValueError) as error:
        raise TypeError(f"The entry {pair!r} of prior: {_HELP}.") from error
    if not low < high:
        raise ValueError(f"The bounds {pair!r} of prior need low < high.")
    if math.isinf(low) and math.isinf(high):
        raise ValueError(
            "A parameter without bounds needs a distribution, such as "
            "scipy.stats.norm(0, 10): the search has to begin somewhere."
        )
    if math.isfinite(high - low):
        return low, high, low + np.array(_LEVELS) * (high - low)
    steps = np.exp(_LOG_SPREAD * np.array([-1.0, 0.0, 1.0]))
    return low, high, low + steps if math.isfinite(low) else high - steps[::-1]


def _from_torch(prior: torch_distributions.Distribution) -> ParameterSpace:
    """Read the ends and quantiles of a distribution of torch."""
    base: Any = prior
    while isinstance(base, torch_distributions.Independent):
        base = base.base_dist
    if isinstance(base, torch_distributions.MultivariateNormal):
        return _normal(base.mean.double(), base.covariance_matrix.double())
    n_features = math.prod([*prior.batch_shape, *prior.event_shape])
    low, high = _torch_support(base, n_features)
    kinds = torch_distributions.Uniform | torch_distributions.Normal
    exact = isinstance(base, kinds | torch_distributions.LogNormal)
    coordinates = _torch_coordinates(base, low, high)

    def log_prob(theta: Tensor) -> Tensor:
        values = base.log_prob(theta.reshape(-1, *base.batch_shape, *base.event_shape))
        return values.double().reshape(len(theta), -1).sum(1)

    return ParameterSpace(coordinates, exact, log_prob, True)


def _torch_support(base: Any, n_features: int) -> tuple[Tensor, Tensor]:
    """Return the ends of the parameters."""
    kind = base.support
    while hasattr(kind, "base_constraint"):
        kind = kind.base_constraint
    if getattr(kind, "is_discrete", False) or base.event_shape:
        raise ValueError(f"prior={base!r} cannot be used: {_HELP}.")
    low = getattr(kind, "lower_bound", -math.inf)
    high = getattr(kind, "upper_bound", math.inf)
    shape = torch.zeros(base.batch_shape or (1,), dtype=torch.float64)
    return (shape + low).reshape(n_features), (shape + high).reshape(n_features)


def _torch_coordinates(base: Any, low: Tensor, high: Tensor) -> Coordinates:
    levels = low.new_tensor(_LEVELS).reshape(3, *(1 for _ in base.batch_shape))
    try:
        table = base.icdf(levels.expand(3, *base.batch_shape)).double()
    except NotImplementedError:
        return _from_moments(base, low, high)
    return Coordinates.from_quantiles(low, high, table.reshape(3, -1))


def _from_moments(base: Any, low: Tensor, high: Tensor) -> Coordinates:
    """Match mean and standard deviation, to first order through the links."""
    links = Coordinates.standard(low, high)
    mean = base.mean.double().reshape(-1)
    std = base.stddev.double().reshape(-1)
    middle = links.inverse(mean)
    slope = (links.link(middle + 1e-6) - links.link(middle - 1e-6)) / 2e-6
    spread = std / slope
    if not bool((middle.isfinite() & spread.isfinite()).all()):
        raise ValueError(f"prior={base!r} has no moments: {_HELP}.")
    return Coordinates(low, high, middle, torch.diag(spread))
