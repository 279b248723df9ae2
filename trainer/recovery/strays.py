"""Slots of a run on this node that no guardian has: of ranks that are no more, and what was kept
for ranks of other nodes. It reads and removes them, and fills none."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import final

from ...checkpoint.slots import SlotFile
from .slots import MOUNT, slot_paths


@final
class Strays:
    """Locked against other jobs until `close`."""

    def __init__(self, slots: Sequence[SlotFile], paths: Sequence[Path]) -> None:
        self.slots = list(slots)
        self._paths = list(paths)

    @classmethod
    def find(cls, run: str, *, share: tuple[int, int], folder: Path = MOUNT) -> "Strays":
        """Guardian, once all guardians of the node have opened their own.

        Args:
            share: (this guardian, of so many on the node): each looks at some of them.
        """
        index, count = share
        slots: list[SlotFile] = []
        paths: list[Path] = []
        for path in slot_paths(run, folder)[index::count]:
            with contextlib.suppress(OSError):  # another user's, or gone meanwhile
                slot = SlotFile.named(path)
                if slot.lock():
                    slots.append(slot)
                    paths.append(path)
                else:
                    slot.close()
        return cls(slots, paths)

    def remove(self) -> None:
        """Gives their memory back: nobody will want what they hold."""
        for path in self._paths:
            path.unlink(missing_ok=True)
        self._paths.clear()

    def close(self) -> None:
        """Safe twice."""
        for slot in self.slots:
            slot.close()
        self.slots.clear()
