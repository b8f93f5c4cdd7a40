"""Networks that summarise sets and series of any length by a few numbers."""

from .attention import SetTransformer
from .base import Summary, SummaryNetwork
from .choice import summary_from
from .flat import MLP
from .series import RecurrentSummary
from .sets import DeepSet

__all__ = [
    "MLP",
    "DeepSet",
    "RecurrentSummary",
    "SetTransformer",
    "Summary",
    "SummaryNetwork",
    "summary_from",
]
