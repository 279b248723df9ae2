"""What the guardian costs, and how soon it acts: four measurements of whole jobs under torchrun.

overhead  seconds a step with guardian, heartbeat and a snapshot of each step, over the same loop
          in place (recovery.enabled=false), in turns of alternating order
memory    private memory of each rank's guardian and warm server while it trains
hang      from a rank that hangs to the verdict, and to the next finished step, beyond the deadline
flush     from SIGTERM to a committed checkpoint of about 1 GB a rank on disk, and to the job's end,
          beside a plain write and fsync of the same bytes

Prints a table and writes JSON under scripts/results/; `--kinds` measures some of them again.

    scripts/bench_guardian --kinds overhead memory
"""

import argparse
import itertools
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

import torch
from recovery.job import Job
from recovery.sides import torchrun
from recovery.steps import Tail
from support.footprint import Footprint

from keepstep.data import DataConfig, prepare

RESULT = Path(__file__).parent / "results" / "bench_guardian.json"
HANG_SECONDS = 3.0
WARM_STEPS, STEPS = 5, 30
SMALL = ("data.sequence_length=64", "train.batch_samples=2", "train.microbatch_samples=1")
# What they were to be, by the table's own names.
WANTED = {
    "overhead": ("ratio", 1.03),
    "memory": ("mb", 400.0),
    "hang": ("step_seconds_over", 1.0),
    "flush": ("committed_seconds", 5.0),
}
# A step of one micro-batch on each rank, some twenty times what copying its state takes.
FEW = ("train.batch_tokens=1024", "train.microbatch_samples=4")
Run = dict[str, Any]
QUIET = (
    *("train.eval_every=0", "train.sample_tokens=0", "telemetry.progress=false"),
    *("checkpoint.every_steps=0", "checkpoint.at_end=false"),
)


class Started:
    """A job of the given overrides, its files read as they grow."""

    def __init__(self, job: Job, ranks: int, *overrides: str) -> None:
        self.job, self.run = job, job.folder / "run"
        words = [f"run.dir={self.run}", "train.steps=100000", *QUIET, *overrides]
        self.launcher = job.start(torchrun(ranks, "-m", "keepstep.trainer", *words), {})
        self.events = Tail(self.run / "events.jsonl")
        self.metrics = Tail(self.run / "metrics.jsonl")
        self.left: dict[int, list[Run]] = {}

    def line(self, tail: Tail, holds: Callable[[Run], bool], seconds: float = 240.0) -> Run:
        """The first new line that holds."""
        deadline = time.monotonic() + seconds
        while True:
            is_over = self.launcher.poll() is not None or time.monotonic() > deadline
            lines = self.left.setdefault(id(tail), [])
            lines += tail.read()
            while lines:
                if holds(line := lines.pop(0)):
                    return line
            if is_over:
                raise SystemExit(f"waited in vain; the job printed: {self.job.log_tail()}")
            time.sleep(0.002)


def overhead(turn: int) -> Run:
    """Seconds a step from one line of metrics to the next, and CPU seconds of all the job's
    processes, which others on the machine disturb less."""
    sides = {"guarded": "recovery.snapshot_every=1", "in_place": "recovery.enabled=false"}
    found: Run = {}
    for name in sides if turn % 2 == 0 else reversed(sides):
        with tempfile.TemporaryDirectory() as folder, Job(Path(folder)) as job:
            started = Started(job, 2, *FEW, sides[name])
            started.line(started.metrics, lambda line: line["step"] >= WARM_STEPS)
            before, moments = cpu_seconds(job.marked()), []
            while len(moments) <= STEPS:
                moments.append(started.line(started.metrics, lambda line: True)["time"])
            spent = cpu_seconds(job.marked()) - before
        found[name] = statistics.median(b - a for a, b in itertools.pairwise(moments))
        found[f"{name}_cpu"] = spent / STEPS
    return {
        **found,
        "ratio": found["guarded"] / found["in_place"],
        "cpu_ratio": found["guarded_cpu"] / found["in_place_cpu"],
    }


