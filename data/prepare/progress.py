"""Lines on how far a stage is, now and then."""

import time
from collections.abc import Callable
from typing import final

Report = Callable[[str], None]
_REPORT_SECONDS = 2.0
_WORDS = {
    "survey": "reading",
    "decide": "deciding",
    "encode": "tokenising",
    "shard": "writing",
    "finish": "finishing",
}


@final
class Progress:
    """Of one stage: called with each number that is done, and with -1 when time passes."""

    def __init__(
        self, stage: str, sizes: dict[int, int], done: set[int], report: Report, now: float
    ) -> None:
        self._word = _WORDS[stage]
        self._sizes = sizes
        self._done = set(done)
        self._report = report
        self._begun = self._last = now
        self._bytes_before = self._bytes()

    def __call__(self, number: int) -> None:
        if number >= 0:
            self._done.add(number)
        now = time.monotonic()
        if now - self._last >= _REPORT_SECONDS and len(self._done) < len(self._sizes):
            self._last = now
            self._report(self.line(now))

    def line(self, now: float) -> str:
        """How far it is."""
        count, total = self._bytes(), sum(self._sizes.values())
        rate = (count - self._bytes_before) / max(1e-9, now - self._begun) / 1e6
        return (
            f"{self._word}: {len(self._done)} of {len(self._sizes)} parts, {count / 1e6:.0f} of "
            f"{total / 1e6:.0f} MB, {rate:.1f} MB/s"
        )

    def _bytes(self) -> int:
        return sum(self._sizes.get(number, 0) for number in self._done)
