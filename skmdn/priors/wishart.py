"""A prior on covariance matrices."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from skmdn.queries.draws import log_gamma_draws

from .base import Prior, empty_tensor

__all__ = ["InverseWishart"]


class InverseWishart(Prior):
    r"""Inverse-Wishart prior on covariance matrices.

    .. math::
        p(\Sigma) = \frac{|\Psi|^{\nu/2}}{2^{\nu d/2} \Gamma_d(\nu/2)}
        |\Sigma|^{-(\nu + d + 1)/2} \exp\Bigl(-\frac12 \mathrm{tr}(\Psi \Sigma^{-1})
        \Bigr)

    Its mode is :math:`\Psi / (\nu + d + 1)`. In one dimension it is the
    :class:`InverseGamma` of shape :math:`\nu/2` and scale :math:`\Psi/2`.

    Parameters
    ----------
    df : float
        The degrees of freedom :math:`\nu`, more than d - 1.
    scale : float or array-like of shape (n_features, n_features), default=1.0
        The matrix :math:`\Psi`; a number stands for that multiple of the identity.

    Examples
    --------
    >>> import torch
    >>> from skmdn.priors import InverseWishart
    >>> prior = InverseWishart(df=4.0, scale=2.0)
    >>> prior.log_prob(torch.eye(2))
    tensor(-2.4516)
    """

    def __init__(self, df: float, scale: Any = 1.0) -> None:
        self.df = df
        self.scale = scale

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of matrices.

        Parameters
        ----------
        value : Tensor of shape (..., n_features, n_features)
            Covariance matrices.

        Returns
        -------
        log_prob : Tensor of shape (...)
            In nats.
        """
        d = value.shape[-1]
        df, scale = self._degrees(d), self.matrix_like(value)
        root = torch.linalg.cholesky(value)
        log_det = 2.0 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        ratio = torch.cholesky_solve(scale.expand_as(root), root)
        trace = ratio.diagonal(dim1=-2, dim2=-1).sum(-1)
        kernel = -0.5 * (df + d + 1.0) * log_det - 0.5 * trace
        half = value.new_tensor(0.5 * df)
        log_normalizer = (
            0.5 * df * d * math.log(2.0)
            + torch.special.multigammaln(half, d)
            - 0.5 * df * torch.logdet(scale)
        )
        return kernel - log_normalizer

    def sample(
        self, shape: Sequence[int], generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw matrices by Bartlett's decomposition of their inverses.

        Parameters
        ----------
        shape : sequence of int
            The shape of the answer, whose last two axes are the features.
        generator : torch.Generator, optional
            The source of the draws.

        Returns
        -------
        value : Tensor of the given shape
            Covariance matrices.
        """
        d = shape[-1]
        df = self._degrees(d)
        noise = empty_tensor(shape, generator).normal_(generator=generator)
        freedom = df - torch.arange(d, dtype=noise.dtype, device=noise.device)
        log_gamma = log_gamma_draws(
            (0.5 * freedom).expand(noise.shape[:-1]).contiguous(), generator
        )
        chi = (0.5 * (math.log(2.0) + log_gamma)).exp()
        factor = noise.tril(-1) + torch.diag_embed(chi)
        # The inverse of a Wishart matrix L A A^T L^T, with L L^T the inverse scale.
        root = torch.linalg.cholesky(self.matrix_like(noise)).expand_as(factor)
        half = torch.linalg.solve_triangular(factor, root.mT, upper=False)
        return half.mT @ half

    def matrix_like(self, value: Tensor) -> Tensor:
        """Return the matrix of the scale for values ``(..., n_features, n_features)``.

        Parameters
        ----------
        value : Tensor of shape (..., n_features, n_features)
            What it is used with.
        """
        d = value.shape[-1]
        scale = torch.as_tensor(self.scale, dtype=value.dtype, device=value.device)
        if scale.ndim == 0:
            scale = scale * torch.eye(d, dtype=value.dtype, device=value.device)
        if tuple(scale.shape) != (d, d):
            raise ValueError(
                f"scale of InverseWishart has shape {tuple(scale.shape)} for {d} "
                "features: give a number or a matrix with a row for each."
            )
        info = torch.linalg.cholesky_ex(scale).info
        if int(info) or not bool(torch.allclose(scale, scale.mT)):
            raise ValueError(
                "scale of InverseWishart must be symmetric and positive definite."
            )
        return scale

    def _degrees(self, d: int) -> float:
        df = self._positive("df")
        if df <= d - 1:
            raise ValueError(
                f"df of InverseWishart must be more than {d - 1} for {d} features, got "
                f"{df}."
            )
        return df
