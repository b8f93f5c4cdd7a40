"""Computations side by side: order, questions put together, errors, no thread left."""

import threading

import pytest

from skmdn.variational.side_by_side import asker, run_side_by_side


def counting(n_questions):
    """Return a computation that asks for doubles, and adds them up."""

    def task():
        return sum(asker()(i) for i in range(n_questions))

    return task


def doubled(asked):
    def answer(questions):
        asked.append(questions)
        return [2 * question for question in questions]

    return answer


def test_questions_are_put_together_and_results_in_order():
    asked = []
    results = run_side_by_side([counting(n) for n in (3, 1, 0, 2)], doubled(asked), 9)
    assert results == [6, 0, 0, 2]
    assert asked == [[0, 0, 0], [1, 1], [2]]


def test_no_more_are_begun_than_allowed():
    asked = []
    results = run_side_by_side([counting(2) for _ in range(5)], doubled(asked), 2)
    assert results == [2] * 5
    assert max(len(questions) for questions in asked) == 2
    assert len(asked) == 6


def test_questions_are_answered_where_it_began():
    threads = []

    def answer(questions):
        threads.append(threading.current_thread())
        return questions

    run_side_by_side([counting(1)] * 3, answer, 3)
    assert set(threads) == {threading.current_thread()}
    assert asker() is None


def failing():
    asker()(1)
    raise KeyError("a row")


@pytest.mark.parametrize("place", [0, 2])
def test_an_error_ends_all(place):
    before = threading.active_count()
    tasks = [counting(5) for _ in range(3)]
    tasks[place] = failing
    with pytest.raises(KeyError, match="a row"):
        run_side_by_side(tasks, doubled([]), 3)
    assert threading.active_count() == before


def test_an_answer_that_fails_ends_all():
    before = threading.active_count()

    def answer(questions):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_side_by_side([counting(5)] * 3, answer, 3)
    assert threading.active_count() == before
