"""Planned faults: what they cost is only known by having them. None strikes the same step of a rank
twice in the life of a run folder, whatever is restarted."""

import contextlib
import math
import os
import shutil
import signal
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import final

import torch
import xxhash
from torch import Tensor

from ...parallel import local_part
from ..errors import ConfigError
from .config import ANY_RANK, Fault, FaultKind, FaultPhase

_SPARED_BYTES = 64 * 2**20

_BOOST = 1e4
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class PlannedFault(RuntimeError):
    """Raised by a planned `fail`."""


@final
class Chaos:
    """The faults of one rank.

    Args:
        size: ranks of the world.
        folder: of the marks of those that have struck, and of the room that is filled.
        cut: breaks the connections of this process to the other ranks.
    """

    def __init__(
        self,
        plan: Sequence[Fault],
        *,
        rank: int,
        size: int,
        seed: int,
        folder: Path,
        checkpoints: Path,
        cut: Callable[[], None],
    ) -> None:
        self.faults = {
            index: fault for index, fault in enumerate(plan) if fault.rank in (ANY_RANK, rank)
        }
        self.rank, self.size, self.seed = rank, size, seed
        self.folder = folder
        self.checkpoints = checkpoints
        self.cut = cut

    def strike(self, step: int, phase: FaultPhase = FaultPhase.data) -> None:
        """Carries out what is planned for that phase of `step`, if it has not been yet."""
        for index, fault in self.faults.items():
            if fault.phase == phase and fault.do in _STRIKES and self._strikes(index, fault, step):
                _STRIKES[fault.do](self, fault)

    def boost(self, step: int) -> float:
        """What the gradient of `step` is multiplied by on this rank: 1, but for a planned spike."""
        return _BOOST if self._has_struck(FaultKind.spike, step) else 1.0

    def poisoned(self, step: int, parts: Tensor) -> Tensor:
        """This rank's parts of the loss of `step`, or the NaN planned for them."""
        is_struck = self._has_struck(FaultKind.poison, step)
        return torch.full_like(parts, math.nan) if is_struck else parts

    def flip(self, step: int, parameters: Iterable[Tensor]) -> None:
        """After `step`: inverts a bit of the first parameter that has an element on this rank."""
        if self._has_struck(FaultKind.flip, step):
            flip_bit(parameters)

    def _has_struck(self, kind: FaultKind, step: int) -> bool:
        """Carries marks of all of a kind that are due, so that each strikes once."""
        due = [(index, fault) for index, fault in self.faults.items() if fault.do == kind]
        return any([self._strikes(index, fault, step) for index, fault in due])

    def _strikes(self, index: int, fault: Fault, step: int) -> bool:
        if not self._is_due(index, fault, step):
            return False
        # Who is slow stays so where a step is done again.
        return fault.do == FaultKind.slow or self._first_time(index, fault, step)

    def _is_due(self, index: int, fault: Fault, step: int) -> bool:
        """Whether it strikes this rank at `step`, or did so early enough before to go on."""
        first = max(0, step - fault.steps + 1)
        return any(self._begins(index, fault, at) for at in range(first, step + 1))

    def _begins(self, index: int, fault: Fault, step: int) -> bool:
        if fault.rate:
            ranks = self.size if fault.rank == ANY_RANK else 1
            return draw(self.seed, step, self.rank, index) < fault.rate / 1000 / ranks
        if fault.step != step:
            return False
        rank = int(draw(self.seed, step, index) * self.size)
        return (rank if fault.rank == ANY_RANK else fault.rank) == self.rank

    def _first_time(self, index: int, fault: Fault, step: int) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        mark = f"fired-{index}" + (f"-{step}-{self.rank}" if fault.rate else "")
        try:
            os.close(os.open(self.folder / mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


def draw(seed: int, *place: int) -> float:
    """A number from 0 to below 1, a function of these numbers and their order."""
    key = struct.pack(f"<{1 + len(place)}q", seed, *place)
    return float((xxhash.xxh3_64_intdigest(key) >> 11) * 2.0**-53)


def _fail(_: Chaos, __: Fault) -> None:
    raise PlannedFault("planned by chaos.plan")


def _hang(_: Chaos, __: Fault) -> None:
    while True:
        time.sleep(3600)


def _kill(_: Chaos, __: Fault) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _corrupt(chaos: Chaos, _: Fault) -> None:
    """Flips one byte in the middle of the largest file of the newest checkpoint."""
    newest = max(chaos.checkpoints.glob("step-*"), default=None)
    if newest is not None:
        flip_byte(max(newest.iterdir(), key=lambda path: path.stat().st_size))


def _stop(_: Chaos, __: Fault) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _slow(_: Chaos, fault: Fault) -> None:
    time.sleep(fault.seconds)


def _cut(chaos: Chaos, _: Fault) -> None:
    chaos.cut()


def _fill(chaos: Chaos, fault: Fault) -> None:
    """Takes room in a file without a name, which goes with this process if not before."""
    free = shutil.disk_usage(chaos.folder).free
    if fault.bytes > free - _SPARED_BYTES:
        raise ConfigError(
            f"chaos.plan: found bytes={fault.bytes} of do=fill, needed {free - _SPARED_BYTES} at "
            f"most, all but 64 MiB of what {chaos.folder} has free; set fewer bytes"
        )
    file = tempfile.TemporaryFile(dir=chaos.folder)  # noqa: SIM115 - the timer closes it
    with contextlib.suppress(OSError):  # others have filled it meanwhile
        os.posix_fallocate(file.fileno(), 0, fault.bytes)
    timer = threading.Timer(fault.seconds, file.close)
    timer.daemon = True
    timer.start()


def flip_byte(path: Path, position: int | None = None) -> None:
    """Inverts one byte of a file in place; the middle one where no position is given."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 if position is None else position)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))


@torch.no_grad()
def flip_bit(parameters: Iterable[Tensor]) -> None:
    """Inverts the highest bit of the exponent of one element, in place."""
    for parameter in parameters:
        local = local_part(parameter).detach()
        if local.numel():
            bits = local.view(_INTEGERS[local.element_size()])
            bits.view(-1)[0] ^= 1 << (8 * local.element_size() - 2)
            return


_STRIKES = {
    FaultKind.fail: _fail,
    FaultKind.hang: _hang,
    FaultKind.kill: _kill,
    FaultKind.corrupt: _corrupt,
    FaultKind.stop: _stop,
    FaultKind.slow: _slow,
    FaultKind.cut: _cut,
    FaultKind.fill: _fill,
}
