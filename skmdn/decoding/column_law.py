"""What the law of a block of columns has to know."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

__all__ = ["ColumnLaw", "all_allowed", "n_seen"]


class ColumnLaw(nn.Module, ABC):
    """Base of the laws of columns that are independent given the code.

    Parameters
    ----------
    n_columns : int
        The number of columns.
    n_levels : int, default=1
        The number of outputs for each of them.

    Attributes
    ----------
    name : str
        What users call it.
    counts : bool
        Whether rows have a size, which multiplies the means.
    """

    name: ClassVar[str]
    counts: ClassVar[bool] = False

    def __init__(self, n_columns: int, n_levels: int = 1) -> None:
        super().__init__()
        self.n_columns = n_columns
        self.n_outputs = n_columns * n_levels

    @abstractmethod
    def problem(self, x: Tensor) -> str | None:
        """Return what the values would have to be if they are not; NaN is missing."""

    @abstractmethod
    def start(self, x: Tensor, exposure: Tensor | None = None) -> Tensor:
        """Learn what is fixed from the training rows; return the marginal outputs.

        Parameters
        ----------
        x : Tensor of shape (n_samples, n_columns)
            Values; NaN is missing.
        exposure : Tensor of shape (n_samples, 1), optional
            The sizes of rows of counts, where they are known.

        Returns
        -------
        outputs : Tensor of shape (n_outputs,)
            Where the biases of the decoder begin.
        """

    def prepared(self, x: Tensor) -> Tensor:
        """Return values as the other methods take them, with 0 where one is missing."""
        return x.nan_to_num(nan=0.0)

    def log_size(self, x: Tensor, exposure: Tensor | None = None) -> Tensor | float:
        """Return the logarithm of every row's size, ``(n_rows, 1)``, or 0 for all."""
        return 0.0

    def features(self, x: Tensor, log_size: Tensor | float) -> Tensor:
        """Return prepared values on a scale on which linear methods make sense."""
        return x

    def expected_features(self, eta: Tensor) -> Tensor:
        """Return about what :meth:`features` would be, given the outputs."""
        return self.features(self.mean(eta, 0.0), 0.0)

    def constant(self, x: Tensor) -> Tensor:
        """Return what of the log density of every value does not depend on eta."""
        return torch.zeros_like(x)

    @abstractmethod
    def log_prob(self, x: Tensor, eta: Tensor, log_size: Tensor | float) -> Tensor:
        """Return the log density of every value without :meth:`constant`.

        Parameters
        ----------
        x : Tensor of shape (n_rows, n_columns)
            Prepared values.
        eta : Tensor of shape (n_rows, n_outputs)
            Outputs of the decoder.
        log_size : Tensor of shape (n_rows, 1) or float
            The logarithms of the rows' sizes.

        Returns
        -------
        log_prob : Tensor of shape (n_rows, n_columns)
        """

    @abstractmethod
    def slopes(
        self, x: Tensor, eta: Tensor, log_size: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Return the derivative of the log density by each output, and its decline.

        The second tensor is what :meth:`gram` takes: minus the second derivative.
        """

    def spread_over_outputs(self, observed: Tensor) -> Tensor:
        """Return a mask of columns as one of outputs."""
        return observed

    def gram(self, tangents: Tensor, decline: Tensor) -> Tensor:
        r"""Return :math:`-J^\top (\nabla^2 \log p) J` for every row.

        Parameters
        ----------
        tangents : Tensor of shape (n_rows, n_latent, n_outputs)
            The transposed Jacobian J of the outputs.
        decline : Tensor of shape (n_rows, n_outputs)
            From :meth:`slopes`.

        Returns
        -------
        gram : Tensor of shape (n_rows, n_latent, n_latent)
        """
        return (tangents * decline.unsqueeze(1)) @ tangents.mT

    def parameter_slopes(
        self, x: Tensor, eta: Tensor, log_size: Tensor | float, observed: Tensor | float
    ) -> Tensor | None:
        """Return the gradient of the summed log density by the law's parameter."""
        return None

    @abstractmethod
    def mean(self, eta: Tensor, log_size: Tensor | float) -> Tensor:
        """Return an expected value for every output, in the units of the data."""

    def values(self, mean: Tensor) -> Tensor:
        """Return what users get for expected values, one for every column."""
        return mean

    @abstractmethod
    def sample(
        self, eta: Tensor, log_size: Tensor | float, generator: torch.Generator
    ) -> Tensor:
        """Draw values, in the units of the data."""


def n_seen(x: Tensor) -> Tensor:
    """Return how many values each column has, at least one."""
    return (~x.isnan()).sum(0).clamp_min(1).to(x.dtype)


def all_allowed(x: Tensor, allowed: Tensor) -> bool:
    """Tell whether all values that are not missing are allowed."""
    return bool((allowed | x.isnan()).all())
