"""What a mixture is made of: families, how many components each, in which order."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .families import Family, Transformed, make_family
from .supports import Support

__all__ = ["Composition"]


@dataclass(frozen=True)
class Composition:
    """Families and the places of their components.

    Components of equal families are computed together, as one block; the user may
    have put others between them.

    Parameters
    ----------
    families : tuple of Family
        One for each block.
    places : tuple of tuple of int
        For each block the places of its components in the user's order.
    names : tuple of str or None
        The components' names in the user's order.
    """

    families: tuple[Family, ...]
    places: tuple[tuple[int, ...], ...]
    names: tuple[str, ...] | None = None

    @classmethod
    def make(
        cls,
        family: "str | Family | Sequence[str | Family] | Mapping[str, str | Family]",
        n_components: int,
        covariance_type: str = "diag",
    ) -> "Composition":
        """Understand the parameter ``family``.

        Parameters
        ----------
        family : str, Family, sequence or mapping of these
            One for all components; or one for each, with its name as the key.
        n_components : int
            Their number, where one family stands for all.
        covariance_type : str
            How several outputs vary together; see
            :func:`skmdn.families.make_family`.

        Raises
        ------
        ValueError
            If a name is not known or there is no component.
        """
        names = None
        if isinstance(family, str | Family):
            chosen: list[str | Family] = [family] * n_components
        elif isinstance(family, Mapping):
            names, chosen = tuple(map(str, family)), list(family.values())
        else:
            chosen = list(family)
        if not chosen:
            raise ValueError("family is empty: name at least one component.")
        places: dict[Family, list[int]] = {}
        for place, one in enumerate(chosen):
            places.setdefault(make_family(one, covariance_type), []).append(place)
        return cls(tuple(places), tuple(map(tuple, places.values())), names)

    @property
    def n_components(self) -> int:
        """The number of components."""
        return sum(map(len, self.places))

    @property
    def parts(self) -> list[tuple[Family, int]]:
        """The families with their numbers of components."""
        return [(f, len(p)) for f, p in zip(self.families, self.places, strict=True)]

    @property
    def point_masses(self) -> list[tuple[Family, list[int]]]:
        """The families of which a network has nothing to learn, with their places."""
        return [
            (family, list(places))
            for family, places in zip(self.families, self.places, strict=True)
            if not any(map(math.prod, family.raw_shapes(1, 1).values()))
        ]

    @property
    def units(self) -> str:
        """Which changes of units all families allow."""
        kinds = {family.units for family in self.families}
        for kind in ("none", "scale"):
            if kind in kinds:
                return kind
        return "location-scale"

    @property
    def mirrors(self) -> bool:
        """Whether all families allow a change of sign."""
        return all(family.mirrors for family in self.families)

    @property
    def positive(self) -> bool:
        """Whether no family allows -1, as scikit-learn asks its loss functions."""
        return not bool(self.contains(torch.full((1, 1), -1.0)).any())

    def in_units(self, scale: Sequence[float], shift: Sequence[float]) -> "Composition":
        """Return the families of ``(y - shift) / scale``."""
        families = tuple(family.in_units(scale, shift) for family in self.families)
        return Composition(families, self.places, self.names)

    def onto(self, support: Support) -> "Composition":
        """Return the components taken onto intervals.

        Raises
        ------
        ValueError
            If a family has a support of its own.
        """
        if not support.bounded:
            return self
        families = tuple(
            Transformed(family, support.low, support.high, support.link)
            for family in self.families
        )
        return Composition(families, self.places, self.names)

    @property
    def inner(self) -> "Composition":
        """The components on the real line, which :meth:`onto` took from there."""
        families = tuple(
            family.base if isinstance(family, Transformed) else family
            for family in self.families
        )
        return Composition(families, self.places, self.names)

    def order(self, n_members: int = 1) -> list[int]:
        """Return where each component of the user's order is computed.

        An ensemble computes the components of all members block by block; its order is
        that of the members, each with its components in the user's order.
        """
        n_each, before = [len(p) for p in self.places], 0
        place_of = [0] * (n_members * self.n_components)
        for size, places in zip(n_each, self.places, strict=True):
            for member in range(n_members):
                for i, place in enumerate(places):
                    user = member * self.n_components + place
                    place_of[user] = before + member * size + i
            before += n_members * size
        return place_of

    def contains(self, y: Tensor) -> Tensor:
        """Tell for each row ``(n_samples, n_outputs)`` if some component allows it."""
        inside = [family.contains(y).all(-1) for family in self.families]
        return torch.stack(inside).any(0)

    def allows(self, low: Tensor, high: Tensor) -> Tensor:
        """Tell for each row of ends if some component does.

        Equal ends are a number, NaN is allowed by all, others are an interval.
        """
        known, missing = low == high, low.isnan()
        inside = [
            torch.where(known, f.contains(low), missing | f.overlaps(low, high)).all(-1)
            for f in self.families
        ]
        return torch.stack(inside).any(0)

    def support(self) -> str:
        """Return the supports in words."""
        return " or ".join(dict.fromkeys(f.support() for f in self.families))
