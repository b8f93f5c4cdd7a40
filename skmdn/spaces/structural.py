"""Transforms of shapes and names; their log-determinants are 0."""

import numpy as np
import torch

from .transform import Transform, listed

__all__ = [
    "AsSet",
    "AsTimeSeries",
    "Broadcast",
    "Concatenate",
    "Drop",
    "OneHot",
    "Rename",
]


def _joined(values, axis):
    """Concatenate arrays, or tensors if any is one."""
    if not any(isinstance(value, torch.Tensor) for value in values):
        return np.concatenate(values, axis)
    like = next(value for value in values if isinstance(value, torch.Tensor))
    values = [
        value if isinstance(value, torch.Tensor) else like.new_tensor(value)
        for value in values
    ]
    return torch.cat(values, axis)


class Concatenate(Transform):
    """Put variables side by side in one array.

    Numbers become columns; all other axes than the last must agree. The sizes are
    learned by ``fit``, so that the inverse can take them apart.

    Parameters
    ----------
    names : list of str
        The variables, in this order.
    into : str
        The name of the result.

    Attributes
    ----------
    shapes_ : dict of str to tuple
        The shapes of a row of each variable.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.spaces import Concatenate
    >>> variables = {"a": np.zeros(2), "b": np.ones((2, 3))}
    >>> step = Concatenate(["a", "b"], into="theta").fit(variables)
    >>> step.transform(variables)["theta"].shape
    (2, 4)
    """

    def __init__(self, names, into):
        self.names = names
        self.into = into

    def _fit(self, variables):
        names = self._pick(variables, listed(self.names))
        if self.into in variables and self.into not in names:
            raise ValueError(f"There is a variable {self.into!r} already.")
        shapes = {name: tuple(variables[name].shape[1:]) for name in names}
        if len({shape[:-1] for shape in shapes.values()}) > 1:
            raise ValueError(f"Only the last axis may differ in size: {shapes}.")
        self.shapes_ = shapes

    def _forward(self, variables):
        names = self._pick(variables, list(self.shapes_))
        parts = []
        for name in names:
            value, shape = variables[name], self.shapes_[name]
            if tuple(value.shape[1:][-1:]) != shape[-1:]:
                raise ValueError(
                    f"{name!r} has rows of the shape {tuple(value.shape[1:])}, not "
                    f"{shape} as in fit."
                )
            parts.append(value if shape else value[:, None])
        rest = {name: v for name, v in variables.items() if name not in names}
        return rest | {self.into: _joined(parts, -1)}

    def _inverse(self, variables):
        (into,) = self._pick(variables, [self.into])
        whole = variables[into]
        sizes = [shape[-1] if shape else 1 for shape in self.shapes_.values()]
        if whole.shape[-1] != sum(sizes):
            raise ValueError(
                f"{into!r} has {whole.shape[-1]} columns instead of {sum(sizes)}."
            )
        parts, start = {}, 0
        for (name, shape), size in zip(self.shapes_.items(), sizes, strict=True):
            part = whole[..., start : start + size]
            parts[name] = part if shape else part[..., 0]
            start += size
        return {name: v for name, v in variables.items() if name != into} | parts


class AsSet(Transform):
    """Give items that are single numbers an axis for their features.

    Rows ``(n_items,)`` become ``(n_items, 1)``, a single number a set of one. Rows
    ``(n_items, n_features)`` stay as they are, also with one feature.

    Parameters
    ----------
    names : str or list of str
        The variables.

    Attributes
    ----------
    n_axes_ : dict of str to int
        How many axes each variable had.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.spaces import AsSet
    >>> variables = {"x": np.zeros((5, 7))}
    >>> AsSet("x").fit(variables).transform(variables)["x"].shape
    (5, 7, 1)
    """

    def __init__(self, names):
        self.names = names

    def _fit(self, variables):
        names = self._pick(variables, listed(self.names))
        self.n_axes_ = {name: variables[name].ndim for name in names}

    def _forward(self, variables):
        changed = dict(variables)
        for name in self._pick(variables, list(self.n_axes_)):
            value = variables[name]
            if value.ndim != self.n_axes_[name]:
                raise ValueError(
                    f"{name!r} has {value.ndim} axes instead of {self.n_axes_[name]}."
                )
            while value.ndim < 3:
                value = value[..., None]
            changed[name] = value
        return changed

    def _inverse(self, variables):
        changed = dict(variables)
        for name in self._pick(variables, list(self.n_axes_)):
            value = variables[name]
            while value.ndim > self.n_axes_[name]:
                value = value[..., 0]
            changed[name] = value
        return changed


