"""Calls from many threads share a few workers: small calls are not held up by large ones, items of
several calls make one batch, and what nobody waits for any more is not worked on.

The order is that of start-time fair queueing (Goyal, Vin & Cheng 1996). Every item has a tag: the
tag of its call's item before it, or for the first one the tag that is being served now, plus the
item's own cost. The lowest tag is served next. So a call of one cheap item passes a call of many
dear ones, and a dear item waits for a bounded amount of cheap ones.
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

BATCH = 16
"items of one batch, by default"
LOOK = 0.1
"seconds between two looks whether the caller is still there"

caller_left: ContextVar[Callable[[], bool]] = ContextVar("caller_left", default=lambda: False)
"Whether the client of the request that is being answered has gone; a server sets it."

pictures_known: ContextVar[Callable[[], None]] = ContextVar("pictures_known", default=lambda: None)
"To be called when a request has been read and waits for its pictures; a server sets it."


class CallerLeftError(Exception):
    """The items of this call are dropped: nobody waits for them."""


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


Taken = tuple[_Call[Item, Answer], int]
"a call and the number of one of its items"


class Together(Generic[Item, Answer]):
    """A function over lists, called from many threads.

    Args:
        work: an answer per item, in their order, which does not depend on the items beside it.
        batch: items of one call of `work`, at most.
        threads: that call it at the same time.
        cost: of an item, in any unit that is the same for all of them.
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
        """Wait for the answers.

        Raises:
            CallerLeftError: `caller_left` says so; items that are not begun are dropped.
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
        """One batch of what waits; nothing where an earlier batch took it all."""
        with self._guard:
            taken = list(self._take())
        try:
            self._answer(taken)
        except BaseException as error:  # of an interrupted thread: nobody else answers the calls
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
            for one in calls:  # one of them is to blame
                self._answer([(call, number) for call, number in taken if call is one])
            return
        for (call, number), answer in zip(taken, found, strict=True):
            call.answer(number, answer)
