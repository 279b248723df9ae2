"""Whole jobs that meet NaNs, spikes and flipped bits: all ranks answer alike, and the run that
comes out is the one that was never disturbed, or never killed."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from support.decoder import LENGTH, VOCABULARY, Decoder, decoder_plan
from support.gate import Gate
from support.job import Ran, TinyModel, overrides, start_job, tiny
from torch import Tensor, nn

from keepstep.trainer import Recipe, RunConfig
from keepstep.trainer.guard import rollback
from keepstep.trainer.recipe import MakeRecipe

SLOW = tiny(sleep_seconds=0.01)
JUDGED = ("guard.history=16", "guard.norm_threshold=15", "guard.loss_threshold=0")
BACK = (
    *(*JUDGED, "guard.on_spike=rollback", "guard.rollback_snapshots=2"),
    *("recovery.slots=4", "recovery.snapshot_every=1"),
)
BATCH = 8


def plan(*faults: str) -> str:
    return f"chaos.plan=[{','.join(f'{{do:{one}}}' for one in faults)}]"


def finished(
    folder: Path, size: int, *words: str, recipe: MakeRecipe | None = None, steps: int = 10
) -> Ran:
    """The run of a job that came to its end."""
    ran = Ran(folder / f"run-{len(list(folder.iterdir()))}")
    said = overrides(ran.folder, *words, steps=steps, save_every=0)
    with start_job(size, said, folder=folder, recipe=recipe) as job:
        assert job.wait() == [0] * size, job.errors(0) + job.errors(size - 1)
    return ran


def where(event: dict[str, Any]) -> tuple[int, int, int]:
    return event["first_sample"], event["end_sample"], event["epoch"]


def assert_equal(ran: Ran, reference: Ran) -> None:
    assert ran.losses == reference.losses
    assert ran.digest == reference.digest


def test_a_nan_on_one_rank_is_the_same_verdict_on_all(tmp_path: Path) -> None:
    ran = finished(tmp_path, 2, plan("poison,rank:1,step:9"), "parallel.replicate=2", steps=12)
    (skip,) = ran.events("skip")
    assert skip["step"] == 10
    assert skip["reason"] == "loss or gradient norm is not finite"
    assert where(skip) == (72, 80, 1)
    assert ran.summary["skips"] == 1
    assert ran.losses[10] is None


def test_a_spike_is_skipped_by_default_and_training_goes_on(tmp_path: Path) -> None:
    ran = finished(tmp_path, 2, plan("spike,rank:1,step:18"), *JUDGED, steps=22)
    (skip,) = ran.events("skip")
    assert (skip["step"], skip["what"]) == (19, "gradient norm")
    assert skip["score"] > 15
    assert skip["reason"].startswith("gradient norm ")
    assert where(skip) == (18 * BATCH, 19 * BATCH, 2)
    assert ran.summary["skips"] == 1
    assert ran.losses[19] == pytest.approx(ran.losses[18], rel=0.9)


@pytest.fixture(scope="module")
def rolled_back(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Goes back from step 18, and is not disturbed otherwise."""
    return finished(
        tmp_path_factory.mktemp("back"), 2, plan("spike,rank:1,step:18"), *BACK, steps=24
    )


def test_a_spike_is_gone_back_from_past_the_samples_since(rolled_back: Ran) -> None:
    (back,) = rolled_back.events("rollback")
    assert (back["from"], back["to"], back["step"]) == (18, 16, 16)
    assert where(back) == (16 * BATCH, 19 * BATCH, 2)
    assert back["score"] > 15
    assert rolled_back.events("skip") == []
    assert rolled_back.summary["skips"] == 0
    assert rolled_back.summary["tokens"] == 24 * BATCH


@pytest.mark.slow
def test_a_run_that_went_back_and_is_killed_later_is_the_one_that_is_not(
    rolled_back: Ran, tmp_path: Path
) -> None:
    faults = plan("spike,rank:1,step:18", "kill,rank:0,step:21")
    ran = finished(tmp_path, 2, faults, *BACK, steps=24)
    assert len(ran.events("rollback")) == len(ran.events("recovery")) == 1
    assert_equal(ran, rolled_back)


