"""What snapshots and durable saves take of the memory of a job of 2 ranks, beside the slots.

A whole job is run by turns without any, and with a snapshot every step and a save every few. Of
each of its processes counts what it held at most, as the kernel keeps it, without the slots.

    python -m saving.footprint [HYDRA OVERRIDES]        the job itself
"""

import contextlib
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from recovery.job import Job, JobError
from torch import Tensor, nn

from keepstep.parallel import Plan
from keepstep.trainer import Batch, Recipe, RunConfig, Trainer, supervise

SCRIPTS = Path(__file__).parent.parent
WIDTH = 1024
MIB_VARIABLE = "BENCH_MODEL_MIB"
STEPS, SAVE_EVERY = 8, 4
# How much of the gradients is under way at once differs from run to run.
_TURNS = 3
_LOOK_SECONDS = 0.02
_LONGEST_SECONDS = 600.0
_PLAIN = ("recovery.snapshot_every=0", "checkpoint.every_steps=0", "checkpoint.at_end=false")
_SAVING = ("recovery.snapshot_every=1", f"checkpoint.every_steps={SAVE_EVERY}")


def recipe(config: RunConfig) -> Recipe:
    """A model of layers of 4 MiB, whose optimizer keeps nothing."""
    layers = int(os.environ[MIB_VARIABLE]) * 2**20 // (4 * WIDTH**2)

    def model() -> nn.Module:
        return nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers)))

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        return module(batch["x"]).square().sum()

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=1e-4)

    samples = {"x": torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(0))}
    # Each layer a unit: one unit of all would be gathered, and its memory drown what is looked for.
    plan = Plan(units=("*",))
    return Recipe(model=model, loss=loss, samples=samples, optimizer=optimizer, plan=plan)


def footprint(mib: int, folder: Path, *, ranks: int) -> dict[str, float]:
    """Medians of peaks and what lies between them, in MiB a rank."""
    peaks: dict[str, list[float]] = {"plain": [], "saving": []}
    for turn in range(_TURNS):
        for name, words in (("plain", _PLAIN), ("saving", _SAVING)):
            peaks[name].append(_peak(folder / f"{name}{turn}", words, mib, ranks))
    plain, saving = (statistics.median(peaks[name]) for name in ("plain", "saving"))
    events = map(json.loads, (folder / "saving0/events.jsonl").read_text().splitlines())
    slots = next(one["bytes"] for one in events if one["kind"] == "snapshots") / 2**20
    return {
        "plain": plain / ranks,
        "saving": saving / ranks,
        "slots": slots,
        "beside slots": (saving - plain) / ranks,
    }


def _peak(run: Path, words: tuple[str, ...], mib: int, ranks: int) -> float:
    """MiB of all processes of a job at most, slots left out."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc-per-node={ranks}", "-m", "saving.footprint", f"run.dir={run}"),
        *(f"train.steps={STEPS}", "train.batch_samples=8", "train.microbatch_samples=4"),
        *(f"parallel.shard={ranks}", "run.resume=never", "telemetry.progress=false", *words),
    ]
    paths = os.pathsep.join([str(SCRIPTS), os.environ.get("PYTHONPATH", "")])
    # What is freed goes back to the system at once: else what the heap happens to keep, hundreds of
    # MiB and another number each time, would be most of what is seen.
    heap = {"MALLOC_MMAP_THRESHOLD_": str(2**16)}
    variables = {MIB_VARIABLE: str(mib), "PYTHONPATH": paths, **heap}
    run.mkdir(parents=True)
    tops: dict[int, Top] = {}
    deadline = time.monotonic() + _LONGEST_SECONDS
    with Job(run) as job:
        launcher = job.start(command, variables)
        while launcher.poll() is None and time.monotonic() < deadline:
            for pid in job.marked():
                tops.setdefault(pid, Top()).look(pid)
            time.sleep(_LOOK_SECONDS)
        if launcher.poll() != 0:
            raise JobError(f"{run}: found the job ended badly or not at all\n{job.log_tail()}")
    return sum(top.kib for top in tops.values()) / 1024


@dataclass
class Top:
    """What one process held at most, in KiB, the memory that it shares (its slots) left out."""

    resident: int = 0
    shared: int = 0
    seen: int = 0

    def look(self, pid: int) -> None:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            found = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith(" kB")}
            if found:  # else it is ending
                self.resident = int(found["VmHWM"])
                self.shared = max(self.shared, int(found["RssShmem"]))
                self.seen = max(self.seen, int(found["RssAnon"]) + int(found["RssFile"]))

    @property
    def kib(self) -> int:
        """The kernel keeps the most of all that is resident: exact where the slots stay mapped, as
        in a worker; a guardian, which maps them now and then, is known by looking."""
        return max(self.seen, self.resident - self.shared)


if __name__ == "__main__":
    supervise(Trainer.fit, recipe, sys.argv[1:])
