"""Arrays in, arrays out: the shapes and the chunks of queries row by row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .bridge import to_numpy, to_tensor
from .composition import Composition
from .mixture import Mixture

__all__ = [
    "PER_COMPONENT",
    "RowwiseMixture",
    "checked_coverage",
    "checked_levels",
    "checked_points",
    "explained",
    "frozen",
]

# Numbers that quadrature counts for each component: so many that some ten rows of a
# large ensemble are worked together.
PER_COMPONENT = 128

# Work arrays of about this many numbers stay in the processor's cache.
_CHUNK_SIZE = 2**17


@dataclass(frozen=True, eq=False, repr=False)
class RowwiseMixture:
    """A mixture per row, and how its answers are arranged.

    Parameters
    ----------
    mixture : Mixture
        Batch shape ``(n_samples,)``, float64, on the CPU.
    univariate : bool
        Whether arrays lack the axis for the outputs.
    single : bool, default=False
        Whether arrays lack the axis for the only row.
    layout : Composition, optional
        The order and the names of the components of each network.
    """

    mixture: Mixture
    univariate: bool
    single: bool = False
    layout: Composition | None = None

    def __len__(self) -> int:
        if self.single:
            raise TypeError("The distribution of a single row has no length.")
        return self.mixture.batch_shape[0]

    @property
    def n_components(self) -> int:
        """Number of components, those of all ensemble members together."""
        return self.mixture.n_components

    @property
    def n_outputs(self) -> int:
        """Dimension of the target."""
        return self.mixture.n_outputs

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the components of each network, if they have any."""
        return None if self.layout is None else self.layout.names

    def component(self, name: str) -> Self:
        """Return the distribution of a named component, all networks together.

        Parameters
        ----------
        name : str
            A key of the dict that the estimator had as ``family``.

        Returns
        -------
        dist : this class
            Its weights sum to 1: they say which network speaks, not how likely the
            component is.
        """
        places = self._places(name)
        chosen = self.mixture.choose(sorted(places))
        family = chosen.blocks[0].family
        alone = Composition((family,), ((0,),), (name,))
        return type(self)(chosen, self.univariate, self.single, alone)

    @property
    def aleatoric_var(self) -> np.ndarray:
        """Variance within the networks, on average: noise that all of them see."""
        return self._rows(self._split_variance()[0], 1)

    @property
    def epistemic_var(self) -> np.ndarray:
        """Variance of the networks' means: how far they disagree about the mean."""
        return self._rows(self._split_variance()[1], 1)

    def _split_variance(self) -> tuple[Tensor, Tensor]:
        """Return the variance within the networks and between their means."""
        n_each = self.n_components if self.layout is None else self.layout.n_components
        weights, means, stds = (
            self._components(part).unflatten(1, (-1, n_each))
            for part in (
                self.mixture.weights.unsqueeze(-1),
                self.mixture.component_means(),
                self.mixture.component_stds(),
            )
        )
        share = weights.sum(2, keepdim=True)
        # A network or a component of no weight says nothing, whatever its moments.
        within = torch.where(share > 0.0, weights / share, 0.0)

        def average(values: Tensor, by: Tensor) -> Tensor:
            return values.masked_fill(by == 0.0, 0.0).mul(by).sum(2, keepdim=True)

        def spread(values: Tensor, mean: Tensor) -> Tensor:
            return torch.where(mean.isinf(), torch.inf, values - mean).square()

        centers = average(means, within)
        noise = average(stds.square() + spread(means, centers), within)
        noise, centers, share = (v.transpose(1, 2) for v in (noise, centers, share))
        mean = average(centers, share)
        parts = average(noise, share), average(spread(centers, mean), share)
        return parts[0][:, 0, 0], parts[1][:, 0, 0]

    def _places(self, name: str) -> list[int]:
        """Return where the components of this name are in the mixture."""
        if self.layout is None or self.layout.names is None:
            raise ValueError("The components have no names: family was not a dict.")
        if name not in self.layout.names:
            known = ", ".join(map(repr, self.layout.names))
            raise ValueError(f"No component is called {name!r}; there are {known}.")
        n_each = self.layout.n_components
        order = self.layout.order(self.n_components // n_each)
        return order[self.layout.names.index(name) :: n_each]

    def _components(self, values: Tensor, axis: int = 1) -> Tensor:
        """Return numbers per component, which lie on this axis, in the user's order."""
        if self.layout is None or len(self.layout.families) == 1:
            return values
        n_members = self.n_components // self.layout.n_components
        order = to_tensor(self.layout.order(n_members), dtype=torch.long)
        return values.index_select(axis, order)

    def _outputs(self, outputs: int | Sequence[int]) -> list[int]:
        given = np.atleast_1d(outputs)
        integers = given.dtype.kind in "iu"
        chosen = [int(o) + self.n_outputs * (o < 0) for o in given if integers]
        known = all(0 <= o < self.n_outputs for o in chosen)
        if not chosen or not known or len(set(chosen)) < len(chosen):
            raise ValueError(
                f"outputs={outputs!r} must name different outputs out of "
                f"{self.n_outputs}."
            )
        return chosen

    def _known(self, values: ArrayLike, n: int) -> Tensor:
        """Return values of ``n`` outputs for each row."""
        n_rows = self.mixture.batch_shape[0]
        known = np.asarray(values, dtype=np.float64)
        if n == 1 and known.shape in ((), (1,), (n_rows,)):
            known = known.reshape(-1, 1)
        known = np.atleast_2d(known)
        if known.shape not in ((1, n), (n_rows, n)):
            raise ValueError(
                f"values has shape {np.shape(values)}; expected "
                f"({n_rows}, {n}) or ({n},)."
            )
        return checked_points(known, "values").expand(n_rows, -1)

    def _rows(self, result: Tensor, output_axes: int = 0) -> np.ndarray:
        """Return a result per row, without the axes that the target lacks."""
        array = self._without_outputs(result, output_axes)
        return array[0] if self.single else array

    def _without_outputs(self, result: Tensor, output_axes: int) -> np.ndarray:
        """Drop the axes for the outputs if the target lacks them."""
        array = to_numpy(result)
        return array[(...,) + (0,) * output_axes] if self.univariate else array

    def _by_rows(
        self, query: Callable[..., Tensor], cost: int, *args: Tensor
    ) -> Tensor:
        """Query some rows at a time: ``cost`` numbers are at work for each."""
        n_rows = self.mixture.batch_shape[0]
        step = max(1, _CHUNK_SIZE // max(1, cost))
        if n_rows <= step:
            return query(self.mixture, *args)
        answer = None
        for first in range(0, n_rows, step):
            rows = slice(first, first + step)
            part = query(self.mixture[rows], *[a[rows] for a in args])
            if answer is None:
                answer = part.new_empty((n_rows, *part.shape[1:]))
            answer[rows] = part
        return answer

    def _at_points(
        self,
        query: Callable[[Mixture, Tensor], Tensor],
        y: ArrayLike,
        output_axes: int,
        per_point: int = 1,
    ) -> np.ndarray:
        """Query every point and give the answer the points' arrangement."""
        points, shape = self._points(y)
        cost = points.shape[1:].numel() * self.n_components * per_point
        result = self._by_rows(
            lambda part, some: query(part.unsqueeze(), some), cost, points
        )
        array = self._without_outputs(result, output_axes)
        return array.reshape(shape + array.shape[2:])[()]

    def _points(self, y: ArrayLike) -> tuple[Tensor, tuple[int, ...]]:
        """Return points ``(n_rows, n_points, n_outputs)`` and their arrangement."""
        points = checked_points(np.asarray(y, dtype=np.float64))
        if self.univariate:
            points = points.unsqueeze(-1)
        n_rows = self.mixture.batch_shape[0]
        shape = tuple(points.shape[:-1])
        fits = points.ndim >= 1 and points.shape[-1] == self.n_outputs
        if self.single and fits:
            return points.reshape(1, -1, self.n_outputs), shape
        if points.ndim == 1 and fits:
            return points.expand(n_rows, 1, -1), (n_rows,)
        if points.ndim == 2 and fits and len(points) in (1, n_rows):
            return points.unsqueeze(1).expand(n_rows, -1, -1), (n_rows,)
        if points.ndim == 3 and fits and len(points) in (1, n_rows):
            return points.expand(n_rows, -1, -1), (n_rows, points.shape[1])
        tail = "" if self.univariate else f", {self.n_outputs}"
        raise ValueError(
            f"y has shape {np.shape(y)}; expected ({n_rows}{tail}) for one point per "
            f"row, or (1 or {n_rows}, n_points{tail}) for several."
        )


def checked_levels(q: ArrayLike) -> np.ndarray:
    """Return the levels of quantiles, or refuse what is none."""
    levels = np.asarray(q, dtype=np.float64)
    inside = (levels > 0.0) & (levels < 1.0)
    if levels.ndim > 1 or not inside.all():
        raise ValueError(
            "quantiles must be a number or a list of numbers strictly between "
            f"0 and 1, got {q!r}."
        )
    return levels


def checked_coverage(coverage: float) -> float:
    """Return the coverage of an interval, or refuse what is none."""
    if np.ndim(coverage) or not 0.0 < coverage < 1.0:
        raise ValueError(
            f"coverage must lie strictly between 0 and 1, got {coverage!r}."
        )
    return float(coverage)


def checked_points(values: np.ndarray, name: str = "y") -> Tensor:
    """Return a tensor, or say which array has NaN."""
    if np.isnan(values).any():
        raise ValueError(f"{name} contains NaN.")
    return to_tensor(values)


def explained(mixture: Mixture, points: Tensor) -> Tensor:
    """Return responsibilities, or refuse where every component's density is 0."""
    responsibilities = mixture.responsibilities(points)
    if responsibilities.isnan().any():
        raise ValueError("A point is so far out that no component explains it.")
    return responsibilities


def frozen(array: np.ndarray) -> np.ndarray:
    """Return the array itself, which can no longer be written to."""
    array.flags.writeable = False
    return array
