"""What snapshots and durable saves take of the memory of a job of 2 ranks, beside the slots.

A whole job is run twice, without any and with a snapshot every step and a save every few; its
processes' memory is what smaps_rollup calls Pss: what they share counts once.

    python -m saving.footprint [HYDRA OVERRIDES]        the job itself
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from recovery.job import Job, JobError
from torch import Tensor, nn

from keepstep.trainer import Batch, Recipe, RunConfig, Trainer, supervise

SCRIPTS = Path(__file__).parent.parent
WIDTH = 1024
MIB_VARIABLE = "BENCH_MODEL_MIB"
STEPS, SAVE_EVERY = 12, 4
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
    return Recipe(model=model, loss=loss, samples=samples, optimizer=optimizer)


def footprint(mib: int, folder: Path, *, ranks: int) -> dict[str, float]:
    """Peaks and what lies between them, in MiB a rank."""
    plain = _peak(folder / "plain", _PLAIN, mib, ranks)
    saving = _peak(folder / "saving", _SAVING, mib, ranks)
    events = map(json.loads, (folder / "saving/events.jsonl").read_text().splitlines())
    slots = next(one["bytes"] for one in events if one["kind"] == "snapshots") / 2**20
    extra = (saving - plain) / ranks
    return {
        "plain": plain / ranks,
        "saving": saving / ranks,
        "slots": slots,
        "beside slots": extra - slots,
    }


def _peak(run: Path, words: tuple[str, ...], mib: int, ranks: int) -> float:
    """MiB of all processes of a job at most, from its second step to its end."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc-per-node={ranks}", "-m", "saving.footprint", f"run.dir={run}"),
        *(f"train.steps={STEPS}", "train.batch_samples=8", "train.microbatch_samples=4"),
        *(f"parallel.shard={ranks}", "run.resume=never", "telemetry.progress=false", *words),
    ]
    paths = os.pathsep.join([str(SCRIPTS), os.environ.get("PYTHONPATH", "")])
    variables = {MIB_VARIABLE: str(mib), "PYTHONPATH": paths}
    run.mkdir(parents=True)
    peak, deadline = 0, time.monotonic() + _LONGEST_SECONDS
    with Job(run) as job:
        launcher = job.start(command, variables)
        while launcher.poll() is None and time.monotonic() < deadline:
            if _steps(run) >= 2:
                peak = max(peak, sum(map(_pss_kib, job.marked())))
            time.sleep(_LOOK_SECONDS)
        if launcher.poll() != 0:
            raise JobError(f"{run}: found the job ended badly or not at all\n{job.log_tail()}")
    return peak / 1024


def _steps(run: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return (run / "metrics.jsonl").read_bytes().count(b"\n")
    return 0


def _pss_kib(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


if __name__ == "__main__":
    supervise(Trainer.fit, recipe, sys.argv[1:])
