"""Chains of functions that simulate: parameters first, then what they bring about."""

import warnings
from collections import Counter
from collections.abc import Mapping

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs
from sklearn.utils import gen_batches

from skmdn.items import with_padding

from .distributions import Prior, is_distribution
from .functions import (
    Column,
    Outputs,
    entropy_from,
    read_function,
    run_batch,
    run_rows,
    stack,
    vectorized,
)

__all__ = ["Simulations", "Simulator", "make_simulator", "vectorized"]


def make_simulator(functions, *, pad_to=None, allow_nan=()):
    """Make a simulator of functions whose outputs feed the next by argument name.

    A function is called once for each simulation and returns a dict of named
    outputs, or a single number or array, which is named by the function. Its
    arguments are outputs of the functions before it. An argument named ``rng`` is
    a :class:`numpy.random.Generator`: draw from it, and the seed of
    :meth:`Simulator.sample` determines the simulations. A function that makes many
    rows in one call is marked by :func:`vectorized`.

    Parameters
    ----------
    functions : callable, distribution, Simulator, or list or dict of these
        The functions in their order. In a dict the keys name the outputs of its
        functions; its values can also be distributions of scipy or torch, as in
        :class:`Prior`. A simulator stands for its functions.
    pad_to : dict of str to int, default=None
        Lengths to which ragged outputs are padded. Others are padded to the longest
        row of the call.
    allow_nan : collection of str, default=()
        Outputs in which NaN means a missing value. In any other output NaN is a
        failure, as infinity is everywhere.

    Returns
    -------
    simulator : Simulator
        The simulator.

    Raises
    ------
    TypeError
        If something is no function, or a function cannot be called by names.

    See Also
    --------
    vectorized : Marks a function that makes many rows.
    ModelSimulator : Simulations of several models.

    Examples
    --------
    >>> from skmdn.simulation import make_simulator
    >>> def context(rng):
    ...     return {"n": rng.integers(2, 6)}
    >>> def prior(rng):
    ...     return {"mu": rng.normal()}
    >>> def x(mu, n, rng):
    ...     return rng.normal(mu, size=n)
    >>> simulator = make_simulator([context, prior, x])
    >>> data = simulator.sample(100, random_state=0)
    >>> data["mu"].shape, data["x"].shape, data["x_mask"].shape
    ((100,), (100, 5), (100, 5))
    """
    return Simulator(list(_flat(functions)), pad_to, allow_nan)


def _flat(functions, name=None):
    """Yield the steps that something given as a simulator stands for."""
    if isinstance(functions, Simulator):
        yield functions
    elif isinstance(functions, Prior):
        yield functions.as_function()
    elif is_distribution(functions):
        if name is None:
            raise TypeError(
                f"{functions!r} needs a name: give {{'name': distribution}}."
            )
        yield Prior({name: functions}).as_function()
    elif isinstance(functions, Mapping):
        for key, value in functions.items():
            yield from _flat(value, key)
    elif isinstance(functions, list | tuple):
        for function in functions:
            yield from _flat(function)
    else:
        yield read_function(functions, name)


class Simulations(dict):
    """Simulated variables by name, arrays whose first axis runs over simulations.

    Parameters
    ----------
    variables : dict of str to ndarray of shape (n_kept, ...)
        The outputs of all functions. Ragged ones are padded by 0 and have a mask
        beside them, named with the suffix ``_mask``: true where an item is real.
    kept : ndarray of shape (n_kept,)
        The numbers of the simulations that went well.
    failures : dict of str to int
        What went wrong, and how often.

    See Also
    --------
    Simulator.sample : Returns them.

    Examples
    --------
    >>> from skmdn.simulation import make_simulator
    >>> def x(rng):
    ...     return rng.normal()
    >>> data = make_simulator(x).sample(10, random_state=0)
    >>> list(data), data["x"].shape, data.n_failed
    (['x'], (10,), 0)
    """

    def __init__(self, variables, kept, failures):
        super().__init__(variables)
        self.kept = kept
        self.failures = failures

    def padded(self, name):
        """Return a variable with NaN where its mask is false.

        So padded it is one array, which estimators take as X.

        Parameters
        ----------
        name : str
            A variable; one without a mask comes as it is.

        Returns
        -------
        values : ndarray of shape (n_kept, ...)
            The values.
        """
        mask = self.get(f"{name}_mask")
        return self[name] if mask is None else with_padding(self[name], mask)

    @property
    def n_failed(self):
        """Number of simulations that were rejected."""
        return sum(self.failures.values())

    def __repr__(self):
        shapes = ", ".join(f"{name}: {value.shape}" for name, value in self.items())
        failed = f", n_failed={self.n_failed}" if self.n_failed else ""
        return f"{type(self).__name__}({{{shapes}}}{failed})"


