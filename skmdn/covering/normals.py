r"""Mixtures of normals made for many points at once.

With the features :math:`\phi(u) = [1, u_i, u_i u_j]` a log density of a normal is one
product :math:`\phi(u)^\top c_k`, and the moments of EM are another: both are matrix
products, several times faster than solving with a factor for every point.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from skmdn.families import MultivariateNormal
from skmdn.mixture import Mixture
from skmdn.queries.blocks import Block

__all__ = ["Normals", "em", "em_step", "features", "log_normal"]

_LOG_2PI = math.log(2.0 * math.pi)
# Numbers at work at a time: few enough for the processor's cache.
_BLOCK = 2**18
# Terms this far below the largest vanish in a sum of doubles.
_LEAST = -60.0


def log_normal(u: Tensor) -> Tensor:
    """Return the log density of N(0, I)."""
    return -0.5 * u.square().sum(-1) - 0.5 * u.shape[-1] * _LOG_2PI


def features(u: Tensor) -> Tensor:
    """Return [1, u_i, u_i u_j with i <= j], ``(n_points, n_features)``."""
    i, j = torch.triu_indices(u.shape[1], u.shape[1])
    return torch.cat([torch.ones_like(u[:, :1]), u, u[:, i] * u[:, j]], 1)


@dataclass(frozen=True)
class Normals:
    """A mixture of normals.

    Parameters
    ----------
    log_weights : Tensor of shape (n_components,)
        Normalised.
    means : Tensor of shape (n_components, n_features)
        Means.
    roots : Tensor of shape (n_components, n_features, n_features)
        Lower Cholesky factors of the covariances.
    """

    log_weights: Tensor
    means: Tensor
    roots: Tensor

    @classmethod
    def standard(cls, n_features: int) -> "Normals":
        """Return N(0, I)."""
        zero = torch.zeros(1, n_features, dtype=torch.float64)
        return cls(zero[:, 0], zero, torch.diag_embed(zero + 1.0))

    @property
    def n_components(self) -> int:
        """The number of components."""
        return len(self.log_weights)

    @property
    def n_features(self) -> int:
        """The dimension."""
        return self.means.shape[1]

    @property
    def n_parameters(self) -> float:
        """The number of free numbers."""
        return _n_parameters(self.n_components, self.n_features)

    @property
    def covariances(self) -> Tensor:
        """The components' covariances."""
        return self.roots @ self.roots.mT

    def log_determinants(self) -> Tensor:
        """Return those of the components' covariances."""
        return 2.0 * self.roots.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def log_heights(self) -> Tensor:
        """Return log (w_k f_k) at the components' means."""
        at_mean = -0.5 * (self.n_features * _LOG_2PI + self.log_determinants())
        return self.log_weights + at_mean

    def coefficients(self) -> Tensor:
        """Return the matrix that makes log (w_k f_k) of features."""
        precision = torch.cholesky_inverse(self.roots)
        pull = (precision @ self.means.unsqueeze(-1)).squeeze(-1)
        constant = self.log_heights() - 0.5 * (pull * self.means).sum(-1)
        i, j = torch.triu_indices(self.n_features, self.n_features)
        square = -precision[:, i, j] * torch.where(i == j, 0.5, 1.0)
        return torch.cat([constant.unsqueeze(1), pull, square], 1).mT.contiguous()

    def log_joint(self, u: Tensor) -> Tensor:
        """Return log (w_k f_k(u)), ``(n_points, n_components)``."""
        return features(u) @ self.coefficients()

    def log_prob(self, u: Tensor, phi: Tensor | None = None) -> Tensor:
        """Return the log density of points, whose features may be known."""
        return self.log_prob_widened(u, 0.0, 1.0, phi)

    def log_prob_widened(
        self, u: Tensor, share: float, factor: float, phi: Tensor | None = None
    ) -> Tensor:
        r"""Return that of the mixture with a share of it widened.

        .. math:: (1 - s) \sum_k w_k \mathcal{N}(\mu_k, \Sigma_k)
            + s \sum_k w_k \mathcal{N}(\mu_k, f^2 \Sigma_k)
        """
        phi = features(u) if phi is None else phi
        coefficients, heights = self.coefficients(), self.log_heights()
        result = phi.new_empty(len(phi))
        for rows in _chunks(len(phi), self.n_components):
            joint = phi[rows] @ coefficients
            if share:
                wide = heights - (heights - joint) / factor**2
                wide -= self.n_features * math.log(factor) - math.log(share)
                joint = torch.cat([joint + math.log1p(-share), wide], 1)
            result[rows] = _log_sum_exp(joint)
        return result

    def draw(self, n_draws: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return points and their components, which follow each other.

        Each component gets its share of the draws, rounded at random.
        """
        edges = self.log_weights.exp().cumsum(0)
        start = torch.rand((), dtype=edges.dtype, generator=generator)
        grid = (torch.arange(n_draws, dtype=edges.dtype) + start) / n_draws
        chosen = torch.searchsorted(edges / edges[-1], grid).clamp_(
            max=self.n_components - 1
        )
        noise = self.means.new_empty((n_draws, self.n_features))
        noise.normal_(generator=generator)
        return self._moved(chosen, noise), chosen

    def _moved(self, chosen: Tensor, noise: Tensor) -> Tensor:
        """Return mean + root noise; components follow each other."""
        counts = chosen.bincount(minlength=self.n_components).tolist()
        parts, first = [], 0
        if self.n_components > 64:
            moved = torch.bmm(self.roots[chosen], noise.unsqueeze(-1)).squeeze(-1)
            return self.means[chosen] + moved
        for k, count in enumerate(counts):
            rows = noise[first : first + count]
            parts.append(torch.addmm(self.means[k], rows, self.roots[k].mT))
            first += count
        return torch.cat(parts)

    def choose(self, which: Tensor) -> "Normals":
        """Return some components; their weights sum to 1 again."""
        log_weights = torch.log_softmax(self.log_weights[which], 0)
        return Normals(log_weights, self.means[which], self.roots[which])

    def joined(self, other: "Normals", share: float) -> "Normals":
        """Return both, with this share for the other."""
        return Normals(
            torch.cat(
                [
                    self.log_weights + math.log1p(-share),
                    other.log_weights + math.log(share),
                ]
            ),
            torch.cat([self.means, other.means]),
            torch.cat([self.roots, other.roots]),
        )

    def with_weights(self, log_weights: Tensor) -> "Normals":
        """Return the same components with other weights."""
        return Normals(torch.log_softmax(log_weights, 0), self.means, self.roots)

    def moment_matched(self, diagonal: bool = False) -> "Normals":
        """Return the one normal with the same mean and covariance."""
        weights = self.log_weights.exp()
        mean = weights @ self.means
        gaps = self.means - mean
        total = (weights[:, None, None] * self.covariances).sum(0)
        total = total + (gaps * weights.unsqueeze(1)).mT @ gaps
        if diagonal:
            total = torch.diag(total.diagonal())
        root = torch.linalg.cholesky(total)
        return Normals(torch.zeros_like(weights[:1]), mean[None], root[None])

    def mixture(self) -> Mixture:
        """Return the same as a :class:`skmdn.mixture.Mixture`."""
        eye = torch.eye(self.n_features, dtype=self.means.dtype)
        factor = torch.linalg.solve_triangular(
            self.roots, eye.expand_as(self.roots), upper=False
        )
        params = {"mean": self.means, "precision_factor": factor}
        block = Block(MultivariateNormal(), params, self.n_components)
        return Mixture(self.log_weights, [block])


def em_step(
    normals: Normals,
    phi: Tensor,
    weights: Tensor,
    anchor: Tensor | None = None,
    n_points: float | None = None,
) -> tuple[Normals, Tensor, float]:
    r"""Take a step of EM on weighted points.

    A covariance is drawn towards that of the component's anchor,

    .. math:: (1 - s) S_k + s C_k, \qquad s = (d + 2) / (n_k + d + 2)

    with the effective number :math:`n_k` of its points. Components that fewer than one
    point speaks for are dropped.

    Parameters
    ----------
    normals : Normals
        The mixture.
    phi : Tensor of shape (n_points, n_coefficients)
        Features of the points.
    weights : Tensor of shape (n_points,)
        Not negative, with sum 1.
    anchor : Tensor of shape (n_components, n_features, n_features), optional
        Covariances; those of ``normals`` by default.
    n_points : float, optional
        What all points together are worth; their effective number by default.

    Returns
    -------
    normals : Normals
        The mixture after the step.
    kept : Tensor
        The places of its components.
    score : float
        The weighted mean log density before the step.
    """
    moments, squares, score = _expectation(normals, phi, weights)
    if n_points is None:
        n_points = 1.0 / float(weights.square().sum())
    n_features, mass = normals.n_features, moments[0]
    n_each = mass.square() / squares.clamp_min(1e-300)
    kept = ((mass * n_points >= 1.0) & (n_each >= 2.0)).nonzero().squeeze(1)
    if not len(kept):
        kept = mass.argmax().reshape(1)
    mass, moments, n_each = mass[kept], moments[:, kept] / mass[kept], n_each[kept]
    means = moments[1 : 1 + n_features].mT
    i, j = torch.triu_indices(n_features, n_features)
    second = means.new_empty((len(kept), n_features, n_features))
    second[:, i, j] = second[:, j, i] = moments[1 + n_features :].mT
    second -= means.unsqueeze(-1) * means.unsqueeze(-2)
    anchor = normals.covariances if anchor is None else anchor
    share = ((n_features + 2.0) / (n_each + n_features + 2.0))[:, None, None]
    roots, failed = torch.linalg.cholesky_ex(torch.lerp(second, anchor[kept], share))
    roots = torch.where((failed > 0)[:, None, None], normals.roots[kept], roots)
    moved = Normals(torch.log_softmax(mass.log(), 0), means.contiguous(), roots)
    return moved, kept, score


def em(
    normals: Normals, phi: Tensor, weights: Tensor, n_steps: int, n_points: float
) -> Normals:
    """Take steps of EM, all anchored where the first began."""
    anchor = normals.covariances
    for _ in range(n_steps):
        normals, kept, _ = em_step(normals, phi, weights, anchor, n_points)
        anchor = anchor[kept]
    return normals


def _expectation(
    normals: Normals, phi: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, float]:
    """Return weighted sums of the features and of squares of the shares."""
    coefficients = normals.coefficients()
    moments = torch.zeros_like(coefficients)
    squares = torch.zeros_like(normals.log_weights)
    score = 0.0
    for rows in _chunks(len(phi), normals.n_components):
        joint = phi[rows] @ coefficients
        top = joint.amax(1, keepdim=True)
        joint.sub_(top).clamp_(min=_LEAST).exp_()
        total = joint.sum(1, keepdim=True)
        weight = weights[rows].unsqueeze(1)
        score += float((weight * (top + total.log())).sum())
        joint.mul_(weight / total)
        moments.addmm_(phi[rows].mT, joint)
        squares += joint.square_().sum(0)
    return moments, squares, score


def _n_parameters(n_components: int, n_features: int) -> float:
    return n_components * (1 + n_features + n_features * (n_features + 1) / 2) - 1.0


def _chunks(n_rows: int, n_columns: int) -> Iterator[slice]:
    step = max(256, _BLOCK // max(1, n_columns))
    return (slice(a, min(a + step, n_rows)) for a in range(0, n_rows, step))


def _log_sum_exp(joint: Tensor) -> Tensor:
    """Return the logarithm of the rows' sums; the argument may be overwritten."""
    if joint.requires_grad:
        return torch.logsumexp(joint, 1)
    top = joint.amax(1, keepdim=True)
    total = joint.sub_(top).clamp_(min=_LEAST).exp_().sum(1)
    return total.log_().add_(top.squeeze(1))
