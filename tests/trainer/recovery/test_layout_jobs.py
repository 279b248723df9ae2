"""Whole jobs on cut models, killed: the run that comes out is the undisturbed one."""

from pathlib import Path

import pytest
import torch
from support.decoder import LENGTH, VOCABULARY, Decoder, decoder_plan
from support.job import Ran, overrides, start_job
from torch import Tensor, nn

from keepstep.trainer import Recipe, RunConfig

LAYOUTS = {
    "pipeline2 ZBVZeroBubble": (2, ("parallel.pipeline=2", "parallel.schedule=ZBVZeroBubble")),
    "context2": (2, ("parallel.context=2",)),
    "pipeline2-tensor2": (4, ("parallel.pipeline=2", "parallel.tensor=2")),
}


def recipe(config: RunConfig) -> Recipe:
    """The small decoder with dropout and a tied head on random tokens."""
    generator = torch.Generator().manual_seed(5)
    samples = {"tokens": torch.randint(VOCABULARY, (64, LENGTH + 1), generator=generator)}

    def loss(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        tokens = batch["tokens"]
        summed: Tensor = module(tokens[:, :-1], targets=tokens[:, 1:])
        return summed

    return Recipe(
        model=lambda: Decoder(dropout=0.25),
        plan=decoder_plan(tied=(("head.weight", "embed.weight"),)),
        loss=loss,
        samples=samples,
        targets=lambda batch: batch["tokens"][:, 1:].numel(),
        tokens_per_sample=LENGTH,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_worker_killed_at_a_step_costs_nothing_on_a_cut_model(
    layout: str, tmp_path: Path
) -> None:
    size, degrees = LAYOUTS[layout]
    fault = f"chaos.plan=[{{do:kill,rank:{size - 1},step:4}}]"
    ran, straight = Ran(tmp_path / "run"), Ran(tmp_path / "straight")
    for found, more in ((straight, ()), (ran, (fault,))):
        words = overrides(found.folder, *degrees, f"data.sequence_length={LENGTH}", *more, steps=6)
        with start_job(size, words, folder=tmp_path, recipe=recipe) as job:
            assert job.wait() == [0] * size, job.errors(0)
    assert len(ran.events("recovery")) == 1
    assert ran.losses == straight.losses
    assert ran.digest == straight.digest
