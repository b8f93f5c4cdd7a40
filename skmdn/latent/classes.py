"""A Gaussian mixture whose components belong to classes, as a torch module."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from skmdn.bridge import to_tensor

from .checks import checked_count
from .mixture import GaussianMixture

__all__ = ["SupervisedGaussianMixture"]

_LABELS = dict.fromkeys("iub", torch.int64)


class SupervisedGaussianMixture(GaussianMixture):
    r"""A Gaussian mixture whose components belong to classes.

    .. math:: p(z, c) = \sum_{k \in c} \pi_k \, \mathcal{N}(z \mid \mu_k, \Sigma_k)

    Parameters
    ----------
    Nclass : int
        The number of classes.
    Ncompperclass : int
        The number of components of each: those of class c are c * Ncompperclass and
        the ones after it.
    dim : int
        The number of features of z.
    covariance_type : str, default="isotropic"
        See :class:`GaussianMixture`, as for the other parameters.
    mean_init : tuple of float, Softball or None, default=(1.0, "auto")
        The prior on the means.
    sd_init : tuple of float, Prior or None, default=(0.5, 1.0)
        The prior on the standard deviations.
    alpha : float, sequence of float, Dirichlet or None, default=1
        The prior on the weights of all components.
    generator : torch.Generator, optional
        The source of the first means; torch's own by default.

    Notes
    -----
    Labels are integers from 0 to Nclass - 1; -1 marks rows whose class is not known.

    Examples
    --------
    >>> import torch
    >>> from skmdn.latent import SupervisedGaussianMixture
    >>> gmm = SupervisedGaussianMixture(3, 2, 4)
    >>> gmm.log_prob(torch.zeros(2, 4), [1, -1]).shape
    torch.Size([2])
    """

    def __init__(
        self,
        Nclass: int,
        Ncompperclass: int,
        dim: int,
        covariance_type: str = "isotropic",
        mean_init: Any = (1.0, "auto"),
        sd_init: Any = (0.5, 1.0),
        alpha: Any = 1,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        self.Nclass = checked_count(Nclass, "Nclass")
        self.Ncpc = checked_count(Ncompperclass, "Ncompperclass")
        super().__init__(
            self.Nclass * self.Ncpc,
            dim,
            covariance_type,
            mean_init,
            sd_init,
            alpha,
            generator=generator,
        )

    @classmethod
    def from_params(
        cls,
        weights: Tensor,
        means: Tensor,
        covariances: Tensor,
        covariance_type: str = "full",
        **priors: Any,
    ) -> "SupervisedGaussianMixture":
        """Make a module with given parameters, which are copied.

        Parameters
        ----------
        weights : Tensor of shape (Nclass, Ncompperclass)
            Weights; all together sum to 1.
        means : Tensor of shape (Nclass * Ncompperclass, dim)
            Means, class by class.
        covariances : Tensor
            As in :meth:`GaussianMixture.from_params`, class by class.
        covariance_type : str, default="full"
            As in the class.
        **priors : dict
            The arguments ``mean_init``, ``sd_init`` and ``alpha``.

        Returns
        -------
        module : SupervisedGaussianMixture
            In the precision of the means.
        """
        made = super().from_params(
            weights, means, covariances, covariance_type, **priors
        )
        assert isinstance(made, cls)
        return made

    def forward(self, x: Tensor, label: Any = None) -> Tensor:
        """Return the negative log density of every row with its label.

        Parameters
        ----------
        x : Tensor of shape (n_samples, dim)
            Points.
        label : Tensor or sequence of int of shape (n_samples,), optional
            Classes; -1, or none at all, where they are not known.

        Returns
        -------
        loss : Tensor of shape (n_samples,)
            In nats, without the priors.
        """
        return -self.log_prob(x, label)

    def log_prob(self, x: Tensor, label: Any = None) -> Tensor:
        """Return log p(x, label), or log p(x) where the label is not known.

        Parameters
        ----------
        x : Tensor of shape (n_samples, dim)
            Points.
        label : Tensor or sequence of int of shape (n_samples,), optional
            Classes; -1, or none at all, where they are not known.

        Returns
        -------
        log_prob : Tensor of shape (n_samples,)
            In nats.
        """
        if label is None:
            return super().log_prob(x)
        joint = self.log_class_joint(x)
        label = self._labels(label, unknown=True).expand(joint.shape[:-1])
        known = joint.gather(-1, label.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        return torch.where(label < 0, torch.logsumexp(joint, -1), known)

    def log_class_joint(self, x: Tensor) -> Tensor:
        """Return log p(x, class) for every class.

        Parameters
        ----------
        x : Tensor of shape (n_samples, dim)
            Points.

        Returns
        -------
        log_joint : Tensor of shape (n_samples, Nclass)
            In nats.
        """
        joint = self.mixture().log_joint(x).unflatten(-1, (self.Nclass, self.Ncpc))
        return torch.logsumexp(joint, -1)

    def label_mixture_probs(self, label: Any) -> Tensor:
        """Return the weights of the components within classes.

        Parameters
        ----------
        label : int, Tensor or sequence of int
            Classes.

        Returns
        -------
        weights : Tensor of shape (..., Ncompperclass)
            With sum 1 for every class that was asked for.
        """
        weights = torch.softmax(self.weight.view(self.Nclass, self.Ncpc), -1)
        return weights[self._labels(label)]

    @torch.no_grad()
    def supervised_sampling(
        self,
        label: Any,
        sample_type: str = "random",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw one point from the class of every label.

        Parameters
        ----------
        label : Tensor or sequence of int of shape (n_samples,)
            Classes.
        sample_type : {"random", "mean"}, default="random"
            A draw from the class, or the mean of a component drawn within it.
        generator : torch.Generator, optional
            Their source; torch's own by default.

        Returns
        -------
        points : Tensor of shape (n_samples, dim)
            One for each label.
        """
        if sample_type not in ("random", "mean"):
            raise ValueError(
                f"sample_type={sample_type!r} is not known: use 'random' or 'mean'."
            )
        label = self._labels(label).reshape(-1)
        within = torch.multinomial(
            self.label_mixture_probs(label), 1, generator=generator
        ).squeeze(-1)
        component = label * self.Ncpc + within
        if sample_type == "mean":
            return self.mean.detach()[component]
        return self._draws(component, generator)

    def _labels(self, label: Any, *, unknown: bool = False) -> Tensor:
        """Return labels as a tensor, or say which is no class."""
        if not isinstance(label, Tensor):
            array = np.asarray(label)
            label = to_tensor(array, dtype=_LABELS.get(array.dtype.kind, torch.float64))
        if label.is_floating_point() or label.is_complex():
            raise TypeError(f"label must hold integers, got {label.dtype}.")
        label = label.to(self.weight.device)
        label = label.long()
        wrong = (label >= self.Nclass) | (label < (-1 if unknown else 0))
        if wrong.any():
            also = ", or -1 where it is not known" if unknown else ""
            raise ValueError(
                f"label must lie between 0 and {self.Nclass - 1}{also}; got "
                f"{int(label[wrong][0])}."
            )
        return label
