"""What a snapshot, a durable save and a restore cost, beside torch's own ways and the machine's
limits, in turn in the same processes. Prints a table and writes JSON under scripts/results/.

    blocked   what the loop waits for a save whose copy runs beside a forward and backward
    save      from its begin until it is durable
    restore   from the checkpoint's path until the live tensors hold it
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from keepstep.checkpoint import Cargo, Checkpoints, Keep, LocalStore, commit, tidy
from keepstep.checkpoint.slots import Image, SlotFile, Snapshots, newest
from keepstep.parallel import Exchange

RESULTS = Path(__file__).parent / "results"
PIECE = 8 * 2**20
TENSORS = 64


class Bench:
    """One rank's measurements. `compute` is about ten copies of the state long."""

    def __init__(self, mib: int, folder: Path) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.folder = folder
        self.mesh = init_device_mesh("cpu", (self.size,))
        self.state = self.make_state(mib)
        self.bytes = sum(t.to_local().nbytes for t in self.state.values())
        self.exchange = Exchange(dist.group.WORLD)
        self.seconds: dict[str, list[float]] = {}
        self.slots = [SlotFile.unnamed() for _ in range(2)]
        image = Image.of(self.state, self.state, rank=self.rank, holders=range(self.size), label={})
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.snapshots = Snapshots(self.slots, [], image, volatile=(), say=print)
        self.snapshots.open()
        self.before = before
        self.units = 1
        self.units = max(1, round(10 * self.copy_seconds() / self.one_unit()))

    def make_state(self, mib: int) -> dict[str, DTensor]:
        rows = mib * 2**20 // (TENSORS * 4 * 1024)
        return {
            f"model.layer{place:02d}": DTensor.from_local(
                torch.randn(rows // self.size, 1024), self.mesh, [Shard(0)]
            )
            for place in range(TENSORS)
        }

    def copy_seconds(self) -> float:
        begun = time.perf_counter()
        self.snapshots.begin(self.state, self.cargo(0))
        self.snapshots.settle()
        return time.perf_counter() - begun

    def one_unit(self) -> float:
        begun = time.perf_counter()
        self.compute()
        return time.perf_counter() - begun

    def compute(self) -> None:
        """A forward and backward: arithmetic on one core."""
        a = torch.ones(512, 512)
        for _ in range(self.units * 4):
            a = (a @ a).mul_(1e-3)

    def cargo(self, step: int) -> Cargo:
        return Cargo(step=step, topology={"shard": self.size}, progress={}, lineage={})

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        dist.barrier()
        begun = time.perf_counter()
        yield
        seconds = torch.tensor(time.perf_counter() - begun, dtype=torch.float64)
        dist.all_reduce(seconds, dist.ReduceOp.MAX)
        self.seconds.setdefault(name, []).append(float(seconds))

    def note(self, name: str, seconds: float) -> None:
        slowest = torch.tensor(seconds, dtype=torch.float64)
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
        self.seconds.setdefault(name, []).append(float(slowest))

    # What is measured, one method a case.

    def raw_write(self) -> None:
        """A sequential write with fsync of the same bytes."""
        data = memoryview(self.slots[0].map())[: self.bytes]
        with self.timed("raw write"):
            file = os.open(self.folder / f"raw-{self.rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for start in range(0, len(data), PIECE):
                os.write(file, data[start : start + PIECE])
            os.fsync(file)
            os.close(file)

    def raw_read(self) -> None:
        buffer = memoryview(bytearray(self.bytes))
        with self.timed("raw read"), open(self.folder / f"raw-{self.rank}", "rb", 0) as file:
            position = 0
            while count := file.readinto(buffer[position : position + PIECE]):
                position += count

    def memcpy(self) -> None:
        into = {name: torch.empty_like(t.to_local()) for name, t in self.state.items()}
        for tensor in into.values():
            tensor.zero_()
        with self.timed("memcpy"):
            for name, tensor in into.items():
                tensor.copy_(self.state[name].to_local())

    def keepstep_step(self) -> None:
        """A step with a snapshot, and one without."""
        for name in ("step", "step with snapshot"):
            with self.timed(name):
                if name != "step":
                    self.snapshots.begin(self.state, self.cargo(1))
                self.compute()
                self.snapshots.wait()
            self.snapshots.settle()

    def keepstep_save(self) -> None:
        dist.barrier()
        begun = time.perf_counter()
        index = self.snapshots.begin(self.state, self.cargo(2), pin=True)
        blocked = time.perf_counter() - begun
        self.compute()
        blocked += self.snapshots.wait()
        self.note("keepstep blocked", blocked)
        self.snapshots.settle()
        held = newest([self.slots[index or 0]])[0]
        place = LocalStore(self.folder / "keepstep")
        with self.timed("keepstep save"):
            commit(place, self.exchange, held, held.cargo)
        self.slots[index or 0].unpin()
        if self.rank == 0:
            tidy(place, Keep(last=1))

    def keepstep_restore(self) -> None:
        checkpoints = Checkpoints(LocalStore(self.folder / "keepstep"), self.exchange, keep=1)
        with self.timed("keepstep restore"):
            assert checkpoints.restore(self.state, in_place=True) is not None

    def keepstep_memory(self) -> None:
        self.snapshots.begin(self.state, self.cargo(3))
        self.snapshots.settle()
        with self.timed("keepstep memory restore"):
            held = newest(self.slots)[0]
            held.prove()
            held.load_into(self.state)

    def torch_save(self) -> None:
        local = {name: tensor.to_local() for name, tensor in self.state.items()}
        path = self.folder / f"torch-{self.rank}.pt"
        with self.timed("torch.save"):
            torch.save(local, path)
        with self.timed("torch.load"):
            torch.load(path, mmap=False, weights_only=True)

    def dcp_save(self) -> None:
        with self.timed("dcp.save"):
            dcp.save(self.state, checkpoint_id=self.folder / "dcp")
        with self.timed("dcp.load"):
            dcp.load(self.state, checkpoint_id=self.folder / "dcp")

    def dcp_thread(self) -> None:
        dist.barrier()
        begun = time.perf_counter()
        future = dcp.async_save(self.state, checkpoint_id=self.folder / "dcp-thread")
        blocked = time.perf_counter() - begun
        self.compute()
        future.result()  # type: ignore[union-attr]
        self.note("dcp.async_save thread blocked", blocked)

    def dcp_process(self, stager: DefaultStager) -> None:
        dist.barrier()
        begun = time.perf_counter()
        future = dcp.async_save(
            self.state,
            checkpoint_id=self.folder / "dcp-process",
            async_stager=stager,
            async_checkpointer_type=AsyncCheckpointerType.PROCESS,
        )
        blocked = time.perf_counter() - begun
        self.compute()
        future.result()  # type: ignore[union-attr]
        self.note("dcp.async_save process blocked", blocked)


def job(arguments: argparse.Namespace) -> None:
    """One rank, under torchrun."""
    dist.init_process_group("gloo")
    folder = Path(arguments.folder)
    bench = Bench(arguments.mib, folder)
    stager = DefaultStager(
        StagingOptions(
            use_pinned_memory=False,
            use_shared_memory=True,
            use_async_staging=False,
            use_non_blocking_copy=False,
        )
    )
    cases: list[Callable[[], None]] = [
        *(bench.raw_write, bench.raw_read, bench.memcpy),
        *(bench.keepstep_step, bench.keepstep_save, bench.keepstep_restore, bench.keepstep_memory),
        *(bench.torch_save, bench.dcp_save, bench.dcp_thread),
        lambda: bench.dcp_process(stager),
    ]
    for turn in range(arguments.turns + 1):
        for case in cases if turn % 2 == 0 else reversed(cases):
            case()
        dist.barrier()
        if bench.rank == 0:
            print(f"turn {turn} of {arguments.turns}", file=sys.stderr, flush=True)
        dist.barrier()
    # The first turn opened files and warmed buffers.
    seconds = {name: found[1:] for name, found in bench.seconds.items()}
    if bench.rank == 0:
        print(json.dumps({"bytes": bench.bytes * bench.size, "seconds": seconds}))
    stager.close()
    dist.destroy_process_group()


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="keepstep-bench-", dir=arguments.place) as folder:
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={arguments.ranks}", __file__, "--job", f"--folder={folder}"),
            *(f"--turns={arguments.turns}", f"--mib={arguments.mib}"),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"the job failed with exit code {done.returncode}")
    found: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


