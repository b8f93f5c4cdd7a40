"""Checks of the arguments of the modules."""

from typing import Any

import torch

__all__ = ["checked_count", "default_dtype"]


def checked_count(value: Any, name: str) -> int:
    """Return a number that has to be a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}.")
    return value


def default_dtype() -> torch.dtype:
    """Return the type of new parameters, which is torch's to choose."""
    return torch.get_default_dtype()
