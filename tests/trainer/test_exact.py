"""parallel.exact: one run's bits on any number of ranks that share samples."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training import Corpus, events, lines, losses, refusals, summary, train
from torch import nn

from keepstep.trainer import Recipe, RunConfig
from keepstep.trainer.language_model import language_model

# 12 micro-batches, which 1, 2, 3 and 4 ranks may share, and 24, which 8 may too.
FINE = "train.microbatch_samples=1"
EXACT = (
    *("parallel.exact=true", "train.batch_samples=24", "train.microbatch_samples=2"),
    *("train.steps=3", "model.num_layers=2", "model.num_kv_heads=2", "optim.lr=1e-2"),
)
EVERYTHING = ("optim.ema_decay=0.9", "optim.clip_norm=0.5", "train.eval_every=2")
ON_3, ON_8 = (3, ()), (8, ())
COPIES, HYBRID = (3, ("parallel.replicate=3",)), (4, ("parallel.replicate=2",))
MOE = (
    *("model=moe_tiny", "model.hidden_size=32", "model.intermediate_size=64", "model.num_heads=2"),
    *("model.num_kv_heads=2", "model.num_layers=2", "model.moe_intermediate_size=16"),
    "train.microbatch_samples=2",
)
FP8 = ("precision=fp8", "precision.emulate=true")
CASES: dict[str, tuple[tuple[str, ...], list[tuple[int, tuple[str, ...]]]]] = {
    "fp32": ((*EVERYTHING, FINE), [ON_3, ON_8, COPIES, HYBRID]),
    "bf16": (("precision=bf16", *EVERYTHING), [ON_3, HYBRID]),
    "bf16_pure": (("precision=bf16_pure",), [ON_3, HYBRID]),
    "fp16": (("precision=fp16",), [ON_3]),
    "lion": (("optim=lion",), [ON_3]),
    "sgd": (("optim=sgd", "optim.momentum=0.9"), [ON_3]),
    "muon": (("optim=muon",), [ON_3, HYBRID]),
    "moe": (MOE, [ON_3, HYBRID]),
    "fp8": (FP8, [HYBRID]),
    "fp8 by rows": ((*FP8, "precision.recipe=rowwise"), [ON_3]),
    "recomputed": (("memory.recompute=selective",), [ON_3]),
}


def run(corpus: Corpus, folder: Path, size: int, *words: str, **more: Any) -> Path:
    assert train(corpus.config(folder, *EXACT, *words), size, **more) == [0] * size
    return folder


def bits(folder: Path) -> tuple[Any, ...]:
    """What must not differ in a bit: each step's loss and norm, what is evaluated, all state."""
    ran = lines(folder, "metrics")
    norms = [(line["grad_norm"], line["tokens"]) for line in ran]
    evals = [event["loss"] for event in events(folder, "eval")]
    return losses(folder), norms, evals, summary(folder)["eval_loss"], digest(folder)


def digest(folder: Path) -> str:
    return str(summary(folder)["state_digest"])


@pytest.mark.slow(but=["sgd"])
@pytest.mark.parametrize("case", CASES)
def test_the_bits_are_those_of_one_rank(corpus: Corpus, tmp_path: Path, case: str) -> None:
    words, layouts = CASES[case]
    wanted = bits(run(corpus, tmp_path / "one", 1, *words))
    for number, (size, degrees) in enumerate(layouts):
        assert bits(run(corpus, tmp_path / str(number), size, *words, *degrees)) == wanted, size


@pytest.mark.slow
@pytest.mark.parametrize(
    "degrees",
    [
        ("parallel.tensor=2", "train.microbatch_samples=4"),
        ("parallel.pipeline=2", "train.microbatch_samples=4"),
        ("parallel.pipeline=2", "parallel.schedule=ZBVZeroBubble", "model.num_layers=4"),
        ("parallel.context=2", "train.microbatch_samples=4"),
    ],
    ids=["tensor", "pipeline", "zero bubble", "context"],
)
def test_ranks_that_share_samples_do_not_show_beside_others(
    corpus: Corpus, tmp_path: Path, degrees: tuple[str, ...]
) -> None:
    tied = "model.tie_embeddings=true"
    found = [run(corpus, tmp_path / f"{n}", 2 * n, *degrees, tied) for n in (1, 3)]
    assert bits(found[1]) == bits(found[0])


