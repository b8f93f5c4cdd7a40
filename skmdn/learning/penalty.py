r"""What stands beside the likelihood: priors of a mixture, and temperatures of a fit.

.. math::
    \log p(\pi) + \sum_k \log p(\sigma_k / u)

with the weights :math:`\pi`, the components' scales and their unit u.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skmdn.composition import Composition
from skmdn.mixture import Mixture
from skmdn.priors import Dirichlet, InverseGamma, ScalesPrior

__all__ = ["MixturePrior", "start_and_end"]

# scales_prior="auto": inverse-gamma on standardised variances. A component that meets
# its rows exactly keeps the variance 2 scale / n. Of few rows, which a network
# interpolates, that is much: the scale is the square of the first number over theirs,
# but at most 1, or the second number over theirs.
_AUTO_SHAPE = 1.0
_AUTO_FEW, _AUTO_FEWEST = 75.0, 35.0

# Beside it a standard deviation of sqrt(2e-4), from 2000 rows on less. The density of
# rounded targets has no limit, and wants the most at once.
_AUTO_EACH, _AUTO_MOST = 1e-4, 0.2


@dataclass(frozen=True)
class MixturePrior:
    """Log prior of the weights and scales of mixtures.

    Parameters
    ----------
    weights : Dirichlet, optional
        Prior of the weights.
    scales : ScalesPrior, optional
        Prior of every scale.
    order : Tensor of shape (n_components,), optional
        Where each component of the prior of the weights is computed, if elsewhere.
    units : Tensor of shape (n_outputs,), optional
        What counts as 1 to the prior of the scales, if something else.
    """

    weights: Dirichlet | None = None
    scales: ScalesPrior | None = None
    order: Tensor | None = None
    units: Tensor | None = None

    @classmethod
    def make(
        cls,
        weights: "Dirichlet | float | None",
        scales: "ScalesPrior | str | None",
        composition: Composition,
        n_rows: float,
        units: Sequence[float] | None = None,
        device: "torch.device | str" = "cpu",
        rounded: bool = False,
    ) -> "MixturePrior":
        """Understand the parameters ``weights_prior`` and ``scales_prior``.

        Parameters
        ----------
        weights : Dirichlet, float or None
            A number is the concentration of all components. Several are in the
            user's order of the components.
        scales : ScalesPrior, "auto" or None
            "auto" depends on the number of rows.
        composition : Composition
            Tells in which order components are computed.
        n_rows : float
            The number of rows that the prior stands beside.
        units : sequence of float, optional
            What counts as 1 to the prior of the scales, for each output.
        device : torch.device or str, default="cpu"
            Where the mixtures are.
        rounded : bool, default=False
            Whether the targets are known to be rounded, to which "auto" looks too.
        """
        if not (weights is None or isinstance(weights, Dirichlet)):
            weights = Dirichlet(weights)
        if isinstance(scales, str):
            scales = InverseGamma(_AUTO_SHAPE, _auto_scale(n_rows, rounded))
        order = composition.order()
        return cls(
            weights,
            scales,
            None if order == sorted(order) else torch.tensor(order, device=device),
            None
            if units is None
            else torch.tensor(units, dtype=torch.float64, device=device),
        )

    def log_prob(self, mixture: Mixture) -> Tensor:
        """Return the log density, one per mixture."""
        total = torch.zeros_like(mixture.log_weights[..., 0])
        if self.scales is not None:
            for block in mixture.blocks:
                scales = self._in_units(block.family.scales(block.params))
                total = total + self.scales.log_prob(scales).sum((-2, -1))
        if self.weights is not None:
            log_weights = mixture.log_weights
            if self.order is not None:
                log_weights = log_weights[..., self.order]
            total = total + self.weights.log_prob(log_weights)
        return total

    def _in_units(self, scales: Tensor) -> Tensor:
        units = self.units
        if units is None:
            return scales
        # A scale that outputs share.
        if scales.shape[-1] == 1:
            units = units.square().mean().sqrt()
        return scales / units


def _auto_scale(n_rows: float, rounded: bool) -> float:
    """Return the scale of ``scales_prior="auto"``."""
    few = min(max(1.0, _AUTO_FEWEST / n_rows), (_AUTO_FEW / n_rows) ** 2)
    return few + (_AUTO_MOST if rounded else min(_AUTO_MOST, _AUTO_EACH * n_rows))


def start_and_end(temperature: "float | Sequence[float]") -> tuple[float, float]:
    """Return the temperatures with which a fit begins and ends.

    Parameters
    ----------
    temperature : float or pair of float
        A number is both.

    Raises
    ------
    ValueError
        If there are not two numbers, or they are not positive and finite.
    """
    pair: Any = temperature
    if not isinstance(temperature, list | tuple):
        pair = (temperature, temperature)
    try:
        start, end = map(float, pair)
        if 0.0 < start < math.inf and 0.0 < end < math.inf:
            return start, end
    except (TypeError, ValueError):
        pass
    raise ValueError(
        "temperature must be a positive number, or a pair (start, end) of them, got "
        f"{temperature!r}."
    )
