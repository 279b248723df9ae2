"""One thread that runs an endless iterator ahead of its taker. Knows nothing of data."""

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar, final

T = TypeVar("T")
_log = logging.getLogger(__name__)


@final
class Prefetcher(threading.Thread, Generic[T]):
    """Fills a bounded queue; keeps the iterator's exception for the taker."""

    def __init__(self, items: Iterator[T], depth: int) -> None:
        super().__init__(name="keepstep-prefetch", daemon=True)
        self._items = items
        self._queue: queue.Queue[T | Exception] = queue.Queue(depth)
        self._stopping = threading.Event()
        self._failure: Exception | None = None

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                item: T | Exception = next(self._items)
            except Exception as error:
                item = error
            self._queue.put(item)
            if isinstance(item, Exception):
                return

    def take(self, while_waiting: Callable[[], None]) -> T:
        """The next item; waits for it, or raises what the iterator raised.

        Args:
            while_waiting: called about once a second for as long as it takes.
        """
        item: T | Exception | None = self._failure
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
                while_waiting()
        if isinstance(item, Exception):
            self._failure = item
            raise item
        return item

    def stop(self, timeout_seconds: float) -> None:
        """Ends the thread after the item it is at; waits for at most `timeout_seconds`."""
        self._stopping.set()
        # A thread that waits to put needs one free place, then it sees the event.
        while not self._queue.empty():
            self._queue.get_nowait()
        self.join(timeout_seconds)
        if self.is_alive():
            _log.warning(
                "the loader's thread still reads after %s s; it is left behind", timeout_seconds
            )
