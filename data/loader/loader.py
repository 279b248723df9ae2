"""Batches of one reader, in order, read ahead by threads. Owns no state worth saving.

order --positions--> source.read --rows--> Window(one optimizer step) --queue--> next(loader)
      --far ahead--> source.want
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple, Protocol, Self, final

from ..access import total_counts
from ..order.permutation import Integers
from ..sources import Source, Stored, reading, spending
from .ahead import Ahead, EpochsAndIds, Pace, following
from .handoff import Handoff, PlainHandoff, Staged
from .prefetch import Prefetcher
from .share import share_microbatches
from .window import Window

_ORDER_SAMPLES = 8192
_READ_SAMPLES = 1024


class _Ready(NamedTuple):
    """A window that waits in the queue."""

    position: int
    staged: Staged
    seconds: Mapping[str, float]


class Arrangement(Protocol):
    """What an order or a mixture says of positions."""

    @property
    def pool_samples(self) -> int: ...

    def samples(self, positions: Integers) -> tuple[Integers, Integers]: ...

    def arrange(self, start: int, size: int, batches: int = 1) -> Integers: ...

    def next_use(self, ids: Integers, position: int) -> Integers: ...


@final
class Loader:
    """Windows of one reader from a position on, without end; epochs follow one another.

    `open` starts the threads, `close` ends them; opening again moves to another position.

    Args:
        stop: the position at which the run ends, where that is known: what is only wanted after it
            need not be kept.
        handoff: moves batches to the device they are used on, ahead of use; None leaves them where
            they are read.
    """

    def __init__(
        self,
        source: Source,
        order: Arrangement,
        *,
        batch_samples: int,
        microbatch_samples: int,
        reader_index: int = 0,
        reader_count: int = 1,
        prefetch: int = 4,
        stop: int | None = None,
        handoff: Handoff | None = None,
    ) -> None:
        self._read, self._spent = reading(source), spending(source)
        self._stored = source if isinstance(source, Stored) else None
        self._accesses = self._stored.accesses if self._stored else ()
        self._order = order
        self._batch_samples = batch_samples
        self._microbatch_samples = microbatch_samples
        self._share = share_microbatches(
            batch_samples, microbatch_samples, reader_index, reader_count
        )
        self._step_samples = len(self._share) * microbatch_samples
        # Steps are read together, since a few large readings cost less than many small ones: not so
        # many that the steps before them are used up meanwhile.
        group = max(1, min(prefetch // 2, _READ_SAMPLES // self._step_samples))
        self._group_samples = group * self._step_samples
        self._prefetch = prefetch
        self._stop = stop
        self._handoff: Handoff = PlainHandoff() if handoff is None else handoff
        self._position = 0
        self._pace = Pace()
        self._ahead: Ahead | None = None
        self._thread: Prefetcher[_Ready] | None = None

    def open(self, position: int) -> Self:
        """Starts reading ahead at `position`, in samples; returns itself, for `with`."""
        self.close()
        self._position, self._pace = position, Pace()
        chunks = self._chunks(position)
        if self._stored is not None:
            uses = following(self._order.next_use, lambda: self._position, self._stop)
            self._stored.follow(uses)
            self._ahead = self._made_ahead(chunks, position)
            self._ahead.start()
            chunks = self._ahead.taken()
        self._thread = Prefetcher(self._windows(position, chunks), self._prefetch)
        self._thread.start()
        return self

    def __iter__(self) -> Iterator[Window]:
        return self

    def __next__(self) -> Window:
        return self.take(lambda outage: None)

    def take(self, while_waiting: Callable[[str | None], None]) -> Window:
        """Waits for the next window.

        Args:
            while_waiting: called about once a second for as long as it takes, with since when and
                why the store does not answer, or None where it does.

        Raises:
            RuntimeError: the loader is not open, or its thread is gone (as after a fork).
            Exception: whatever the source raised, once the windows before it were handed out.
        """
        if self._thread is None:
            raise RuntimeError("the loader: found it closed, needed it open; call open(position)")
        ready = self._thread.take(lambda: while_waiting(self._outage()))
        rows, size = self._handoff.take(ready.staged), self._microbatch_samples
        batches = [
            {name: tensor[first : first + size] for name, tensor in rows.items()}
            for first in range(0, self._step_samples, size)
        ]
        return Window(ready.position, batches, self._share, ready.seconds)

    @property
    def counts(self) -> dict[str, float]:
        """What its accesses, fetchers and caches counted so far; see `access.total_counts`."""
        return total_counts(self._accesses)

    def close(self, timeout_seconds: float = 10.0) -> None:
        """Ends the threads; safe at any time and twice. Waits for at most `timeout_seconds`."""
        thread, self._thread = self._thread, None
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.stop(timeout_seconds)
        if thread is not None:
            thread.stop(timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _made_ahead(self, chunks: Iterator[EpochsAndIds], position: int) -> Ahead:
        assert self._stored is not None
        share = self._step_samples / self._batch_samples
        left = None if self._stop is None else max(0, self._stop - position)
        return Ahead(
            self._stored,
            chunks,
            self._pace,
            group=self._group_samples,
            pool=int(self._order.pool_samples * share),
            stop=None if left is None else int(left * share),
        )

    def _windows(self, position: int, chunks: Iterator[EpochsAndIds]) -> Iterator[_Ready]:
        for epochs, ids in chain.from_iterable(map(self._groups, chunks)):
            begun, before = time.perf_counter(), self._waited()
            rows = self._read(ids, epochs)
            seconds = self._waited()
            seconds.subtract(before)
            # Threads of a pool may wait at once, for longer together than the reading took.
            rest = time.perf_counter() - begun - sum(seconds.values())
            steps = len(ids) // self._step_samples
            said = {**seconds, "decode": max(0.0, rest)}
            share = {cause: taken / steps for cause, taken in said.items()}
            for first in range(0, len(ids), self._step_samples):
                some = slice(first, first + self._step_samples)
                staged = self._handoff.stage({name: x[some] for name, x in rows.items()})
                yield _Ready(position, staged, share)
                position += self._batch_samples
                self._position = position
            self._pace.take(len(ids), time.monotonic())

    def _outage(self) -> str | None:
        """The first word of a store that does not answer."""
        return next((one.outage for one in self._accesses if one.outage), None)

    def _waited(self) -> Counter[str]:
        """Seconds that reading has taken so far, by cause."""
        total: Counter[str] = Counter(self._spent())
        for access in self._accesses:
            total.update(access.waited)
        return total

    def _chunks(self, position: int) -> Iterator[EpochsAndIds]:
        """This reader's samples, some steps at a time."""
        size = self._microbatch_samples
        mine = slice(self._share.start * size, self._share.stop * size)
        # The order costs some hundred small numpy calls however few samples are asked for: many
        # steps at a time keep that off the training thread's back. The first chunk is a single
        # step, so that the first batch is not kept waiting, and each is twice the one before.
        most = max(1, _ORDER_SAMPLES // self._step_samples)
        start, steps = position, 1
        while True:
            arranged = self._order.arrange(start, self._batch_samples, steps)
            own = arranged.reshape(steps, self._batch_samples)[:, mine].reshape(-1)
            yield self._order.samples(own)
            start, steps = start + steps * self._batch_samples, min(most, 2 * steps)

    def _groups(self, samples: EpochsAndIds) -> Iterator[EpochsAndIds]:
        epochs, ids = samples
        for first in range(0, len(ids), self._group_samples):
            some = slice(first, first + self._group_samples)
            yield epochs[some], ids[some]
