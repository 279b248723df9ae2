"""The slots of one rank as guardian and worker share them: made by the one, filled by the other.

Owns their names and how they are handed on. What they hold belongs to `checkpoint.slots`.
"""

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import final

import xxhash

from ...checkpoint.slots import SlotFile

MOUNT = Path("/dev/shm")
_PREFIX = "keepstep-"
# What a job that was killed left behind and none took up again.
_STALE_SECONDS = 24 * 3600.0
# A job that was killed a moment ago may still have processes that end.
_LOCK_SECONDS = 5.0


@final
class SlotSet:
    """Named slots, which outlive guardian and machine-wide launcher, and as many without a name."""

    def __init__(
        self, named: Sequence[SlotFile], unnamed: Sequence[SlotFile], paths: Sequence[Path] = ()
    ) -> None:
        self.named, self.unnamed = list(named), list(unnamed)
        self._paths = list(paths)

    @classmethod
    def open(cls, run: str, *, rank: int, count: int, folder: Path = MOUNT) -> "SlotSet":
        """Guardian: the slots of this rank of a run, with what an earlier job left in them.

        Without a folder in memory, or where another job still has the slots, none has a name.
        """
        _sweep(folder, time.time() - _STALE_SECONDS)
        unnamed = [SlotFile.unnamed() for _ in range(count)]
        paths = [folder / f"{_stem(run)}{rank}-{index}" for index in range(count)]
        named: list[SlotFile] = []
        try:
            named += [SlotFile.named(path) for path in paths]
        except OSError:
            is_ours = False
        else:
            is_ours = _lock_all(named)
        if not is_ours:
            for slot in named:
                slot.close()
            return cls([], unnamed)
        for slot in named:
            slot.unpin()  # whoever was saving it is gone
        return cls(named, unnamed, paths)

    @classmethod
    def from_fds(cls, fds: Sequence[int]) -> "SlotSet | None":
        """Worker: the slots from what `fds` of its guardian's was; None where there are none."""
        slots = [SlotFile(fd) for fd in fds]
        return cls(slots[: len(slots) // 2], slots[len(slots) // 2 :]) if slots else None

    @property
    def fds(self) -> list[int]:
        """Descriptors to hand to a worker."""
        return [slot.fd for slot in self.all]

    @property
    def all(self) -> list[SlotFile]:
        """Every slot; a message names one by its place here."""
        # Without named ones the unnamed stand in their place, so that the halves stay equal.
        return [*(self.named or self.unnamed), *self.unnamed]

    @property
    def is_sealed(self) -> bool:
        """Whether one of them holds a state, by its seal alone."""
        return any(slot.step >= 0 for slot in self.all)

    def release(self, kept: Sequence[int]) -> None:
        """Guardian: unpins what a worker had pinned before it died and nobody saves."""
        for index, slot in enumerate(self.all):
            if index not in kept:
                slot.unpin()

    def forget(self, *, keep_sealed: bool = False) -> None:
        """Guardian: the job is over, and nobody will want what the slots hold.

        Args:
            keep_sealed: leave those that hold a state, for the next job of the run to go on from.
        """
        for path, slot in zip(self._paths, self.named, strict=True):
            if keep_sealed and slot.step >= 0:
                continue
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def close(self) -> None:
        """Safe twice."""
        for slot in self.all:
            slot.close()


def slot_paths(run: str, folder: Path = MOUNT) -> list[Path]:
    """Every named slot of a run that is on this node, whoever has it."""
    return sorted(folder.glob(f"{_stem(run)}*"))


def kept_paths(run: str, rank: int, folder: Path = MOUNT) -> list[Path]:
    """The names of a pair of slots that this node keeps for a rank of another one."""
    return [folder / f"{_stem(run)}{rank}-kept-{index}" for index in range(2)]


def mark_paths(run: str, rank: int, folder: Path = MOUNT) -> list[Path]:
    """The names of a rank's own pair of the same snapshots."""
    return [folder / f"{_stem(run)}{rank}-mark-{index}" for index in range(2)]


def _stem(run: str) -> str:
    return f"{_PREFIX}{xxhash.xxh3_64_hexdigest(f'{os.geteuid()}/{run}'.encode())}-"


def _sweep(folder: Path, before: float) -> None:
    """Removes this user's slots that were last sealed before then and that nobody holds."""
    for path in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or gone meanwhile
            if path.stat().st_mtime > before or path.stat().st_uid != os.geteuid():
                continue
            slot = SlotFile.named(path)
            if slot.lock():
                path.unlink()
            slot.close()


def _lock_all(slots: Sequence[SlotFile]) -> bool:
    deadline = time.monotonic() + _LOCK_SECONDS
    while not all(slot.lock() for slot in slots):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
