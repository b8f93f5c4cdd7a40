r"""Mixtures of normals and flows seen through links: densities of bounded parameters.

.. math:: q(\theta) = q_u(u(\theta))
    \left| \frac{\partial u}{\partial \theta} \right|, \qquad
    q_u(u) = \sum_k w_k \, \mathcal{N}(u \mid \mu_k, \Sigma_k)
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from skmdn.coordinates import Coordinates
from skmdn.mixture import Mixture

from .flowing import Flowed
from .normals import Normals

__all__ = ["LinkedFlow", "LinkedNormals"]

_N_NODES = 48
_N_NODES_PAIR = 32
# Draws that are made at a time, and those that moments of a flow are taken from.
_PART = 2**16
_MOMENT_DRAWS = 20_000


class _Linked(ABC):
    """What needs nothing but draws and densities in the coordinates."""

    coordinates: Coordinates

    @property
    @abstractmethod
    def inner(self) -> Normals | Flowed:
        """The density in the coordinates."""

    @property
    def n_features(self) -> int:
        """The number of parameters."""
        return self.coordinates.n_features

    def log_prob(self, theta: Tensor) -> Tensor:
        """Return the log density of points ``(n_points, n_features)``."""
        inside = self.coordinates.contains(theta)
        result = torch.full_like(theta[:, 0], -torch.inf)
        u = self.coordinates.inverse(theta[inside])
        result[inside] = self.inner.log_prob(u) - self.coordinates.log_jacobian(u)
        return result

    def draw(self, n_draws: int, generator: torch.Generator) -> Tensor:
        """Return points in random order."""
        theta = self.coordinates.shift.new_empty((n_draws, self.n_features))
        # In parts, so that little more than the result is in memory.
        for part in theta.split(_PART):
            u, _ = self.inner.draw(len(part), generator)
            order = torch.randperm(len(part), generator=generator)
            part.copy_(self.coordinates.forward(u[order]))
        return theta


@dataclass(frozen=True)
class LinkedFlow(_Linked):
    """The distribution of parameters whose coordinates follow a flow.

    Parameters
    ----------
    coordinates : Coordinates
        The links.
    flowed : Flowed
        The flow.
    normals : Normals
        The mixture that it started from.
    """

    coordinates: Coordinates
    flowed: Flowed
    normals: Normals

    @property
    def inner(self) -> Flowed:
        """The flow."""
        return self.flowed

    @cached_property
    def _draws(self) -> Tensor:
        return self.draw(_MOMENT_DRAWS, torch.Generator().manual_seed(0))

    def mean(self) -> Tensor:
        """Return the mean of draws."""
        return self._draws.mean(0)

    def covariance(self) -> Tensor:
        """Return the covariance of draws."""
        return torch.cov(self._draws.mT).reshape(2 * (self.n_features,))


@dataclass(frozen=True)
class LinkedNormals(_Linked):
    """The distribution of parameters whose coordinates follow a mixture of normals.

    Parameters
    ----------
    coordinates : Coordinates
        The links.
    normals : Normals
        The mixture.
    """

    coordinates: Coordinates
    normals: Normals

    @property
    def inner(self) -> Normals:
        """The mixture."""
        return self.normals

    def before_links(self) -> Mixture:
        """Return the mixture of what the links are applied to."""
        root = self.coordinates.root
        moved = Normals(
            self.normals.log_weights,
            self.coordinates.linear(self.normals.means),
            root @ self.normals.roots,
        )
        return moved.mixture()

    # Closed forms.

    def marginal(self, features: list[int]) -> "LinkedNormals":
        """Return the joint distribution of some of the parameters, in that order."""
        return self._rebuilt(self.before_links().marginal(features), features)

    def condition(self, features: list[int], values: Tensor) -> "LinkedNormals":
        """Return the distribution of the other parameters given values of these."""
        low, high = self.coordinates.low, self.coordinates.high
        known = Coordinates.standard(low[features], high[features])
        others = [i for i in range(self.n_features) if i not in features]
        mixture = self.before_links().condition(features, known.inverse(values))
        return self._rebuilt(mixture, others)

    def _rebuilt(self, mixture: Mixture, features: list[int]) -> "LinkedNormals":
        """Measure a mixture before the links by its own mean and spread."""
        shift, scale = mixture.mean(), mixture.variance().sqrt()
        coordinates = Coordinates(
            self.coordinates.low[features],
            self.coordinates.high[features],
            shift,
            torch.diag(scale),
        )
        roots = torch.linalg.cholesky(mixture.component_covariances())
        means = (mixture.component_means() - shift) / scale
        normals = Normals(mixture.log_weights, means, roots / scale.unsqueeze(1))
        return LinkedNormals(coordinates, normals)

    def component_means(self) -> Tensor:
        """Return the components' means after the links, by quadrature."""
        mixture = self.before_links()
        means, stds = mixture.component_means(), mixture.component_stds()
        nodes, weights = _gauss_hermite(_N_NODES)
        points = means.unsqueeze(1) + nodes[:, None] * stds.unsqueeze(1)
        values = (weights[:, None] * self.coordinates.link(points)).sum(1)
        return torch.where(self.coordinates.bounded, values, means)

    def mean(self) -> Tensor:
        """Return the mean, ``(n_features,)``."""
        return self.normals.log_weights.exp() @ self.component_means()

    def covariance(self) -> Tensor:
        """Return the covariance matrix, where there are links by quadrature."""
        mixture, mean = self.before_links(), self.mean()
        weights = self.normals.log_weights.exp()
        offset = self.component_means() - mean
        inside = mixture.component_covariances() + (
            offset.unsqueeze(2) * offset.unsqueeze(1)
        )
        total = (weights[:, None, None] * inside).sum(0)
        bounded = self.coordinates.bounded
        for i in range(self.n_features):
            for j in range(i + 1):
                if bool(bounded[i] | bounded[j]):
                    each = self._cross_moment(mixture, mean, i, j)
                    total[i, j] = total[j, i] = weights @ each
        return total

    def _cross_moment(self, mixture: Mixture, mean: Tensor, i: int, j: int) -> Tensor:
        """Return E_k[(theta_i - mean_i) (theta_j - mean_j)] of every component."""
        x, w = _gauss_hermite(_N_NODES_PAIR)
        means, covariances = mixture.component_means(), mixture.component_covariances()
        std = covariances[:, i, i].sqrt()
        slope = covariances[:, i, j] / std
        rest = (covariances[:, j, j] - slope.square()).clamp_min(0.0).sqrt()
        first = means[:, i, None, None] + std[:, None, None] * x[:, None]
        second = means[:, j, None, None] + slope[:, None, None] * x[:, None]
        second = second + (rest[:, None, None] * x if i != j else 0.0)
        product = (self._linked(first, i) - mean[i]) * (
            self._linked(second, j) - mean[j]
        )
        weights = w[:, None] * w if i != j else w[:, None]
        return (product * weights).sum((1, 2))

    def _linked(self, t: Tensor, feature: int) -> Tensor:
        """Apply the link of one parameter."""
        low, high = self.coordinates.low, self.coordinates.high
        one = Coordinates.standard(low[[feature]], high[[feature]])
        return one.link(t.unsqueeze(-1)).squeeze(-1)


@cache
def _gauss_hermite(n_nodes: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights for expectations under N(0, 1)."""
    with torch.inference_mode(False):
        off = torch.arange(1.0, n_nodes, dtype=torch.float64).sqrt()
        nodes, vectors = torch.linalg.eigh(off.diag(1) + off.diag(-1))
        return nodes, vectors[0].square()
