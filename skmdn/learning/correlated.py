r"""The density of mixtures of correlated normals, from a network's raw numbers.

.. math::
    \log q(u) = \mathrm{logsumexp}_k \Bigl(\log w_k + \sum_i \log (g_{ki} s_{ki})
    - \tfrac12 \sum_i y_{ki}^2\Bigr) - \tfrac d2 \log 2 \pi, \qquad
    y_{ki} = g_{ki} \Bigl(s_{ki} \delta_{ki} + \sum_{j < i} l_{kij} \delta_{kj}\Bigr)

with :math:`\delta_k = u - b - m_k`: weights w, means m and the triangular factor
(s, l) of the precision come from the network, the units g are parameters, b is a base
that all components share. The gradient is written out. With the responsibilities r and
:math:`t_i = r\, y_i g_i`,

.. math::
    \frac{\partial}{\partial m_j} = t_j s_j + \sum_{i > j} t_i l_{ij}, \quad
    \frac{\partial}{\partial l_{ij}} = -t_i \delta_j, \quad
    \frac{\partial}{\partial s_i} = \frac{r}{s_i} - t_i \delta_i, \quad
    \frac{\partial}{\partial \log g_i} = r (1 - y_i^2) .

Rows lie on the last axis, so that each number of a component is a contiguous vector.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "LINKS",
    "CorrelatedPass",
    "apply_link",
    "component_terms",
    "correlated_log_prob",
    "raw_sizes",
    "split_raw",
]

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)

# softplus(0.5413) = 1: a raw number of 0 stands for a scale of 1.
_SOFTPLUS_ONE = math.log(math.e - 1.0)
_FLOOR = 1e-4
_LARGEST_EXPONENT = 12.0

# From raw numbers to the diagonal of a precision factor.
LINKS = ("softplus", "exp")


def raw_sizes(n_components: int, n_outputs: int) -> list[int]:
    """Return how many logits, means, diagonals and lower entries there are."""
    n_lower = n_outputs * (n_outputs - 1) // 2
    return [n_components * size for size in (1, n_outputs, n_outputs, n_lower)]


def split_raw(raw: Tensor, n_components: int, n_outputs: int) -> list[Tensor]:
    """Return logits, means, raw diagonals and lower entries as views.

    Parameters
    ----------
    raw : Tensor of shape (n_members, n_raw, n_rows)
        What the network returns.
    n_components, n_outputs : int
        Sizes of the mixture.

    Returns
    -------
    parts : list of Tensor of shape (n_members, n_components[, ...], n_rows)
    """
    logits, *others = raw.split(raw_sizes(n_components, n_outputs), 1)
    return [logits, *(part.unflatten(1, (n_components, -1)) for part in others)]


def apply_link(raw: Tensor, link: str) -> Tensor:
    """Return the diagonal of a precision factor; 1 where the raw number is 0."""
    if link == "exp":
        return raw.clamp(-_LARGEST_EXPONENT, _LARGEST_EXPONENT).exp()
    return torch.nn.functional.softplus(raw + _SOFTPLUS_ONE) + _FLOOR


def _slope(raw: Tensor, linked: Tensor, link: str) -> Tensor:
    """Return the derivative of the link."""
    if link == "exp":
        return linked * (raw.abs() <= _LARGEST_EXPONENT)
    return torch.sigmoid(raw + _SOFTPLUS_ONE)


def correlated_log_prob(
    raw: Tensor, base: Tensor, log_unit: Tensor, u: Tensor, link: str
) -> Tensor:
    """Return the log density of each member's rows.

    Parameters
    ----------
    raw : Tensor of shape (n_members, n_raw, n_rows)
        What the network returns; see :func:`split_raw`.
    base : Tensor of shape (n_members, n_outputs, n_rows)
        Added to all means.
    log_unit : Tensor of shape (n_members, n_components, n_outputs)
        Logarithms of the units of the precision factors.
    u : Tensor of shape (n_members, n_outputs, n_rows)
        The points.
    link : {"softplus", "exp"}
        Of the diagonals.

    Returns
    -------
    log_prob : Tensor of shape (n_members, n_rows)
    """
    log_prob: Tensor = _CorrelatedLogProb.apply(raw, base, log_unit, u, link)
    return log_prob


def component_terms(
    raw: Tensor, base: Tensor, log_unit: Tensor, u: Tensor, link: str
) -> tuple[Tensor, Tensor]:
    """Return what the log density of each component is made of.

    Returns
    -------
    log_top : Tensor of shape (n_members, n_components, n_rows)
        Log weights and log determinants, with the normal density's constant.
    squares : Tensor of shape (n_members, n_components, n_rows)
        The squared distances; twice what is subtracted.
    """
    logits, log_det, z, *_ = _parts(raw, base, log_unit, u, link)
    log_top = torch.log_softmax(logits, 1) + log_det - z.shape[2] * _LOG_SQRT_2PI
    return log_top, z.square().sum(2)


def _parts(
    raw: Tensor, base: Tensor, log_unit: Tensor, u: Tensor, link: str
) -> tuple[Tensor, ...]:
    """Return logits, log determinants, y, the offsets and the diagonal scales."""
    n_components, n_outputs = log_unit.shape[1:]
    logits, mean, diagonal, lower = split_raw(raw, n_components, n_outputs)
    offset = (u - base).unsqueeze(1) - mean
    scale = apply_link(diagonal, link)
    z = scale * offset
    for i, below in _rows_below(n_outputs):
        z[:, :, i] += (lower[:, :, below] * offset[:, :, :i]).sum(2)
    z *= log_unit.exp().unsqueeze(-1)
    log_det = scale.log().sum(2).add_(log_unit.sum(2, keepdim=True))
    return logits, log_det, z, offset, scale


def _softmax(logs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shares of the components and the logarithm of their sum."""
    top = logs.amax(1, keepdim=True)
    share = (logs - top).exp_()
    total = share.sum(1, keepdim=True)
    share /= total
    return share, total.log_().add_(top).squeeze(1)


