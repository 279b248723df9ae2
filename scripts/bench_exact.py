"""What parallel.exact costs: steps/s and bytes on the wire of a small Llama on two ranks, exact and
plain in turn; and how near the exact run's losses and gradients are to the plain one's.

    scripts/bench_exact --turns 5

Prints a table and writes JSON under scripts/results/. Bytes are those that each rank's own TCP
connections to the other sent, as the kernel counts them, over the timed steps.
"""

import argparse
import itertools
import json
import os
import platform
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from keepstep.trainer import Recipe, RunConfig, Trainer, supervise
from keepstep.trainer.language_model import language_model

RESULTS = Path(__file__).parent / "results"
WARM_STEPS = 5
SIDES = {"plain": "parallel.exact=false", "exact": "parallel.exact=true"}
# linux/tcp.h, struct tcp_info: tcpi_bytes_acked, by the other side.
_ACKED_AT = 120


def bytes_sent() -> int:
    """Of this process's TCP connections, what the other side has taken."""
    total = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            is_socket = os.readlink(entry).startswith("socket:")
        except OSError:  # the folder itself, as it was read
            continue
        if not is_socket:
            continue
        with socket.socket(fileno=os.dup(int(entry.name))) as found:
            if found.family in (socket.AF_INET, socket.AF_INET6):
                info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
                total += struct.unpack_from("<Q", info, _ACKED_AT)[0]
    return total


def timed(config: RunConfig) -> Recipe:
    """The main job, whose loss notes when each step begins, and what was sent until then."""
    made = language_model(config)
    moments: list[float] = []
    sent: list[int] = []
    samples = config.train.batch_tokens // config.data.sequence_length
    calls = 0

    def loss(module: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        nonlocal calls
        micro = samples // config.train.microbatch_samples // torch.distributed.get_world_size()
        # Exact runs do their first step twice, which these are long past.
        if calls % micro == 0:
            moments.append(time.perf_counter())
            sent.append(bytes_sent())
        calls += 1
        return made.loss(module, batch)

    def finish(_: torch.nn.Module) -> dict[str, object]:
        seconds = [after - before for before, after in itertools.pairwise(moments)]
        carried = [after - before for before, after in itertools.pairwise(sent)]
        return {
            "seconds_of_steps": seconds,
            "bytes_of_steps": carried,
            "windows_done_again": len(moments) - config.train.steps,
        }

    return Recipe(
        model=made.model,
        plan=made.plan,
        loss=loss,
        samples=made.samples,
        targets=made.targets,
        tokens_per_sample=made.tokens_per_sample,
        finish=finish,
    )


def run(side: str, *, ranks: int, steps: int) -> dict[str, Any]:
    """One job; its summary, and the losses."""
    with tempfile.TemporaryDirectory(prefix="keepstep-bench-") as folder:
        where = Path(folder) / "run"
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={ranks}", __file__, "--job", SIDES[side]),
            *(f"run.dir={where}", f"train.steps={steps}", "train.eval_every=0"),
            *("checkpoint.every_steps=0", "checkpoint.at_end=false", "telemetry.progress=false"),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{side}: the job failed\n{done.stdout}\n{done.stderr}")
        lines = [json.loads(line) for line in (where / "metrics.jsonl").read_text().splitlines()]
        found: dict[str, Any] = json.loads((where / "summary.json").read_text())
        return {**found, "losses": [line["loss"] for line in lines]}


def measure(*, turns: int, ranks: int, steps: int) -> dict[str, Any]:
    """Both sides in turn, the one that begins changing."""
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    carried: dict[str, list[float]] = {side: [] for side in SIDES}
    losses: dict[str, list[float]] = {}
    again: list[int] = []
    for turn in range(turns):
        for side in list(SIDES) if turn % 2 == 0 else list(reversed(SIDES)):
            found = run(side, ranks=ranks, steps=steps)
            seconds[side].append(statistics.median(found["seconds_of_steps"][WARM_STEPS:]))
            carried[side].append(statistics.median(found["bytes_of_steps"][WARM_STEPS:]))
            losses[side] = found["losses"]
            again += [found["windows_done_again"]] if side == "exact" else []
        print(f"turn {turn + 1}, seconds a step: {seconds}", flush=True)
    pairs = list(zip(seconds["plain"], seconds["exact"], strict=True))
    apart = [abs(a - b) / abs(b) for a, b in zip(losses["exact"], losses["plain"], strict=True)]
    sent = {side: statistics.median(carried[side]) for side in SIDES}
    return {
        "ranks": ranks,
        "seconds_a_step": seconds,
        "bytes_a_step_of_a_rank": sent,
        "steps_per_second_of_plain": statistics.median(plain / exact for plain, exact in pairs),
        "bytes_of_plain": sent["exact"] / sent["plain"] if sent["plain"] else 1.0,
        "windows_done_again": again,
        "losses_apart_at_most": max(apart),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    asked = parser.parse_args()
    tables = [measure(turns=asked.turns, ranks=n, steps=asked.steps) for n in asked.ranks]
    print(f"\n{'ranks':>5} {'steps/s of plain':>17} {'bytes of plain':>15} {'losses apart':>13}")
    for one in tables:
        print(
            f"{one['ranks']:>5} {one['steps_per_second_of_plain']:>17.3f} "
            f"{one['bytes_of_plain']:>15.3f} {one['losses_apart_at_most']:>13.1e}"
        )
    RESULTS.mkdir(exist_ok=True)
    facts = {"torch": torch.__version__, "python": platform.python_version()}
    report = {"bench": "exact", **facts, "turns": asked.turns, "steps": asked.steps}
    (RESULTS / "bench_exact.json").write_text(
        json.dumps({**report, "results": tables}, indent=1) + "\n"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        supervise(Trainer.fit, timed, sys.argv[2:])
    else:
        main()