@pytest.mark.slow
def test_a_whole_job_killed_after_a_rollback_goes_on_from_a_checkpoint(
    rolled_back: Ran, tmp_path: Path
) -> None:
    ran = Ran(tmp_path / "run")
    fault = plan("spike,rank:1,step:18")
    words = overrides(ran.folder, fault, *BACK, "checkpoint.at_steps=[20]", steps=24, save_every=0)
    with start_job(2, words, folder=tmp_path, recipe=Gate(ran, steps=23).recipe(SLOW)) as job:
        job.until(lambda: ran.events("checkpoint"), 60.0, "checkpoint")
        job.kill_tree()
        assert job.wait() == [-signal.SIGKILL] * 2
    with start_job(2, words, folder=tmp_path) as job:
        assert job.wait() == [0, 0], job.errors(0)
    assert_equal(ran, rolled_back)


def bad_row(config: RunConfig) -> Recipe:
    """One sample of many is off by far: its spike comes again whenever its batch does."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(512, 6, generator=generator)
    y = torch.stack([x.sum(1), x.amin(1), x.amax(1)], 1)
    y[130] = 1e5

    def loss(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        summed: Tensor = (module(batch["x"]) - batch["y"]).square().sum()
        return summed

    return Recipe(model=TinyModel, loss=loss, samples={"x": x, "y": y})


BAD_ROW = (*BACK, "guard.loss_threshold=15", "data.seed=3")


@pytest.fixture(scope="module")
def past_bad_row(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Goes back once, and is not disturbed otherwise."""
    folder = tmp_path_factory.mktemp("bad-row")
    return finished(folder, 2, *BAD_ROW, recipe=bad_row, steps=28)


