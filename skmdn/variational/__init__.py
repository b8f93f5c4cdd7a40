"""Posteriors of single observations, from an unnormalised log density."""

from .estimator import VariationalPosterior

__all__ = ["VariationalPosterior"]
