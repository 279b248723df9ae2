"""Whole training runs on forked ranks, and what they leave in their folder."""

import copy
import functools
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from support.world import run_world

from keepstep.checkpoint import Checkpoints, LocalStore, SoloExchange, read_manifest
from keepstep.parallel import World, leave
from keepstep.trainer import Recipe, RunConfig, Trainer
from keepstep.trainer.build import build
from keepstep.trainer.compose import compose
from keepstep.trainer.language_model import language_model
from keepstep.trainer.recovery.heartbeat import Page, Phase
from keepstep.trainer.recovery.life import Life

MakeRecipe = Callable[[RunConfig], Recipe]

SMALL = (
    *("model.hidden_size=32", "model.intermediate_size=64", "model.num_layers=1"),
    *("model.num_heads=2", "model.num_kv_heads=1", "optim.lr=1e-2", "schedule.warmup_steps=4"),
    *("data.vocabulary_size=300", "data.sequence_length=16", "data.block=8", "data.lanes=4"),
    *("train.steps=10", "train.batch_samples=16", "train.microbatch_samples=4"),
    *("train.eval_every=0", "train.eval_samples=10", "train.sample_tokens=0"),
    *("checkpoint.every_steps=0", "parallel.device=cpu", "parallel.timeout_seconds=30"),
    *("recovery.enabled=false", "telemetry.progress=false"),
)


class StoppingPage(Page):
    """Asks for the end of the run once the step with index `stop_at` begins, as SIGTERM would."""

    stop_at: int | None = None

    def beat(self, step: int, phase: Phase) -> None:
        super().beat(step, phase)
        if step == self.stop_at and phase is Phase.step:
            self.request_stop()


@dataclass(frozen=True)
class Corpus:
    """A folder of text, and the cache that holds what was prepared from it."""

    texts: Path
    cache: Path

    def config(self, folder: Path, *overrides: str) -> RunConfig:
        """A run of a small Llama, or of the model in the overrides, on this text, in `folder`;
        later overrides win."""
        where = (f"data.path={self.texts}", f"data.cache.folder={self.cache}")
        is_other = any(word.startswith("model=") for word in overrides)
        small = [word for word in SMALL if not (is_other and word.startswith("model."))]
        config = copy.deepcopy(_composed((*small, *where, *overrides)))
        config.run.dir = str(folder)  # nothing in configs/ speaks of it
        return config


@functools.cache
def _composed(words: tuple[str, ...]) -> RunConfig:
    """Runs of a test often differ in their folder only, and Hydra takes a quarter of a second."""
    return compose(words)


def life_of(rank: int, size: int, meeting: str, *, stop_at: int | None = None) -> Life:
    """A life without a guardian; ranks of a world meet in the file `meeting`."""
    page = StoppingPage.create()
    assert isinstance(page, StoppingPage)
    page.reset()
    page.stop_at = stop_at
    return Life(
        world=World(rank, size, rank, size, None, None, has_agent_store=False),
        generation=0,
        store=dist.PrefixStore("job", dist.FileStore(meeting, size)),
        page=page,
        started=time.time(),
    )


def train(
    config: RunConfig,
    size: int = 1,
    *,
    recipe: MakeRecipe = language_model,
    stop_at: int | None = None,
) -> list[int]:
    """Trains on `size` forked ranks; the exit code of each."""

    def body(rank: int, meeting: str) -> int:
        return Trainer.fit(config, recipe, life_of(rank, size, meeting, stop_at=stop_at))

    return _on_ranks(config, size, body)


def observed(
    config: RunConfig,
    size: int,
    observe: Callable[[Trainer, int], Any],
    *,
    recipe: MakeRecipe = language_model,
) -> list[Any]:
    """Trains on `size` ranks, of each of which `observe(trainer, rank)` sees the trainer before its
    first step, and may change what it does; what it returned is given back when the run is over."""

    def body(rank: int, meeting: str) -> Any:
        life = life_of(rank, size, meeting)
        trainer = Trainer(build(config, recipe, life), life)
        seen = observe(trainer, rank)
        assert trainer.run() == 0
        trainer.job.loader.close()
        leave()
        return seen

    return _on_ranks(config, size, body)


def refusals(
    config: RunConfig, size: int = 1, *, recipe: MakeRecipe = language_model
) -> list[tuple[str, str]]:
    """Trains on `size` ranks of which each must fail; the error's class and words, rank by rank."""

    def body(rank: int, meeting: str) -> tuple[str, str]:
        try:
            Trainer.fit(config, recipe, life_of(rank, size, meeting))
        except Exception as error:
            return type(error).__name__, str(error)
        raise AssertionError("the run came to its end")

    return _on_ranks(config, size, body)


def _on_ranks(config: RunConfig, size: int, body: Callable[..., Any]) -> list[Any]:
    # In a job rank 0 makes the run's folder before the workers begin; here that is us.
    assert config.run.dir is not None
    Path(config.run.dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="keepstep-meeting-") as folder:
        return run_world(size, body, f"{folder}/store", join=False)


def copied(folder: Path, to: Path) -> Path:
    """A copy of a run's folder, to go on from in another way."""
    shutil.copytree(folder, to)
    return to


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    """The lines of `metrics` or `events`."""
    text = (folder / f"{name}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def losses(folder: Path) -> list[float]:
    """The loss of each step, by its last line; steps without a gap."""
    by_step = {line["step"]: line["loss"] for line in lines(folder, "metrics")}
    assert sorted(by_step) == list(range(1, len(by_step) + 1))
    return [by_step[step] for step in sorted(by_step)]


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The events of one kind."""
    return [event for event in lines(folder, "events") if event["kind"] == kind]


def summary(folder: Path) -> dict[str, Any]:
    """What summary.json says."""
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def state(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint, whole."""
    newest = Path(events(folder, "checkpoint")[-1]["path"])
    chunks = read_manifest(LocalStore(newest.parent), newest.name).chunks
    found = {
        chunk.name: torch.zeros(chunk.global_shape, dtype=getattr(torch, chunk.dtype))
        for chunk in chunks
    }
    Checkpoints(LocalStore(newest.parent), SoloExchange(), keep=1).restore(found)
    return found


def differs(found: Sequence[float], wanted: Sequence[float]) -> float:
    """The largest relative difference of two curves of equal length."""
    assert len(found) == len(wanted) > 0
    return max(abs(a - b) / abs(b) for a, b in zip(found, wanted, strict=True))
