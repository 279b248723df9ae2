"""Whole jobs (guardians, warm servers, workers) forked from the warm test process: what torchrun
would start, without starting Python again. Everything ends by its process id, always."""

import contextlib
import faulthandler
import functools
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from support.ports import free_port
from torch import Tensor, nn
from torch.distributed import TCPStore

from keepstep.trainer import ConfigError, Recipe, RunConfig, Trainer, launch
from keepstep.trainer.compose import compose
from keepstep.trainer.recipe import MakeRecipe
from keepstep.trainer.recovery.ledger import read_lines
from keepstep.trainer.recovery.preload import preload
from keepstep.trainer.supervise import run
from keepstep.trainer.warmup import warm_up

SAMPLES = 64


class JobFailedError(AssertionError):
    """A job did not do in time what was waited for; the message holds all stacks and outputs."""


class TinyModel(nn.Module):
    """Two layers and a dropout between them, so that a run equals another only if its random
    numbers do."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 16)
        self.drop = nn.Dropout(0.25)
        self.down = nn.Linear(16, 3)

    def forward(self, x_BF: Tensor) -> Tensor:
        out: Tensor = self.down(self.drop(torch.tanh(self.up(x_BF))))
        return out


def tiny(sleep_seconds: float = 0.0) -> MakeRecipe:
    """A recipe of a few milliseconds a step; each micro-batch sleeps `sleep_seconds` beside, so
    that a kill from outside lands in the middle of a run."""

    def recipe(config: RunConfig) -> Recipe:
        generator = torch.Generator().manual_seed(5)
        x = torch.randn(SAMPLES, 6, generator=generator)
        samples = {"x": x, "y": torch.stack([x.sum(1), x.prod(1), x.amax(1)], 1)}

        def loss(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
            time.sleep(sleep_seconds)
            return (module(batch["x"]) - batch["y"]).square().sum()

        return Recipe(model=TinyModel, loss=loss, samples=samples)

    return recipe


def recovering(config: RunConfig) -> Recipe:
    """The tiny recipe, slow enough for several looks a run, with samples that are held out."""
    made = tiny(0.01)(config)
    assert isinstance(made.samples, dict)
    held_out = {name: some[:16] for name, some in made.samples.items()}
    return replace(made, eval_samples=held_out)


def overrides(folder: Path, *more: str, steps: int = 10, save_every: int = 3) -> list[str]:
    """The command line of a tiny run in `folder`; later words outrank earlier ones."""
    words = {
        "run.dir": str(folder),
        "train.steps": str(steps),
        "train.batch_samples": "8",
        "train.microbatch_samples": "2",
        "checkpoint.every_steps": str(save_every),
        "schedule.warmup_steps": "2",
        "telemetry.progress_seconds": "0",
        "data.prefetch_batches": "1",
    } | dict(word.split("=", 1) for word in more)
    return [f"{key}={value}" for key, value in words.items()]


@dataclass(slots=True)
class Job:
    """One launch of `size` guardians; `wait` or the end of its `with` block is its end."""

    guardians: list[int]
    outputs: Path
    agent: int | None = None
    codes: dict[int, int] = field(default_factory=dict)

    def wait(self, timeout: float = 120.0) -> list[int]:
        """Waits for every guardian and answers their exit codes by rank; negative for a signal.

        Raises:
            JobFailedError: one still runs after `timeout` seconds.
        """
        self.until(self.is_over, timeout, "the end of the job")
        return [self.codes[rank] for rank in range(len(self.guardians))]

    def until(self, holds: Any, timeout: float, what: str) -> None:
        """Polls `holds()` until it does."""
        deadline = time.monotonic() + timeout
        while not holds():
            if time.monotonic() > deadline:
                raise JobFailedError(f"no {what} within {timeout} s\n{self._picture()}")
            time.sleep(0.01)

    def is_over(self) -> bool:
        """Whether every guardian has ended; notes their exit codes."""
        for rank, pid in enumerate(self.guardians):
            if rank not in self.codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    self.codes[rank] = os.waitstatus_to_exitcode(status)
        return len(self.codes) == len(self.guardians)

    def processes(self) -> dict[int, int]:
        """Every living process of this job with its parent: those whose standard output is ours,
        so that an orphan is found wherever it was adopted."""
        found: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and Path(os.readlink(entry / "fd/1")) in self._files("out"):
                    state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                    if state != "Z":
                        found[int(entry.name)] = int(parent)
        return found

    def workers(self) -> dict[int, int]:
        """The training process of each rank that has one: the grandchild of its guardian that has
        begun; spares have not."""
        parents = self.processes()
        ranks = {pid: rank for rank, pid in enumerate(self.guardians)}
        found = {}
        for pid, parent in parents.items():
            with contextlib.suppress(OSError):
                begun = Path(f"/proc/{pid}/comm").read_text().strip() == "keepstep-worker"
                if begun and (guardian := parents.get(parent)) in ranks:
                    found[ranks[guardian]] = pid
        return found

    def worker(self, rank: int, timeout: float = 60.0) -> int:
        """The pid of the worker of `rank`, waited for."""
        self.until(lambda: rank in self.workers(), timeout, f"worker of rank {rank}")
        return self.workers()[rank]

    def output(self, rank: int) -> str:
        """What the rank and its worker wrote to standard output."""
        return (self.outputs / f"out-{rank}").read_text()

    def errors(self, rank: int) -> str:
        """What the rank and its worker wrote to standard error."""
        return (self.outputs / f"err-{rank}").read_text()

    def kill_tree(self) -> None:
        """SIGKILL to every process of the job, as when the machine goes."""
        while found := self.processes():
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.is_over()
        self.is_over()
        if self.agent is not None:
            os.kill(self.agent, signal.SIGKILL)
            os.waitpid(self.agent, 0)
            self.agent = None

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_tree()
        self.until(self.is_over, 30.0, "end after a SIGKILL")

    def _files(self, kind: str) -> list[Path]:
        return [self.outputs / f"{kind}-{rank}" for rank in range(len(self.guardians))]

    def _picture(self) -> str:
        parents = self.processes()
        for pid in [*self.guardians, *self.workers().values()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR2)
        time.sleep(0.3)
        files = (path for kind in ("out", "err") for path in self._files(kind))
        texts = [f"{path}:\n{path.read_text()}" for path in files if path.exists()]
        return f"processes and parents: {parents}, ended: {self.codes}\n" + "\n".join(texts)


def start_job(
    size: int,
    words: Sequence[str],
    *,
    folder: Path,
    recipe: MakeRecipe | None = None,
    per_rank: dict[int, list[str]] | None = None,
    has_agent: bool = True,
    node_size: int | None = None,
) -> Job:
    """Forks `size` guardians.

    Args:
        words: the overrides of every rank.
        folder: where standard output and error of each rank go, in a folder of their own.
        per_rank: more overrides of single ranks.
        node_size: ranks that take themselves to be on one node; None: all.
        has_agent: a process beside them hosts the store, as torchrun's agent does; else rank 0.
    """
    preload()
    outputs = folder / f"job-{time.monotonic_ns()}"
    outputs.mkdir(parents=True)
    port = free_port()
    on_node = node_size or size
    place = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(on_node), "MASTER_ADDR": "127.0.0.1"}
    place |= {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": str(has_agent)}
    of_ranks = [[*words, *(per_rank or {}).get(rank, [])] for rank in range(size)]
    configs = [_composed(own) for own in of_ranks]
    job = Job([], outputs, _start_agent(port) if has_agent else None)
    for rank, (own, config) in enumerate(zip(of_ranks, configs, strict=True)):
        pid = os.fork()
        if pid == 0:
            os.environ.update({**place, "RANK": str(rank), "LOCAL_RANK": str(rank % on_node)})
            _live(rank, outputs, own, config, recipe or tiny())
        job.guardians.append(pid)
    return job


def _composed(words: Sequence[str]) -> RunConfig | None:
    """What Hydra makes of the words: half the time of a small job, where each rank asks it. None
    for a sweep and for what Hydra refuses, which is each rank's own to say."""
    folder, rest = None, []
    for word in words:
        if word.startswith("run.dir="):
            folder = word.removeprefix("run.dir=")
        else:
            rest.append(word)
    if folder is None or "-m" in rest or (config := _composed_once(tuple(rest))) is None:
        return None
    return replace(config, run=replace(config.run, dir=folder))


