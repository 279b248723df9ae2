"""What is measured of one job: the time from a kill to the next finished step, and a storm."""

import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .job import Job, JobError
from .sides import Running, Side
from .steps import Step

POLL_SECONDS = 0.002
WARM_STEPS = 20


@dataclass
class Watch:
    """A running job's steps, and the deadline of whatever is waited for."""

    running: Running
    highest: int = 0
    generation: int = 0
    world: int = 0
    share: dict[int, float] = field(default_factory=dict)
    """Part of the ranks that took part in a step, by step."""

    def poll(self) -> list[Step]:
        """New steps; waits 2 ms where there are none."""
        self.running.tend()
        found = self.running.steps.read()
        for step in found:
            self.highest = max(self.highest, step.step)
            self.generation = max(self.generation, step.generation)
            self.world = step.world
            self.share[step.step] = step.world / self.running.ranks
        if not found:
            time.sleep(POLL_SECONDS)
        return found

    def until(self, what: str, seconds: float) -> "Deadline":
        return Deadline(self.running, what, seconds)

    def warm(self, seconds: float) -> None:
        """Until all ranks have taken part in some steps in a row."""
        deadline, row = self.until("steps of all ranks", seconds), 0
        while row < WARM_STEPS:
            deadline.check()
            for step in self.poll():
                row = row + 1 if step.world == self.running.ranks else 0

    def clean(self, seconds: float) -> float:
        """Seconds a step while nobody is killed."""
        begun, before = time.perf_counter(), self.highest
        deadline = self.until("steps", seconds + 60)
        while time.perf_counter() - begun < seconds or self.highest < before + 3:
            deadline.check()
            self.poll()
        return (time.perf_counter() - begun) / (self.highest - before)


class Deadline:
    def __init__(self, running: Running, what: str, seconds: float) -> None:
        self.running, self.what, self.seconds = running, what, seconds
        self.end = time.perf_counter() + seconds

    def check(self) -> None:
        tail = self.running.job.log_tail
        if self.running.is_over():
            raise JobError(f"ended while {self.what} were awaited; it printed: {tail()}")
        if time.perf_counter() > self.end:
            raise JobError(f"no {self.what} within {self.seconds:.0f} s; it printed: {tail()}")


def one_kill(side: Side, ranks: int, folder: Path, chance: random.Random) -> dict[str, Any]:
    """Starts a job, kills one of its training processes, and waits for the first finished step of a
    later generation, which may be one of fewer ranks, and for the first of all ranks."""
    with Job(folder) as job:
        watch = Watch(side.launch(job, ranks, kills=1))
        watch.warm(180.0)
        clean = watch.clean(3.0 + chance.random())
        watch.poll()
        victim = chance.choice(watch.running.victims())
        begun = time.perf_counter()
        job.kill(victim)
        old, first = next_generation(watch)
        found = {"seconds": time.perf_counter() - begun, "world_after": first.world}
        deadline = watch.until("steps of all ranks after the kill", 120.0)
        while watch.world < ranks:
            deadline.check()
            watch.poll()
        found["whole_seconds"] = time.perf_counter() - begun
        return {**found, "repeated": max(0, old + 1 - first.step), "step_seconds": clean}


def next_generation(watch: Watch) -> tuple[int, Step]:
    """The highest step that is finished before a later generation finishes one, and that one."""
    deadline, generation = watch.until("steps after the kill", 120.0), watch.generation
    while True:
        deadline.check()
        old = watch.highest
        for step in watch.poll():
            if step.generation > generation:
                return old, step
            old = max(old, step.step)


def storm(
    side: Side, ranks: int, folder: Path, chance: random.Random, *, seconds: float, every: float
) -> dict[str, Any]:
    """Goodput while a training process is killed `every` so many seconds: samples of different
    steps that were gained, over those of a run of the same seconds in which nobody is."""
    kills = max(1, int(seconds / every))
    with Job(folder) as job:
        running = side.launch(job, ranks, kills)
        watch = Watch(running)
        watch.warm(180.0)
        clean = watch.clean(10.0)
        before, begun, reason = watch.highest, time.perf_counter(), ""
        due, done = 0, 0
        while (now := time.perf_counter() - begun) < seconds:
            if running.is_over():
                reason = f"over after {now:.0f} s; it printed: {running.job.log_tail()}"
                time.sleep(max(0.0, seconds - now))
                break
            if now >= due * every and due < kills:
                due += 1
                if victims := running.victims():  # none where all of them are being started
                    job.kill(chance.choice(victims))
                    done += 1
            watch.poll()
        wall = time.perf_counter() - begun
    gained = sum(share for step, share in watch.share.items() if step > before)
    found = {"goodput": gained * clean / wall, "steps": watch.highest - before, "kills": done}
    return {**found, "step_seconds": clean, "wall": wall, "ended": reason}
