"""A prior on the means of components: a uniform ball with a soft edge."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from skmdn.numerics.special import gammaincc, gammainccinv

from .base import Prior, empty_tensor

__all__ = ["Softball"]

# Terms of an alternating series after which its error is below 1e-17.
_TERMS = 24
# The share of a tail that can still be inverted with all its digits.
_SMALLEST_TAIL = 1e-200
_SHARPNESS_PER_FEATURE = 5.0


class Softball(Prior):
    r"""Uniform distribution in a ball whose edge is soft.

    .. math::
        p(z) = \frac{1}{Z} \, \frac{1}{1 + \exp(s (|z - c| / r - 1))}, \qquad
        Z = \frac{2 \pi^{d/2}}{\Gamma(d/2)} \Bigl(\frac{r}{s}\Bigr)^d \Gamma(d)
        \, F_{d}(s)

    with the complete Fermi-Dirac integral [1]_ :math:`F_d(s) = -\mathrm{Li}_d(-e^s)`.
    Inside it leaves means alone, outside it pulls them back with the force s / r.

    Parameters
    ----------
    radius : float, default=1.0
        The radius r, at which the density is half of that at the centre.
    sharpness : float or "auto", default="auto"
        The number s; the edge is about r / s thick. "auto" is 5 d in d dimensions. It
        has to grow with d: far below d most of the mass lies outside of the ball.
    center : float or sequence of float, default=0.0
        The centre c: the same number in all dimensions, or one for each.

    References
    ----------
    .. [1] NIST Digital Library of Mathematical Functions, 25.12.16.

    Examples
    --------
    >>> import torch
    >>> from skmdn.priors import Softball
    >>> prior = Softball(radius=2.0, sharpness=50.0)
    >>> prior.log_prob(torch.tensor([[0.0, 0.0], [0.0, 3.0]]))
    tensor([ -2.5323, -27.5323])
    """

    def __init__(
        self, radius: float = 1.0, sharpness: float | str = "auto", center: Any = 0.0
    ) -> None:
        self.radius = radius
        self.sharpness = sharpness
        self.center = center

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of points.

        Parameters
        ----------
        value : Tensor of shape (..., n_features)
            Points, for instance the means of components.

        Returns
        -------
        log_prob : Tensor of shape (...)
            In nats; finite wherever the distance to the centre is.
        """
        n_features = value.shape[-1]
        r, s = self._positive("radius"), self.resolved_sharpness(n_features)
        distance = torch.linalg.vector_norm(value - self.center_like(value), dim=-1)
        soft = torch.nn.functional.logsigmoid(s * (1.0 - distance / r))
        return soft - self.log_normalizer(n_features)

    def sample(
        self, shape: Sequence[int], generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw points by exact rejection, which keeps more than half of its proposals.

        Parameters
        ----------
        shape : sequence of int
            The shape of the answer, whose last axis are the features.
        generator : torch.Generator, optional
            The source of the draws.

        Returns
        -------
        value : Tensor of the given shape
            Points.
        """
        noise = empty_tensor(shape, generator).normal_(generator=generator)
        radius = torch.empty_like(noise[..., 0])
        flat, n_features = radius.view(-1), shape[-1]
        sharpness = self.resolved_sharpness(n_features)
        open_ = torch.arange(flat.numel(), device=flat.device)
        while len(open_):
            proposed, log_accept = _propose(
                flat[open_], n_features, sharpness, generator
            )
            uniform = torch.empty_like(proposed).uniform_(generator=generator)
            kept = uniform.log() < log_accept
            flat[open_[kept]] = proposed[kept]
            open_ = open_[~kept]
        length = torch.linalg.vector_norm(noise, dim=-1)
        scale = self._positive("radius") * radius / length
        return self.center_like(noise) + scale.unsqueeze(-1) * noise

    def log_normalizer(self, n_features: int) -> float:
        """Return the logarithm of Z, exactly: finite in hundreds of dimensions.

        Parameters
        ----------
        n_features : int
            The number of dimensions d.
        """
        d, s = n_features, self.resolved_sharpness(n_features)
        log_surface = math.log(2.0) + 0.5 * d * math.log(math.pi) - math.lgamma(d / 2)
        log_unit = d * math.log(self._positive("radius") / s) + math.lgamma(d)
        return log_surface + log_unit + _log_fermi_dirac(d, s)

    def resolved_sharpness(self, n_features: int) -> float:
        """Return the number s in so many dimensions.

        Parameters
        ----------
        n_features : int
            The number of dimensions d.
        """
        if isinstance(self.sharpness, str):
            if self.sharpness != "auto":
                raise ValueError(
                    "sharpness of Softball must be a positive number or 'auto', got "
                    f"{self.sharpness!r}."
                )
            return _SHARPNESS_PER_FEATURE * n_features
        return self._positive("sharpness")

    def center_like(self, value: Tensor) -> Tensor:
        """Return the centre as a tensor that fits points ``(..., n_features)``.

        Parameters
        ----------
        value : Tensor of shape (..., n_features)
            The points.
        """
        center = torch.as_tensor(self.center, dtype=value.dtype, device=value.device)
        if center.ndim > 1 or (center.ndim and len(center) != value.shape[-1]):
            raise ValueError(
                f"center of Softball has shape {tuple(center.shape)} for points in "
                f"{value.shape[-1]} dimensions: give one number, or one for each."
            )
        if not bool(center.isfinite().all()):
            raise ValueError(f"center of Softball must be finite, got {self.center!r}.")
        return center.expand(value.shape[-1])


@cache
def _acceleration(n_terms: int) -> list[float]:
    """Return weights that sum an alternating series from its first terms [1]_.

    References
    ----------
    .. [1] H. Cohen, F. Rodriguez Villegas and D. Zagier, "Convergence acceleration of
       alternating series", Experimental Mathematics 9(1), 2000, algorithm 1.
    """
    total = (3.0 + math.sqrt(8.0)) ** n_terms
    total = 0.5 * (total + 1.0 / total)
    b, c, weights = -1.0, -total, []
    for k in range(n_terms):
        c = b - c
        weights.append(c / total)
        b *= (k + n_terms) * (k - n_terms) / ((k + 0.5) * (k + 1.0))
    return weights


def _alternating_sum(order: Tensor, rate: float) -> Tensor:
    r"""Return :math:`\sum_{j \ge 1} (-1)^{j - 1} j^{-order} e^{-j rate}`."""
    j = torch.arange(1, _TERMS + 1, dtype=torch.float64)
    weights = torch.tensor(_acceleration(_TERMS), dtype=torch.float64)
    return (-order.unsqueeze(-1) * j.log() - rate * j).exp() @ weights


def _log_fermi_dirac(d: int, s: float) -> float:
    r"""Return the logarithm of :math:`-\mathrm{Li}_d(-e^s)`.

    The polylogarithm is a polynomial in s and a tail that is at most 1. All terms of
    the polynomial are positive, so that nothing cancels.
    """
    k = torch.arange(0, d // 2 + 1, dtype=torch.float64)
    power = d - 2.0 * k
    eta = _alternating_sum(2.0 * k, 0.0)
    terms = (2.0 * eta).log() + power * math.log(s) - torch.lgamma(power + 1.0)
    polynomial = torch.logsumexp(terms, 0)
    tail = _alternating_sum(torch.tensor([float(d)], dtype=torch.float64), s)[0]
    if d % 2:
        return float(torch.logaddexp(polynomial, tail.log()))
    # The last term of the polynomial alone is at least twice the tail.
    return float(polynomial + torch.log1p(-tail * (-polynomial).exp()))


def _propose(
    like: Tensor, d: int, s: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Propose radii in units of the ball's; return them and log acceptances.

    Inside radii are uniform in the ball. Outside they follow :math:`t^{d-1} e^{-st}`,
    a gamma law, or where its tail is too small for that, an exponential law above it.
    """
    pick, u = (torch.empty_like(like).uniform_(generator=generator) for _ in range(2))
    # Not 0, at which tails are infinite.
    u = 1.0 - u
    shape = torch.full_like(u[:1], float(d))
    tail = gammaincc(shape, torch.full_like(shape, s))
    if float(tail) > _SMALLEST_TAIL:
        log_mass = s + math.lgamma(d) - d * math.log(s) + math.log(float(tail))
        outer = gammainccinv(shape.expand_as(u), u * tail) / s
        log_accept = torch.zeros_like(outer)
    else:
        slope = s - (d - 1.0)
        log_mass = -math.log(slope)
        outer = 1.0 - u.log() / slope
        log_accept = (d - 1.0) * (outer.log() - (outer - 1.0))
    # The ball itself has the mass 1 / d.
    log_odds = log_mass + math.log(d)
    inside = pick < torch.sigmoid(-torch.tensor(log_odds, dtype=u.dtype)).to(u.device)
    radius = torch.where(inside, u.log().div(d).exp(), outer)
    log_accept = log_accept.masked_fill(inside, 0.0)
    edge = torch.nn.functional.logsigmoid(s * (radius - 1.0).abs())
    return radius, log_accept + edge
