"""Calls from many threads, answered in batches: what comes while one is worked on goes into the
next together."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(eq=False)
class _Call(Generic[Item, Answer]):
    items: list[Item]
    answers: list[Answer] = field(default_factory=list)
    error: Exception | None = None
    done: bool = False


class Together(Generic[Item, Answer]):
    """A function over lists that runs in one thread at a time, on the items of all calls that wait.

    Args:
        work: an answer per item, in their order, which does not depend on the items beside it.
    """

    def __init__(self, work: Callable[[list[Item]], list[Answer]]):
        self.work = work
        self._turn, self._guard = threading.Lock(), threading.Lock()
        self._waiting: list[_Call[Item, Answer]] = []

    def __call__(self, items: list[Item]) -> list[Answer]:
        """Raises whatever `work` raises on these items alone."""
        call = _Call[Item, Answer](items)
        with self._guard:
            self._waiting.append(call)
        with self._turn:
            if not call.done:
                with self._guard:
                    calls, self._waiting = self._waiting, []
                self._answer(calls)
        if call.error:
            raise call.error
        return call.answers

    def _answer(self, calls: list[_Call[Item, Answer]]) -> None:
        try:
            found = iter(self.work([item for call in calls for item in call.items]))
            for call in calls:
                call.answers, call.done = list(islice(found, len(call.items))), True
        except Exception as error:
            if len(calls) > 1:  # one of them is to blame
                for call in calls:
                    self._answer([call])
            else:
                calls[0].error, calls[0].done = error, True
        except BaseException:  # of an interrupted thread; the others are answered by nobody else
            for call in calls:
                call.error, call.done = RuntimeError("interrupted"), True
            raise
