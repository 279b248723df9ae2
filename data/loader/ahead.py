"""What will be read and when, far ahead of reading it: the source is told. Reads nothing itself."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import final

import numpy as np

from ..order.permutation import Integers
from ..sources.source import Stored

_PAUSE_SECONDS = 0.005
_UNKNOWN_RATE = 1e6
# Beyond the pool of samples that are wanted at about the same time: long enough for late answers,
# second requests and short outages.
_LEAD_SECONDS = 10.0
_LEAD_SAMPLES = 65_536
# For so long the first samples are left alone: working out those after them takes the processor
# from what brings the first batch.
_FIRST_SECONDS = 0.1

EpochsAndIds = tuple[Integers, Integers]
"""Of some samples: the epoch of each in its own source, and its id."""


@final
class Pace:
    """How many of its samples a reader consumes a second, and how many it has.

    Written by the reader's thread alone; others may read it at any time.
    """

    def __init__(self) -> None:
        self.consumed = 0
        self.rate = _UNKNOWN_RATE
        self._since: float | None = None

    def take(self, samples: int, now: float) -> None:
        """Counts samples that were just handed out."""
        self.consumed += samples
        if self._since is not None and now > self._since:
            latest = samples / (now - self._since)
            # The first measure counts whole: what stood here before was no measure.
            weight = 0.1 if self.rate != _UNKNOWN_RATE else 1.0
            self.rate += weight * (latest - self.rate)
        self._since = now


@final
class Ahead(threading.Thread):
    """Works out chunks of sample ids, hands them to the reader in turn, and announces them, a few
    samples at a time.

    All blocks of a pool are begun within its first steps, and over at its end: so a whole pool is
    announced ahead, and some seconds, but no farther than the accesses have room for.

    Args:
        group: samples that are read, and announced, at once; two of these beyond the reader's are
            announced whatever is on its way.
        pool: samples of the reader that are wanted at about the same time.
        stop: samples in all; those after it are not announced. None: without end.
    """

    def __init__(
        self,
        source: Stored,
        chunks: Iterator[EpochsAndIds],
        pace: Pace,
        *,
        group: int,
        pool: int,
        stop: int | None = None,
    ) -> None:
        super().__init__(name="keepstep-ahead", daemon=True)
        self._source = source
        self._accesses = source.accesses
        self._sample_bytes = source.sample_bytes
        self._chunks = chunks
        self._pace = pace
        self._group = group
        self._pool = pool
        self._end = stop
        self._stopping = threading.Event()
        self._announced = 0
        self._ready: queue.SimpleQueue[EpochsAndIds | Exception] = queue.SimpleQueue()

    def run(self) -> None:
        try:
            self._announce()
        except Exception as error:  # the reader raises it
            self._ready.put(error)

    def taken(self) -> Iterator[EpochsAndIds]:
        """The chunks, in order; waits for each. For one other thread; ends with `stop`."""
        while True:
            try:
                chunk = self._ready.get(timeout=1.0)
            except queue.Empty:
                if self._stopping.is_set():
                    return
                continue
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    def stop(self, timeout_seconds: float) -> None:
        self._stopping.set()
        self.join(timeout_seconds)

    def _announce(self) -> None:
        for epochs, ids in self._chunks:
            is_first = not self._announced
            if not is_first:
                self._ready.put((epochs, ids))
            for first in range(0, len(ids), self._group):
                while self._should_wait() and not self._stopping.is_set():
                    self._stopping.wait(_PAUSE_SECONDS)
                if self._stopping.is_set():
                    return
                self._tell(ids[first : first + self._group])
                if is_first:
                    # Announced before its reader has it, who would only take turns with this
                    # thread in asking for the same.
                    self._ready.put((epochs, ids))
                    self._wait_for_first(time.monotonic() + _FIRST_SECONDS)

    def _wait_for_first(self, deadline: float) -> None:
        while not self._pace.consumed and time.monotonic() < deadline:
            if self._stopping.wait(_PAUSE_SECONDS / 5):
                return

    def _tell(self, ids: Integers) -> None:
        left = len(ids) if self._end is None else max(0, self._end - self._announced)
        if left:
            distance = self._announced - self._pace.consumed + np.arange(len(ids))
            due = time.monotonic() + np.maximum(distance, 0) / self._pace.rate
            self._source.want(ids[:left], due[:left])
        self._announced += len(ids)

    def _should_wait(self) -> bool:
        lead = self._announced - self._pace.consumed
        if lead < 2 * self._group:
            return False
        rate = self._pace.rate
        some = _LEAD_SAMPLES if rate == _UNKNOWN_RATE else _LEAD_SECONDS * rate
        room = max((one.ahead_bytes for one in self._accesses), default=0)
        most = min(self._pool + some, room / self._sample_bytes)
        return lead >= most or any(one.is_full for one in self._accesses)


def following(
    next_use: Callable[[Integers, int], Integers], position: Callable[[], int], stop: int | None
) -> Callable[[Integers], Integers]:
    """`next_use` of an order as seen from where the reader is now; what is only wanted after the
    run's end, at position `stop`, is wanted never (2^62)."""

    def uses(ids: Integers) -> Integers:
        found = next_use(ids, position())
        return found if stop is None else np.where(found < stop, found, 2**62)

    return uses
