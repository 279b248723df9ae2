"""A short storm over whole jobs; the long one, over torchrun itself, is scripts/rehearse.

KEEPSTEP_KILLS sets how many workers each storm kills.
"""

import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from support.decoder import LENGTH
from support.decoder_recipe import decoder_recipe
from support.footprint import Footprint, Growth
from support.gate import Gate
from support.job import Job, Ran, overrides, start_job, tiny

KILLS = min(16, int(os.environ.get("KEEPSTEP_KILLS", "4")))  # more are too many for one run
STEP_SECONDS, LOOKS = 0.08, 8
# One micro-batch a step: what is tried here is in between the steps.
SHARD = (tiny, ("train.microbatch_samples=4",))
TENSOR = (
    partial(decoder_recipe, blocks=1),
    ("parallel.tensor=2", f"data.sequence_length={LENGTH}", "train.microbatch_samples=8"),
)


def kill_after_a_step(job: Job, ran: Ran, gate: Gate, dice: random.Random, *, rank: int) -> None:
    """SIGKILL to that rank's training process, some time after another step is done and before a
    second one after it."""
    before = max(ran.losses, default=0)
    gate.let(2)
    job.until(lambda: max(ran.losses, default=0) > before, 60.0, "another step")
    time.sleep(dice.uniform(0.0, 0.1))
    os.kill(job.worker(rank), signal.SIGKILL)


def kill_warm_server(job: Job, rank: int) -> None:
    parents = job.processes()
    (server,) = [pid for pid, parent in parents.items() if parent == job.guardians[rank]]
    os.kill(server, signal.SIGKILL)


@pytest.mark.slow(but=["shard2-in place"])
@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "afresh"])
@pytest.mark.parametrize("layout", [SHARD, TENSOR], ids=["shard2", "tensor2"])
def test_a_run_comes_out_of_a_storm_as_if_there_had_been_none(
    layout, in_place: bool, tmp_path: Path
) -> None:
    recipe, degrees = layout
    ran, straight, dice = Ran(tmp_path / "run"), Ran(tmp_path / "straight"), random.Random(7)
    words = overrides(straight.folder, *degrees, steps=3 * KILLS, save_every=5)
    with start_job(2, words, folder=tmp_path, recipe=recipe()) as job:
        assert job.wait() == [0, 0], job.errors(0)
    words = [*words, f"run.dir={ran.folder}", f"recovery.in_place={in_place}"]
    gate = Gate(ran)
    with start_job(2, words, folder=tmp_path, recipe=gate.recipe(recipe(STEP_SECONDS))) as job:
        for _ in range(KILLS):
            kill_after_a_step(job, ran, gate, dice, rank=dice.randrange(2))
        kill_warm_server(job, rank=1)
        assert set(job.wait()) == {1}
        job.until(lambda: not job.processes(), 30.0, "end of all processes")
    with start_job(2, words, folder=tmp_path, recipe=recipe()) as job:
        assert job.wait() == [0, 0], job.errors(0)
        job.until(lambda: not job.processes(), 30.0, "end of all processes")
    assert (ran.digest, ran.losses) == (straight.digest, straight.losses)
    # One recovery serves two that die within a moment of one another.
    assert len(ran.events("recovery")) >= KILLS // 2


@pytest.mark.slow
def test_who_survives_a_storm_holds_no_more_than_before(tmp_path: Path) -> None:
    ran, dice = Ran(tmp_path / "run"), random.Random(8)
    words, looks, gate = overrides(ran.folder, *SHARD[1], steps=5 * LOOKS), [], Gate(ran)
    with start_job(2, words, folder=tmp_path, recipe=gate.recipe(tiny(STEP_SECONDS))) as job:
        kill_after_a_step(job, ran, gate, dice, rank=1)
        survivor = job.worker(0)
        for _ in range(LOOKS):
            kill_after_a_step(job, ran, gate, dice, rank=1)
            recovered = len(ran.events("recovery")) + 1
            gate.let(2)  # one may be done and not told yet
            job.until(lambda n=recovered: len(ran.events("recovery")) >= n, 60.0, "its recovery")
            looks.append([Footprint.of(pid) for pid in (survivor, job.guardians[0])])
        gate.open()
        assert job.wait() == [0, 0], job.errors(0)
    for seen in zip(*looks, strict=True):
        growth = Growth.over(seen)  # a process that has ended in between would fail here
        assert growth.is_flat, seen
