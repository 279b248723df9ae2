"""Batches of one reader, in order, read ahead by one thread. Owns no state worth saving.

order --positions--> source.read --rows--> Window(one optimizer step) --queue--> next(loader)
"""

import logging
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from torch import Tensor

from .order import Order
from .order.permutation import Integers
from .sources import Source

_ORDER_SAMPLES = 4096
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Window:
    """What one reader computes of one optimizer step."""

    position: int
    """Position of the step's first sample; the next step begins `batch_samples` later."""
    batches: list[dict[str, Tensor]]
    """This reader's micro-batches, in order; the first dimension is `microbatch_samples`."""
    microbatches: range
    """Their numbers among all micro-batches of the step."""


def share_microbatches(
    batch_samples: int, microbatch_samples: int, reader_index: int, reader_count: int
) -> range:
    """The micro-batches of a step, by number, that a reader computes: one contiguous share each.

    Raises:
        ValueError: the batch is not a whole number of micro-batches, or these cannot be shared.
    """
    if batch_samples < 1 or microbatch_samples < 1:
        raise ValueError(
            f"train.batch_samples: found {batch_samples} with train.microbatch_samples="
            f"{microbatch_samples}, needed 1 or more of both; set positive numbers"
        )
    if batch_samples % microbatch_samples:
        raise ValueError(
            f"train.batch_samples: found {batch_samples}, needed a multiple of "
            f"train.microbatch_samples={microbatch_samples}; "
            f"set train.batch_samples={_nearest(batch_samples, microbatch_samples)}"
        )
    count = batch_samples // microbatch_samples
    if count % reader_count:
        fitting = _nearest(batch_samples, microbatch_samples * reader_count)
        raise ValueError(
            f"train.batch_samples: found {batch_samples}, which is {count} micro-batches of "
            f"train.microbatch_samples={microbatch_samples}, needed a number of them that "
            f"parallel.replicate x parallel.shard = {reader_count} divides; "
            f"set train.batch_samples={fitting} or other degrees"
        )
    share = count // reader_count
    return range(reader_index * share, (reader_index + 1) * share)


def _nearest(found: int, unit: int) -> int:
    return max(1, round(found / unit)) * unit


class Loader:
    """Windows of one reader from a position on, without end; epochs follow one another.

    `open` starts the thread, `close` ends it; opening again moves to another position.
    """

    def __init__(
        self,
        source: Source,
        order: Order,
        *,
        batch_samples: int,
        microbatch_samples: int,
        reader_index: int = 0,
        reader_count: int = 1,
        prefetch: int = 4,
    ) -> None:
        self._source = source
        self._order = order
        self._batch_samples = batch_samples
        self._microbatch_samples = microbatch_samples
        self._share = share_microbatches(
            batch_samples, microbatch_samples, reader_index, reader_count
        )
        self._prefetch = prefetch
        self._thread: _Prefetcher | None = None

    def open(self, position: int) -> Self:
        """Starts reading ahead at `position`, in samples; returns itself, for `with`."""
        self.close()
        self._thread = _Prefetcher(self._windows(position), self._prefetch)
        self._thread.start()
        return self

    def __iter__(self) -> Iterator[Window]:
        return self

    def __next__(self) -> Window:
        """Waits for the next window.

        Raises:
            RuntimeError: the loader is not open, or its thread is gone (as after a fork).
            Exception: whatever the source raised, once the windows before it were handed out.
        """
        if self._thread is None:
            raise RuntimeError("the loader: found it closed, needed it open; call open(position)")
        return self._thread.take()

    def close(self, timeout_seconds: float = 10.0) -> None:
        """Ends the thread; safe at any time and twice. Waits for at most `timeout_seconds`."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop(timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _windows(self, position: int) -> Iterator[Window]:
        size = self._microbatch_samples
        for ids in self._shares(position):
            rows = self._source.read(ids)
            batches = [
                {name: tensor[first : first + size] for name, tensor in rows.items()}
                for first in range(0, len(ids), size)
            ]
            yield Window(position, batches, self._share)
            position += self._batch_samples

    def _shares(self, position: int) -> Iterator[Integers]:
        """This reader's sample ids, step by step."""
        size = self._microbatch_samples
        mine = slice(self._share.start * size, self._share.stop * size)
        # The order costs some hundred small numpy calls however few samples are asked for:
        # many steps at a time keep that off the training thread's back.
        steps = max(1, _ORDER_SAMPLES // (len(self._share) * size))
        while True:
            starts = range(position, position + steps * self._batch_samples, self._batch_samples)
            arranged = [self._order.arrange(start, self._batch_samples)[mine] for start in starts]
            yield from np.split(self._order.samples(np.concatenate(arranged))[1], steps)
            position += steps * self._batch_samples


class _Prefetcher(threading.Thread):
    """Runs an endless iterator ahead into a bounded queue; keeps its exception for the taker."""

    def __init__(self, windows: Iterator[Window], depth: int) -> None:
        super().__init__(name="keepstep-prefetch", daemon=True)
        self._windows = windows
        self._queue: queue.Queue[Window | Exception] = queue.Queue(depth)
        self._stopping = threading.Event()
        self._failure: Exception | None = None

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                item: Window | Exception = next(self._windows)
            except Exception as error:
                item = error
            self._queue.put(item)
            if isinstance(item, Exception):
                return

    def take(self) -> Window:
        item: Window | Exception | None = self._failure
        while item is None:
            try:
                item = self._queue.get(timeout=1.0)
            except queue.Empty:
                # A fork copies this object but not its thread: without the check its child
                # would wait for ever.
                if not self.is_alive() and self._queue.empty():
                    raise RuntimeError(
                        "the loader: found its prefetch thread gone, needed it running; "
                        "open the loader in the process that reads from it"
                    ) from None
        if isinstance(item, Exception):
            self._failure = item
            raise item
        return item

    def stop(self, timeout_seconds: float) -> None:
        self._stopping.set()
        # A thread that waits to put needs one free place, then it sees the event.
        while not self._queue.empty():
            self._queue.get_nowait()
        self.join(timeout_seconds)
        if self.is_alive():
            _log.warning(
                "the loader's thread still reads after %s s; it is left behind", timeout_seconds
            )


def evaluation_batches(
    source: Source, *, microbatch_samples: int, reader_index: int = 0, reader_count: int = 1
) -> Iterator[dict[str, Tensor]]:
    """Every sample once, in plain order: micro-batches dealt round to the readers.

    The last micro-batch may be short. Every reader is given equally many, so that collectives
    line up: where they run out the rest is batches of 0 rows.
    """
    count = len(source)
    for first in range(0, count, microbatch_samples * reader_count):
        start = min(count, first + reader_index * microbatch_samples)
        stop = min(count, start + microbatch_samples)
        yield source.read(np.arange(start, stop, dtype=np.int64))
