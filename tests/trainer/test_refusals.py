"""Degrees that a model's plan knows nothing of are refused in one sentence, before any weight is
made; what a model's own constructor raises is the user's, traceback and all."""

from pathlib import Path

import pytest
import torch
from support.job import overrides, start_job
from support.training import Corpus, refusals
from torch import nn

from keepstep.parallel import Plan, Style
from keepstep.trainer import Recipe, RunConfig
from keepstep.trainer.recovery.verdict import EXIT_WRONG


def recipe(plan: Plan | None, build: type[nn.Module]) -> Recipe:
    return Recipe(
        model=build,
        loss=lambda module, batch: module(batch["x"]).sum(),
        samples={"x": torch.ones(16, 4)},
        plan=plan,
    )


class Unbuilt(nn.Module):
    """A model that must not be built."""

    def __init__(self) -> None:
        raise AssertionError("the model was built")


class Plain(nn.Module):
    """Two layers, no attention."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return y


class Faulty(nn.Module):
    """A model whose constructor is wrong."""

    def __init__(self) -> None:
        super().__init__()
        raise ValueError("no such size")


def config(corpus: Corpus, folder: Path, *words: str) -> RunConfig:
    return corpus.config(folder, "train.batch_samples=8", "train.microbatch_samples=4", *words)


@pytest.mark.parametrize(
    ("axis", "words"),
    [
        ("tensor", "found 2 for a model, whose plan has no tensor styles, needed to know which"),
        ("pipeline", "found 2 for a model, whose plan has no cut, needed to know its first"),
        ("context", "found 2 for a model, whose plan names no sequence_inputs or whose attention"),
    ],
)
@pytest.mark.parametrize("plan", [None, Plan()])
def test_a_degree_without_a_plan_is_refused_before_the_model_is_built(
    corpus: Corpus, tmp_path: Path, axis: str, words: str, plan: Plan | None
) -> None:
    asked = config(corpus, tmp_path / "run", f"parallel.{axis}=2")
    found = refusals(asked, 2, recipe=lambda _: recipe(plan, Unbuilt))
    assert [name for name, _ in found] == ["ConfigError"] * 2
    for _, sentence in found:
        assert sentence.startswith(f"parallel.{axis}: {words}")
        assert sentence.endswith(f" or set parallel.{axis}=1")
        assert "\n" not in sentence


@pytest.mark.parametrize(
    ("plan", "words", "sentence"),
    [
        (
            Plan(tensor=(("layers.1", Style.column),)),
            "parallel.tensor=2",
            "parallel.tensor: found 2 for layers.1, whose column style cuts 1 features, needed a "
            "divisor of 1; set parallel.tensor=1",
        ),
        (
            Plan(sequence_inputs=("x",)),
            "parallel.context=2",
            "parallel.context: found Plain, whose",
        ),
        (Plan(units=("blocks.*",)), "parallel.shard=2", "plan.units: found no module for 'blocks"),
    ],
)
def test_a_plan_that_does_not_fit_the_model_is_a_setting_at_fault(
    corpus: Corpus, tmp_path: Path, plan: Plan, words: str, sentence: str
) -> None:
    asked = config(corpus, tmp_path / "run", words)
    for name, said in refusals(asked, 2, recipe=lambda _: recipe(plan, Plain)):
        assert name == "ConfigError"
        assert said.startswith(sentence)


def test_what_a_constructor_raises_is_no_setting_at_fault(corpus: Corpus, tmp_path: Path) -> None:
    asked = config(corpus, tmp_path / "run")
    assert refusals(asked, recipe=lambda _: recipe(None, Faulty)) == [
        ("ValueError", "no such size")
    ]


def test_a_job_ends_with_the_sentence_and_exit_code_2(tmp_path: Path) -> None:
    words = overrides(tmp_path / "run", "parallel.tensor=2")
    with start_job(2, words, folder=tmp_path) as job:
        assert job.wait() == [EXIT_WRONG] * 2 == [2, 2]
        said = "\n".join(job.errors(rank) for rank in range(2))
    assert "parallel.tensor: found 2 for a model, whose plan has no tensor styles" in said
    assert "Traceback" not in said
