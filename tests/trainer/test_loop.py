"""Whole runs: the same loss on every layout, stops that lose nothing, steps that are skipped."""

import dataclasses
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.training import (
    Corpus,
    copied,
    differs,
    events,
    lines,
    losses,
    refusals,
    summary,
    train,
)
from torch import nn

from keepstep.trainer import Recipe, RunConfig
from keepstep.trainer.compose import compose

LAYOUTS = {
    "shard2": (2, "parallel.shard=2"),
    "replicate2": (2, "parallel.replicate=2"),
    "replicate2-shard2": (4, "parallel.replicate=2"),
}
NO_SAVE = "checkpoint.at_end=false"


def curve(corpus: Corpus, folder: Path, size: int, *overrides: str) -> list[float]:
    config = corpus.config(folder, "train.steps=20", NO_SAVE, *overrides)
    assert train(config, size) == [0] * size
    return losses(folder)


@pytest.fixture(scope="module")
def one_rank(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Twenty steps on one rank, each of one micro-batch of 16 samples."""
    folder = tmp_path_factory.mktemp("one-rank")
    return curve(corpus, folder, 1, "train.microbatch_samples=16")


def test_the_loss_of_a_text_falls(one_rank: list[float]) -> None:
    assert len(one_rank) == 20
    assert one_rank[0] == pytest.approx(5.7, abs=0.1)  # the logarithm of 300 tokens
    assert one_rank[-1] < 3.2  # below the entropy of single tokens


@pytest.mark.parametrize("accumulation", [2, 4])
def test_micro_batches_of_one_rank_add_up(
    corpus: Corpus, one_rank: list[float], tmp_path: Path, accumulation: int
) -> None:
    samples = 16 // accumulation
    found = curve(corpus, tmp_path / "run", 1, f"train.microbatch_samples={samples}")
    assert differs(found, one_rank) < 1e-5


# Without accumulation the others are rows of test_layouts.
@pytest.mark.slow(but=["shard2-1"])
@pytest.mark.parametrize(
    ("layout", "accumulation"),
    [("shard2", 1), *((layout, 4) for layout in LAYOUTS)],
)
def test_every_layout_has_the_loss_of_one_rank(
    corpus: Corpus, one_rank: list[float], tmp_path: Path, layout: str, accumulation: int
) -> None:
    size, degrees = LAYOUTS[layout]
    samples = f"train.microbatch_samples={16 // size // accumulation}"
    found = curve(corpus, tmp_path / "run", size, degrees, samples)
    assert differs(found, one_rank) < 1e-5


@pytest.mark.slow
def test_tied_embeddings_have_the_same_loss_on_two_ranks(corpus: Corpus, tmp_path: Path) -> None:
    tied = ("model.tie_embeddings=true", "train.steps=10")
    one = curve(corpus, tmp_path / "one", 1, *tied)
    two = curve(corpus, tmp_path / "two", 2, *tied)
    assert differs(two, one) < 1e-5
    untied = summary(tmp_path / "one")["parameters"] + 300 * 32
    assert untied == 28_512


@pytest.mark.slow
def test_bf16_trains_and_differs_from_fp32(
    corpus: Corpus, one_rank: list[float], tmp_path: Path
) -> None:
    found = curve(corpus, tmp_path / "run", 2, "precision=bf16")
    assert found[-1] < 3.3
    assert 1e-5 < differs(found, one_rank) < 0.05


@pytest.fixture(scope="module")
def straight(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten steps on two ranks without a disturbance, saved after each fourth."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    config = corpus.config(folder, "checkpoint.every_steps=4", "train.eval_every=5")
    assert train(config, 2) == [0, 0]
    return folder


def test_a_step_writes_every_metric_of_the_contract(straight: Path) -> None:
    found = lines(straight, "metrics")
    assert [line["step"] for line in found] == list(range(1, 11))
    assert set(found[0]) == {
        *("step", "loss", "grad_norm", "lr", "tokens", "tokens_per_second", "step_seconds"),
        *("data_seconds", "data_causes", "snapshot_seconds", "mfu", "grad_norm_score"),
        *("time", "generation", "ledger", "memory"),
    }
    assert [line["tokens"] for line in found] == [16 * 16 * step for step in range(1, 11)]
    assert [line["snapshot_seconds"] > 0 for line in found] == [s in (5, 9) for s in range(1, 11)]
    assert found[3]["lr"] == pytest.approx(1e-2)


def test_a_run_writes_its_events_in_order(straight: Path) -> None:
    found = [(line["kind"], line["step"]) for line in lines(straight, "events")]
    saves = [("checkpoint", 4), ("eval", 5), ("checkpoint", 8), ("checkpoint", 10)]
    assert found == [("start", 0), *saves, ("eval", 10), ("finish", 10)]


def test_a_summary_ends_the_run(straight: Path) -> None:
    found = summary(straight)
    assert found["steps"] == 10
    assert found["final_loss"] == losses(straight)[-1]
    assert found["eval_loss"] == events(straight, "eval")[-1]["loss"]
    assert found["state_digest"] == events(straight, "finish")[0]["state_digest"]
    assert (found["recoveries"], found["skips"], found["world_size"]) == (0, 0, 2)


def test_the_same_run_ends_with_the_same_bits(
    corpus: Corpus, straight: Path, tmp_path: Path
) -> None:
    assert train(corpus.config(tmp_path / "run", "checkpoint.every_steps=3"), 2) == [0, 0]
    assert summary(tmp_path / "run")["state_digest"] == summary(straight)["state_digest"]


def test_another_seed_ends_with_other_bits(corpus: Corpus, straight: Path, tmp_path: Path) -> None:
    assert train(corpus.config(tmp_path / "run", "train.seed=1"), 2) == [0, 0]
    assert summary(tmp_path / "run")["state_digest"] != summary(straight)["state_digest"]


def test_a_finished_run_started_again_changes_nothing(
    corpus: Corpus, straight: Path, tmp_path: Path
) -> None:
    again = copied(straight, tmp_path / "run")
    kept = {path: path.read_bytes() for path in again.rglob("*") if path.is_file()}
    assert train(corpus.config(again, "checkpoint.every_steps=4"), 2) == [0, 0]
    for name in ("events.jsonl", "audit.jsonl", "lineage.json"):  # which say that it was tried
        kept.pop(again / name)
    assert {path: path.read_bytes() for path in kept} == kept
    assert [e["kind"] for e in lines(again, "events")[-2:]] == ["start", "restore"]


def test_a_finished_run_goes_on_to_more_steps(
    corpus: Corpus, straight: Path, tmp_path: Path
) -> None:
    longer = copied(straight, tmp_path / "run")
    assert train(corpus.config(longer, "train.steps=12"), 2) == [0, 0]
    assert events(longer, "restore")[0]["step"] == 10
    assert summary(longer)["steps"] == 12


def test_a_preempted_run_is_saved_and_goes_on_bit_for_bit(
    corpus: Corpus, straight: Path, tmp_path: Path
) -> None:
    config = corpus.config(tmp_path / "run")
    assert train(config, 2, stop_at=2) == [75, 75]
    assert events(tmp_path / "run", "preemption")[0]["step"] == 3
    assert not (tmp_path / "run" / "summary.json").exists()
    assert train(config, 2) == [0, 0]
    assert events(tmp_path / "run", "restore")[0]["step"] == 3
    assert summary(tmp_path / "run")["state_digest"] == summary(straight)["state_digest"]
    assert losses(tmp_path / "run") == losses(straight)


def test_a_checkpoint_says_where_it_comes_from(straight: Path) -> None:
    paths = [event["path"] for event in events(straight, "checkpoint")]
    manifests = [json.loads((Path(path) / "manifest.json").read_bytes())["head"] for path in paths]
    assert [manifest["lineage"]["parent"] for manifest in manifests] == [None, *paths[:-1]]
    assert manifests[1]["progress"]["samples"] == 8 * 16
    assert manifests[1]["progress"]["data"]["position"] == 8 * 16
    assert manifests[1]["topology"]["world_size"] == 2


# A plain module and tensors in memory


def table(config: RunConfig, *, poisoned: int = 0) -> Recipe:
    """Linear regression by SGD with momentum; `poisoned` rows hold a NaN."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(48, 5, generator=generator)
    y = x.sum(1, keepdim=True)
    y[:poisoned] = float("nan")
    return Recipe(
        model=lambda: nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1)),
        loss=lambda module, batch: (module(batch["x"]) - batch["y"]).square().sum(),
        samples={"x": x, "y": y},
        eval_samples={"x": x[poisoned:], "y": y[poisoned:]},
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.02, momentum=0.9),
    )


