"""Byte ranges of shard files -> memory, each piece proven: many threads, little memory.

Knows what is to be read and where to; not why.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import final

import numpy as np

from .manifest import ChunkEntry
from .pieces import PIECE_BYTES
from .seal import Opener
from .shardfile import prove_piece, read_range
from .stores import Store

# One read of a local disk, or one request; as many threads as many of these are in memory.
UNIT_BYTES = 2 * PIECE_BYTES


@final
@dataclass(frozen=True, slots=True)
class Span:
    """Whole pieces of one chunk, in a row, no more bytes than a unit; and who gets them.

    Args:
        first: which piece is the first.
        into: memory of just these bytes, or what takes them from memory that is then used again.
    """

    entry: ChunkEntry
    first: int
    count: int
    into: memoryview | Callable[[memoryview], None]

    @property
    def start(self) -> int:
        """Of its first byte in the file."""
        return self.entry.start + self.first * PIECE_BYTES

    @property
    def end(self) -> int:
        return min(self.start + self.count * PIECE_BYTES, self.entry.end)


@final
class Transfer:
    """Reads spans of one checkpoint.

    Args:
        opener: of the checkpoint, where it is encrypted.
    """

    def __init__(self, place: Store, folder: str, opener: Opener | None) -> None:
        self._place = place
        self._folder = folder
        self._path = place.address(folder)
        self._opener = opener
        self._scratch = threading.local()

    def run(self, spans: Iterable[Span]) -> None:
        """Reads and proves all of them; blocks. After it raised, their memory holds anything.

        Raises:
            CorruptError: for a byte that is wrong, missing or short.
            SealError: as the opener.
            OSError: for a place that does not answer.
        """
        units = batches(spans, self._place.smallest_read)
        if len(units) < 2 or self._place.reads_at_once < 2:
            for unit in units:
                self.read(unit)
            return
        with ThreadPoolExecutor(self._place.reads_at_once, "keepstep-read") as pool:
            waiting = [pool.submit(self.read, unit) for unit in units]
            done, others = wait(waiting, return_when=FIRST_EXCEPTION)
            for other in others:
                other.cancel()
        _raise_first(one for one in waiting if one in done or one.done())

    def read(self, unit: Sequence[Span]) -> None:
        """Reads spans that lie in one unit, as `batches` made it; raises as `run`."""
        first = unit[0]
        if len(unit) == 1 and isinstance(first.into, memoryview):
            read_range(self._place, self._folder, first.entry.file, first.start, first.into)
            self._prove(first, first.into)
            return
        data = self._memory(unit[-1].end - first.start)
        read_range(self._place, self._folder, first.entry.file, first.start, data)
        for span in unit:
            part = data[span.start - first.start : span.end - first.start]
            self._prove(span, part)
            if isinstance(span.into, memoryview):
                span.into[:] = part
            else:
                span.into(part)

    def _prove(self, span: Span, data: memoryview) -> None:
        for index in range(span.count):
            piece = data[index * PIECE_BYTES : (index + 1) * PIECE_BYTES]
            prove_piece(self._path, span.entry, span.first + index, piece, self._opener)

    def _memory(self, count: int) -> memoryview:
        """This thread's, which the next unit uses again."""
        held: memoryview | None = getattr(self._scratch, "data", None)
        if held is None or len(held) < count:
            held = self._scratch.data = np.empty(count, dtype=np.uint8).data
        return held[:count]


def batches(spans: Iterable[Span], smallest: int) -> list[list[Span]]:
    """Units: spans in the files' order; those of fewer bytes than `smallest` that lie beside one
    another together."""
    found: list[list[Span]] = []
    size = UNIT_BYTES
    for span in sorted(spans, key=lambda span: (span.entry.file, span.start)):
        length = span.end - span.start
        last = found[-1][-1] if found else span
        if (
            length < smallest
            and size + length <= UNIT_BYTES
            and (last.entry.file, last.end) == (span.entry.file, span.start)
            and last is not span
        ):
            found[-1].append(span)
            size += length
        else:
            found.append([span])
            size = length if length < smallest else UNIT_BYTES
    return found


def _raise_first(futures: Iterable[Future[None]]) -> None:
    for future in futures:
        if not future.cancelled() and (error := future.exception()) is not None:
            raise error