class AsTimeSeries(AsSet):
    """Give a series of single numbers an axis for its features.

    The same as :class:`AsSet`, for data whose order means something.

    Parameters
    ----------
    names : str or list of str
        The variables.

    Attributes
    ----------
    n_axes_ : dict of str to int
        How many axes each variable had.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.spaces import AsTimeSeries
    >>> variables = {"x": np.zeros((5, 7))}
    >>> AsTimeSeries("x").fit(variables).transform(variables)["x"].shape
    (5, 7, 1)
    """


class Broadcast(Transform):
    """Repeat variables of a row for each of the row's items.

    Parameters
    ----------
    names : str or list of str
        The variables, numbers or vectors.
    to : str
        The variable whose second axis runs over the items.

    Attributes
    ----------
    shapes_ : dict of str to tuple
        The shapes of a row of each variable.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.spaces import Broadcast
    >>> variables = {"n": np.ones(5), "x": np.zeros((5, 7, 2))}
    >>> step = Broadcast("n", to="x").fit(variables)
    >>> step.transform(variables)["n"].shape
    (5, 7, 1)
    """

    def __init__(self, names, to):
        self.names = names
        self.to = to

    def _fit(self, variables):
        names = self._pick(variables, listed(self.names))
        self.shapes_ = {name: tuple(variables[name].shape[1:]) for name in names}
        if any(len(shape) > 1 for shape in self.shapes_.values()):
            raise ValueError(f"Only numbers and vectors are repeated: {self.shapes_}.")

    def _forward(self, variables):
        (to,) = self._pick(variables, [self.to])
        if variables[to].ndim < 2:
            raise ValueError(f"{to!r} has no axis for items.")
        n_items = variables[to].shape[1]
        changed = dict(variables)
        for name in self._pick(variables, list(self.shapes_)):
            value = variables[name]
            value = value.reshape(len(value), 1, -1)
            changed[name] = _joined([value] * n_items, 1)
        return changed

    def _inverse(self, variables):
        changed = dict(variables)
        for name in self._pick(variables, list(self.shapes_)):
            value = variables[name][:, 0]
            changed[name] = value.reshape(len(value), *self.shapes_[name])
        return changed


class OneHot(Transform):
    """Write whole numbers 0, ..., n_classes - 1 as indicators.

    Parameters
    ----------
    names : str or list of str
        The variables.
    n_classes : int
        The number of values.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.spaces import OneHot
    >>> step = OneHot("model", 3).fit({"model": np.array([0, 2])})
    >>> step.transform({"model": np.array([0, 2])})["model"]
    array([[1., 0., 0.],
           [0., 0., 1.]])
    """

    def __init__(self, names, n_classes):
        self.names = names
        self.n_classes = n_classes

    def _fit(self, variables):
        self._forward(variables)

    def _forward(self, variables):
        changed = dict(variables)
        for name in self._pick(variables, listed(self.names)):
            value = variables[name]
            tensor = isinstance(value, torch.Tensor)
            classes = torch.arange(self.n_classes) if tensor else range(self.n_classes)
            hot = value[..., None] == (classes if tensor else np.array(classes))
            if not bool(hot.any(-1).all()):
                raise ValueError(
                    f"{name!r} has values other than 0, ..., {self.n_classes - 1}."
                )
            changed[name] = hot.double() if tensor else hot.astype(float)
        return changed

    def _inverse(self, variables):
        changed = dict(variables)
        for name in self._pick(variables, listed(self.names)):
            changed[name] = variables[name].argmax(-1)
        return changed


class Rename(Transform):
    """Give variables other names.

    Parameters
    ----------
    names : dict of str to str
        New names by old ones.

    Examples
    --------
    >>> from skmdn.spaces import Rename
    >>> step = Rename({"mu": "theta"}).fit({"mu": [1.0]})
    >>> step.transform({"mu": [1.0]})
    {'theta': array([1.])}
    """

    def __init__(self, names):
        self.names = names

    def _fit(self, variables):
        self._forward(variables)

    def _forward(self, variables):
        return self._renamed(variables, dict(self.names))

    def _inverse(self, variables):
        return self._renamed(variables, {new: old for old, new in self.names.items()})

    def _renamed(self, variables, names):
        self._pick(variables, list(names))
        renamed = {names.get(name, name): value for name, value in variables.items()}
        if len(renamed) < len(variables):
            raise ValueError(f"{names} would give two variables the same name.")
        return renamed


class Drop(Transform):
    """Leave variables out; the inverse cannot bring them back.

    Parameters
    ----------
    names : str or list of str
        The variables.

    Examples
    --------
    >>> from skmdn.spaces import Drop
    >>> Drop("n").fit({"n": [3], "x": [1.0]}).transform({"n": [3], "x": [1.0]})
    {'x': array([1.])}
    """

    def __init__(self, names):
        self.names = names

    def _fit(self, variables):
        self._forward(variables)

    def _forward(self, variables):
        names = self._pick(variables, listed(self.names))
        return {name: v for name, v in variables.items() if name not in names}

    def _inverse(self, variables):
        return variables
