"""One wanted range and everything that was done for it, and the queue of those that wait."""

import heapq
from collections.abc import Callable
from concurrent.futures import Future
from itertools import count
from typing import final

from ..store import StoredObject

Content = bytes | memoryview
Check = Callable[[Content], bool]


@final
class Range(Future[Content]):
    """A range that was asked for: its future, and what its fetcher knows of it."""

    def __init__(
        self, obj: StoredObject, start: int, stop: int, due: float, check: Check | None
    ) -> None:
        super().__init__()
        self.obj = obj
        self.start = start
        self.stop = stop
        self.due = due
        self.check = check
        self.began: float | None = None
        self.failed: float | None = None
        self.failures = 0
        self.mismatches = 0
        self.wait = 0.0
        self.requests = 0
        self.is_hedged = False
        self.is_waiting = False
        self.is_over = False


@final
class Queue:
    """Ranges by when they are due, the earliest first; among equals the first asked for."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Range]] = []
        self._number = count()
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def push(self, one: Range) -> None:
        if not one.is_waiting:
            one.is_waiting = True
            self._waiting += 1
        heapq.heappush(self._heap, (one.due, next(self._number), one))

    def hurry(self, one: Range, due: float) -> None:
        """Moves a range forward; what is due earlier already stays."""
        if due < one.due:
            one.due = due
            if one.is_waiting:
                self.push(one)

    def pop(self) -> Range | None:
        """The range that is due first; None where none waits. Cancelled ones are dropped."""
        while self._heap:
            due, _, one = heapq.heappop(self._heap)
            if not one.is_waiting or due != one.due:
                continue  # it was moved forward, and this is where it stood before
            one.is_waiting = False
            self._waiting -= 1
            if one.is_over:
                continue  # it waited to be asked for again, and a request under way answered
            if one.running() or one.set_running_or_notify_cancel():
                return one
        return None

    def drain(self) -> list[Range]:
        """Takes out all that wait."""
        found = [one for due, _, one in self._heap if one.is_waiting and due == one.due]
        self._heap.clear()
        self._waiting = 0
        return found