def _rows_below(n_outputs: int) -> Iterator[tuple[int, slice]]:
    """Yield each row of a factor from the second on, and where its entries lie."""
    for i in range(1, n_outputs):
        start = i * (i - 1) // 2
        yield i, slice(start, start + i)


class CorrelatedPass:
    """The log density of a batch, and the gradients of a weighted sum of it.

    Parameters
    ----------
    raw, base, log_unit, u, link
        See :func:`correlated_log_prob`.

    Attributes
    ----------
    log_prob : Tensor of shape (n_members, n_rows)
        The log density.
    """

    def __init__(
        self, raw: Tensor, base: Tensor, log_unit: Tensor, u: Tensor, link: str
    ) -> None:
        self.raw, self.log_unit, self.link = raw, log_unit, link
        logits, log_det, self.z, self.offset, self.scale = _parts(
            raw, base, log_unit, u, link
        )
        joint = torch.sub(logits + log_det, (self.z * self.z).sum(2), alpha=0.5)
        self.share, total = _softmax(joint)
        self.prior, constant = _softmax(logits)
        self.log_prob = total - constant - u.shape[1] * _LOG_SQRT_2PI

    def backward(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return gradients by ``raw``, ``base`` and ``log_unit``.

        Parameters
        ----------
        weight : Tensor, broadcast to (n_members, n_rows)
            What the log density of each row counts in the sum.
        """
        n_components, n_outputs = self.log_unit.shape[1:]
        _, _, diagonal, lower = split_raw(self.raw, n_components, n_outputs)
        d_raw = torch.empty_like(self.raw)
        d_logits, d_mean, d_diagonal, d_lower = split_raw(
            d_raw, n_components, n_outputs
        )
        weight = weight.unsqueeze(1)
        share = self.share * weight
        torch.addcmul(share, self.prior, weight, value=-1.0, out=d_logits)
        share = share.unsqueeze(2)
        pull = self.z * share
        d_unit = share.sum(-1) - (pull * self.z).sum(-1)
        pull *= self.log_unit.exp().unsqueeze(-1)
        torch.mul(pull, self.scale, out=d_mean)
        for i, below in _rows_below(n_outputs):
            row = pull[:, :, i : i + 1]
            d_mean[:, :, :i].addcmul_(row, lower[:, :, below])
            torch.mul(row, self.offset[:, :, :i], out=d_lower[:, :, below]).neg_()
        torch.div(share, self.scale, out=d_diagonal)
        d_diagonal.addcmul_(pull, self.offset, value=-1.0)
        d_diagonal.mul_(_slope(diagonal, self.scale, self.link))
        return d_raw, d_mean.sum(1), d_unit


class _CorrelatedLogProb(torch.autograd.Function):
    """The same for autograd."""

    @staticmethod
    def forward(
        context: Any,
        raw: Tensor,
        base: Tensor,
        log_unit: Tensor,
        u: Tensor,
        link: str,
    ) -> Tensor:
        context.forth = CorrelatedPass(raw, base, log_unit, u, link)
        result: Tensor = context.forth.log_prob
        return result

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        d_raw, d_base, d_unit = context.forth.backward(gradient)
        return d_raw, d_base, d_unit, -d_base, None
