"""Extents that no cache admitted, in this process's memory while they are used."""

from collections import OrderedDict
from threading import Lock
from typing import final


@final
class Held:
    """The newest ones, up to a number of bytes; always at least one."""

    def __init__(self, limit_bytes: int) -> None:
        self.bytes = 0
        self._limit = limit_bytes
        self._contents: OrderedDict[int, memoryview] = OrderedDict()
        self._lock = Lock()

    def __contains__(self, extent: int) -> bool:
        return extent in self._contents

    def get(self, extent: int) -> memoryview | None:
        """The extent's bytes, or None; using it makes it the newest."""
        if extent not in self._contents:
            return None
        with self._lock:
            content = self._contents.get(extent)
            if content is not None:
                self._contents.move_to_end(extent)
            return content

    def put(self, extent: int, content: memoryview) -> None:
        with self._lock:
            old = self._contents.pop(extent, None)
            self.bytes += len(content) - (0 if old is None else len(old))
            self._contents[extent] = content
            while self.bytes > self._limit and len(self._contents) > 1:
                self.bytes -= len(self._contents.popitem(last=False)[1])

    def drop(self, extent: int) -> None:
        with self._lock:
            old = self._contents.pop(extent, None)
            self.bytes -= 0 if old is None else len(old)

    def clear(self) -> None:
        with self._lock:
            self._contents.clear()
            self.bytes = 0