SCHEDULE = ((4, 0), (3, 1), (8, 2), (1, None))
"""Ranks, and the index of the step in which they are asked to end."""


@pytest.mark.slow
def test_a_run_that_changes_its_size_again_and_again_has_the_bits_of_one_that_does_not(
    corpus: Corpus, tmp_path: Path
) -> None:
    words = ("train.steps=5", "precision=bf16", "optim.clip_norm=0.5", FINE)
    wanted = bits(run(corpus, tmp_path / "straight", 2, *words))
    moved = corpus.config(tmp_path / "moved", *EXACT, *words)
    for size, stop in SCHEDULE:
        moved.parallel.replicate = 2 if size == 8 else 1
        codes = train(moved, size, stop_at=stop)
        assert codes == [0 if stop is None else 75] * size
    assert bits(tmp_path / "moved") == wanted


@pytest.mark.slow
def test_the_curve_is_that_of_plain_sums_but_for_rounding(corpus: Corpus, tmp_path: Path) -> None:
    found = run(corpus, tmp_path / "exact", 2)
    plain = run(corpus, tmp_path / "plain", 2, "parallel.exact=false")
    assert digest(found) != digest(plain)
    assert losses(found) == pytest.approx(losses(plain), rel=1e-4)


def spiking(config: RunConfig) -> Recipe:
    """A language model whose loss is a thousand times as large from its 60th call on."""
    made, calls = language_model(config), []

    def loss(module: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        calls.append(1)
        return made.loss(module, batch) * (1000.0 if len(calls) > 60 else 1.0)

    return dataclasses.replace(made, loss=loss)


def test_a_step_whose_gradients_leap_is_done_again(corpus: Corpus, tmp_path: Path) -> None:
    config = corpus.config(tmp_path / "run", *EXACT, FINE)
    # One rank has 24 micro-batches a step, which the first step does twice: the 60th call is in
    # its second step.
    train(config, recipe=spiking)
    redone = [line.get("redone") for line in lines(tmp_path / "run", "metrics")]
    assert redone == [True, True, None]
    assert losses(tmp_path / "run")[1] > 100 * losses(tmp_path / "run")[0]


def counting(config: RunConfig) -> Recipe:
    """A model that keeps, in a buffer, how many batches it has seen."""

    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 1)
            self.register_buffer("batches_seen", torch.zeros(1))

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            self.batches_seen.add_(1)
            return super().forward(rows)

    return of_rows(Counting)


def normalised(config: RunConfig) -> Recipe:
    """A model with batch statistics."""
    return of_rows(lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)))


def of_rows(model: Any) -> Recipe:
    return Recipe(
        model=model,
        loss=lambda module, batch: module(batch["x"]).square().sum(),
        samples={"x": torch.arange(144.0).view(48, 3) / 144},
    )


@pytest.mark.parametrize(
    ("recipe", "size", "words", "said"),
    [
        (counting, 2, (), "found the buffer batches_seen changed by a forward"),
        (normalised, 2, ("train.microbatch_samples=4",), "found 1, a BatchNorm1d"),
        (language_model, 2, ("parallel.expert=2",), "found parallel.expert=2, needed 1"),
        (language_model, 1, ("optim.implementation=fused",), "found 'fused' with parallel.exact"),
        (language_model, 1, ("guard.on_spike=rollback",), "found parallel.exact=true, needed skip"),
    ],
    ids=["buffer", "batch statistics", "experts", "fused", "rollback"],
)
def test_what_cannot_be_exact_is_refused_by_name(
    corpus: Corpus, tmp_path: Path, recipe: Any, size: int, words: tuple[str, ...], said: str
) -> None:
    found = refusals(corpus.config(tmp_path / "run", *EXACT, *words), size, recipe=recipe)
    assert {kind for kind, _ in found} == {"ConfigError"}
    for _, sentence in found:
        assert said in sentence
        assert "parallel.exact" in sentence
