"""The parameters of several Gaussian mixtures, one along each run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["COVARIANCE_TYPES", "Parameters"]

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical", "fixed")
_MATRICES = ("full", "tied")
# Less is what is left of shares that underflow.
_LEAST_STD = 1e-100


@dataclass(frozen=True)
class Parameters:
    r"""Weights, means and covariances of mixtures, with what whitens them.

    Attributes
    ----------
    covariance_type : str
        One of ``COVARIANCE_TYPES``.
    log_weights : Tensor of shape (n_runs, n_components)
        Normalised; -inf switches a component off.
    means : Tensor of shape (n_runs, n_components, n_features)
        Means.
    covariances : Tensor
        ``(n_runs, n_components, n_features, n_features)`` if "full", ``(n_runs,
        n_features, n_features)`` if "tied", ``(n_runs, n_components, n_features)`` if
        "diag", otherwise ``(n_runs, n_components)``.
    whitening : Tensor
        Of the same shape: the inverse of the lower Cholesky factor of a matrix, the
        inverse root of a variance.
    """

    covariance_type: str
    log_weights: Tensor
    means: Tensor
    covariances: Tensor
    whitening: Tensor

    @classmethod
    def from_covariances(
        cls,
        covariance_type: str,
        log_weights: Tensor,
        means: Tensor,
        covariances: Tensor,
    ) -> tuple["Parameters", Tensor]:
        """Whiten covariances; return the parameters and which runs are sound.

        Parameters
        ----------
        covariance_type : str
            One of ``COVARIANCE_TYPES``.
        log_weights, means, covariances : Tensor
            As in the class.

        Returns
        -------
        parameters : Parameters
            The mixtures; unsound ones hold the identity.
        sound : Tensor of shape (n_runs,)
            Whether all covariances are positive definite.
        """
        if covariance_type in _MATRICES:
            root, info = torch.linalg.cholesky_ex(covariances)
            least = root.diagonal(dim1=-2, dim2=-1).amin(-1)
            good = (info == 0) & (least > _LEAST_STD)
            eye = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
            root = torch.where(good[..., None, None], root, eye)
            whitening = torch.linalg.solve_triangular(
                root, eye.expand_as(root), upper=False
            )
        else:
            good = covariances > _LEAST_STD**2
            whitening = torch.where(good, covariances, 1.0).rsqrt()
        made = cls(covariance_type, log_weights, means, covariances, whitening)
        sound = good.reshape(len(means), -1).all(-1)
        for values in (means, whitening):
            sound = sound & values.isfinite().flatten(1).all(-1)
        return made, sound

    @property
    def matrices(self) -> bool:
        """Whether features vary together within a component."""
        return self.covariance_type in _MATRICES

    @property
    def shape(self) -> tuple[int, int, int]:
        """The numbers of runs, components and features."""
        n_runs, n_components, n_features = self.means.shape
        return n_runs, n_components, n_features

    def chosen(self, runs: Sequence[int]) -> "Parameters":
        """Choose runs by their numbers."""
        return self[torch.tensor(runs, dtype=torch.int64, device=self.means.device)]

    def __getitem__(self, runs: Tensor) -> "Parameters":
        """Choose runs."""
        return Parameters(
            self.covariance_type,
            self.log_weights[runs],
            self.means[runs],
            self.covariances[runs],
            self.whitening[runs],
        )

    def replaced(self, runs: Tensor, other: "Parameters") -> "Parameters":
        """Return these parameters with some runs taken from another object."""

        def put(old: Tensor, new: Tensor) -> Tensor:
            return old.index_copy(0, runs, new)

        return Parameters(
            self.covariance_type,
            put(self.log_weights, other.log_weights),
            put(self.means, other.means),
            put(self.covariances, other.covariances),
            put(self.whitening, other.whitening),
        )

    @staticmethod
    def concatenate(parts: Sequence["Parameters"]) -> "Parameters":
        """Lay the runs of several objects end to end."""
        return Parameters(
            parts[0].covariance_type,
            torch.cat([part.log_weights for part in parts]),
            torch.cat([part.means for part in parts]),
            torch.cat([part.covariances for part in parts]),
            torch.cat([part.whitening for part in parts]),
        )

    def each_covariance(self) -> Tensor:
        """Return a covariance for every component, as a view.

        Returns
        -------
        covariances : Tensor of shape (n_runs, n_components, n_features[, n_features])
            Matrices, or variances for the types without correlations.
        """
        return self._for_each(self.covariances)

    def each_whitening(self) -> Tensor:
        """Return what whitens every component, shaped as :meth:`each_covariance`."""
        return self._for_each(self.whitening)

    def _for_each(self, values: Tensor) -> Tensor:
        n_runs, n_components, n_features = self.shape
        if self.covariance_type == "tied":
            values = values.unsqueeze(1)
            return values.expand(n_runs, n_components, n_features, n_features)
        if self.covariance_type in ("spherical", "fixed"):
            return values.unsqueeze(-1).expand(n_runs, n_components, n_features)
        return values

    def precisions(self) -> Tensor:
        """Return the inverses of the covariances, in their shape."""
        if self.matrices:
            return self.whitening.mT @ self.whitening
        return self.whitening.square()

    def n_free(self) -> list[int]:
        """Return for each run how many numbers can be chosen freely."""
        _, _, d = self.shape
        alive = [int(n) for n in (self.log_weights > -math.inf).sum(-1)]
        per_component, shared = {
            "full": (d * (d + 1) // 2, 0),
            "tied": (0, d * (d + 1) // 2),
            "diag": (d, 0),
            "spherical": (1, 0),
            "fixed": (0, 0),
        }[self.covariance_type]
        return [k * (per_component + d) + shared + k - 1 for k in alive]
