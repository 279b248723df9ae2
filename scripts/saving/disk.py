"""What is measured in memory and on a disk, one method a case."""

import mmap
import os
import shutil
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

from keepstep.checkpoint import Checkpoints, Keep, LocalStore, commit, tidy
from keepstep.checkpoint.slots import newest

from .rank import Rank

PIECE, READ = 8 * 2**20, 2**20
# In a row, of a state of 500 MiB a rank; more of a smaller one, whose steps are as much shorter.
STEPS, BYTES = 3, 500 * 2**20


class Disk:
    def __init__(self, rank: Rank) -> None:
        self.rank, self.folder, self.state = rank, rank.folder, rank.state
        self.stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=False,
                use_shared_memory=True,
                use_async_staging=False,
                use_non_blocking_copy=False,
            )
        )

    @property
    def cases(self) -> list[Callable[[], None]]:
        return [
            self.keepstep_weight,  # first, before anything has made the heap larger
            *(self.raw_write, self.raw_read, self.memcpy, self.steps, self.steps_of_one_rank),
            *(self.keepstep_save, self.keepstep_restore, self.keepstep_memory),
            *(self.torch_save, self.dcp_save, self.dcp_thread, self.dcp_process),
        ]

    def close(self) -> None:
        self.stager.close()

    def raw_write(self) -> None:
        """A sequential write with fsync of the same bytes."""
        data = self.rank.image()
        self.rank.settle()
        with self.rank.timed("raw write"):
            path = self.folder / f"raw-{self.rank.rank}"
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for start in range(0, len(data), PIECE):
                os.write(file, data[start : start + PIECE])
            os.fsync(file)
            os.close(file)

    def raw_read(self) -> None:
        """A sequential read of the same bytes: of the disk, and of what the kernel has of it."""
        # A map, which begins with a page: copies into a bytearray, which does not, are slower.
        buffer = memoryview(mmap.mmap(-1, self.rank.bytes, flags=mmap.MAP_PRIVATE))
        np.asarray(buffer).fill(0)
        path = self.folder / f"raw-{self.rank.rank}"
        for name in ("raw read, disk", "raw read"):
            if "disk" in name:
                self.rank.forget(path)
            with self.rank.timed(name), open(path, "rb", 0) as file:
                position = 0
                while count := file.readinto(buffer[position : position + READ]):
                    position += count

    def memcpy(self) -> None:
        into = {name: torch.empty_like(t.to_local()) for name, t in self.state.items()}
        for tensor in into.values():
            tensor.zero_()
        with self.rank.timed("memcpy"):
            for name, tensor in into.items():
                tensor.copy_(self.state[name].to_local())

    def steps(self) -> None:
        """Steps in a row on every rank, without snapshots and with one each: no core is idle."""
        for name in ("steps", "steps with snapshots"):
            with self.rank.timed(name):
                self._steps(has_snapshots=name != "steps")

    def steps_of_one_rank(self) -> None:
        """The same on rank 0 alone, so that the copy has a core beside the step's."""
        for name in ("steps, a core idle", "steps with snapshots, a core idle"):
            with self.rank.timed(name):
                if self.rank.rank == 0:
                    self._steps(has_snapshots="with" in name)

    def _steps(self, *, has_snapshots: bool) -> None:
        snapshots = self.rank.snapshots
        for step in range(max(STEPS, STEPS * BYTES // self.rank.bytes)):
            if has_snapshots:
                snapshots.begin(self.state, self.rank.cargo(step))
            self.rank.compute()
            snapshots.wait()
        snapshots.settle()

    def keepstep_save(self) -> None:
        snapshots = self.rank.snapshots
        dist.barrier()
        begun = time.perf_counter()
        index = snapshots.begin(self.state, self.rank.cargo(2), pin=True)
        blocked = time.perf_counter() - begun
        self.rank.compute()
        blocked += snapshots.wait()
        self.rank.note("keepstep blocked", blocked)
        snapshots.settle()
        held = newest([self.rank.slots[index or 0]])[0]
        place = LocalStore(self.folder / "keepstep")
        self.rank.settle()
        with self.rank.timed("keepstep save"):
            commit(place, self.rank.exchange, held, held.cargo)
        self.rank.slots[index or 0].unpin()
        if self.rank.rank == 0:
            tidy(place, Keep(last=1))

    def keepstep_restore(self) -> None:
        place = LocalStore(self.folder / "keepstep")
        for name in ("keepstep restore, disk", "keepstep restore"):
            checkpoints = Checkpoints(place, self.rank.exchange, keep=1)
            if "disk" in name:
                self.rank.forget(place.root)
            with self.rank.timed(name):
                assert checkpoints.restore(self.state, in_place=True) is not None

    def keepstep_memory(self) -> None:
        self.rank.held(3)
        with self.rank.timed("keepstep memory restore"):
            newest(self.rank.slots)[0].fill(self.state)

    def keepstep_weight(self) -> None:
        """What a snapshot, a save out of a slot and a restore take of memory beside the slots."""
        place = LocalStore(self.folder / "weighed")
        with self.rank.weighed("snapshot"):
            held = self.rank.held(4)
        with self.rank.weighed("save"):
            commit(place, self.rank.exchange, held, held.cargo)
        with self.rank.weighed("restore"):
            Checkpoints(place, self.rank.exchange, keep=1).restore(self.state, in_place=True)
        dist.barrier()
        if self.rank.rank == 0:
            shutil.rmtree(place.root)

    def torch_save(self) -> None:
        local = {name: tensor.to_local() for name, tensor in self.state.items()}
        path = self.folder / f"torch-{self.rank.rank}.pt"
        self.rank.settle()
        with self.rank.timed("torch.save"):
            torch.save(local, path)
        with self.rank.timed("torch.load"):
            torch.load(path, mmap=False, weights_only=True)

    def dcp_save(self) -> None:
        folder = self.folder / "dcp"
        self.rank.settle()
        with self.rank.timed("dcp.save"):
            dcp.save(self.state, checkpoint_id=folder)
        for name in ("dcp.load, disk", "dcp.load"):
            if "disk" in name:
                self.rank.forget(folder)
            with self.rank.timed(name):
                dcp.load(self.state, checkpoint_id=folder)

    def dcp_thread(self) -> None:
        dist.barrier()
        begun = time.perf_counter()
        future = dcp.async_save(self.state, checkpoint_id=self.folder / "dcp-thread")
        blocked = time.perf_counter() - begun
        self.rank.compute()
        future.result()  # type: ignore[union-attr]
        self.rank.note("dcp.async_save thread blocked", blocked)

    def dcp_process(self) -> None:
        dist.barrier()
        begun = time.perf_counter()
        future = dcp.async_save(
            self.state,
            checkpoint_id=self.folder / "dcp-process",
            async_stager=self.stager,
            async_checkpointer_type=AsyncCheckpointerType.PROCESS,
        )
        blocked = time.perf_counter() - begun
        self.rank.compute()
        future.result()  # type: ignore[union-attr]
        self.rank.note("dcp.async_save process blocked", blocked)