def table_config(folder: Path, *overrides: str) -> RunConfig:
    return compose(
        [
            *("train.batch_samples=8", "train.microbatch_samples=4", "train.steps=24"),
            *("train.eval_every=0", "schedule.warmup_steps=2", "telemetry.progress=false"),
            *("parallel.device=cpu", "recovery.enabled=false", "checkpoint.every_steps=0"),
            *("optim.clip_norm=0", f"run.dir={folder}", *overrides),
        ]
    )


def test_a_plain_module_trains_the_same_on_one_rank_and_two(tmp_path: Path) -> None:
    assert train(table_config(tmp_path / "one"), 1, recipe=table) == [0]
    assert train(table_config(tmp_path / "two"), 2, recipe=table) == [0, 0]
    one = losses(tmp_path / "one")
    assert differs(losses(tmp_path / "two"), one) < 1e-5
    assert sum(one[-6:]) < sum(one[:6]) / 5
    assert summary(tmp_path / "one")["eval_loss"] < 1.0


@pytest.mark.slow
def test_momentum_of_an_own_optimizer_survives_a_stop(tmp_path: Path) -> None:
    config = table_config(tmp_path / "run")
    assert train(config, 2, recipe=table, stop_at=9) == [75, 75]
    assert train(config, 2, recipe=table) == [0, 0]
    assert train(table_config(tmp_path / "straight"), 2, recipe=table) == [0, 0]
    ends = [summary(tmp_path / name)["state_digest"] for name in ("run", "straight")]
    assert ends[0] == ends[1]


