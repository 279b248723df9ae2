"""A page of shared memory between a worker and its guardian: step, phase and time, without a lock.

The worker writes, the guardian reads, and the other way for the request to stop. It knows nothing
of what a late heartbeat means.
"""

import mmap
import os
import struct
import tempfile
import time
from dataclasses import dataclass
from enum import IntEnum

_BEAT = struct.Struct("=qqd")  # step, phase, monotonic time; 8-byte fields are not torn on 64 bits
_STOP = struct.Struct("=q")
_STOP_AT = _BEAT.size


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


class Page:
    """One page that a worker and its guardian map; `fileno` travels to the worker."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._memory = mmap.mmap(fd, mmap.PAGESIZE)

    @classmethod
    def create(cls) -> "Page":
        """A page of its own file, without a name, that is gone when both sides are."""
        with tempfile.TemporaryFile() as file:
            file.truncate(mmap.PAGESIZE)
            return cls(os.dup(file.fileno()))

    def beat(self, step: int, phase: Phase) -> None:
        """Worker: says that it is alive."""
        _BEAT.pack_into(self._memory, 0, step, int(phase), time.monotonic())

    def read(self) -> Beat:
        """Guardian: the last beat (CLOCK_MONOTONIC is one clock for all processes of a node)."""
        step, phase, moment = _BEAT.unpack_from(self._memory, 0)
        return Beat(step, Phase(phase), time.monotonic() - moment)

    def reset(self) -> None:
        """Guardian: a new worker begins."""
        self.beat(0, Phase.start)
        _STOP.pack_into(self._memory, _STOP_AT, 0)

    def request_stop(self) -> None:
        """Guardian: asks the worker to save and end at the next step."""
        _STOP.pack_into(self._memory, _STOP_AT, 1)

    def stop_requested(self) -> bool:
        """Worker: whether it has been asked to save and end."""
        return bool(_STOP.unpack_from(self._memory, _STOP_AT)[0])

    def close(self) -> None:
        """Unmaps the page; safe twice."""
        if not self._memory.closed:
            self._memory.close()
            os.close(self.fd)
