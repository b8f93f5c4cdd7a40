"""Draws in the containers of other packages."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .base import import_extra

__all__ = ["to_arviz"]


def to_arviz(
    draws: Any,
    *,
    names: Sequence[str] | None = None,
    log_prob: Any = None,
    observed: Any = None,
) -> Any:
    """Return posterior draws as ArviZ has them, for its plots and summaries.

    Parameters
    ----------
    draws : array-like of shape (n_draws[, n_parameters]) or \
(n_observations, n_draws, n_parameters)
        Independent draws of one posterior or of one for each observation. They
        become a single chain.
    names : sequence of str, default=None
        Names of the parameters. Without them they are one variable, ``theta``.
    log_prob : array-like of the shape of draws without parameters, default=None
        The log density of each draw.
    observed : array-like of shape (n_observations, ...), default=None
        The data, or those of the one posterior.

    Returns
    -------
    tree : xarray.DataTree
        With the group ``posterior``, and ``sample_stats`` (``lp``) and
        ``observed_data`` (``x``) where these are known. Several posteriors have the
        dimension ``observation``.

    Raises
    ------
    ImportError
        If the package arviz-base is not installed.
    ValueError
        If shapes do not fit, or there is NaN.
    """
    draws = np.asarray(draws, dtype=np.float64)
    draws = draws[:, None] if draws.ndim == 1 else draws
    if draws.ndim not in (2, 3):
        raise ValueError(
            "draws must have the shape (n_draws, n_parameters) or (n_observations, "
            f"n_draws, n_parameters), got {draws.shape}."
        )
    if np.isnan(draws).any():
        raise ValueError("draws contains NaN.")
    axes = ["observation"] if draws.ndim == 3 else []
    groups = {"posterior": _variables(draws, names)}
    if log_prob is not None:
        log_prob = np.asarray(log_prob, dtype=np.float64)
        if log_prob.shape != draws.shape[:-1]:
            raise ValueError(
                f"log_prob has the shape {log_prob.shape}; one number for each of the "
                f"draws {draws.shape[:-1]} is needed."
            )
        groups["sample_stats"] = {"lp": _chain(log_prob)}
    if observed is not None:
        observed = np.asarray(observed)
        if axes and observed.shape[:1] != draws.shape[:1]:
            raise ValueError(
                f"observed has the shape {observed.shape} for {len(draws)} posteriors."
            )
        groups["observed_data"] = {"x": observed}
    dims = {name: list(axes) for name in groups["posterior"]} | {"lp": axes, "x": axes}
    if names is None and draws.shape[-1] > 1:
        dims["theta"] += ["parameter"]
    return import_extra("arviz_base", "arviz", "to_arviz").from_dict(groups, dims=dims)


def _variables(draws: np.ndarray, names: Sequence[str] | None) -> dict[str, np.ndarray]:
    """Return each parameter by name with the axes of ArviZ."""
    n_parameters = draws.shape[-1]
    if names is None:
        whole = draws[..., 0] if n_parameters == 1 else draws
        return {"theta": _chain(whole, n_axes=draws.ndim - 1)}
    names = list(names)
    if len(set(names)) != n_parameters or len(names) != n_parameters:
        raise ValueError(
            f"names must be {n_parameters} different names for the parameters of "
            f"draws, got {names}."
        )
    return {name: _chain(draws[..., j]) for j, name in enumerate(names)}


def _chain(values: np.ndarray, n_axes: int | None = None) -> np.ndarray:
    """Return ``([observation,] draw, ...)`` with the axes (chain, draw, ...)."""
    n_axes = values.ndim if n_axes is None else n_axes
    return (np.moveaxis(values, 1, 0) if n_axes == 2 else values)[None]
