"""Words on long work, on standard error: one line that changes where a person looks on."""

import sys
import time
from typing import final

_SECONDS, _SECONDS_IN_FILES = 0.2, 10.0


@final
class ByteProgress:
    """Shows bytes done of bytes in all; call it as often as you like."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._is_terminal = sys.stderr.isatty()
        self._begun = self._said = time.monotonic()
        self._has_said = False

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        pause = _SECONDS if self._is_terminal else _SECONDS_IN_FILES
        if now - self._said < pause or not total:
            return
        self._said, self._has_said = now, True
        rate = done / (now - self._begun)
        end = "" if self._is_terminal else "\n"
        start = "\r" if self._is_terminal else ""
        sys.stderr.write(
            f"{start}{self._verb} {shown_bytes(done)} of {shown_bytes(total)} "
            f"({done / total:.0%}), {shown_bytes(rate)}/s{end}"
        )
        sys.stderr.flush()

    def close(self) -> None:
        """Ends the line."""
        if self._is_terminal and self._has_said:
            sys.stderr.write("\n")


def shown_bytes(count: float) -> str:
    """In a unit that a person reads: B, KiB, MiB, GiB or TiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"
