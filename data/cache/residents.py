"""What a tier holds, as one process knows it, and the queue in which it would go."""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, final

import numpy as np

from .foresight import Foresight
from .name import ExtentName
from .policy import Verdict, eviction_order, victims


class Victim(NamedTuple):
    """An entry that must go."""

    name: ExtentName
    size: int
    use: float
    """Its next use; nan where nobody here knows."""


class Resident(NamedTuple):
    """An entry: bytes it costs, and when it was used last (time.time seconds)."""

    size: int
    touched: float


@final
class Residents:
    """Entries by name with their sum, and who goes first. One thread at a time.

    The queue is sorted anew after a sixteenth of it was used, not for each newcomer: what is
    farthest stays farthest for long, so the loss against exact Belady is below a sixteenth.
    """

    def __init__(self, foresight: Foresight, idle_seconds: float) -> None:
        self._foresight = foresight
        self._idle_seconds = idle_seconds
        self.entries: dict[ExtentName, Resident] = {}
        self.total_bytes = 0
        self._queue: list[tuple[ExtentName, float]] = []
        self._next = 0
        self._asked = -1
        self._version = -1

    def put(self, name: ExtentName, size: int, touched: float) -> None:
        self.drop(name)
        self.entries[name] = Resident(size, touched)
        self.total_bytes += size

    def drop(self, name: ExtentName) -> None:
        gone = self.entries.pop(name, None)
        self.total_bytes -= gone.size if gone else 0

    def clear(self) -> None:
        self.entries.clear()
        self.total_bytes = 0
        self._asked = -1

    @property
    def is_sorted(self) -> bool:
        """Whether the queue is good for one more newcomer."""
        return (
            0 <= self._asked <= len(self._queue) // 16 and self._version == self._foresight.version
        )

    @property
    def is_fresh(self) -> bool:
        """Whether the last newcomer was the first since the queue was sorted."""
        return self._asked == 1

    def sort(self, touched: Callable[[ExtentName], float | None]) -> None:
        """Sorts the queue. Asks for next uses, and with `touched` for the last use of the idle."""
        version = self._foresight.version
        names = list(self.entries)
        uses = self._foresight.uses(names)
        now = time.time()
        ages = now - np.array([self.entries[name].touched for name in names], dtype=np.float64)
        for place in np.flatnonzero(np.isnan(uses) & (ages >= self._idle_seconds)).tolist():
            last = touched(names[place])  # other processes touch entries and do not tell
            if last is not None:
                ages[place] = now - last
                self.entries[names[place]] = self.entries[names[place]]._replace(touched=last)
        order = eviction_order(uses, ages, self._idle_seconds).tolist()
        self._queue = [(names[place], float(uses[place])) for place in order]
        self._next = self._asked = 0
        self._version = version

    def choose(self, needed_bytes: int, use: float) -> list[Victim] | Verdict:
        """Who goes for a newcomer with this next use, or why none does. Drops nobody itself."""
        self._asked += 1
        chosen: list[Victim] = []
        count = victims(self._walk(chosen), needed_bytes, use)
        return count if isinstance(count, Verdict) else chosen[:count]

    def _walk(self, seen: list[Victim]) -> Iterator[tuple[int, float]]:
        while self._next < len(self._queue) and self._queue[self._next][0] not in self.entries:
            self._next += 1
        for place in range(self._next, len(self._queue)):
            name, use = self._queue[place]
            entry = self.entries.get(name)
            if entry is not None:
                seen.append(Victim(name, entry.size, use))
                yield entry.size, use
