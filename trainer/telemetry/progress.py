"""The progress line: one line that is rewritten on a terminal, plain lines elsewhere."""

import time
from typing import TextIO


class Console:
    """Writes what the run is doing. Words of `say` stay; the line of `show` is replaced."""

    def __init__(self, stream: TextIO, *, seconds: float, enabled: bool) -> None:
        self.stream = stream
        self.seconds = seconds
        self.enabled = enabled
        self.is_terminal = stream.isatty()
        self._last = 0.0
        self._width = 0

    def show(self, line: str, *, is_last: bool = False) -> None:
        """The state of now; outside a terminal at most one line each `seconds`."""
        now = time.monotonic()
        if not self.enabled or (not is_last and now - self._last < self._pause()):
            return
        self._last = now
        if self.is_terminal:
            self.stream.write("\r" + line.ljust(self._width) + ("\n" if is_last else ""))
            self._width = 0 if is_last else len(line)
        else:
            self.stream.write(line + "\n")
        self.stream.flush()

    def say(self, words: str) -> None:
        """Something that happened."""
        if self.enabled:
            clear = "\r" + " " * self._width + "\r" if self._width else ""
            self._width = 0
            self.stream.write(f"{clear}{words}\n")
            self.stream.flush()

    def _pause(self) -> float:
        return 0.1 if self.is_terminal else self.seconds


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42s, 3m05s, 2h07m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
