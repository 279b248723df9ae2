"""The sides: how each is started, who of it may be killed, where its steps are read."""

import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .job import Job
from .steps import KeepstepSteps, PeerSteps, Reader

PROGRAMS = Path(__file__).parent.parent / "peers" / "recovery"
sys.path.append(str(PROGRAMS))

import llama  # noqa: E402

WORKER = "bench-worker"
MANY = 100_000


@dataclass(kw_only=True)
class Running:
    """A job that trains, or soon will."""

    job: Job
    steps: Reader
    ranks: int
    vital: subprocess.Popen[bytes]
    """The process without which the job is over."""
    worker: str = WORKER
    tend: Callable[[], None] = lambda: None
    """What who runs the job has to do while it runs; called often."""

    def victims(self) -> list[int]:
        return self.job.marked(self.worker)

    def is_over(self) -> bool:
        return self.vital.poll() is not None


class Side(Protocol):
    """A way to train that survives, or means to."""

    def launch(self, job: Job, ranks: int, kills: int) -> Running:
        """Starts `ranks` in the job, which will have to bear `kills`."""


def torchrun(ranks: int, *more: str | Path) -> list[str | Path]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*command, f"--nproc-per-node={ranks}", *more]


@dataclass
class Keepstep:
    """The main job under torchrun: no checkpoint is saved, a failure is borne by memory alone."""

    in_place: bool

    def launch(self, job: Job, ranks: int, kills: int) -> Running:
        run = job.folder / "run"
        overrides = [
            *(f"run.dir={run}", f"recovery.in_place={str(self.in_place).lower()}"),
            *(f"train.batch_samples={ranks}", "train.microbatch_samples=1", f"train.steps={10**7}"),
            *("train.eval_every=0", "checkpoint.every_steps=0", "checkpoint.every_seconds=0"),
            *(f"recovery.max_recoveries={MANY}", "telemetry.progress=false"),
            *(f"data.sequence_length={llama.LENGTH}", f"model.hidden_size={llama.HIDDEN}"),
            *(f"model.intermediate_size={llama.INTERMEDIATE}", f"model.num_layers={llama.LAYERS}"),
            *(f"model.num_heads={llama.HEADS}", f"model.num_kv_heads={llama.KV_HEADS}"),
        ]
        launcher = job.start(torchrun(ranks, "-m", "keepstep.trainer", *overrides), {})
        steps = KeepstepSteps(run, ranks)
        return Running(job=job, steps=steps, ranks=ranks, vital=launcher, worker="keepstep-worker")


class Plain:
    """torchrun's own restarts, and torch's own checkpoints."""

    def launch(self, job: Job, ranks: int, kills: int) -> Running:
        program = (PROGRAMS / "plain.py", job.folder)
        # Else the first restart on gloo reads stale addresses and fails.
        own_store = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        launcher = job.start(torchrun(ranks, f"--max-restarts={MANY}", *program), own_store)
        return Running(job=job, steps=PeerSteps(job.folder), ranks=ranks, vital=launcher)


class Replicas:
    """torchft's replica groups, each started again when it ends."""

    def __init__(self, job: Job, command: Sequence[str | Path], lighthouse: str) -> None:
        self.job, self.command, self.lighthouse = job, command, lighthouse
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, ranks: int) -> None:
        self.processes = [self.start_one(rank) for rank in range(ranks)]

    def start_one(self, rank: int) -> subprocess.Popen[bytes]:
        return self.job.start([*self.command, str(rank), self.lighthouse], {})

    def tend(self) -> None:
        for rank, process in enumerate(self.processes):
            if process.poll() is not None:
                self.processes[rank] = self.start_one(rank)


@dataclass
class TorchFT:
    """torchft 0.2: survivors go on without the dead, who come back later."""

    python: str
    is_tuned: bool

    def launch(self, job: Job, ranks: int, kills: int) -> Running:
        port = free_ports(1)
        command = [Path(self.python).parent / "torchft_lighthouse", "--min_replicas", "1"]
        # With three replicas and more survivors wait for one another inside gloo, up to the time
        # to join (by its README 10 s) or gloo's; the shorter one lets some go on without others.
        join, more = ("1000", ["--heartbeat_timeout_ms", "500"]) if self.is_tuned else ("10000", [])
        command += ["--join_timeout_ms", join, "--bind", f"127.0.0.1:{port}", *more]
        lighthouse = job.start(command, {})
        program = (self.python, PROGRAMS / "ft.py", job.folder)
        replicas = Replicas(job, program, f"http://127.0.0.1:{port}")
        replicas.start(ranks)
        steps = PeerSteps(job.folder)
        return Running(job=job, steps=steps, ranks=ranks, vital=lighthouse, tend=replicas.tend)


@dataclass
class NVRx:
    """nvidia-resiliency-ext 0.4: the loop is called anew in the processes that live, a reserve
    for each kill beside them."""

    python: str
    is_tuned: bool

    def launch(self, job: Job, ranks: int, kills: int) -> Running:
        world = ranks + kills
        shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
        shared["MASTER_PORT"] = str(free_ports(2))
        command = [self.python, PROGRAMS / "nvrx.py", job.folder, str(ranks)]
        command += ["--tuned"] if self.is_tuned else []
        ranked = [{**shared, "RANK": str(rank)} for rank in range(world)]
        keeper, *_ = [job.start(command, variables) for variables in ranked]
        return Running(job=job, steps=PeerSteps(job.folder), ranks=ranks, vital=keeper)


def free_ports(count: int) -> int:
    """The first of `count` neighbouring ports on loopback that nobody has."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                for offset in range(1, count):
                    with socket.socket() as other:
                        other.bind(("127.0.0.1", port + offset))
            except OSError:
                continue
            return port


def sides(torchft: str | None, nvrx: str | None) -> dict[str, Side]:
    """By a short name; the peers whose interpreter is given."""
    found: dict[str, Side] = {
        "inplace": Keepstep(in_place=True),
        "afresh": Keepstep(in_place=False),
        "torchrun": Plain(),
    }
    if torchft:
        found |= {"torchft": TorchFT(torchft, False), "torchft-tuned": TorchFT(torchft, True)}
    if nvrx:
        found |= {"nvrx": NVRx(nvrx, False), "nvrx-tuned": NVRx(nvrx, True)}
    return found
