"""A page of shared memory between a worker and its guardian: step, phase and time, without a lock.

The worker writes, the guardian reads, and the other way for the request to stop. It knows nothing
of what a late heartbeat means.
"""

import mmap
import os
import tempfile
import time
from dataclasses import dataclass
from enum import IntEnum

# Words of 8 bytes, each written by one aligned store, so that no reader sees half of one.
# (struct.pack_into would not do: it clears its bytes before it writes them.)
_PLACE, _MOMENT, _STOP, _LONGEST = 0, 1, 2, 3
# How much of the longest step's length is remembered after one more.
_MEMORY = 0.99
_PHASES = 256


class Phase(IntEnum):
    """What a worker is doing; in the order in which it comes by them at one count of steps, so that
    of two workers the one with less (step, phase) is behind."""

    start = 0
    prepare = 1
    restore = 2
    save = 3
    evaluate = 4
    data = 5
    step = 6
    finish = 7


@dataclass(frozen=True, slots=True)
class Beat:
    """The last sign of life: step (counted from 0), phase, and seconds since."""

    step: int
    phase: Phase
    age_seconds: float
    longest_step: float = 0.0
    """Seconds of the longest of the last steps, those of long ago in part; 0 before the first."""


class Page:
    """One page that a worker and its guardian map; `fileno` travels to the worker."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._memory = mmap.mmap(fd, mmap.PAGESIZE)
        self._integers = memoryview(self._memory).cast("q")
        self.floats = memoryview(self._memory).cast("d")
        """The whole page as doubles; those behind the heartbeat's are for whoever shares it."""

    @classmethod
    def create(cls) -> "Page":
        """A page of its own file, without a name, that is gone when both sides are."""
        with tempfile.TemporaryFile() as file:
            file.truncate(mmap.PAGESIZE)
            return cls(os.dup(file.fileno()))

    def beat(self, step: int, phase: Phase) -> None:
        """Worker: says that it is alive."""
        now = time.monotonic()
        if self._integers[_PLACE] % _PHASES == Phase.step:
            took = now - self.floats[_MOMENT]
            self.floats[_LONGEST] = max(took, _MEMORY * self.floats[_LONGEST])
        self._integers[_PLACE] = step * _PHASES + phase
        self.floats[_MOMENT] = now

    def read(self) -> Beat:
        """Guardian: the last beat (CLOCK_MONOTONIC is one clock for all processes of a node)."""
        step, phase = divmod(self._integers[_PLACE], _PHASES)
        age = time.monotonic() - self.floats[_MOMENT]
        return Beat(step, Phase(phase), age, self.floats[_LONGEST])

    def reset(self) -> None:
        """Guardian: a new worker begins."""
        self.beat(0, Phase.start)
        self._integers[_STOP] = 0
        self.floats[_LONGEST] = 0.0

    def request_stop(self) -> None:
        """Guardian: asks the worker to save and end at the next step."""
        self._integers[_STOP] = 1

    def stop_requested(self) -> bool:
        """Worker: whether it has been asked to save and end."""
        return bool(self._integers[_STOP])

    def close(self) -> None:
        """Unmaps the page; safe twice."""
        if not self._memory.closed:
            self._integers.release()
            self.floats.release()
            self._memory.close()
            os.close(self.fd)
