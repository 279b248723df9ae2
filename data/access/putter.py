"""One thread that puts what came in into the cache, while readers already have it."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, final

# Puts come slower than bytes now and then: so much may wait, or so many where they are small.
_MOST_BYTES, _MOST_WAITING = 64 * 2**20, 512
_ALL = 1 << 20
_PAUSE_SECONDS = 0.002
# No longer: another process may wait for this very extent, and this one's reader for one of its.
_PUT_OFF_SECONDS = 0.05


class Arrival(NamedTuple):
    """An extent's bytes, and what puts them; `put` raises nothing."""

    extent: int
    content: memoryview
    put: Callable[[], None]
    since: float
    """time.monotonic seconds."""


@final
class Putter:
    """Puts arrivals in turn; the thread starts with the first. Safe to call from many threads.

    One thread, since many would only wait for one another inside of the cache, and take from those
    that fetch; and it lets readers go first, who wait for the processor as it does.

    Args:
        is_waited_for: whether a reader waits; puts are then put off a little.
    """

    def __init__(self, is_waited_for: Callable[[], bool]) -> None:
        self._is_waited_for = is_waited_for
        self.contents: dict[int, memoryview] = {}
        """What is not put yet, by extent."""
        self._queue: deque[Arrival] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        # Two, and seldom notified as a whole: with one, every arrival and every put woke all that
        # fetch, who only looked and waited again; that took half of a cold epoch.
        self._work = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def add(self, arrival: Arrival) -> None:
        """Has it put. Waits where many wait already; once closed, puts it here and now."""
        with self._lock:
            self.contents[arrival.extent] = arrival.content
            if not self._is_closed:
                self._queue.append(arrival)
                self._bytes += len(arrival.content)
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._run, name="keepstep-put", daemon=True
                    )
                    self._thread.start()
                self._work.notify()
                return
        self._put(arrival)

    def wait_for_room(self) -> None:
        """Waits while many arrivals wait: whoever fetches more would only fill the memory."""
        with self._lock:
            while self._load() >= 1.0 and not self._is_closed:
                self._room.wait()

    def close(self) -> None:
        """Puts what is left, and ends the thread; safe twice."""
        with self._lock:
            self._is_closed = True
            self._work.notify_all()
            self._room.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._queue and not self._is_closed:
                    self._work.wait()
                if not self._queue:
                    return
                if self._should_wait():
                    self._work.wait(_PAUSE_SECONDS)
                    continue
                arrival = self._queue.popleft()
                self._bytes -= len(arrival.content)
                if self._load() < 1.0:
                    self._room.notify(1 if self._load() > 0.5 else _ALL)
            self._put(arrival)

    def _load(self) -> float:
        """What waits, as a share of what may."""
        return max(self._bytes / _MOST_BYTES, len(self._queue) / _MOST_WAITING)

    def _should_wait(self) -> bool:
        if self._is_closed or self._load() >= 0.5:
            return False
        has_time = time.monotonic() - self._queue[0].since < _PUT_OFF_SECONDS
        return has_time and self._is_waited_for()

    def _put(self, arrival: Arrival) -> None:
        arrival.put()
        # Another arrival of the same extent may be here by now.
        if self.contents.get(arrival.extent) is arrival.content:
            del self.contents[arrival.extent]
