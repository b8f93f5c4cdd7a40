"""Spaces of named variables: from what a simulator returns to what is learned."""

from .base import Space, space_from_prior
from .custom import Custom
from .elementwise import Constrain, Log, Sqrt, Standardize
from .structural import (
    AsSet,
    AsTimeSeries,
    Broadcast,
    Concatenate,
    Drop,
    OneHot,
    Rename,
)

__all__ = [
    "AsSet",
    "AsTimeSeries",
    "Broadcast",
    "Concatenate",
    "Constrain",
    "Custom",
    "Drop",
    "Log",
    "OneHot",
    "Rename",
    "Space",
    "Sqrt",
    "Standardize",
    "space_from_prior",
]