def poisoned(config: RunConfig) -> Recipe:
    return table(config, poisoned=1)


def all_poisoned(config: RunConfig) -> Recipe:
    return table(config, poisoned=48)


def test_a_batch_that_is_not_finite_is_skipped_and_counted(tmp_path: Path) -> None:
    assert train(table_config(tmp_path / "run", "train.steps=12"), 2, recipe=poisoned) == [0, 0]
    skips = [event["step"] for event in events(tmp_path / "run", "skip")]
    assert len(skips) == 2  # one row of 48, met once an epoch of six steps
    by_step = {line["step"]: line for line in lines(tmp_path / "run", "metrics")}
    assert [step for step in by_step if by_step[step]["loss"] is None] == skips
    assert summary(tmp_path / "run")["skips"] == 2
    assert summary(tmp_path / "run")["eval_loss"] < 5.0


def test_too_many_skips_in_a_row_stop_the_run_with_its_reason(tmp_path: Path) -> None:
    config = table_config(tmp_path / "run", "train.max_skips=3")
    found = refusals(config, 2, recipe=all_poisoned)
    assert [name for name, _ in found] == ["StoppedError", "StoppedError"]
    assert "train.max_skips: found 4 steps in a row, up to step 4" in found[0][1]
    assert "needed at most 3" in found[0][1]


class OddSGD(torch.optim.Optimizer):
    """State that is not like the parameter: a scalar, an integer, a number, a matrix of its own."""

    def __init__(self, parameters: object) -> None:
        super().__init__(parameters, {"lr": 0.02})  # type: ignore[arg-type]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in filter(lambda p: p.grad is not None, group["params"]):
                state = self.state[parameter]
                state.setdefault("count", torch.zeros((), dtype=torch.int64)).add_(1)
                state.setdefault("scale", torch.zeros(3)).add_(0.5)
                state.setdefault("note", "text")
                step = group["lr"] / (1 + 0.01 * float(state["scale"][0]))
                parameter.add_(parameter.grad, alpha=-step)


