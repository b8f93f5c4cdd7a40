"""Normal components: independent outputs, or outputs that vary together."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from skmdn.numerics.basic import ndtr

from .base import Family, Params, inverse_softplus, others
from .bell import log_probability

__all__ = ["MultivariateNormal", "Normal"]

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


def _square_norm(z: Tensor) -> Tensor:
    """Return the squared length along the last axis."""
    return z.square().sum(-1) if z.shape[-1] > 1 else z.squeeze(-1).square()


class _Gaussian(Family):
    """What the two Gaussian layouts share: all that follows from mean and std."""

    gaussian: ClassVar[bool] = True

    def _marginal_scale(self, params: Params) -> Tensor:
        """Return standard deviations that broadcast to one per output."""
        raise NotImplementedError

    def mean(self, params: Params) -> Tensor:
        """Return the components' means."""
        return params["mean"]

    def std(self, params: Params) -> Tensor:
        """Return the standard deviations, one per component and output."""
        return self._marginal_scale(params).expand_as(params["mean"])

    def log_density(self, params: Params, y: Tensor) -> Tensor:
        """Return the normal log density of every output by itself."""
        scale = self._marginal_scale(params)
        z = (y - params["mean"]) / scale
        return torch.sub(-scale.log() - _LOG_SQRT_2PI, z.square(), alpha=0.5)

    def log_interval(self, params: Params, low: Tensor, high: Tensor) -> Tensor:
        """Return the log probability of an interval, however far out or short."""
        scale = self._marginal_scale(params)
        return log_probability(params["mean"], scale, low, high)

    def cdf(self, params: Params, y: Tensor) -> Tensor:
        """Return the normal distribution function."""
        return ndtr(y - params["mean"], self.std(params))

    def sf(self, params: Params, y: Tensor) -> Tensor:
        """Return one minus the distribution function, without the cancellation."""
        return ndtr(params["mean"] - y, self.std(params))

    def log_tails(self, params: Params, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logarithms of both tails, however far out."""
        z = (y - params["mean"]) / self.std(params)
        return torch.special.log_ndtr(z), torch.special.log_ndtr(-z)

    def ppf(self, params: Params, q: Tensor) -> Tensor:
        """Return mean + std * ndtri(q)."""
        return params["mean"] + self.std(params) * torch.special.ndtri(q)

    def cumulant(self, params: Params, t: float) -> Tensor:
        """Return half the square of t times the deviation."""
        return 0.5 * (t * self.std(params)).square()

    def kinks(self, params: Params) -> Tensor:
        """Return no points."""
        return params["mean"][..., :0, :]


@dataclass(frozen=True)
class Normal(_Gaussian):
    r"""Normal components whose outputs are independent of each other.

    .. math:: f(y) = \prod_d \mathcal{N}(y_d \mid \mu_d, \sigma_d^2)

    Parameters
    ----------
    covariance_type : {"diag", "spherical"}, default="diag"
        One scale per output, or one scale for all outputs.
    """

    covariance_type: str = "diag"

    event_ranks: ClassVar[dict[str, int]] = {"mean": 1, "scale": 1}

    def raw_shapes(
        self, n_components: int, n_outputs: int
    ) -> dict[str, tuple[int, ...]]:
        """One mean per output; one scale per output, or a single one."""
        n_scales = 1 if self.covariance_type == "spherical" else n_outputs
        return {
            "mean": (n_components, n_outputs),
            "scale": (n_components, n_scales),
        }

    def from_raw(self, raw: Params, min_scale: float) -> Params:
        """Apply the links: identity, and softplus above a floor."""
        scale = min_scale + torch.nn.functional.softplus(raw["scale"])
        return {"mean": raw["mean"], "scale": scale}

    def start(self, centers: Tensor, spreads: Tensor, min_scale: float) -> Params:
        """Invert the links at the given centres and spreads."""
        if self.covariance_type == "spherical":
            spreads = spreads.square().mean(-1, keepdim=True).sqrt()
        above = (spreads - min_scale).clamp_min(0.1 * min_scale)
        return {"mean": centers, "scale": inverse_softplus(above)}

    def scales(self, params: Params) -> Tensor:
        """Return the scales."""
        return params["scale"]

    def _marginal_scale(self, params: Params) -> Tensor:
        return params["scale"]

    def log_prob(self, params: Params, y: Tensor) -> Tensor:
        """Return the sum of the outputs' normal log densities."""
        scale = params["scale"]
        z = (y - params["mean"]) / scale
        n_outputs = params["mean"].shape[-1]
        log_det = scale.log().sum(-1) * (n_outputs // scale.shape[-1])
        at_mean = -log_det - n_outputs * _LOG_SQRT_2PI
        return torch.sub(at_mean, _square_norm(z), alpha=0.5)

    def draw(self, params: Params, generator: torch.Generator | None) -> Tensor:
        """Return mean + scale * noise."""
        noise = torch.empty_like(params["mean"]).normal_(generator=generator)
        return noise.mul_(params["scale"]).add_(params["mean"])

    def covariance(self, params: Params) -> Tensor:
        """Return diagonal matrices."""
        return torch.diag_embed(self.std(params).square())

    def precision(self, params: Params) -> Tensor:
        """Return diagonal matrices."""
        return torch.diag_embed(self.std(params).square().reciprocal())

    def affine(self, params: Params, scale: Tensor, shift: Tensor) -> Params:
        """Scale and shift each output; a spherical scale becomes one per output."""
        return {
            "mean": params["mean"] * scale + shift,
            "scale": params["scale"] * scale.abs(),
        }

    def widen(self, params: Params, factor: Tensor) -> Params:
        """Multiply the scales."""
        return {"mean": params["mean"], "scale": params["scale"] * factor}

    def marginal(self, params: Params, outputs: list[int]) -> Params:
        """Select: the outputs are independent given the component."""
        return {
            "mean": params["mean"][..., outputs],
            "scale": self.std(params)[..., outputs],
        }

    def condition(
        self, params: Params, outputs: list[int], values: Tensor
    ) -> tuple[Params, Tensor]:
        """Keep the other outputs as they are: only the weights learn from values."""
        log_prob = self.log_prob(self.marginal(params, outputs), values)
        return self.marginal(params, others(params["mean"], outputs)), log_prob


@dataclass(frozen=True)
class MultivariateNormal(_Gaussian):
    r"""Normal components with correlated outputs.

    .. math::
        f(y) = \mathcal{N}(y \mid \mu, (P^\top P)^{-1}),
        \qquad P = \mathrm{diag}(1 / s) (I - A)

    with A strictly lower triangular: row i of A regresses output i on the outputs
    before it and :math:`s_i` is what is left over, so that a floor on s bounds the
    density and the log determinant is :math:`-\sum_i \log s_i`.

    Parameters
    ----------
    covariance_type : {"full", "tied"}, default="full"
        One matrix per component, or one for all of them.

    References
    ----------
    .. [1] M. Pourahmadi, "Joint mean-covariance models with applications to
       longitudinal data: unconstrained parameterisation", Biometrika 86(3), 1999.
    """

    covariance_type: str = "full"

    correlated: ClassVar[bool] = True
    event_ranks: ClassVar[dict[str, int]] = {"mean": 1, "precision_factor": 2}

    def raw_shapes(
        self, n_components: int, n_outputs: int
    ) -> dict[str, tuple[int, ...]]:
        """Means, residual scales and the strictly lower regression coefficients."""
        n_matrices = 1 if self.covariance_type == "tied" else n_components
        return {
            "mean": (n_components, n_outputs),
            "scale": (n_matrices, n_outputs),
            "lower": (n_matrices, n_outputs * (n_outputs - 1) // 2),
        }

    def from_raw(self, raw: Params, min_scale: float) -> Params:
        """Apply the links: softplus above a floor for what is left over."""
        scale = min_scale + torch.nn.functional.softplus(raw["scale"])
        return self.assembled(raw["mean"], scale, raw["lower"])

    def assembled(self, mean: Tensor, scale: Tensor, lower: Tensor) -> Params:
        """Assemble the factor of the precision from scales and coefficients."""
        n_outputs = scale.shape[-1]
        row, column = torch.tril_indices(n_outputs, n_outputs, -1, device=scale.device)
        unit = torch.eye(n_outputs, dtype=scale.dtype, device=scale.device)
        unit = unit.repeat((*scale.shape[:-1], 1, 1))
        unit[..., row, column] = -lower
        return {"mean": mean, "precision_factor": unit / scale.unsqueeze(-1)}

    def start(self, centers: Tensor, spreads: Tensor, min_scale: float) -> Params:
        """Start without correlations; a shared matrix takes the average variance."""
        n_components, n_outputs = centers.shape
        if self.covariance_type == "tied":
            spreads = spreads.square().mean(-2, keepdim=True).sqrt()
        above = (spreads - min_scale).clamp_min(0.1 * min_scale)
        shape = self.raw_shapes(n_components, n_outputs)["lower"]
        return {
            "mean": centers,
            "scale": inverse_softplus(above),
            "lower": centers.new_zeros(shape),
        }

    def scales(self, params: Params) -> Tensor:
        """Return what is left of each output's scale after the outputs before it."""
        return params["precision_factor"].diagonal(dim1=-2, dim2=-1).reciprocal()

    def _marginal_scale(self, params: Params) -> Tensor:
        """Return the root of the covariance's diagonal."""
        factor = params["precision_factor"]
        if factor.shape[-1] == 1:
            return factor[..., 0].reciprocal()
        return _inverse(factor).square().sum(-1).sqrt()

    def log_prob(self, params: Params, y: Tensor) -> Tensor:
        """Return the log density through the factor: no matrix is solved."""
        factor = params["precision_factor"]
        z = (factor @ (y - params["mean"]).unsqueeze(-1)).squeeze(-1)
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        at_mean = log_det - z.shape[-1] * _LOG_SQRT_2PI
        return torch.sub(at_mean, _square_norm(z), alpha=0.5)

    def log_likelihood(self, params: Params, low: Tensor, high: Tensor) -> Tensor:
        r"""Return the log-likelihood of targets that are known in part.

        With the missing outputs first, an orthogonal transform makes the factor
        triangular again. The rows of the others then hold nothing of those that are
        missing, and are the factor of their marginal distribution.

        Parameters
        ----------
        params : dict of Tensor
            Parameters.
        low, high : Tensor of shape (..., 1, n_outputs)
            Ends; see :meth:`skmdn.families.Family.log_likelihood`.

        Returns
        -------
        log_likelihood : Tensor of shape (..., n_components)

        Raises
        ------
        ValueError
            If there are intervals and several outputs: the probability of a box has
            no closed form.
        """
        mean, factor = params["mean"], params["precision_factor"]
        if mean.shape[-1] == 1:
            return super().log_likelihood(params, low, high)
        if bool((low < high).any()):
            raise ValueError(
                f"covariance_type={self.covariance_type!r} allows no intervals of "
                "several outputs; covariance_type='diag' does."
            )
        known = low == high
        order = torch.argsort(known.to(torch.int8), dim=-1, stable=True)
        known = known.gather(-1, order)
        residual = torch.where(low == high, low - mean, 0.0)
        shape = torch.broadcast_shapes(residual.shape, order.shape)
        residual = residual.gather(-1, order.expand(shape))
        columns = order.unsqueeze(-2).expand(
            *torch.broadcast_shapes(order.shape[:-1], factor.shape[:-2]),
            *factor.shape[-2:],
        )
        triangle = torch.linalg.qr(factor.expand_as(columns).gather(-1, columns)).R
        z = (triangle @ residual.unsqueeze(-1)).squeeze(-1)
        scale = triangle.diagonal(dim1=-2, dim2=-1).abs().log() - _LOG_SQRT_2PI
        return torch.where(known, scale - 0.5 * z.square(), 0.0).sum(-1)

    def draw(self, params: Params, generator: torch.Generator | None) -> Tensor:
        """Return mean + P^-1 noise."""
        noise = torch.empty_like(params["mean"]).normal_(generator=generator)
        return params["mean"] + _solve(params["precision_factor"], noise)

    def covariance(self, params: Params) -> Tensor:
        """Return P^-1 P^-T."""
        root = _inverse(params["precision_factor"])
        shape = params["mean"].shape + params["mean"].shape[-1:]
        return (root @ root.mT).expand(shape)

    def precision(self, params: Params) -> Tensor:
        """Return P^T P."""
        factor = params["precision_factor"]
        shape = params["mean"].shape + params["mean"].shape[-1:]
        return (factor.mT @ factor).expand(shape)

    def affine(self, params: Params, scale: Tensor, shift: Tensor) -> Params:
        """Divide the factor's columns; a sign moves to the rows, which ignore it."""
        scale = scale.expand_as(params["mean"][..., :1, :])
        factor = params["precision_factor"] / scale.unsqueeze(-2)
        return {
            "mean": params["mean"] * scale + shift,
            "precision_factor": factor * scale.sign().unsqueeze(-1),
        }

    def widen(self, params: Params, factor: Tensor) -> Params:
        """Divide the factor of the precision."""
        precision_factor = params["precision_factor"] / factor.unsqueeze(-1)
        return {"mean": params["mean"], "precision_factor": precision_factor}

    def marginal(self, params: Params, outputs: list[int]) -> Params:
        """Bring the outputs to the front, where the leading block is their factor."""
        factor = _reorder(params["precision_factor"], outputs)
        n = len(outputs)
        return {
            "mean": params["mean"][..., outputs],
            "precision_factor": factor[..., :n, :n],
        }

    def condition(
        self, params: Params, outputs: list[int], values: Tensor
    ) -> tuple[Params, Tensor]:
        r"""Condition by reading the rows of the reordered factor.

        With the fixed outputs b first, :math:`z_a = P_{ab} (y_b - \mu_b) +
        P_{aa} (y_a - \mu_a)`: the remaining outputs keep the factor
        :math:`P_{aa}` and their mean moves by
        :math:`-P_{aa}^{-1} P_{ab} (y_b - \mu_b)`.
        """
        rest = others(params["mean"], outputs)
        n = len(outputs)
        factor = _reorder(params["precision_factor"], outputs + rest)
        mean = params["mean"]
        fixed = {
            "mean": mean[..., outputs],
            "precision_factor": factor[..., :n, :n],
        }
        pull = (factor[..., n:, :n] @ (values - fixed["mean"]).unsqueeze(-1)).squeeze(
            -1
        )
        free = factor[..., n:, n:]
        moved = mean[..., rest] - _solve(free, pull)
        return {"mean": moved, "precision_factor": free}, self.log_prob(fixed, values)


def _inverse(lower: Tensor) -> Tensor:
    eye = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
    return torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False)


# Solved by substitution for all of a batch at a time, up to so many outputs: a call of
# the solver for each small matrix would take much longer.
_BY_SUBSTITUTION = 4


def _solve(lower: Tensor, vector: Tensor) -> Tensor:
    n_outputs = lower.shape[-1]
    if n_outputs == 1:
        return vector / lower[..., 0]
    if n_outputs <= _BY_SUBSTITUTION:
        parts: list[Tensor] = []
        for i in range(n_outputs):
            rest = vector[..., i]
            for j, part in enumerate(parts):
                rest = torch.addcmul(rest, lower[..., i, j], part, value=-1.0)
            parts.append(rest / lower[..., i, i])
        return torch.stack(parts, -1)
    column = vector.unsqueeze(-1)
    return torch.linalg.solve_triangular(lower, column, upper=False).squeeze(-1)


def _reorder(factor: Tensor, order: list[int]) -> Tensor:
    """Return the lower factor of the precision with its outputs in a new order.

    Outputs left out of ``order`` are put last. The columns are permuted and the
    result made triangular again by an orthogonal transform, so that the
    covariance, whose condition number is the square, is never formed.
    """
    n_outputs = factor.shape[-1]
    order = order + [d for d in range(n_outputs) if d not in order]
    if order == list(range(n_outputs)):
        return factor
    permuted = factor[..., order]
    triangle = torch.linalg.qr(permuted.flip(-1), mode="r").R.flip(-2, -1)
    sign = triangle.diagonal(dim1=-2, dim2=-1).sign()
    return triangle * sign.unsqueeze(-1)