@functools.cache
def _composed_once(words: tuple[str, ...]) -> RunConfig | None:
    try:
        return compose(words)
    except ConfigError:
        return None


def _start_agent(port: int) -> int:
    """Forks the host of a store and answers its pid once it listens."""
    ready, is_up = os.pipe()
    pid = os.fork()
    if pid == 0:
        store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
        os.write(is_up, b"1")
        while store is not None:
            signal.pause()
    os.read(ready, 1)
    os.close(ready)
    os.close(is_up)
    return pid


def _handing(config: RunConfig) -> Callable[..., int]:
    """What stands for Hydra where the configuration is composed already."""

    def run_hydra(argv: Sequence[str], job: Callable[..., int], **_: Any) -> int:
        sys.argv = ["keepstep", *argv]  # as Hydra has it: what a run writes down as its command
        return job(config, None)

    return run_hydra


def _live(
    rank: int, outputs: Path, words: list[str], config: RunConfig | None, recipe: MakeRecipe
) -> None:
    """A guardian's whole life, in a fork of the test process; never returns."""
    code = 111
    try:
        if config is not None:
            asked = sys.modules[run.__module__]
            asked.run_hydra = _handing(config)  # type: ignore[attr-defined]
        if launch.warm_up is warm_up:  # a fifth of a second a rank, for what few tests look at
            launch.warm_up = None  # type: ignore[assignment]
        for fd, kind in ((1, "out"), (2, "err")):
            file = os.open(outputs / f"{kind}-{rank}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.dup2(file, fd)
            os.close(file)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - pytest's own captures
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        faulthandler.register(signal.SIGUSR2, file=2, all_threads=True)
        code = run(Trainer.fit, recipe, words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@dataclass(frozen=True, slots=True)
class Ran:
    """What a finished run's folder says."""

    folder: Path

    @property
    def digest(self) -> str:
        """The bits of model and optimizer."""
        return str(self.summary["state_digest"])

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return found

    @property
    def losses(self) -> dict[int, float]:
        """Loss by step; of a step that was done twice the last."""
        return {line["step"]: line["loss"] for line in self.lines("metrics.jsonl")}

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """Events of these kinds, in the order in which they were written."""
        return [line for line in self.lines("events.jsonl") if line["kind"] in kinds]

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Of a JSONL file, in the order in which they were written, without one that is being
        written at this moment or that a kill tore."""
        return read_lines(self.folder / name)
