"""Whole jobs on cut models, killed: the run that comes out is the undisturbed one."""

from pathlib import Path

import pytest
from support.decoder import LENGTH
from support.decoder_recipe import decoder_recipe
from support.job import Ran, overrides, start_job

# Ranks, blocks of the model, degrees.
LAYOUTS = {
    "pipeline2 ZBVZeroBubble": (2, 4, ("parallel.pipeline=2", "parallel.schedule=ZBVZeroBubble")),
    "context2": (2, 1, ("parallel.context=2",)),
    "pipeline2-tensor2": (4, 2, ("parallel.pipeline=2", "parallel.tensor=2")),
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_worker_killed_at_a_step_costs_nothing_on_a_cut_model(
    layout: str, tmp_path: Path
) -> None:
    size, blocks, degrees = LAYOUTS[layout]
    fault = f"chaos.plan=[{{do:kill,rank:{size - 1},step:4}}]"
    ran, straight = Ran(tmp_path / "run"), Ran(tmp_path / "straight")
    for found, more in ((straight, ()), (ran, (fault,))):
        words = overrides(found.folder, *degrees, f"data.sequence_length={LENGTH}", *more, steps=6)
        with start_job(size, words, folder=tmp_path, recipe=decoder_recipe(blocks=blocks)) as job:
            assert job.wait() == [0] * size, job.errors(0)
    assert len(ran.events("recovery")) == 1
    assert ran.losses == straight.losses
    assert ran.digest == straight.digest
