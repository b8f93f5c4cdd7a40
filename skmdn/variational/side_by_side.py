"""Computations side by side whose questions are answered together.

Each runs in a thread, so that it may ask from wherever it is; only one of them runs at
a time, and all questions are answered in the thread that began, when every computation
waits for an answer. What a computation returns does not depend on the others, as long
as its answers do not.
"""

import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from queue import SimpleQueue
from typing import Any

__all__ = ["asker", "run_side_by_side"]

_ASKER: ContextVar[Callable[[Any], Any] | None] = ContextVar("asker", default=None)


def asker() -> Callable[[Any], Any] | None:
    """Return where this computation asks its questions, None if it is alone."""
    return _ASKER.get()


class _Stopped(BaseException):
    """Another computation has failed: this one ends at its question."""


class _Strand:
    """A computation in a thread that runs only while the others wait."""

    def __init__(self, task: Callable[[], Any]) -> None:
        self.task = task
        self.answers: SimpleQueue[Any] = SimpleQueue()
        self.messages: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> tuple[str, Any]:
        """Run until the first question; return it, the result or the error."""
        self.thread.start()
        return self.messages.get()

    def resume(self, answer: Any) -> tuple[str, Any]:
        """Run until the next one."""
        self.answers.put(answer)
        return self.messages.get()

    def stop(self) -> None:
        """End it at its question."""
        self.answers.put(_Stopped())
        self.thread.join()

    def _run(self) -> None:
        # A new thread has a context of its own: this is undone when it ends.
        _ASKER.set(self._ask)
        try:
            self.messages.put(("result", self.task()))
        except BaseException as error:
            self.messages.put(("error", error))

    def _ask(self, question: Any) -> Any:
        self.messages.put(("question", question))
        answer = self.answers.get()
        if isinstance(answer, _Stopped):
            raise answer
        return answer


def run_side_by_side(
    tasks: Sequence[Callable[[], Any]],
    answer: Callable[[list[Any]], list[Any]],
    width: int,
) -> list[Any]:
    """Return the results of computations, in order.

    Parameters
    ----------
    tasks : sequence of callable
        The computations; within them, ``asker()`` is the function that asks.
    answer : callable
        Maps the questions that wait to their answers, in the order of the tasks.
    width : int
        How many are begun before the first has ended.

    Raises
    ------
    BaseException
        What a computation or ``answer`` raises; the others are ended.
    """
    results: list[Any] = [None] * len(tasks)
    strands: dict[int, _Strand] = {}
    questions: dict[int, Any] = {}

    def follow(i: int, kind: str, content: Any) -> None:
        if kind == "question":
            questions[i] = content
            return
        del strands[i]
        if kind == "error":
            raise content
        results[i] = content

    n_begun = 0
    try:
        while strands or n_begun < len(tasks):
            while n_begun < len(tasks) and len(strands) < width:
                i, n_begun = n_begun, n_begun + 1
                strands[i] = _Strand(tasks[i])
                follow(i, *strands[i].start())
            asking, questions = questions, {}
            answers = answer(list(asking.values())) if asking else []
            for i, reply in zip(asking, answers, strict=True):
                follow(i, *strands[i].resume(reply))
    finally:
        for strand in strands.values():
            strand.stop()
    return results