def odd(config: RunConfig) -> Recipe:
    plain = table(config)
    return Recipe(model=plain.model, loss=plain.loss, samples=plain.samples, optimizer=OddSGD)


@pytest.mark.slow
def test_an_optimizer_with_odd_state_goes_on_bit_for_bit(tmp_path: Path) -> None:
    config = table_config(tmp_path / "run", "train.steps=8")
    assert train(config, 2, recipe=odd, stop_at=3) == [75, 75]
    assert train(config, 2, recipe=odd) == [0, 0]
    assert train(table_config(tmp_path / "straight", "train.steps=8"), 2, recipe=odd) == [0, 0]
    assert losses(tmp_path / "run") == losses(tmp_path / "straight")
    ends = [summary(tmp_path / name)["state_digest"] for name in ("run", "straight")]
    assert ends[0] == ends[1]


def ones() -> nn.Module:
    module = nn.Linear(5, 1)
    for parameter in module.parameters():
        nn.init.ones_(parameter)
    return module


def nadam(config: RunConfig) -> Recipe:
    """Its product of momenta starts at 1, where most optimizers' state starts at 0."""
    by_nadam = {"optimizer": lambda parameters: torch.optim.NAdam(parameters, lr=0.02)}
    return dataclasses.replace(table(config), model=ones, **by_nadam)


def test_an_optimizer_begins_with_its_own_first_values(tmp_path: Path) -> None:
    whole = ("train.batch_samples=48", "train.microbatch_samples=24", "train.steps=6")
    flat = ("schedule.warmup_steps=0", "schedule.min_ratio=1")
    assert train(table_config(tmp_path / "run", *whole, *flat), 2, recipe=nadam) == [0, 0]
    recipe, module = nadam(compose()), ones()
    optimizer = torch.optim.NAdam(module.parameters(), lr=0.02)
    assert isinstance(recipe.samples, dict)
    by_hand = []
    for _ in range(6):
        loss = recipe.loss(module, recipe.samples) / 48
        by_hand.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert differs(losses(tmp_path / "run"), by_hand) < 1e-5


@pytest.mark.slow
def test_first_values_of_an_optimizer_are_restored_and_not_made_again(tmp_path: Path) -> None:
    config = table_config(tmp_path / "run", "train.steps=8")
    assert train(config, 2, recipe=nadam, stop_at=3) == [75, 75]
    assert train(config, 2, recipe=nadam) == [0, 0]
    assert train(table_config(tmp_path / "straight", "train.steps=8"), 2, recipe=nadam) == [0, 0]
    ends = [summary(tmp_path / name)["state_digest"] for name in ("run", "straight")]
    assert ends[0] == ends[1]


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 768 KiB; a checkpoint of two blocks takes about 460 of them."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    command = ["mount", "-t", "tmpfs", "-o", "size=768k", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("this machine does not allow a mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_too_small_for_a_checkpoint_is_refused_before_a_step(
    corpus: Corpus, small_disk: Path, tmp_path: Path
) -> None:
    larger = ("model.hidden_size=64", "model.num_layers=2")
    config = corpus.config(tmp_path / "run", *larger, f"checkpoint.path={small_disk}")
    for name, words in refusals(config, 2):
        assert name == "DiskFullError"
        assert f"checkpoint.path {small_disk} has" in words
        assert "free some space" in words
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_older_checkpoints_whole(
    corpus: Corpus, small_disk: Path, tmp_path: Path
) -> None:
    larger, saving = "model.num_layers=2", "checkpoint.every_steps=4"
    config = corpus.config(tmp_path / "run", larger, saving, f"checkpoint.path={small_disk}")
    assert {name for name, _ in refusals(config, 2)} == {"DiskFullError"}
    saved = [event["step"] for event in events(tmp_path / "run", "checkpoint")]
    assert saved == [4]
    assert len(list(small_disk.glob("step-*"))) == 1
    moved = copied(small_disk, tmp_path / "elsewhere")
    config = corpus.config(tmp_path / "run", larger, f"checkpoint.path={moved}")
    assert train(config, 2) == [0, 0]
    assert events(tmp_path / "run", "restore")[0]["step"] == 4