RATIOS = {
    "snapshot each step / step": ("step with snapshot", "step", "<= 1.03"),
    "blocked / dcp.async_save thread": (
        *("keepstep blocked", "dcp.async_save thread blocked"),
        "<= 0.1",
    ),
    "blocked / dcp.async_save process": (
        *("keepstep blocked", "dcp.async_save process blocked"),
        "<= 0.1",
    ),
    "raw write / save": ("raw write", "keepstep save", ">= 0.9"),
    "raw read / restore": ("raw read", "keepstep restore", ">= 0.9"),
    "memory restore / memcpy": ("keepstep memory restore", "memcpy", "<= 1.5"),
    "dcp.save / save": ("dcp.save", "keepstep save", ""),
    "torch.save / save": ("torch.save", "keepstep save", ""),
    "dcp.load / restore": ("dcp.load", "keepstep restore", ""),
    "torch.load / restore": ("torch.load", "keepstep restore", ""),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--mib", type=int, default=1000, help="of the state of all ranks")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--place", help="a folder of the disk to measure; the system's otherwise")
    parser.add_argument("--job", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        return job(arguments)
    found = measure(arguments)
    seconds: dict[str, list[float]] = found["seconds"]  # type: ignore[assignment]
    gib = found["bytes"] / 2**30  # type: ignore[operator]
    print(f"\n{arguments.ranks} ranks, {gib:.2f} GiB, {arguments.turns} turns, medians")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"  {name:<34} {median:8.4f} s   {gib / median:8.2f} GiB/s")
    ratios = {}
    for name, (one, other, asked) in RATIOS.items():
        turns = [a / b for a, b in zip(seconds[one], seconds[other], strict=True)]
        ratios[name] = {"median": statistics.median(turns), "min": min(turns), "max": max(turns)}
        print(f"  {name:<34} {ratios[name]['median']:8.3f}     asked {asked or '-'}")
    if arguments.turns >= 5:
        path = RESULTS / f"bench_checkpoint_{arguments.mib}mib.json"
        result = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        result |= {"torch": torch.__version__, "ranks": arguments.ranks, **found, "ratios": ratios}
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written: {path}")


if __name__ == "__main__":
    main()
