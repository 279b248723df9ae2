"""A file that says that this machine will be taken away, as whatever watches for a spot notice
writes it."""

import contextlib
import time
from pathlib import Path
from typing import final

_EVERY_SECONDS = 1.0


@final
class Notice:
    """Looked for once a second. One that was there before counts only when it is written anew, for
    else a run that was told to go on would stop at once.

    Args:
        path: of the file; None where there is none to look for.
    """

    def __init__(self, path: str | None) -> None:
        self._path = None if path is None else Path(path)
        self._before = self._written()
        self._looked_at = float("-inf")

    def has_come(self) -> bool:
        """Whether it is there; never blocks for longer than the file system does."""
        now = time.monotonic()
        if self._path is None or now - self._looked_at < _EVERY_SECONDS:
            return False
        self._looked_at = now
        return self._written() not in (None, self._before)

    def _written(self) -> int | None:
        """When it was written, in nanoseconds; None where it is not there."""
        with contextlib.suppress(OSError):
            return None if self._path is None else self._path.stat().st_mtime_ns
        return None
