"""Signals that ask a run to end early. The handler counts and returns; the guardian acts."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

# A scheduler and a launcher may both pass one request on; a person who insists is slower.
_SAME_REQUEST_SECONDS = 1.0


class StopSignals:
    """Counts SIGTERM, SIGINT and SIGUSR1 while it is open; main thread only. Those that follow one
    within a second are the same request.

    A scheduler may warn by one signal and end by another: more of them ask for the same. Only a
    person who presses Ctrl-C again does not want to wait.
    """

    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(
        self,
        on_signal: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.on_signal = on_signal
        self.clock = clock
        self.count = 0
        self.name = ""
        self.is_impatient = False
        """Whether SIGINT came again."""
        self.wake_fd = -1
        """While it is open: readable when one has come, until `drain` is called."""
        self._last = float("-inf")
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._before = {number: signal.signal(number, self._note) for number in self.signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self.wake_fd)
        self.wake_fd = -1

    def drain(self) -> None:
        """Takes note of what woke its owner."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wake_fd)

    def ask(self, name: str) -> None:
        """The same request by other means, once."""
        if not self.count:
            self.count, self.name = 1, name

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.wake_fd >= 0:
            os.eventfd_write(self.wake_fd, 1)
        before, self._last = self._last, self.clock()
        if self._last - before < _SAME_REQUEST_SECONDS:
            return
        self.is_impatient |= bool(self.count) and number == signal.SIGINT
        self.count += 1
        self.name = signal.Signals(number).name
        if self.on_signal is not None:
            self.on_signal()
