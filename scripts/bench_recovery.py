"""How long training stands still when a process is killed, beside what others do about it.

One tiny Llama on gloo: keepstep in place (its default) and afresh (recovery.in_place=false), plain
torchrun that restarts all and loads torch's own checkpoint of every tenth step, torchft and
nvidia-resiliency-ext as they come and with short intervals. A run starts one job, lets it warm up,
kills one training process with SIGKILL and waits for the next finished optimizer step of a later
generation, seen in a file that is polled every 2 ms. A storm kills one every 10 seconds: goodput is
the samples of different steps gained, over those of the same seconds without a kill.

Everyone runs once a turn, in turns of alternating order; the table shows medians and, to plain
torchrun of the same turn, ratios. Every run is written to scripts/results/bench_recovery.json at
once; `--more` adds to what is there. scripts/peers/recovery/ft.py and nvrx.py say how the peers'
environments are made.

    scripts/bench_recovery --torchft /tmp/ft/bin/python --nvrx /tmp/nvrx/bin/python
"""

import argparse
import os
import random
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from recovery.job import JobError
from recovery.measure import one_kill, storm
from recovery.report import Results
from recovery.sides import Side, sides

from keepstep.data import DataConfig, prepare

RESULT = Path(__file__).parent / "results" / "bench_recovery.json"
STORM_EVERY = 10.0
KINDS = ("kill", "storm")


def measured(
    kind: str, side: Side, ranks: int, chance: random.Random, storm_seconds: float
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="keepstep-bench-") as folder:
        try:
            if kind == "kill":
                return one_kill(side, ranks, Path(folder), chance)
            times = {"seconds": storm_seconds, "every": STORM_EVERY}
            return storm(side, ranks, Path(folder), chance, **times)
        except JobError as error:
            return {"failed": str(error)}


def turn_of(
    turn: int, asked: argparse.Namespace, chosen: dict[str, Side], results: Results
) -> None:
    chance = random.Random(turn)
    kinds = [kind for kind in asked.kinds if kind == "kill" or asked.storm_seconds]
    for ranks in asked.ranks:
        for kind in kinds:
            for name in list(chosen) if turn % 2 == 0 else list(reversed(chosen)):
                if results.has_only_failed(kind, name, ranks):
                    continue
                load = os.getloadavg()[0]
                found = measured(kind, chosen[name], ranks, chance, asked.storm_seconds)
                where = {"turn": turn, "kind": kind, "side": name, "ranks": ranks, "load": load}
                results.add({**where, **found})
                words = {key: value for key, value in found.items() if value != ""}
                print(f"turn {turn + 1}, {ranks} ranks, {name}, {kind}: {words}", flush=True)


def main(arguments: list[str] | None = None) -> Results:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--sides", nargs="+", choices=list(sides("-", "-")), help="default: all")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--storm-seconds", type=float, default=60.0, help="0: no storm")
    parser.add_argument("--torchft", metavar="PYTHON", help="interpreter of its environment")
    parser.add_argument("--nvrx", metavar="PYTHON", help="interpreter of its environment")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--more", action="store_true", help="add to what --out holds")
    asked = parser.parse_args(arguments)
    found = sides(asked.torchft, asked.nvrx)
    if missing := sorted(set(asked.sides or found) - set(found)):
        parser.error(f"--sides {missing}: found no interpreter; give --torchft and --nvrx")
    chosen = {name: side for name, side in found.items() if name in (asked.sides or found)}
    prepare(DataConfig(name="shakespeare"), report=print)
    results = Results(asked.out, more=asked.more)
    try:
        for turn in range(results.first_turn, results.first_turn + asked.turns):
            turn_of(turn, asked, chosen, results)
    finally:
        if results.runs:
            print(results.show())
    return results


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends its job
    main()
