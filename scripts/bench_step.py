"""Steps/s of keepstep's whole runtime (guardian, votes, heartbeats, metrics) against a hand-written
torch loop, in turn, on 1 rank and on 2; the loop also with the malloc settings of our workers.
Prints a table and writes JSON under scripts/results/.

A step's time is from the start of one step to the start of the next, as the loss function sees it,
so everything that the runtime does between two steps counts.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from keepstep.data import DataConfig, open_prepared, prepare
from keepstep.trainer import Recipe, RunConfig, Trainer, supervise
from keepstep.trainer.language_model import language_model

RESULTS = Path(__file__).parent / "results"
WARM_STEPS = 5
PEERS = ("torch", "torch_same_malloc")
# What keepstep's CPU workers set for themselves (parallel.keep_freed_memory), for the hand-written
# loop: with it the ratio shows the cost of the runtime alone.
SAME_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}


def timed(config: RunConfig) -> Recipe:
    """The main job, whose loss notes when each step begins."""
    recipe = language_model(config)
    moments: list[float] = []
    calls = 0
    samples = config.train.batch_tokens // config.data.sequence_length

    def loss(module: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        nonlocal calls
        micro = samples // config.train.microbatch_samples // torch.distributed.get_world_size()
        if calls % micro == 0:
            moments.append(time.perf_counter())
        calls += 1
        return recipe.loss(module, batch)

    def finish(_: torch.nn.Module) -> dict[str, object]:
        seconds = [after - before for before, after in itertools.pairwise(moments)]
        return {"seconds_of_steps": seconds}

    return Recipe(
        model=recipe.model,
        plan=recipe.plan,
        loss=loss,
        targets=recipe.targets,
        tokens_per_sample=recipe.tokens_per_sample,
        samples=recipe.samples,
        finish=finish,
    )


def torchrun(ranks: int, script: str, *arguments: str, variables: dict[str, str]) -> str:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc-per-node={ranks}", script, *arguments),
    ]
    environment = {**os.environ, **variables}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{script} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def ours(ranks: int, overrides: list[str]) -> list[float]:
    with tempfile.TemporaryDirectory(prefix="keepstep-bench-") as folder:
        job = ("--job", f"run.dir={folder}/run", *overrides)
        torchrun(ranks, __file__, *job, variables={})
        summary = json.loads(Path(folder, "run", "summary.json").read_text())
        return summary["seconds_of_steps"]


def theirs(ranks: int, overrides: list[str], variables: dict[str, str]) -> list[float]:
    info = open_prepared(prepare(DataConfig(name="shakespeare"), report=print))
    script = str(Path(__file__).parent / "hand_loop.py")
    corpus = (str(info.folder), str(info.vocabulary_size))
    out = torchrun(ranks, script, *corpus, *overrides, variables=variables)
    return json.loads(out.strip().splitlines()[-1])


def compare(ranks: int, turns: int, steps: int) -> dict[str, object]:
    overrides = [
        *(f"train.steps={steps}", "train.eval_every=0", "checkpoint.at_end=false"),
        *("checkpoint.every_steps=0", "telemetry.progress=false"),
    ]
    sides = {
        "keepstep": lambda: ours(ranks, overrides),
        "torch": lambda: theirs(ranks, overrides, {}),
        "torch_same_malloc": lambda: theirs(ranks, overrides, SAME_MALLOC),
    }
    rows = []
    for turn in range(turns):
        order = list(sides) if turn % 2 == 0 else list(reversed(sides))
        seconds = {name: statistics.median(sides[name]()[WARM_STEPS:]) for name in order}
        rows.append({name: seconds[name] for name in sides})
        print(f"{ranks} rank(s), turn {turn + 1}, seconds a step: {rows[-1]}", flush=True)
    return {"ranks": ranks, "turns": rows, "ratios": {name: spread(rows, name) for name in PEERS}}


def spread(rows: list[dict[str, float]], peer: str) -> dict[str, float]:
    """Steps/s of keepstep / steps/s of a peer: median, least and greatest over the turns."""
    ratios = [row[peer] / row["keepstep"] for row in rows]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    tables = [compare(ranks, arguments.turns, arguments.steps) for ranks in arguments.ranks]
    print("\nsteps/s of keepstep / steps/s of a hand-written torch loop (medians of steps)")
    for table in tables:
        for peer, ratio in table["ratios"].items():
            shown = f"{ratio['median']:.3f}   ({ratio['min']:.3f} to {ratio['max']:.3f})"
            print(f"  {table['ranks']} rank(s), {peer:<18} {shown}")
    RESULTS.mkdir(exist_ok=True)
    facts = {"torch": torch.__version__, "python": platform.python_version()}
    report = {"bench": "step", **facts, "steps": arguments.steps, "results": tables}
    (RESULTS / "bench_step.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        supervise(Trainer.fit, timed, sys.argv[2:])
    else:
        main()
