"""Objects with named parameters, as scikit-learn clones and searches them."""

import inspect
from typing import Any, Self

__all__ = ["Configurable", "plain"]


class Configurable:
    """Base of small objects that are their constructor's parameters.

    The constructor stores them unchanged. They are looked at when the object is used,
    so that scikit-learn can clone it and a search can set them.
    """

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name.

        Parameters
        ----------
        deep : bool, default=True
            For scikit-learn; parameters have no parameters here.

        Returns
        -------
        params : dict of str
            As they were given.
        """
        return {
            name: getattr(self, name)
            for name in inspect.signature(type(self)).parameters
        }

    def set_params(self, **params: Any) -> Self:
        """Set parameters.

        Parameters
        ----------
        **params : dict
            New values by name.

        Returns
        -------
        self : object
            The object itself.

        Raises
        ------
        ValueError
            If it has no parameter of that name.
        """
        known = self.get_params()
        unknown = [name for name in params if name not in known]
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no parameter {unknown[0]!r}, only "
                f"{', '.join(known)}."
            )
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        params = (f"{name}={value!r}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({', '.join(params)})"

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        assert isinstance(other, Configurable)
        return bool(plain(self.get_params()) == plain(other.get_params()))

    # Parameters can change.
    __hash__ = None  # type: ignore[assignment]


def plain(value: Any) -> Any:
    """Return arrays, tensors and tuples as lists, which can be compared."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return value
