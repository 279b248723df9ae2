"""Whether training waits for data, why, and what to do. Says so once a cause; stops nothing."""

from collections import Counter
from collections.abc import Mapping
from typing import final

STALL_SHARE = 0.01
_STEPS = 50
_REMEDIES = {
    "network": "raise data.fetch.most_in_flight or data.ahead_bytes, or look at the store",
    "lock": "another process of this node fetches the same slowly; look at the store",
    "decode": "prepare the data as token shards, or raise data.prefetch_batches",
    "transform": "raise data.workers",
}


@final
class Stalls:
    """Adds up waits by cause over the last steps. Pure: what to say is returned."""

    def __init__(self) -> None:
        self._waited: Counter[str] = Counter()
        self._seconds = 0.0
        self._steps = 0
        self._said: set[str] = set()

    def add(self, waited: Mapping[str, float], step_seconds: float) -> str | None:
        """One step's waits and its length; every 50 steps the sentence to say, if there is one."""
        self._waited.update(waited)
        self._seconds += step_seconds
        self._steps += 1
        if self._steps < _STEPS:
            return None
        words = self._words()
        self._waited, self._seconds, self._steps = Counter(), 0.0, 0
        return words

    def _words(self) -> str | None:
        total = sum(self._waited.values())
        if total <= STALL_SHARE * self._seconds:
            return None
        cause, seconds = self._waited.most_common(1)[0]
        if cause in self._said:
            return None
        self._said.add(cause)
        return (
            f"training waited for data {total / self._seconds:.1%} of the last {_STEPS} steps, "
            f"{seconds / total:.0%} of it for {cause}; {_REMEDIES.get(cause, '')}"
        )


def by_cause(waited: float, reading: Mapping[str, float]) -> dict[str, float]:
    """A wait of `waited` seconds shared out as the window's own reading was."""
    total = sum(reading.values())
    if waited <= 0 or total <= 0:
        return {}
    return {cause: waited * part / total for cause, part in reading.items() if part > 0}
