"""Simulators made of functions, for inference from what they return."""

from .distributions import Prior
from .models import ModelSimulator
from .simulator import Simulations, Simulator, make_simulator, vectorized

__all__ = [
    "ModelSimulator",
    "Prior",
    "Simulations",
    "Simulator",
    "make_simulator",
    "vectorized",
]
