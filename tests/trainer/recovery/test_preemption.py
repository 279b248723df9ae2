"""SIGTERM at any instant: exit 75, the very step is saved, and it is gone on from bit for bit.

KEEPSTEP_KILLS sets how many seeds each kind of instant has; 10 are 50 signals.
"""

import contextlib
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from support.gate import Gate
from support.job import Job, Ran, overrides, start_job, tiny
from torch import nn

from keepstep.checkpoint import LocalStore, committed, verify
from keepstep.trainer import Recipe, RunConfig
from keepstep.trainer.recipe import MakeRecipe

KILLS = int(os.environ.get("KEEPSTEP_KILLS", "1"))
# Less than the ten steps of a slow run take.
ANY_SECONDS, SLOW_SECONDS = 0.9, 0.05


def evaluated(sleep_seconds: float, evaluation_seconds: float, mark: Path) -> MakeRecipe:
    """A tiny recipe with a held-out split; the first evaluation of all leaves `mark`."""

    def recipe(config: RunConfig) -> Recipe:
        made = tiny(sleep_seconds)(config)

        def loss(module: nn.Module, batch: dict[str, Any]) -> Any:
            if not module.training:
                mark.touch()
                time.sleep(evaluation_seconds)
            return made.loss(module, batch)

        return Recipe(model=made.model, loss=loss, samples=made.samples, eval_samples=made.samples)

    return recipe


def stop(job: Job, instant: str, ran: Ran, mark: Path, dice: random.Random) -> None:
    """Waits for the instant, and a little longer; then signals one of the guardians."""
    waits = {
        "start": lambda: job.workers(),
        "step": lambda: ran.losses,
        "save": lambda: ran.events("checkpoint"),
        "evaluation": mark.exists,
        "any": lambda: job.workers(),
    }
    job.until(waits[instant], 60.0, instant)
    time.sleep(dice.uniform(0.0, ANY_SECONDS if instant == "any" else 0.05))
    with contextlib.suppress(ProcessLookupError):
        os.kill(dice.choice(job.guardians), signal.SIGTERM)


@pytest.mark.slow(but=["0-save"])
@pytest.mark.parametrize("instant", ["start", "step", "save", "evaluation", "any"])
@pytest.mark.parametrize("seed", range(KILLS))
def test_a_stop_request_at_any_instant_saves_that_very_step(
    seed: int, instant: str, tmp_path: Path, undisturbed
) -> None:
    ran, mark, size = Ran(tmp_path / "run"), tmp_path / "evaluated", 1 + seed % 2
    dice = random.Random(f"{seed} {instant}")
    save_every = {"save": 1, "evaluation": 0}.get(instant, 3)
    words = overrides(ran.folder, "train.eval_every=2", save_every=save_every)
    slow = evaluated(SLOW_SECONDS if instant == "any" else 0.01, 0.02, mark)
    gate = Gate(ran, steps=8)
    with start_job(size, words, folder=tmp_path, recipe=gate.recipe(slow)) as job:
        stop(job, instant, ran, mark, dice)
        job.until(lambda: ran.events("stop"), 60.0, "note of the signal")
        gate.open()
        codes = job.wait(60.0)
        assert codes == [75] * size, job.errors(0)
        job.until(lambda: not job.processes(), 30.0, "end of all processes")
    (preemption,) = ran.events("preemption")
    place = LocalStore(ran.folder / "checkpoints")
    newest = committed(place)[0]
    assert newest.step == preemption["step"] == max(ran.losses)
    assert verify(place, newest.folder) == []
    with start_job(size, words, folder=tmp_path, recipe=evaluated(0.0, 0.0, mark)) as job:
        assert job.wait(60.0) == [0] * size, job.errors(0)
    (restore,) = ran.events("restore")
    assert (restore["step"], restore["damaged"]) == (newest.step, [])
    assert restore["path"] == place.address(newest.folder)
    assert (ran.digest, ran.losses) == (undisturbed(size).digest, undisturbed(size).losses)
