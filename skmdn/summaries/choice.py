"""Which summary network is meant by what a user gives."""

from typing import Any

from .attention import SetTransformer
from .base import Summary
from .flat import MLP
from .series import RecurrentSummary
from .sets import DeepSet

__all__ = ["summary_from"]

_NAMED: dict[str, type[Summary]] = {
    "deep_set": DeepSet,
    "mlp": MLP,
    "recurrent": RecurrentSummary,
    "set_transformer": SetTransformer,
}


def summary_from(summary: Any) -> Summary | None:
    """Return the summary that a name, an object or a factory stands for.

    Parameters
    ----------
    summary : {"deep_set", "set_transformer", "recurrent", "mlp"}, Summary, callable \
or None
        A callable returns a :class:`Summary`, such as one of these classes. None
        stands for no summary.

    Returns
    -------
    summary : Summary or None
        The object itself if one was given.

    Raises
    ------
    TypeError
        If it is none of these, or a callable returns something else.
    ValueError
        If there is no summary of that name.

    Examples
    --------
    >>> from skmdn.summaries import DeepSet, summary_from
    >>> summary_from("mlp")
    MLP(n_summaries=16, hidden_layer_sizes=(64, 64), activation='relu')
    >>> summary_from(lambda: DeepSet(4)).n_summaries
    4
    """
    if summary is None or isinstance(summary, Summary):
        return summary
    if isinstance(summary, str):
        if summary not in _NAMED:
            raise ValueError(
                f"summary must be one of {sorted(_NAMED)} or an object of "
                f"skmdn.summaries, got {summary!r}."
            )
        return _NAMED[summary]()
    made = summary() if callable(summary) else summary
    if not isinstance(made, Summary):
        raise TypeError(
            "summary must be a name, an object of skmdn.summaries, a function that "
            f"returns one, or None; got {summary!r}."
        )
    return made