class Simulator:
    """Simulates by a chain of functions; :func:`make_simulator` makes one.

    Parameters
    ----------
    steps : list of Function or Simulator
        What is called, in this order.
    pad_to : dict of str to int, default=None
        Lengths of ragged outputs.
    allow_nan : collection of str, default=()
        Outputs that may have missing values.

    Attributes
    ----------
    functions : tuple of Function
        The functions, those of inner simulators included.

    See Also
    --------
    make_simulator : How the functions are written.

    Examples
    --------
    >>> from scipy import stats
    >>> from skmdn.simulation import make_simulator
    >>> def x(mu, rng):
    ...     return rng.normal(mu, size=3)
    >>> simulator = make_simulator([{"mu": stats.uniform(0, 1)}, x])
    >>> simulator
    Simulator(mu -> x)
    >>> simulator.sample(4, fixed={"mu": 2.0}, random_state=0)
    Simulations({mu: (4,), x: (4, 3)})
    """

    def __init__(self, steps, pad_to=None, allow_nan=()):
        self.functions = ()
        self.pad_to = {}
        self.allow_nan = {allow_nan} if isinstance(allow_nan, str) else set(allow_nan)
        for step in steps:
            if isinstance(step, Simulator):
                self.functions += step.functions
                self.pad_to |= step.pad_to
                self.allow_nan |= step.allow_nan
            else:
                self.functions += (step,)
        self.pad_to |= pad_to or {}
        if not self.functions:
            raise ValueError("A simulator needs at least one function.")

    def __repr__(self):
        names = " -> ".join(function.name for function in self.functions)
        return f"{type(self).__name__}({names})"

    def sample(
        self,
        n_samples=None,
        *,
        fixed=None,
        given=None,
        random_state=None,
        n_jobs=None,
        failed="drop",
    ):
        """Simulate.

        The result depends on the seed, not on ``n_jobs``. What functions called
        once for each row return for a row does not depend on the other rows
        either: the first rows of a longer call are those of a shorter one.

        Parameters
        ----------
        n_samples : int, default=None
            Number of simulations; can be left out if ``given`` says it.
        fixed : dict, default=None
            Values that some variables have in every simulation. They replace what
            the functions return under these names; a function named like one of
            them is not called. They can also be arguments that no function
            returns.
        given : dict of str to array-like of shape (n_samples, ...), default=None
            The same with a value for each simulation, such as posterior draws
            whose data are to be simulated.
        random_state : int, Generator, RandomState instance or None, default=None
            Determines what the functions draw from ``rng``. Functions that draw
            from elsewhere are beyond its reach.
        n_jobs : int, default=None
            Number of jobs in which rows, and batches of vectorized functions, are
            made; a backend that :func:`joblib.parallel_config` sets is used.
        failed : {"drop", "raise"}, default="drop"
            What happens to a simulation that raises an error or returns NaN or
            infinity: it is left out, with a warning that counts them, or it stops
            everything. Errors that betray a mistake in the code (of names, types,
            attributes and imports) are always raised, and so are those of
            vectorized functions: they mark failed rows by NaN.

        Returns
        -------
        data : Simulations
            A dict of arrays by name. Its attribute ``kept`` holds the numbers of
            the simulations that are in it, ``n_failed`` counts the others.

        Raises
        ------
        ValueError
            If a function needs what no other returns, or an input is not usable.
        RuntimeError
            If every simulation failed.
        """
        if failed not in ("drop", "raise"):
            raise ValueError(f'failed must be "drop" or "raise", got {failed!r}.')
        n_samples = _number_of_rows(n_samples, given or {})
        entropy = entropy_from(random_state)
        columns = self._inputs(n_samples, fixed or {}, given or {})
        inputs = frozenset(columns)
        kept, failures = np.arange(n_samples), Counter()
        for place, function in enumerate(self.functions):
            names = function.outputs or (function.name,)
            if inputs.issuperset(names):
                continue
            catch = failed == "drop"
            made = self._run(function, columns, kept, entropy, place, n_jobs, catch)
            made = self._without_failures(function, made, inputs, catch)
            if not len(made.rows):
                failures += made.failures
                raise RuntimeError(f"All simulations failed: {_listed(failures)}.")
            kept = kept[made.rows]
            failures += made.failures
            columns = {key: value.take(made.rows) for key, value in columns.items()}
            self._add(function, columns, made.columns, inputs)
        if failures:
            warnings.warn(
                f"{n_samples - len(kept)} of {n_samples} simulations were rejected: "
                f"{_listed(failures)}.",
                UserWarning,
                stacklevel=2,
            )
        variables = {name: column.values for name, column in columns.items()}
        return Simulations(variables, kept, dict(failures))

    def _inputs(self, n_samples, fixed, given):
        """Return the values that the user has set, as columns."""
        both = set(fixed) & set(given)
        if both:
            raise ValueError(f"{sorted(both)} are both fixed and given.")
        columns = {}
        for name, value in fixed.items():
            value = np.asarray(value)
            repeated = np.broadcast_to(value, (n_samples, *value.shape))
            columns[name] = Column(repeated.copy())
        for name, value in given.items():
            columns[name] = Column(np.asarray(value))
        for name, column in columns.items():
            if column.values.dtype.kind not in "biuf":
                raise TypeError(f"{name!r} must be numbers, got {column.values!r:.80}.")
            if name + "_mask" in columns:
                mask = columns[name + "_mask"].values
                column.lengths = columns[name + "_mask"].lengths = mask.sum(1)
        return columns

    def _run(self, function, columns, rows, entropy, place, n_jobs, catch):
        """Call a function for rows, in parallel if that is asked for."""
        needed = {name: columns[name] for name in function.select(columns)}
        n_rows = len(rows)
        if function.vectorized:
            size = function.batch_size or n_rows
            call, extra = run_batch, ()
        else:
            n_parts = effective_n_jobs(n_jobs)
            # Several parts for each job: some rows take longer than others.
            size = -(-n_rows // (4 * n_parts)) if n_parts > 1 else n_rows
            call, extra = run_rows, (catch,)
        results = Parallel(n_jobs=n_jobs)(
            delayed(call)(
                function,
                {name: column.take(part) for name, column in needed.items()},
                rows[part],
                entropy,
                place,
                *extra,
            )
            for part in gen_batches(n_rows, size)
        )
        if not function.vectorized:
            return stack(function, [row for part in results for row in part])
        joined = {
            name: Column(np.concatenate([part[name] for part in results]))
            for name in results[0]
        }
        return Outputs(np.arange(n_rows), joined)

    def _without_failures(self, function, made, inputs, catch):
        """Leave out rows that are not finite."""
        good = np.ones(len(made.rows), dtype=bool)
        for name, column in made.columns.items():
            if column.values.dtype.kind != "f" or name in inputs:
                continue
            axes = tuple(range(1, column.values.ndim))
            bad = np.isinf(column.values)
            if name not in self.allow_nan:
                bad |= np.isnan(column.values)
            bad = bad.any(axis=axes) & good
            if bad.any():
                reason = f"{function.name}() returned NaN or infinity in {name!r}"
                if not catch:
                    raise ValueError(f"{reason} for {bad.sum()} simulation(s).")
                made.failures[reason] += int(bad.sum())
                good &= ~bad
        if good.all():
            return made
        columns = {name: column.take(good) for name, column in made.columns.items()}
        return Outputs(made.rows[good], columns, made.failures)

    def _add(self, function, columns, made, inputs):
        """Put the outputs of a function beside those before; ragged ones get masks."""
        for name, column in made.items():
            if name in inputs:
                continue
            if name in columns:
                raise ValueError(
                    f"{function.name}() returned {name!r}, which a function before it "
                    "has returned already."
                )
            if name in self.pad_to:
                column = _padded(column, name, self.pad_to[name])
            columns[name] = column
            if column.lengths is not None:
                mask = name + "_mask"
                if mask in columns or mask in made:
                    raise ValueError(f"{mask!r} is the mask of {name!r}; rename it.")
                columns[mask] = Column(column.mask(), column.lengths)


def _padded(column, name, length):
    """Pad a column to a length that does not depend on the rows."""
    values, lengths = column.values, column.lengths
    if values.ndim < 2:
        raise ValueError(f"pad_to names {name!r}, whose rows are single numbers.")
    if lengths is None:
        lengths = np.full(len(values), values.shape[1])
    if lengths.max() > length:
        raise ValueError(
            f"pad_to={{{name!r}: {length}}}, but a row has {lengths.max()} items."
        )
    padded = np.zeros((len(values), length, *values.shape[2:]), dtype=values.dtype)
    n_items = min(length, values.shape[1])
    padded[:, :n_items] = values[:, :n_items]
    return Column(padded, lengths)


def _number_of_rows(n_samples, given):
    """Return the number of simulations, if everything agrees on it."""
    sizes = {name: len(np.atleast_1d(value)) for name, value in given.items()}
    if n_samples is None:
        if not sizes:
            raise ValueError("n_samples is missing: how many simulations?")
        n_samples = next(iter(sizes.values()))
    if isinstance(n_samples, bool) or n_samples != int(n_samples) or n_samples < 1:
        raise ValueError(f"n_samples must be a positive integer, got {n_samples!r}.")
    for name, size in sizes.items():
        if size != n_samples or not np.ndim(given[name]):
            raise ValueError(
                f"given[{name!r}] has {size} rows for {n_samples} simulations; a value "
                "for all of them goes into fixed."
            )
    return int(n_samples)


def _listed(failures):
    """Say what went wrong, the most frequent first."""
    most = failures.most_common(3)
    parts = [f"{count} time(s) {reason}" for reason, count in most]
    rest = sum(failures.values()) - sum(count for _, count in most)
    return "; ".join(parts) + (f"; {rest} other(s)" if rest else "")
