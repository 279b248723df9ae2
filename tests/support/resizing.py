"""Schedules of sizes, endings and kills over one exact run: whole jobs, each on another number of
ranks than the one before, and what has to come of them."""

import contextlib
import os
import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.decoder import LENGTH
from support.decoder_recipe import decoder_recipe
from support.job import Job, Ran, overrides, start_job

SIZES = (1, 2, 3, 4, 8)
LAYOUTS = ("shard", "replicate", "hybrid")
PRECISIONS = ("fp32", "bf16")
LONGEST = 240.0


@dataclass(frozen=True, slots=True)
class Part:
    """One job of a schedule."""

    size: int
    layout: str
    until: int
    """The step after which it ends; that of the run's last step for the last part."""
    kills: Sequence[int]
    """Steps after which a rank's worker is killed, SIGKILL."""
    is_killed: bool
    """Whether the whole job is killed at its end, not asked to end."""

    @property
    def degrees(self) -> tuple[str, ...]:
        if self.layout == "replicate":
            return (f"parallel.replicate={self.size}", "parallel.shard=1")
        if self.layout == "hybrid" and self.size % 2 == 0:
            return ("parallel.replicate=2",)
        return ()

    def __str__(self) -> str:
        ending = "killed" if self.is_killed else "ended"
        return f"{self.size} {self.layout} {ending} at {self.until}, kills {list(self.kills)}"


def schedule(dice: random.Random, *, steps: int, most_parts: int = 5) -> list[Part]:
    """A random one, of two jobs or more."""
    count = dice.randint(2, most_parts)
    ends = [*sorted(dice.sample(range(2, steps), count - 1)), steps]
    parts, begin = [], 0
    for until in ends:
        inner = range(begin + 1, until)
        kills = sorted(dice.sample(inner, min(len(inner), dice.choice((0, 0, 1, 2)))))
        size, layout = dice.choice(SIZES), dice.choice(LAYOUTS)
        parts.append(Part(size, layout, until, kills, dice.random() < 0.3))
        begin = until
    return parts


def words_of(folder: Path, precision: str, *, steps: int) -> list[str]:
    """An exact run of 24 micro-batches a step, with dropout, clipping and averages."""
    more = (
        *("parallel.exact=true", "train.batch_samples=24", "train.microbatch_samples=1"),
        *(f"data.sequence_length={LENGTH}", f"precision={precision}", "parallel.device=cpu"),
        *("optim.clip_norm=1.0", "optim.ema_decay=0.9", "telemetry.progress=false"),
        *("parallel.timeout_seconds=120", "recovery.max_recoveries=1000"),
    )
    return overrides(folder, *more, steps=steps, save_every=7)


def straight(folder: Path, precision: str, *, steps: int, size: int = 1) -> Ran:
    """The run that stays on one size and that nothing happens to."""
    words = words_of(folder / "run", precision, steps=steps)
    with start_job(size, words, folder=folder, recipe=decoder_recipe()) as job:
        assert job.wait(LONGEST) == [0] * size, job.errors(0)
    return Ran(folder / "run")


def resized(folder: Path, parts: Sequence[Part], precision: str, *, steps: int, dice: Any) -> Ran:
    """The run that goes through a schedule."""
    ran = Ran(folder / "run")
    words = words_of(ran.folder, precision, steps=steps)
    for part in parts:
        own = [*words, *part.degrees]
        with start_job(part.size, own, folder=folder, recipe=decoder_recipe()) as job:
            _pass_through(job, ran, part, dice, is_last=part.until == steps)
    return ran


def _pass_through(job: Job, ran: Ran, part: Part, dice: Any, *, is_last: bool) -> None:
    for step in part.kills:
        _wait_for(job, ran, step)
        rank = dice.randrange(part.size)
        if rank in (workers := job.workers()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(workers[rank], signal.SIGKILL)
    if is_last:
        assert job.wait(LONGEST) == [0] * part.size, job.errors(0)
        return
    _wait_for(job, ran, part.until)
    if part.is_killed:
        job.kill_tree()
        return
    # Before they have begun a signal ends them as it ends any process: there is nothing to save.
    job.until(lambda: len(job.workers()) == part.size or job.is_over(), LONGEST, "workers")
    for guardian in job.guardians:
        with contextlib.suppress(ProcessLookupError):  # the run was over first
            os.kill(guardian, signal.SIGTERM)
    codes = set(job.wait(LONGEST))
    assert codes in ({75}, {0}), (codes, job.errors(0))


def _wait_for(job: Job, ran: Ran, step: int) -> None:
    # Read when it has grown: whoever looks all the time slows the ranks down.
    size = 0

    def is_done() -> bool:
        nonlocal size
        before, size = size, _size(ran.folder / "metrics.jsonl")
        is_new = size != before
        return job.is_over() or (is_new and max(ran.losses, default=-1) >= step)

    job.until(is_done, LONGEST, f"step {step}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def bits_of(ran: Ran) -> dict[str, Any]:
    """What has to be the same: the state, and each step's loss and norm."""
    norms = {line["step"]: line["grad_norm"] for line in ran.lines("metrics.jsonl")}
    losses = {step: loss.hex() for step, loss in ran.losses.items()}
    return {"state": ran.digest, "losses": losses, "norms": {s: n.hex() for s, n in norms.items()}}
