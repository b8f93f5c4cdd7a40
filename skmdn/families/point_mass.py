"""A component that is a single number."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import IndependentFamily, Params

__all__ = ["PointMass"]


@dataclass(frozen=True)
class PointMass(IndependentFamily):
    r"""All probability at one number, which is known.

    .. math:: P(Y = v) = 1

    The number belongs to the family: a network has nothing to learn here. It is a
    parameter all the same, so that a change of units can move it.

    Parameters
    ----------
    value : float or tuple of float, default=0.0
        The number, or one for each output.
    """

    value: float | tuple[float, ...] = 0.0

    discrete: ClassVar[bool] = True

    raw_names: ClassVar[tuple[str, ...]] = ()
    event_ranks: ClassVar[dict[str, int]] = {"value": 1}

    # Where the target may lie, and in which units.

    def contains(self, y: Tensor) -> Tensor:
        """Tell for each number whether it is the value, to the last digit."""
        return y == y.new_tensor(self.value)

    def overlaps(self, low: Tensor, high: Tensor) -> Tensor:
        """Tell for each closed interval whether it has the value."""
        value = low.new_tensor(self.value)
        return (low <= value) & (value <= high)

    def support(self) -> str:
        """Return the support in words, for messages."""
        several = isinstance(self.value, tuple)
        return f"the number{'s' if several else ''} {self.value}"

    def in_units(self, scale: Sequence[float], shift: Sequence[float]) -> "PointMass":
        """Return the family of ``(y - shift) / scale``.

        The value is computed as a target in double precision is, operation by
        operation, and stays equal to it.
        """
        values = self.value
        if not isinstance(values, tuple):
            values = (values,) * len(scale)
        moved = zip(values, scale, shift, strict=True)
        return PointMass(tuple((float(v) - float(b)) / float(a) for v, a, b in moved))

    def for_outputs(self, outputs: Sequence[int]) -> "PointMass":
        """Return the family with the values of some of the outputs."""
        if not isinstance(self.value, tuple):
            return self
        return PointMass(tuple(self.value[o] for o in outputs))

    def pinned(self, params: Params) -> Params:
        """Return parameters with exactly the value of this family."""
        value = params["value"]
        return {"value": value.new_tensor(self.value).expand_as(value)}

    # The network's side.

    def raw_shapes(
        self, n_components: int, n_outputs: int
    ) -> dict[str, tuple[int, ...]]:
        """No number at all, in a shape that says how many values are wanted.

        The empty tensor brings :meth:`from_raw` the batch, the type and the device.
        """
        return {"value": (n_components, 0, n_outputs)}

    def from_raw(self, raw: Params, min_scale: float) -> Params:
        """Put the value where the numbers would be."""
        *batch, n_components, _, n_outputs = raw["value"].shape
        value = raw["value"].new_tensor(self.value)
        return {"value": value.expand(*batch, n_components, n_outputs)}

    def start(self, centers: Tensor, spreads: Tensor, min_scale: float) -> Params:
        """Return no numbers: the centres are not asked for."""
        return {"value": centers.unsqueeze(-2)[..., :0, :]}

    def scales(self, params: Params) -> Tensor:
        """Return ones: nothing can collapse further, and a probability is bounded."""
        return torch.ones_like(params["value"])

    # Queries.

    def log_density(self, params: Params, y: Tensor) -> Tensor:
        """Return 0 at the value and -inf elsewhere."""
        mass = torch.zeros_like(params["value"])
        return torch.where(y == params["value"], mass, -torch.inf)

    def draw(self, params: Params, generator: torch.Generator | None) -> Tensor:
        """Return the values."""
        return params["value"].clone()

    def affine(self, params: Params, scale: Tensor, shift: Tensor) -> Params:
        """Move the value."""
        return {"value": params["value"] * scale + shift}

    def widen(self, params: Params, factor: Tensor) -> Params:
        """Return the values, only shaped with the factor: there are no deviations."""
        return {"value": torch.broadcast_tensors(params["value"], factor)[0]}

    def mean(self, params: Params) -> Tensor:
        """Return the values."""
        return params["value"]

    def std(self, params: Params) -> Tensor:
        """Return zeros, so that the precision is infinite."""
        return torch.zeros_like(params["value"])

    def cdf(self, params: Params, y: Tensor) -> Tensor:
        """Return 0 below the value and 1 from there on."""
        return (y >= params["value"]).to(params["value"].dtype)

    def sf(self, params: Params, y: Tensor) -> Tensor:
        """Return 1 below the value and 0 from there on."""
        return (y < params["value"]).to(params["value"].dtype)

    def log_interval(self, params: Params, low: Tensor, high: Tensor) -> Tensor:
        """Return 0 where the interval has the value and -inf elsewhere."""
        value = params["value"]
        inside = (low <= value) & (value <= high)
        return torch.zeros_like(value).masked_fill(~inside, -torch.inf)

    def ppf(self, params: Params, q: Tensor) -> Tensor:
        """Return the value at every level."""
        return torch.broadcast_tensors(params["value"], q)[0]

    def masses_between(
        self, params: Params, low: Tensor, high: Tensor, most: int
    ) -> Tensor | None:
        """Return the components' values; an end of the interval where one is beyond."""
        value = params["value"].reshape(*low.shape[:-1], -1, low.shape[-1])
        return torch.clamp(value, low.unsqueeze(-2), high.unsqueeze(-2))

    def nearest_mass(self, params: Params, y: Tensor) -> Tensor:
        """Return the value of each component."""
        return torch.broadcast_tensors(params["value"], y)[0]
