"""Waiting calls share a batch; each gets its own answers, and its errors reach no other call.

A small call passes large ones, and items that nobody waits for are not processed.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.captioner.batcher import CallerLeftError, Together, caller_left


class Work:
    """Squares numbers; the first batch lasts until `go` is set."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.begun.set()
        assert self.go.wait(10)
        return [1 // (item + 1) + item * item for item in items]  # -1 raises an error


def call_while_busy(work: Work, further: list[list[int]]) -> tuple[list[int], list[object]]:
    """Return the answers of a first call with [3], and of further calls that all wait for it."""
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
        while len(together._waiting) < sum(map(bool, further)):
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
    work = Work()
    together = Together[int, int](work)

    def ask(items: list[int]) -> object:
        try:
            return together(items)
        except BaseException as error:
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
        assert {other.result(10) for other in others} == {RuntimeError}


def test_a_call_alone_is_answered_at_once_and_raises_its_own_error() -> None:
    work = Work()
    work.go.set()
    together = Together(work)
    assert together([2]) == [4]
    with pytest.raises(ZeroDivisionError):
        together([-1])
    assert together([1]) == [1]


def served(work: Work, together: Together[int, int], calls: list[list[int]]) -> list[int]:
    """Return the order in which the items of `calls` are processed.

    The calls arrive while a first call, with [0], is being processed.
    """
    with ThreadPoolExecutor(len(calls) + 1) as pool:
        asked = [pool.submit(together, [0])]
        assert work.begun.wait(10)
        for number, items in enumerate(calls, 1):
            asked.append(pool.submit(together, items))
            while len(together._waiting) < number:
                threading.Event().wait(0.005)
        work.go.set()
        for call in asked:
            call.result(10)
    return [item for batch in work.batches[1:] for item in batch]


def test_calls_take_turns_so_that_one_picture_passes_many() -> None:
    work = Work()
    order = served(work, Together(work, batch=1), [[11, 12, 13, 14], [21, 22], [31]])
    assert order == [11, 21, 31, 12, 22, 13, 14]


def test_a_batch_holds_some_of_every_call_and_no_more_than_it_may() -> None:
    work = Work()
    order = served(work, Together(work, batch=3), [[11, 12, 13, 14], [21, 22], [31]])
    assert [sorted(batch) for batch in work.batches[1:]] == [[11, 21, 31], [12, 13, 22], [14]]
    assert len(order) == 7


def test_a_cheap_item_passes_a_dear_one_which_is_not_put_off_for_ever() -> None:
    work = Work()
    cheap = [1] * 12
    order = served(work, Together(work, batch=1, cost=float), [[10, 10], cheap])
    assert order[0] == 1
    assert order.index(10) == 9  # the tenth cheap item has the same tag


def test_what_is_not_begun_when_its_caller_leaves_is_never_worked_on() -> None:
    work, left = Work(), threading.Event()
    together = Together(work, batch=1)

    def leave(items: list[int]) -> object:
        caller_left.set(left.is_set)
        try:
            return together(items)
        except CallerLeftError as error:
            return type(error)

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(together, [3])
        assert work.begun.wait(10)
        gone, stays = pool.submit(leave, [7, 8, 9]), pool.submit(together, [4, 5])
        while len(together._waiting) < 2:
            threading.Event().wait(0.005)
        left.set()
        assert gone.result(10) is CallerLeftError  # while the worker is still busy
        work.go.set()
        assert (first.result(10), stays.result(10)) == ([9], [16, 25])
    assert [item for batch in work.batches for item in batch] == [3, 4, 5]
