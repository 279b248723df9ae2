"""Extents that another process fetches: asked for again until they are here, or ours to fetch."""

import threading
from collections.abc import Callable
from typing import final

_SHORTEST, _LONGEST = 0.001, 0.02


@final
class Turns:
    """One thread, started at the first need, which calls every waiting function now and then.

    A function that has to go on waiting adds itself again.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, Callable[[], None]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def __contains__(self, extent: int) -> bool:
        return extent in self._waiting

    def add(self, extent: int, ask: Callable[[], None]) -> None:
        with self._lock:
            self._waiting[extent] = ask
            if self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(
                    target=self._run, name="keepstep-turns", daemon=True
                )
                self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        pause = _SHORTEST
        while not self._stopping.wait(pause):
            asked = dict(self._waiting)
            for extent, ask in asked.items():
                with self._lock:
                    self._waiting.pop(extent, None)
                ask()
            is_idle = bool(asked) and self._waiting.keys() >= asked.keys()
            pause = min(_LONGEST, pause * 1.5) if is_idle or not asked else _SHORTEST
