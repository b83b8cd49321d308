"""Waiting calls share a batch, each gets its own answers, and the error of one is nobody else's."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.captioning.batcher import Together


class Work:
    """Squares; the first batch lasts until it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.begun.set()
        assert self.go.wait(10)
        return [1 // (item + 1) + item * item for item in items]  # -1 is an error


def call_while_busy(work: Work, further: list[list[int]]) -> tuple[list[int], list[object]]:
    """The answers of a first call of [3], and of further ones that all wait for it."""
    together = Together(work)

    def ask(items: list[int]) -> object:
        try:
            return together(items)
        except ZeroDivisionError as error:
            return type(error)

    with ThreadPoolExecutor(len(further) + 1) as pool:
        first = pool.submit(together, [3])
        assert work.begun.wait(10)
        others = [pool.submit(ask, items) for items in further]
        while len(together._waiting) < len(further):
            threading.Event().wait(0.005)
        work.go.set()
        return first.result(10), [other.result(10) for other in others]


def test_what_waits_is_one_batch_and_each_call_has_its_own_answers() -> None:
    work = Work()
    first, others = call_while_busy(work, [[1, 2], [], [5]])
    assert (first, others) == ([9], [[1, 4], [], [25]])
    assert [sorted(batch) for batch in work.batches] == [[3], [1, 2, 5]]


def test_the_error_of_one_call_is_that_calls_alone() -> None:
    work = Work()
    first, others = call_while_busy(work, [[1], [2, -1], [5]])
    assert (first, others) == ([9], [[1], ZeroDivisionError, [25]])


def test_an_interruption_leaves_no_call_without_an_answer() -> None:
    work, interrupted = Work(), threading.Event()
    together = Together[int, int](work)

    def ask(items: list[int]) -> object:
        try:
            return together(items)
        except BaseException as error:
            interrupted.set()
            return type(error)

    def stop(items: list[int]) -> list[int]:
        raise KeyboardInterrupt

    with ThreadPoolExecutor(3) as pool:
        pool.submit(ask, [3])
        assert work.begun.wait(10)
        others = [pool.submit(ask, [n]) for n in (1, 2)]
        while len(together._waiting) < 2:
            threading.Event().wait(0.005)
        together.work = stop
        work.go.set()
        assert {other.result(10) for other in others} == {KeyboardInterrupt, RuntimeError}


def test_a_call_alone_is_answered_at_once_and_raises_its_own_error() -> None:
    work = Work()
    work.go.set()
    together = Together(work)
    assert together([2]) == [4]
    with pytest.raises(ZeroDivisionError):
        together([-1])
    assert together([1]) == [1]