@pytest.mark.slow(but=["after"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_in_the_middle_of_a_rollback_costs_nothing(
    moment: str, past_bad_row: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the snapshot of the new line is there, and once it is on both ranks."""
    (back,) = past_bad_row.events("rollback")
    name = {"before": "forget_after", "after": "forget_older"}[moment]
    real, mark = getattr(rollback, name), tmp_path / "died"

    def dying(*args: Any, **more: Any) -> None:
        if os.environ["RANK"] == "1" and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        real(*args, **more)

    monkeypatch.setattr(rollback, name, dying)
    ran = finished(tmp_path, 2, *BAD_ROW, recipe=bad_row, steps=28)
    assert mark.exists()
    assert [one["to"] for one in ran.events("rollback")] in ([back["to"]] * 1, [back["to"]] * 2)
    assert_equal(ran, past_bad_row)


def test_too_many_rollbacks_stop_the_run_with_the_positions(tmp_path: Path) -> None:
    faults = plan("spike,rank:1,step:17", "spike,rank:0,step:19")
    words = overrides(
        tmp_path / "run", faults, *BACK, "guard.max_rollbacks=1", steps=24, save_every=0
    )
    with start_job(2, words, folder=tmp_path) as job:
        assert job.wait() == [1, 1]
        said = job.errors(0)
    assert "guard.max_rollbacks: found one more spike than 1 within 1000 steps, the last at" in said
    # Two steps back from 17, so that step 19 has the samples of step 22.
    assert "the last at step 19 in samples 176 to 183 in the run's order, epoch 2: gradient" in said
    assert "left out before: samples 120 to 143 in the run's order, epoch 1; needed at most" in said
    assert len(Ran(tmp_path / "run").events("rollback")) == 1


def test_a_spike_stops_the_run_where_that_is_asked_for(tmp_path: Path) -> None:
    fault = plan("spike,rank:0,step:17")
    words = overrides(tmp_path / "run", fault, *JUDGED, "guard.on_spike=stop", steps=24)
    with start_job(1, words, folder=tmp_path) as job:
        assert job.wait() == [1]
        said = job.errors(0)
    assert "guard.on_spike=stop: found a spike at step 17 in samples 136 to 143" in said
    assert "the newest checkpoint is " in said


# Bits that change by themselves


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Two copies, each sharded over two ranks."""
    return finished(tmp_path_factory.mktemp("copies"), 4, "parallel.replicate=2")


@pytest.mark.slow(but=["1"])
@pytest.mark.parametrize("every", [1, 3])
def test_a_flipped_bit_in_one_of_two_copies_is_found_and_leaves_no_trace(
    every: int, copies: Ran, tmp_path: Path
) -> None:
    words = ("parallel.replicate=2", f"guard.compare_every={every}", "checkpoint.every_steps=2")
    ran = finished(tmp_path, 4, plan("flip,rank:3,step:4"), *words)
    found = ran.events("corruption")
    assert sorted(one["rank"] for one in found) == [1, 3]
    for one in found:
        # A save that was owed is made a step later, and compares too.
        assert one["step"] in ((5,) if every == 1 else (5, 6))
        assert one["tensors"]
    assert {one["cause"] for one in ran.events("failure")} == {"corrupt"}
    assert len(ran.events("recovery")) == 1
    assert_equal(ran, copies)


@pytest.mark.slow
def test_the_odd_one_of_three_copies_is_named_and_replaced(tmp_path: Path) -> None:
    words = ("parallel.replicate=3", "train.batch_samples=6", "guard.compare_every=1")
    straight = finished(tmp_path, 3, *words)
    ran = finished(tmp_path, 3, plan("flip,rank:1,step:4"), *words)
    (found,) = ran.events("corruption")
    assert (found["rank"], found["step"]) == (1, 5)
    (failure,) = ran.events("failure")
    assert (failure["rank"], failure["cause"]) == (1, "corrupt")
    assert (
        "holds other bits of model.up.weight than ranks that have copies of it" in failure["reason"]
    )
    assert_equal(ran, straight)


def test_without_a_guardian_the_odd_ranks_say_so_and_the_run_ends(tmp_path: Path) -> None:
    words = overrides(
        tmp_path / "run",
        plan("flip,rank:1,step:4"),
        *("parallel.replicate=2", "guard.compare_every=1", "recovery.enabled=false"),
    )
    with start_job(2, words, folder=tmp_path) as job:
        assert job.wait() == [1, 1]
        for rank in (0, 1):
            said = job.errors(rank)
            assert f"keepstep: rank {rank}, step 5: found that it holds other bits of mod" in said


LAYOUTS = {
    "pipeline2 ZBVZeroBubble": (2, ("parallel.pipeline=2", "parallel.schedule=ZBVZeroBubble")),
    "pipeline2": (2, ("parallel.pipeline=2",)),
    "context2": (2, ("parallel.context=2",)),
    "tensor2": (2, ("parallel.tensor=2",)),
}


def decoder(config: RunConfig) -> Recipe:
    """A small decoder with dropout, on random tokens."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(VOCABULARY, (64, LENGTH + 1), generator=generator)

    def loss(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        summed: Tensor = module(batch["tokens"][:, :-1], targets=batch["tokens"][:, 1:])
        return summed

    return Recipe(
        model=lambda: Decoder(dropout=0.25),
        plan=decoder_plan(),
        loss=loss,
        samples={"tokens": tokens},
        targets=lambda batch: batch["tokens"][:, 1:].numel(),
        tokens_per_sample=LENGTH,
    )


def wrong_once(mark: Path, call: int) -> MakeRecipe:
    """The tiny recipe, whose loss on rank 1 is another one at one call, once."""

    def make(config: RunConfig) -> Recipe:
        plain, calls = tiny()(config), [0]

        def loss(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
            calls[0] += 1
            summed = plain.loss(module, batch)
            if os.environ["RANK"] == "1" and calls[0] == call and not mark.exists():
                mark.touch()
                return summed * (1 + 1e-6)
            return summed

        return Recipe(model=plain.model, loss=loss, samples=plain.samples)

    return make


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return finished(tmp_path_factory.mktemp("straight"), 2)


@pytest.mark.slow
def test_replays_change_no_bit_of_a_run(straight: Ran, tmp_path: Path) -> None:
    ran = finished(tmp_path, 2, "guard.replay_every=1")
    assert ran.events("corruption", "failure") == []
    assert_equal(ran, straight)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_replays_change_no_bit_of_a_cut_model(layout: str, tmp_path: Path) -> None:
    size, degrees = LAYOUTS[layout]
    words = (*degrees, f"data.sequence_length={LENGTH}")
    straight = finished(tmp_path, size, *words, recipe=decoder, steps=4)
    ran = finished(tmp_path, size, *words, "guard.replay_every=2", recipe=decoder, steps=4)
    assert ran.events("corruption", "failure") == []
    assert_equal(ran, straight)


def test_a_replay_that_differs_names_its_rank_and_the_step_is_done_anew(
    straight: Ran, tmp_path: Path
) -> None:
    # Each rank has two micro-batches a step: six calls before the replay of step 3.
    recipe = wrong_once(tmp_path / "mark", call=8)
    ran = finished(tmp_path, 2, "guard.replay_every=4", recipe=recipe)
    (found,) = ran.events("corruption")
    assert (found["rank"], found["step"]) == (1, 4)
    assert "loss" in found["tensors"]
    (failure,) = ran.events("failure")
    assert (failure["rank"], failure["cause"], failure["step"]) == (1, "corrupt", 3)
    assert_equal(ran, straight)
