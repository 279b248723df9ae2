"""A store that asks again where that may help, for what happens once: listings and indexes.

Ranges of samples go through `fetch`, which does this and more for many at a time.
"""

import random
import time
from collections.abc import Callable
from typing import TypeVar, final

from ..errors import TransientError
from .store import Store, StoredObject

Result = TypeVar("Result")
_LONGEST_PAUSE = 3.0


@final
class Patient:
    """Repeats what fails in a way that may pass, with growing pauses, for `seconds` in all.

    Args:
        report: takes a sentence when it has to wait, once.
    """

    def __init__(
        self,
        store: Store,
        *,
        seconds: float = 600.0,
        report: Callable[[str], None] = lambda words: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.store = store
        self._seconds = seconds
        self._report = report
        self._sleep = sleep

    def list(self, url: str) -> list[StoredObject]:
        return self._ask(lambda: self.store.list(url))

    def stat(self, url: str) -> StoredObject:
        return self._ask(lambda: self.store.stat(url))

    def read(self, obj: StoredObject, start: int, stop: int) -> bytes | memoryview:
        return self._ask(lambda: self.store.read(obj, start, stop))

    def content(self, url: str) -> bytes:
        return self._ask(lambda: self.store.content(url))

    def close(self) -> None:
        self.store.close()

    def _ask(self, call: Callable[[], Result]) -> Result:
        deadline, pause, has_said = time.monotonic() + self._seconds, 0.05, False
        while True:
            try:
                return call()
            except TransientError as error:
                if time.monotonic() + pause > deadline:
                    raise
                if not has_said and pause > 1.0:
                    self._report(f"waiting for the store: {error}")
                    has_said = True
            self._sleep(pause * random.uniform(0.5, 1.0))
            pause = min(_LONGEST_PAUSE, pause * 2)
