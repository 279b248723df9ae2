"""Signals that ask a run to end early. The handler counts and returns; the guardian acts."""

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

# A scheduler and a launcher may both pass one request on; a person who insists is slower.
_SAME_REQUEST_SECONDS = 1.0


class StopSignals:
    """Counts SIGTERM, SIGINT and SIGUSR1 while it is open; main thread only. Those that follow one
    within a second are the same request."""

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
        self._last = float("-inf")
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.signal(number, self._note) for number in self.signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        before, self._last = self._last, self.clock()
        if self._last - before < _SAME_REQUEST_SECONDS:
            return
        self.count += 1
        self.name = signal.Signals(number).name
        if self.on_signal is not None:
            self.on_signal()
