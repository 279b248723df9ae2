"""What several settings must agree on is refused before any work, the same on every rank."""

from pathlib import Path

import pytest
import torch
from support.training import Corpus, refusals
from torch import nn

from keepstep.parallel import World
from keepstep.trainer import Recipe, RunConfig
from keepstep.trainer.build import batch_samples, check
from keepstep.trainer.compose import compose


def world(size: int) -> World:
    return World(0, size, 0, size, None, None, has_agent_store=False)


def recipe(tokens_per_sample: int = 1) -> Recipe:
    return Recipe(
        model=lambda: nn.Linear(2, 1),
        loss=lambda module, batch: module(batch["x"]).sum(),
        samples={"x": torch.ones(8, 2)},
        tokens_per_sample=tokens_per_sample,
    )


@pytest.mark.parametrize(
    ("size", "overrides", "words"),
    [
        (2, ["parallel.shard=3"], "parallel"),
        (4, ["parallel.replicate=3"], "parallel"),
        (1, ["train.batch_samples=10", "train.microbatch_samples=4"], "train.batch_samples: found"),
        (4, ["train.batch_samples=24", "train.microbatch_samples=4"], "train.batch_samples: found"),
        (4, ["train.batch_tokens=256", "train.microbatch_samples=1"], "train.batch_samples: found"),
        (
            1,
            ["checkpoint.path='s3://me:hush@bucket/run'"],
            "checkpoint.path: found a s3:// URL with a user, a password",
        ),
        (
            1,
            ["checkpoint.path=/a/b", "checkpoint.tiers=[{path:file:///a/c/../b/}]"],
            "checkpoint.tiers: found file:///a/c/../b/ twice among checkpoint.path",
        ),
        (
            1,
            ["checkpoint.tiers=[{path:s3://b/run},{path:s3://b/run/}]"],
            "checkpoint.tiers: found s3://b/run/ twice among checkpoint.path and the tiers",
        ),
        (1, ["checkpoint.best_metric=speed"], "checkpoint.best_metric: found speed, needed eval"),
        (
            1,
            ["guard.on_spike=rollback", "recovery.snapshot_every=0"],
            "guard.on_spike=rollback: found recovery.snapshot_every=0, needed snapshots",
        ),
        (
            1,
            ["guard.on_spike=rollback", "recovery.enabled=false"],
            "guard.on_spike=rollback: found recovery.enabled=false, needed snapshots",
        ),
        (2, ["chaos.plan=[{do:kill,rank:2,step:1}]"], "chaos.plan: found rank 2, needed one of"),
    ],
)
def test_settings_that_do_not_fit_one_another_are_refused(
    size: int, overrides: list[str], words: str
) -> None:
    with pytest.raises(ValueError, match=f"^{words}") as caught:
        check(compose(overrides), world(size))
    sentence = str(caught.value)
    assert "needed" in sentence
    assert "; " in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("size", "overrides"),
    [(1, []), (2, []), (4, ["parallel.replicate=2"]), (2, ["train.batch_samples=16"])],
)
def test_settings_that_fit_become_degrees(size: int, overrides: list[str]) -> None:
    assert check(compose(overrides), world(size)).data_count == size


def test_a_batch_is_counted_in_samples_where_these_are_set() -> None:
    config = compose(["train.batch_samples=24", "train.batch_tokens=7"])
    assert batch_samples(config, recipe(16)) == 24


def test_a_batch_of_tokens_is_whole_samples() -> None:
    assert batch_samples(compose(["train.batch_tokens=96"]), recipe(16)) == 6
    with pytest.raises(
        ValueError, match=r"found 100, needed a multiple of the 16 tokens"
    ) as caught:
        batch_samples(compose(["train.batch_tokens=100"]), recipe(16))
    assert str(caught.value).endswith("set train.batch_tokens=96")


def test_a_batch_smaller_than_a_sample_is_told_the_least() -> None:
    with pytest.raises(ValueError, match=r"set train.batch_tokens=16$"):
        batch_samples(compose(["train.batch_tokens=3"]), recipe(16))


def test_a_batch_that_does_not_suit_the_ranks_is_a_setting_at_fault(
    corpus: Corpus, tmp_path: Path
) -> None:
    overrides = ("train.batch_samples=null", "train.batch_tokens=192", "data.sequence_length=64")
    config = corpus.config(tmp_path / "run", *overrides, "train.microbatch_samples=1")
    for name, words in refusals(config, 2):
        assert name == "ConfigError"
        assert "train.batch_samples: found 3" in words


def test_a_recipe_without_samples_is_refused(tmp_path: Path) -> None:
    def empty(config: RunConfig) -> Recipe:
        plain = recipe()
        return Recipe(model=plain.model, loss=plain.loss, samples={})

    config = compose([f"run.dir={tmp_path / 'run'}", "parallel.device=cpu"])
    ((name, words),) = refusals(config, recipe=empty)
    assert name.endswith("Error")
    assert "needed" in words
