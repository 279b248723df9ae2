"""Byte ranges of shard files -> memory, each piece proven: many threads, little memory.

Knows what is to be read and where to; not why.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import final

from .manifest import ChunkEntry
from .pieces import PIECE_BYTES
from .seal import Opener
from .shardfile import opened, prove_piece
from .stores import Reads, Store
from .stores.scratch import Scratch

# What is shorter is read together with its neighbours.
SMALL_BYTES = 2**20


@final
@dataclass(frozen=True, slots=True)
class Span:
    """Whole pieces of one chunk, in a row, to be read at once; and who gets them.

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


Unit = Sequence[Span]
"""What is read at once: one span, or small ones that lie beside one another."""
Run = Sequence[Unit]
"""Units of one file that one thread reads in a row."""


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
        self._scratch = Scratch()
        self.most_pieces = max(1, place.reads.unit_bytes // PIECE_BYTES)
        """How many pieces of a chunk make a span at most."""

    def run(self, spans: Iterable[Span]) -> None:
        """Reads and proves all of them; blocks. After it raised, their memory holds anything.

        Raises:
            CorruptError: for a byte that is wrong, missing or short.
            SealError: as the opener.
            OSError: for a place that does not answer.
        """
        runs, threads = runs_of(spans, self._place.reads), self._place.reads.threads
        if len(runs) < 2 or threads < 2:
            for run in runs:
                self._read_run(run)
            return
        with ThreadPoolExecutor(threads, "keepstep-read") as pool:
            waiting = [pool.submit(self._read_run, run) for run in runs]
            done, others = wait(waiting, return_when=FIRST_EXCEPTION)
            for other in others:
                other.cancel()
        _raise_first(one for one in waiting if one in done or one.done())

    @contextlib.contextmanager
    def opened(self, run: Run) -> Iterator[Callable[[Unit], None]]:
        """What reads and proves a unit of the run; raises as `run`."""
        with opened(self._place, self._folder, run[0][0].entry.file) as fill:
            yield partial(self._read, fill)

    def _read_run(self, run: Run) -> None:
        with self.opened(run) as read:
            for unit in run:
                read(unit)

    def _read(self, fill: Callable[..., None], unit: Unit) -> None:
        data = self._scratch.take(sum(map(_num_passing, unit)))
        buffers = []
        for span in unit:
            if isinstance(span.into, memoryview):
                buffers.append(span.into)
            else:
                count = span.end - span.start
                buffers.append(data[:count])
                data = data[count:]
        fill(unit[0].start, *buffers)
        for span, part in zip(unit, buffers, strict=True):
            self._prove(span, part)
            if not isinstance(span.into, memoryview):
                span.into(part)

    def _prove(self, span: Span, data: memoryview) -> None:
        for index in range(span.count):
            piece = data[index * PIECE_BYTES : (index + 1) * PIECE_BYTES]
            prove_piece(self._path, span.entry, span.first + index, piece, self._opener)


def runs_of(spans: Iterable[Span], reads: Reads) -> Sequence[Run]:
    """Spans in the files' order as units, and these as runs, as a place is well read."""
    runs: list[list[list[Span]]] = []
    file, end, room, left = "", 0, 0, 0
    for start, span in sorted(((span.start, span) for span in spans), key=_in_file):
        length = span.end - start
        is_small = length < SMALL_BYTES
        if is_small and length <= room and (file, end) == (span.entry.file, start):
            runs[-1][-1].append(span)
            room -= length
        else:
            if span.entry.file != file or left <= 0:
                runs.append([])
                left = reads.run_bytes
            runs[-1].append([span])
            room = reads.unit_bytes - length if is_small else 0
        file, end, left = span.entry.file, start + length, left - length
    return runs


def _in_file(both: tuple[int, Span]) -> tuple[str, int]:
    start, span = both
    return span.entry.file, start


def _num_passing(span: Span) -> int:
    """How many of its bytes do not stay where they are read."""
    return 0 if isinstance(span.into, memoryview) else span.end - span.start


def _raise_first(futures: Iterable[Future[None]]) -> None:
    for future in futures:
        if not future.cancelled() and (error := future.exception()) is not None:
            raise error
