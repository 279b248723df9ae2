"""One rank of the bench of checkpoints: its state, its slots, and the seconds measured so far."""

import ctypes
import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from keepstep.checkpoint import Cargo
from keepstep.checkpoint.slots import Held, Image, SlotFile, Snapshots, newest
from keepstep.parallel import Exchange

TENSORS = 64
_LOOKS = 5


class Rank:
    """`compute` is about ten copies of the state long; seconds are those of the slowest rank."""

    def __init__(self, mib: int, folder: Path) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.folder = folder
        self.mesh = init_device_mesh("cpu", (self.size,))
        self.state = self._make_state(mib)
        self.bytes = sum(t.to_local().nbytes for t in self.state.values())
        self.exchange = Exchange(dist.group.WORLD)
        self.seconds: dict[str, list[float]] = {}
        self.mib: dict[str, list[float]] = {}
        self.slots = [SlotFile.unnamed() for _ in range(2)]
        image = Image.of(self.state, self.state, rank=self.rank, holders=range(self.size), label={})
        self.snapshots = Snapshots(self.slots, [], image, volatile=(), say=print)
        self.snapshots.open()
        self.units = 1
        copies = [self._copy_seconds() for _ in range(_LOOKS)]
        self.units = max(1, round(10 * min(copies) / min(self._one_unit() for _ in range(_LOOKS))))

    def compute(self) -> None:
        """A forward and backward: arithmetic on one core."""
        a = torch.ones(512, 512)
        for _ in range(self.units * 4):
            a = (a @ a).mul_(1e-3)

    def cargo(self, step: int) -> Cargo:
        return Cargo(step=step, topology={"shard": self.size}, progress={}, lineage={})

    def held(self, step: int) -> Held:
        """A whole snapshot of the state as it is, which no reader has to give back."""
        self.snapshots.begin(self.state, self.cargo(step))
        self.snapshots.settle()
        return newest(self.slots)[0]

    def image(self) -> memoryview:
        """As many bytes as the state's local part has, in memory."""
        return memoryview(self.slots[0].map())[: self.bytes]

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Notes how long the block takes the slowest rank, all having begun together."""
        dist.barrier()
        begun = time.perf_counter()
        yield
        self.note(name, time.perf_counter() - begun)

    def note(self, name: str, seconds: float) -> None:
        self.seconds.setdefault(name, []).append(_most(seconds))

    @contextmanager
    def weighed(self, name: str) -> Iterator[None]:
        """Notes how many MiB the block takes at most beside what this process holds before it, of
        the rank that takes most."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what the heap has kept free would be taken unseen
        dist.barrier()
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew: proc(5)
        before = _kib("VmRSS")
        yield
        self.mib.setdefault(name, []).append(_most((_kib("VmHWM") - before) / 1024))

    def settle(self) -> None:
        """Collective: lets the disk write what others have left to it."""
        dist.barrier()
        os.sync()
        dist.barrier()

    def forget(self, path: Path) -> None:
        """Collective: has the kernel drop what it keeps in memory of a file, or a folder's files;
        each rank may name another."""
        self.settle()
        for one in [path] if path.is_file() else filter(Path.is_file, path.rglob("*")):
            file = os.open(one, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)

    def _make_state(self, mib: int) -> dict[str, DTensor]:
        rows = mib * 2**20 // (TENSORS * 4 * 1024)
        return {
            f"model.layer{place:02d}": DTensor.from_local(
                torch.randn(rows // self.size, 1024), self.mesh, [Shard(0)]
            )
            for place in range(TENSORS)
        }

    def _copy_seconds(self) -> float:
        begun = time.perf_counter()
        self.held(0)
        return time.perf_counter() - begun

    def _one_unit(self) -> float:
        begun = time.perf_counter()
        self.compute()
        return time.perf_counter() - begun


def _most(value: float) -> float:
    """Collective: the greatest of the ranks' values."""
    found = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return float(found)


def _kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
