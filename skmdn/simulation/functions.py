"""One function of a simulator: its arguments, its rows, its failures."""

import inspect
import numbers
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = [
    "Column",
    "Function",
    "Vectorized",
    "entropy_from",
    "read_function",
    "row_generators",
    "vectorized",
]

# These are mistakes in the code, not simulations that went wrong.
_MISTAKES = (AttributeError, ImportError, NameError, TypeError)


class Vectorized:
    """A function that makes many rows in one call; see :func:`vectorized`."""

    def __init__(self, function: Callable[..., Any], batch_size: int | None = None):
        if not callable(function):
            raise TypeError(f"vectorized takes a function, got {function!r}.")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size!r}.")
        self.function = function
        self.batch_size = batch_size
        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            if hasattr(function, name):
                setattr(self, name, getattr(function, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.function(*args, **kwargs)

    def __reduce__(self) -> str | tuple[Any, ...]:
        # As a decorator it stands in the function's place and is found by its name.
        name = getattr(self, "__qualname__", "")
        scope = getattr(self.function, "__globals__", {})
        if scope.get(name) is self:
            return name
        return type(self), (self.function, self.batch_size)


def vectorized(
    function: Callable[..., Any] | None = None, *, batch_size: int | None = None
) -> Any:
    """Mark a function that makes all rows in one call.

    It gets arrays whose first axis runs over the rows, and returns such arrays. If
    it takes an argument ``n_samples``, it is told how many rows are wanted.

    Parameters
    ----------
    function : callable
        The function. Without it a decorator is returned.
    batch_size : int, default=None
        The most rows in one call; None means all of them. Batches can run in
        parallel, and each has its own random numbers.

    Returns
    -------
    function : callable
        The same, marked.

    See Also
    --------
    make_simulator : Where it is used.

    Examples
    --------
    >>> from skmdn.simulation import make_simulator, vectorized
    >>> def theta(rng):
    ...     return rng.normal()
    >>> @vectorized
    ... def x(theta, rng):
    ...     return theta + rng.normal(size=theta.shape)
    >>> make_simulator([theta, x]).sample(3, random_state=0)["x"].shape
    (3,)
    """
    if function is None:
        return lambda function: Vectorized(function, batch_size)
    return Vectorized(function, batch_size)


@dataclass(frozen=True)
class Function:
    """A function as a simulator sees it.

    Parameters
    ----------
    call : callable
        The function itself.
    name : str
        Names the output if it is a single array.
    arguments : dict of str to bool
        The names of its arguments and whether they are required.
    takes_all : bool
        Whether it has ``**kwargs``: then it gets every output so far.
    vectorized : bool
        Whether one call makes many rows.
    batch_size : int or None
        The most rows of one call.
    outputs : tuple of str
        What it returns, where that is known before.
    """

    call: Callable[..., Any]
    name: str
    arguments: Mapping[str, bool]
    takes_all: bool = False
    vectorized: bool = False
    batch_size: int | None = None
    outputs: tuple[str, ...] = ()

    @property
    def special(self) -> tuple[str, ...]:
        """What it is given that is no output of a function."""
        return ("rng", "n_samples") if self.vectorized else ("rng",)

    def select(self, known: Any) -> list[str]:
        """Return the outputs it needs, or say which one is missing."""
        wanted = []
        for name, required in self.arguments.items():
            if name in self.special:
                continue
            if name in known:
                wanted.append(name)
            elif required:
                hint = ""
                if name == "n_samples":
                    hint = (
                        " n_samples is for functions that make all rows in one call: "
                        "mark them by vectorized."
                    )
                raise ValueError(
                    f"{self.name}() needs {name!r}, which no function before it "
                    f"returns; there are {sorted(known)}.{hint}"
                )
        if self.takes_all:
            wanted += [name for name in known if name not in self.arguments]
        return wanted


def read_function(function: Any, name: str | None = None) -> Function:
    """Read the signature of a function."""
    marked = isinstance(function, Vectorized)
    call = function.function if marked else function
    if not callable(call):
        raise TypeError(
            "A simulator is made of functions, distributions by name, and other "
            f"simulators; got {function!r}."
        )
    name = name or getattr(call, "__name__", "")
    if not name.isidentifier():
        raise TypeError(
            f"{call!r} has no name for its output: give the functions as a mapping "
            "from names to functions."
        )
    arguments, takes_all = {}, False
    for parameter in inspect.signature(call).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_all = True
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise TypeError(
                f"{name}() has the argument {parameter}, which cannot be given by name."
            )
        else:
            arguments[parameter.name] = parameter.default is parameter.empty
    batch_size = function.batch_size if marked else None
    return Function(function, name, arguments, takes_all, marked, batch_size)


# Random numbers.


def entropy_from(random_state: Any) -> int:
    """Return a seed of many bits: the state's own, or the next from a generator."""
    if random_state is None:
        return int(np.random.SeedSequence().entropy)  # type: ignore[arg-type]
    if isinstance(random_state, numbers.Integral):
        if random_state < 0:
            raise ValueError(f"random_state must not be negative, got {random_state}.")
        return int(random_state)
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**63))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    raise ValueError(
        "random_state must be an int, a numpy Generator or RandomState, or None; "
        f"got {random_state!r}."
    )


def row_generators(entropy: int, place: int) -> Callable[[int], np.random.Generator]:
    """Return what makes the generator of a row, or of a batch by its first row.

    Its stream depends on the seed, on the function's place and on the row, and on
    nothing else: not on the other rows, nor on the process. One generator serves
    all rows in turn, because setting its counter is much cheaper than a new one.
    """
    seeds = np.random.SeedSequence(entropy, spawn_key=(place,))
    bits = np.random.Philox(key=seeds.generate_state(2, np.uint64))
    state = bits.state
    generator = np.random.Generator(bits)

    def of_row(row: int) -> np.random.Generator:
        state["state"]["counter"][3] = row
        bits.state = state
        return generator

    return of_row


