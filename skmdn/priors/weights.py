"""Priors on the weights of a mixture."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from skmdn.queries.draws import log_gamma_draws

from .base import Prior, empty_tensor

__all__ = ["Dirichlet"]


class Dirichlet(Prior):
    r"""Dirichlet prior on the weights of the components.

    .. math::
        p(\pi) = \frac{\Gamma(\sum_k a_k)}{\prod_k \Gamma(a_k)}
        \prod_k \pi_k^{a_k - 1}

    Component k is granted :math:`a_k - 1` rows beside those it explains. Above 1 no
    component dies; below 1 those that explain too little do [1]_.

    Parameters
    ----------
    concentration : float or sequence of float, default=1.0
        The number a of every component, or one for each.

    References
    ----------
    .. [1] M. A. T. Figueiredo and A. K. Jain, "Unsupervised learning of finite mixture
       models", IEEE Transactions on Pattern Analysis and Machine Intelligence 24(3),
       2002.

    Examples
    --------
    >>> import torch
    >>> from skmdn.priors import Dirichlet
    >>> prior = Dirichlet(2.0)
    >>> prior.log_prob(torch.tensor([0.5, 0.5]).log()).exp()
    tensor(1.5000)
    >>> prior.sample((100, 3), torch.Generator().manual_seed(0)).shape
    torch.Size([100, 3])
    """

    def __init__(self, concentration: Any = 1.0) -> None:
        self.concentration = concentration

    def log_prob(self, log_weights: Tensor) -> Tensor:
        """Return the log density of the weights, from their logarithms.

        Parameters
        ----------
        log_weights : Tensor of shape (..., n_components)
            Logarithms of weights that sum to 1; -inf is a weight of 0.

        Returns
        -------
        log_prob : Tensor of shape (...)
            In nats; infinite at weights of 0 whose concentration is below 1.

        Raises
        ------
        ValueError
            If a concentration is not positive, or their number is another one.
        """
        n_components = log_weights.shape[-1]
        excess = log_weights.new_tensor(self.excess(n_components))
        # A weight of 0 with the concentration 1 adds nothing.
        terms = torch.where(excess == 0.0, 0.0, excess * log_weights)
        return terms.sum(-1) - self.log_normalizer(n_components)

    def sample(
        self, shape: Sequence[int], generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw logarithms of weights: those below 1e-308 are as exact as others.

        Parameters
        ----------
        shape : sequence of int
            The shape of the answer, whose last axis are the components.
        generator : torch.Generator, optional
            The source of the draws.

        Returns
        -------
        log_weights : Tensor of the given shape
            Normalised.
        """
        a = empty_tensor(shape, generator)
        a[...] = a.new_tensor(self._concentrations(shape[-1]))
        return torch.log_softmax(log_gamma_draws(a, generator), -1)

    def log_normalizer(self, n_components: int) -> float:
        """Return the logarithm of the multivariate beta function.

        Parameters
        ----------
        n_components : int
            The number of weights.
        """
        a = self._concentrations(n_components)
        return sum(map(math.lgamma, a)) - math.lgamma(sum(a))

    def excess(self, n_components: int) -> list[float]:
        """Return the rows :math:`a_k - 1` that each component is granted.

        Parameters
        ----------
        n_components : int
            The number of weights.
        """
        return [a - 1.0 for a in self._concentrations(n_components)]

    def _concentrations(self, n_components: int) -> list[float]:
        a = self._all_positive("concentration")
        if not isinstance(a, list):
            return [a] * n_components
        if len(a) != n_components:
            raise ValueError(
                f"concentration of Dirichlet has {len(a)} numbers for {n_components} "
                "components: give one number for each, or a single one for all."
            )
        return a
