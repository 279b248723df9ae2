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
# Where all of it lies in the cache already nothing is ever full; farther than this helps nobody.
_LONGEST_LEAD = 65_536

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
    """Works out chunks of sample ids, announces them, and hands them to the reader in turn.

    It goes on until the source has enough on its way, and then waits.
    """

    def __init__(self, source: Stored, chunks: Iterator[EpochsAndIds], pace: Pace) -> None:
        super().__init__(name="keepstep-ahead", daemon=True)
        self._source = source
        self._accesses = source.accesses
        self._chunks = chunks
        self._pace = pace
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
            self._ready.put((epochs, ids))
            distance = self._announced - self._pace.consumed + np.arange(len(ids))
            self._source.want(ids, time.monotonic() + np.maximum(distance, 0) / self._pace.rate)
            self._announced += len(ids)
            while self._should_wait(len(ids)):
                if self._stopping.wait(_PAUSE_SECONDS):
                    return
            if self._stopping.is_set():
                return

    def _should_wait(self, chunk: int) -> bool:
        """One chunk beyond the reader's is always announced, whatever is on its way."""
        lead = self._announced - self._pace.consumed
        is_enough = lead >= _LONGEST_LEAD or any(one.is_full for one in self._accesses)
        return lead >= 2 * chunk and is_enough


def following(
    next_use: Callable[[Integers, int], Integers], position: Callable[[], int], stop: int | None
) -> Callable[[Integers], Integers]:
    """`next_use` of an order as seen from where the reader is now; what is only wanted after the
    run's end, at position `stop`, is wanted never (2^62)."""

    def uses(ids: Integers) -> Integers:
        found = next_use(ids, position())
        return found if stop is None else np.where(found < stop, found, 2**62)

    return uses
