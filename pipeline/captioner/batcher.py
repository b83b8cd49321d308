"""Calls from many threads share a few workers.

Large calls do not hold up small ones. Items of several calls form one batch. Items that nobody
waits for any longer are dropped.

The order is that of start-time fair queueing (Goyal, Vin & Cheng 1996). Every item has a tag, which
is its own cost plus an earlier tag. For the first item of a call, that is the tag being served now;
for the others, it is the tag of the item before. The item with the lowest tag is served next. A
call of one cheap item therefore passes a call of many expensive ones. An expensive item waits only
for a bounded number of cheap ones.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")

# Default maximum number of items in a batch.
BATCH = 16
# Seconds between two checks whether the caller is still there.
LOOK = 0.1

# Tells whether the client of the current request has gone. A server sets it.
caller_left: ContextVar[Callable[[], bool]] = ContextVar("caller_left", default=lambda: False)

# Must be called when a request has been read and waits for its pictures. A server sets it.
pictures_known: ContextVar[Callable[[], None]] = ContextVar("pictures_known", default=lambda: None)


class CallerLeftError(Exception):
    """The items of this call were dropped because nobody waits for them."""


@dataclass(eq=False)
class _Call(Generic[Item, Answer]):
    items: Sequence[Item]
    answers: list[Any] = field(default_factory=list)
    taken: int = 0
    answered: int = 0
    error: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def fail(self, error: BaseException) -> None:
        self.error = error
        self.done.set()

    def answer(self, number: int, answer: Answer) -> None:
        self.answers[number] = answer
        self.answered += 1
        if self.answered == len(self.items):
            self.done.set()


# A call, and the number of one of its items.
Taken = tuple[_Call[Item, Answer], int]


class Together(Generic[Item, Answer]):
    """A function over lists that many threads can call.

    Args:
        work: returns one answer per item, in their order. An answer does not depend on the other
            items.
        batch: maximum number of items in one call of `work`.
        threads: number of threads that call `work` at the same time.
        cost: cost of an item, in any unit that is the same for all items.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], list[Answer]],
        batch: int = BATCH,
        threads: int = 1,
        cost: Callable[[Item], float] = lambda item: 1.0,
    ):
        self.work, self.batch, self.cost = work, batch, cost
        self._pool, self._guard = ThreadPoolExecutor(threads), threading.Lock()
        self._waiting: list[tuple[float, int, _Call[Item, Answer]]] = []
        self._now, self._number = 0.0, 0

    def __call__(self, items: Sequence[Item]) -> list[Answer]:
        """Wait for the answers, and return them.

        Raises:
            CallerLeftError: `caller_left` returned True; items that are not begun are dropped.
            Exception: whatever `work` raises on items of this call alone.
        """
        left = caller_left.get()
        call = _Call[Item, Answer](items, [None] * len(items))
        if not items:
            return []
        with self._guard:
            self._push(call, self._now)
        for _ in items:
            self._pool.submit(self._serve)
        while not call.done.wait(LOOK):
            if left():
                call.fail(CallerLeftError())
        if call.error:
            raise call.error
        return call.answers

    def _push(self, call: _Call[Item, Answer], after: float) -> None:
        tag, self._number = after + self.cost(call.items[call.taken]), self._number + 1
        heappush(self._waiting, (tag, self._number, call))

    def _serve(self) -> None:
        """Work on one batch of waiting items. Do nothing if earlier batches took them all."""
        with self._guard:
            taken = list(self._take())
        try:
            self._answer(taken)
        except BaseException as error:  # the thread is interrupted, and no other answers the calls
            for call, _ in taken:
                call.fail(RuntimeError(f"interrupted ({type(error).__name__})"))
            raise

    def _take(self) -> "list[Taken[Item, Answer]]":
        taken: list[Taken[Item, Answer]] = []
        while self._waiting and len(taken) < self.batch:
            tag, _, call = heappop(self._waiting)
            if call.done.is_set():  # it failed, or its caller left
                continue
            self._now = max(self._now, tag)
            taken.append((call, call.taken))
            call.taken += 1
            if call.taken < len(call.items):
                self._push(call, tag)
        return taken

    def _answer(self, taken: "list[Taken[Item, Answer]]") -> None:
        if not taken:
            return
        try:
            found = self.work([call.items[number] for call, number in taken])
        except Exception as error:
            calls = list(dict.fromkeys(call for call, _ in taken))
            if len(calls) == 1:
                calls[0].fail(error)
                return
            for one in calls:  # find the one that is to blame
                self._answer([(call, number) for call, number in taken if call is one])
            return
        for (call, number), answer in zip(taken, found, strict=True):
            call.answer(number, answer)
