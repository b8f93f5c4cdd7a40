"""Simulations of several models, to learn which of them made the data."""

from collections.abc import Mapping

import numpy as np

from .functions import entropy_from, row_generators
from .simulator import Simulations, Simulator, make_simulator

__all__ = ["ModelSimulator"]


class ModelSimulator:
    r"""Draw a model for each row, then what it simulates.

    .. math:: m \sim \mathrm{Categorical}(w), \quad \theta, x \sim p_m(\theta, x)

    A classifier that is trained on ``x`` and ``model`` estimates p(model | x).

    Parameters
    ----------
    models : dict of str to Simulator
        The models; whatever :func:`make_simulator` takes is one, too.
    weights : array-like of shape (n_models,), default=None
        Prior probabilities, in the order of ``models``; equal by default.
    shared : Simulator, default=None
        What all models take as arguments, simulated first.

    See Also
    --------
    make_simulator : A simulator of one model.

    Examples
    --------
    >>> from skmdn.simulation import ModelSimulator
    >>> def narrow(rng):
    ...     return {"x": rng.normal(size=5)}
    >>> def wide(rng):
    ...     return {"x": rng.standard_t(3, size=5)}
    >>> simulator = ModelSimulator({"narrow": narrow, "wide": wide})
    >>> data = simulator.sample(100, random_state=0)
    >>> data["x"].shape, data["model"].shape
    ((100, 5), (100,))
    """

    def __init__(self, models, *, weights=None, shared=None):
        if not isinstance(models, Mapping) or not models:
            raise ValueError("models must be a dict of simulators by name.")
        self.models = {
            name: model if isinstance(model, Simulator) else make_simulator(model)
            for name, model in models.items()
        }
        n_models = len(self.models)
        if weights is None:
            weights = np.full(n_models, 1.0 / n_models)
        self.weights = np.asarray(weights, dtype=float)
        if self.weights.shape != (n_models,):
            raise ValueError(
                f"weights has the shape {self.weights.shape} for {n_models} models."
            )
        if (self.weights < 0).any() or not np.isclose(self.weights.sum(), 1.0):
            raise ValueError("weights must not be negative and sum to 1.")
        self.shared = None if shared is None else make_simulator(shared)

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(self.models)})"

    def sample(self, n_samples, *, random_state=None, n_jobs=None, failed="drop"):
        """Simulate.

        Parameters
        ----------
        n_samples : int
            Number of simulations.
        random_state : int, Generator, RandomState instance or None, default=None
            Determines the models and the simulations.
        n_jobs : int, default=None
            As in :meth:`Simulator.sample`.
        failed : {"drop", "raise"}, default="drop"
            As in :meth:`Simulator.sample`. A model that fails often ends up with a
            smaller share than its weight.

        Returns
        -------
        data : Simulations
            The outputs that all models have, those of ``shared``, and ``model``,
            the number of the model of each row. An output that is ragged in one
            model, or between models, is padded and has a mask.
        """
        entropy = entropy_from(random_state)
        rng = row_generators(entropy, 0)(0)
        chosen = rng.choice(len(self.models), size=n_samples, p=self.weights)
        rows, given, failures = np.arange(n_samples), {}, {}
        settings = {"n_jobs": n_jobs, "failed": failed}
        if self.shared is not None:
            given = self.shared.sample(n_samples, random_state=rng, **settings)
            rows, failures = given.kept, dict(given.failures)
        chosen = chosen[rows]
        parts, kept = [], []
        for i, (name, model) in enumerate(self.models.items()):
            own = np.flatnonzero(chosen == i)
            if not len(own):
                continue
            inputs = {key: value[own] for key, value in given.items()}
            data = model.sample(len(own), given=inputs, random_state=rng, **settings)
            for reason, count in data.failures.items():
                failures[f"{name}: {reason}"] = count
            parts.append(data)
            kept.append(own[data.kept])
        order = np.argsort(np.concatenate(kept))
        kept = np.concatenate(kept)[order]
        variables = {"model": chosen[kept]}
        for name, value in _joined(parts).items():
            if name == "model":
                raise ValueError("A model has an output named 'model'; rename it.")
            variables[name] = value[order]
        return Simulations(variables, rows[kept], failures)


def _joined(parts):
    """Return the outputs that all parts have, padded to one shape, with masks."""
    common = [name for name in parts[0] if all(name in part for part in parts)]
    masks = {name + "_mask" for part in parts for name in part}
    joined = {}
    for name in common:
        values = [part[name] for part in parts]
        shapes = {value.shape[1:] for value in values}
        ragged = any(name + "_mask" in part for part in parts)
        if len(shapes) > 1 and (
            () in shapes or len({shape[1:] for shape in shapes}) > 1
        ):
            raise ValueError(
                f"The models return {name!r} in shapes that cannot be padded to one: "
                f"{sorted(shapes)}."
            )
        if name in masks and name.removesuffix("_mask") in common:
            continue
        if not ragged and len(shapes) == 1:
            joined[name] = np.concatenate(values)
            continue
        length = max(value.shape[1] for value in values)
        joined[name] = np.concatenate([_pad(value, length) for value in values])
        joined[name + "_mask"] = np.concatenate(
            [_pad(_mask(part, name), length) for part in parts]
        )
    return joined


def _mask(part, name):
    """Return the mask of an output; all true where it is not ragged."""
    everywhere = np.ones(part[name].shape[:2], dtype=bool)
    return part.get(name + "_mask", everywhere)


def _pad(values, length):
    """Append zeros to the rows."""
    widths = [(0, 0), (0, length - values.shape[1])] + [(0, 0)] * (values.ndim - 2)
    return np.pad(values, widths)
