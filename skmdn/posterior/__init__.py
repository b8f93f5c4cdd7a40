"""Posteriors of every observation, learned from simulations."""

from .estimator import AmortizedPosterior

__all__ = ["AmortizedPosterior"]
