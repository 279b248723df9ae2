"""Memory for bytes that lie somewhere for a moment only, which a thread takes again and again."""

import threading
from typing import final

import numpy as np


@final
class Scratch(threading.local):
    """Each thread's own."""

    _held = memoryview(b"")

    def take(self, count: int) -> memoryview:
        """So many bytes, which hold anything; this thread's until it takes the next."""
        if len(self._held) < count:
            self._held = np.empty(count, dtype=np.uint8).data
        return self._held[:count]