def cpu_seconds(pids: Sequence[int]) -> float:
    ticks = 0
    for pid in pids:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(words[11]) + int(words[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory(_: int) -> Run:
    """Private is what ends with a process; what they share with the training process since they
    were forked is counted by halves, thirds and so on in `pss_mb`."""
    with tempfile.TemporaryDirectory() as folder, Job(Path(folder)) as job:
        started = Started(job, 2)
        started.line(started.metrics, lambda line: line["step"] >= 5)
        found = []
        for warm in job.marked("keepstep-warm"):
            parent = int(Path(f"/proc/{warm}/stat").read_text().rpartition(")")[2].split()[1])
            both = {"guardian_mb": parent, "warm_mb": warm}
            looks = {name: Footprint.of(pid) for name, pid in both.items()}
            own = {name: one.private_kib / 1e3 for name, one in looks.items() if one}
            pss = sum(map(proportional_mb, both.values()))
            found.append({**own, "mb": sum(own.values()), "pss_mb": pss})
    return max(found, key=lambda one: one["mb"])


def proportional_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(float(line.split()[1]) / 1e3 for line in lines if line.startswith("Pss:"))


def hang(_: int) -> Run:
    plan = "chaos.plan=[{do:hang,rank:1,step:12,phase:step}]"
    deadline = f"recovery.hang_seconds={HANG_SECONDS}"
    with tempfile.TemporaryDirectory() as folder, Job(Path(folder)) as job:
        started = Started(job, 2, plan, deadline, *SMALL)
        mark = started.run / "chaos" / "fired-0"

        def is_planned(line: Run) -> bool:
            """A busy machine may take so long to start that this counts as a hang before."""
            return line["kind"] == "hang" and mark.exists() and line["time"] > mark.stat().st_mtime

        found = started.line(started.events, is_planned)
        later = found["generation"] + 1
        step = started.line(started.metrics, lambda line: line["generation"] >= later)
        # The last heartbeat is at the begin of that step's compute, a moment before.
        begun = mark.stat().st_mtime + HANG_SECONDS
    over = {"found": found["time"] - begun, "step": step["time"] - begun}
    return {f"{name}_seconds_over": seconds for name, seconds in over.items()}


def flush(_: int) -> Run:
    size = ("model=llama_125m", "data.sequence_length=32", "train.batch_samples=1")
    with tempfile.TemporaryDirectory() as folder, Job(Path(folder)) as job:
        words = (*size, "train.microbatch_samples=1", "recovery.grace_seconds=300")
        started = Started(job, 1, *words)
        started.line(started.metrics, lambda line: line["step"] >= 4)
        (warm,) = job.marked("keepstep-warm")
        guardian = int(Path(f"/proc/{warm}/stat").read_text().rpartition(")")[2].split()[1])
        begun = time.time()
        os.kill(guardian, signal.SIGTERM)
        found = started.line(started.events, lambda line: line["kind"] == "checkpoint")
        end = started.line(started.events, lambda line: line["kind"] == "end")
        assert end["code"] == 75, end
        files = [path.stat().st_size for path in started.run.rglob("*.safetensors")]
        raw = plain_write(Path(folder) / "plain", sum(files))
    seconds = {"committed_seconds": found["time"] - begun, "end_seconds": end["time"] - begun}
    return {**seconds, "gigabytes": sum(files) / 1e9, "plain_write_seconds": raw}


def plain_write(path: Path, size: int) -> float:
    block = os.urandom(2**24)
    begun = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
        os.fsync(file.fileno())
    return time.perf_counter() - begun


def table(runs: list[Run]) -> dict[str, Run]:
    """By kind: median, least and greatest of each number, and what one of them was to be."""
    found: dict[str, Run] = {}
    for kind, (name, most) in WANTED.items():
        own = [run for run in runs if run["kind"] == kind]
        names = [key for key in (own[0] if own else {}) if key not in ("kind", "turn", "load")]
        cell: Run = {}
        for key in names:
            values = [run[key] for run in own]
            spread = {"median": statistics.median(values), "min": min(values), "max": max(values)}
            cell[key] = {**spread, "wanted": most} if key == name else spread
        if own:
            found[kind] = {"runs": len(own), **cell}
    return found


def show(found: dict[str, Run]) -> None:
    for kind, cell in found.items():
        for key, one in cell.items():
            if key != "runs":
                wanted = f"   wanted: <= {one['wanted']:g}" if "wanted" in one else ""
                spread = f"{one['median']:9.3f}   ({one['min']:.3f} to {one['max']:.3f})"
                print(f"{kind:<9} {key:<20} {spread} of {cell['runs']}{wanted}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=list(WANTED), default=list(WANTED))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args(arguments)
    prepare(DataConfig(name="shakespeare"), report=print)
    kinds = {"overhead": overhead, "memory": memory, "hang": hang, "flush": flush}
    held = json.loads(asked.out.read_text())["runs"] if asked.out.exists() else []
    runs = [run for run in held if run["kind"] not in asked.kinds]
    for kind in asked.kinds:
        for turn in range(asked.turns):
            load = os.getloadavg()[0]
            runs.append({"kind": kind, "turn": turn, "load": load, **kinds[kind](turn)})
            print(runs[-1], flush=True)
            write(asked.out, runs)
    show(table(runs))


def write(path: Path, runs: list[Run]) -> None:
    facts = {"torch": torch.__version__, "python": platform.python_version()}
    found = {"bench": "guardian", **facts, "cores": os.cpu_count(), "table": table(runs)}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**found, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends its job
    main()
