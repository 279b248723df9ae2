"""Pieces cut into parts of one size, and how fast they may go out."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from threading import Lock
from typing import final

Piece = bytes | memoryview


def parts(pieces: Iterable[Piece], size: int) -> Iterator[Piece]:
    """The same bytes in parts of exactly `size` bytes, the last one shorter; at least one part.

    A part that lies in one piece is a view of it, one that does not is a copy: nothing else is
    held. Takes no further piece than the part at hand needs.
    """
    held: list[Piece] = []
    room, is_first = size, True
    for piece in pieces:
        view = memoryview(piece).cast("B")
        while view:
            head, view = view[:room], view[room:]
            held.append(head)
            room -= len(head)
            if not room:
                yield held[0] if len(held) == 1 else b"".join(held)
                held, room, is_first = [], size, False
    if held or is_first:
        yield b"".join(held)


def split_single(found: Iterator[Piece]) -> tuple[Piece, Iterator[Piece] | None]:
    """The only part, or the first one and all of them where there are more."""
    first = next(found)
    second = next(found, None)
    return first, None if second is None else itertools.chain((first, second), found)


@final
class Pace:
    """A token bucket: what is taken over a long time comes at most at `bytes_per_second`.

    A second's worth may go out at once after a pause. Shared by any number of threads.

    Args:
        bytes_per_second: 0: no bound.
        clock, sleep: of time, for tests.
    """

    def __init__(
        self,
        bytes_per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._lock = Lock()
        self._free_at = clock()

    def take(self, count: int) -> None:
        """Blocks until `count` bytes may go out."""
        if not self._rate:
            return
        with self._lock:
            now = self._clock()
            start = max(self._free_at, now - 1.0)
            self._free_at = start + count / self._rate
            wait = self._free_at - now
        if wait > 0:
            self._sleep(wait)