# Outputs.


@dataclass
class Column:
    """One output of all rows.

    Parameters
    ----------
    values : ndarray of shape (n_samples, ...)
        Ragged rows are padded by 0.
    lengths : ndarray of shape (n_samples,) or None
        How many items of each row are real.
    """

    values: np.ndarray
    lengths: np.ndarray | None = None

    def row(self, i: int) -> Any:
        """Return a row as the function made it."""
        value = self.values[i]
        if self.lengths is not None:
            value = value[: self.lengths[i]]
        return value

    def take(self, rows: np.ndarray) -> "Column":
        """Return some rows."""
        lengths = None if self.lengths is None else self.lengths[rows]
        return Column(self.values[rows], lengths)

    def mask(self) -> np.ndarray:
        """Tell which items are real, ``(n_samples, n_items)``."""
        assert self.lengths is not None
        return np.arange(self.values.shape[1]) < self.lengths[:, None]


@dataclass
class Outputs:
    """What a function made of some rows.

    Parameters
    ----------
    rows : ndarray of shape (n_kept,)
        Which of the rows went well.
    columns : dict of str to Column
        Their outputs.
    failures : Counter
        How often something went wrong, by what it was.
    """

    rows: np.ndarray
    columns: dict[str, Column]
    failures: Counter[str] = field(default_factory=Counter)


def run_rows(
    function: Function,
    columns: Mapping[str, Column],
    rows: np.ndarray,
    entropy: int,
    place: int,
    catch: bool,
) -> list[Any]:
    """Call a function once for each row; a failure is answered by its description."""
    generator = row_generators(entropy, place)
    draws = "rng" in function.arguments
    results: list[Any] = []
    for i, row in enumerate(rows):
        given = {name: column.row(i) for name, column in columns.items()}
        if draws:
            given["rng"] = generator(int(row))
        try:
            results.append(named(function, function.call(**given)))
        except _MISTAKES:
            raise
        except Exception as error:
            if not catch:
                error.add_note(f"{function.name}() raised this for simulation {row}.")
                raise
            results.append(f"{function.name}() raised {type(error).__name__}: {error}")
    return results


def run_batch(
    function: Function,
    columns: Mapping[str, Column],
    rows: np.ndarray,
    entropy: int,
    place: int,
) -> dict[str, np.ndarray]:
    """Call a function once for all these rows."""
    given: dict[str, Any] = {name: column.values for name, column in columns.items()}
    if "rng" in function.arguments:
        given["rng"] = row_generators(entropy, place)(int(rows[0]) if len(rows) else 0)
    if "n_samples" in function.arguments:
        given["n_samples"] = len(rows)
    outputs = {}
    for name, value in named(function, function.call(**given)).items():
        outputs[name] = array = numeric(value, name, function)
        if not array.ndim or len(array) != len(rows):
            raise ValueError(
                f"{function.name}() is vectorized and has to return one row for each "
                f"of {len(rows)} simulations; {name!r} has the shape {array.shape}."
            )
    return outputs


def named(function: Function, result: Any) -> dict[str, Any]:
    """Return outputs by name; a single array is named by the function."""
    if not isinstance(result, Mapping):
        if result is None:
            raise TypeError(f"{function.name}() returned None.")
        return {function.name: result}
    for name in result:
        if not isinstance(name, str) or not name.isidentifier():
            raise TypeError(
                f"{function.name}() returned an output named {name!r}; the next "
                "functions get outputs as arguments, so names must be identifiers."
            )
    return dict(result)


def numeric(value: Any, name: str, function: Function) -> np.ndarray:
    """Return an output as an array of numbers."""
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.empty((), dtype=object)
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"{function.name}() returned no array of numbers for {name!r}, but "
            f"{value!r:.80}."
        )
    return array


def stack(function: Function, results: list[Any]) -> Outputs:
    """Put the results of rows side by side; ragged ones are padded."""
    kept = [i for i, result in enumerate(results) if isinstance(result, dict)]
    failures = Counter(result for result in results if isinstance(result, str))
    outputs = Outputs(np.array(kept, dtype=int), {}, failures)
    if not kept:
        return outputs
    names = list(results[kept[0]])
    for i in kept:
        if set(results[i]) != set(names):
            raise ValueError(
                f"{function.name}() must return the same outputs for every row; it "
                f"returned {sorted(names)} and {sorted(results[i])}."
            )
    for name in names:
        arrays = [numeric(results[i][name], name, function) for i in kept]
        outputs.columns[name] = _stacked(arrays, name, function)
    return outputs


def _stacked(arrays: list[np.ndarray], name: str, function: Function) -> Column:
    """Stack the rows of one output; their first axis may differ in length."""
    shapes = {array.shape for array in arrays}
    if len(shapes) == 1:
        return Column(np.stack(arrays))
    if () in shapes or len({shape[1:] for shape in shapes}) > 1:
        some = sorted(shapes, key=str)[:3]
        raise ValueError(
            f"{function.name}() returned rows of different shapes for {name!r}: "
            f"{', '.join(map(str, some))}. Only the first axis may differ."
        )
    lengths = np.array([len(array) for array in arrays])
    shape = (len(arrays), lengths.max(), *arrays[0].shape[1:])
    values = np.zeros(shape, dtype=np.result_type(*arrays))
    for i, array in enumerate(arrays):
        values[i, : len(array)] = array
    return Column(values, lengths)
