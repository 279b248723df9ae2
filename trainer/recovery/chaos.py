"""Planned faults: what they cost is only known by having them. Each fires once in the life of a
run folder, whatever is restarted."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from ..config import Fault, FaultKind


class PlannedFault(RuntimeError):
    """Raised by a planned `fail`."""


class Chaos:
    """The faults of one rank."""

    def __init__(
        self, plan: Sequence[Fault], *, rank: int, folder: Path, checkpoints: Path
    ) -> None:
        self.faults = {index: fault for index, fault in enumerate(plan) if fault.rank == rank}
        self.folder = folder
        self.checkpoints = checkpoints

    def strike(self, step: int) -> None:
        """Carries out what is planned for the start of `step`, if it has not been yet."""
        for index, fault in self.faults.items():
            if fault.step == step and self._first_time(index):
                _STRIKES[fault.do](self)

    def _first_time(self, index: int) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            os.close(os.open(self.folder / f"fired-{index}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


def _fail(_: Chaos) -> None:
    raise PlannedFault("planned by chaos.plan")


def _hang(_: Chaos) -> None:
    while True:
        time.sleep(3600)


def _kill(_: Chaos) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _corrupt(chaos: Chaos) -> None:
    """Flips one byte in the middle of the largest file of the newest checkpoint."""
    newest = max(chaos.checkpoints.glob("step-*"), default=None)
    if newest is not None:
        flip_byte(max(newest.iterdir(), key=lambda path: path.stat().st_size))


def flip_byte(path: Path, position: int | None = None) -> None:
    """Inverts one byte of a file in place; the middle one where no position is given."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 if position is None else position)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))


_STRIKES = {
    FaultKind.fail: _fail,
    FaultKind.hang: _hang,
    FaultKind.kill: _kill,
    FaultKind.corrupt: _corrupt,
}
