"""Whole runs under the memory options: whatever is kept or computed again, no bit changes."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch.nn.functional as F
from support.training import Corpus, losses, refusals, summary, train
from torch import Tensor, nn

from keepstep.trainer import Recipe, RunConfig
from keepstep.trainer.language_model import language_model

SHORT = (
    *("train.steps=2", "train.batch_samples=8", "checkpoint.at_end=false", "model.num_kv_heads=2"),
    "train.eval_samples=4",
)
LAYOUTS = {
    "1": (1, ()),
    "shard2": (2, ("parallel.shard=2",)),
    "tensor2": (2, ("parallel.tensor=2",)),
    "pipeline2": (2, ("parallel.pipeline=2",)),
    "zero-bubble": (2, ("parallel.pipeline=2", "parallel.schedule=ZBVZeroBubble")),
}
OPTIONS = {
    "full": ("memory.recompute=full",),
    "selective": ("memory.recompute=selective",),
    "away": ("memory.offload_activations=true",),
    "full-away": ("memory.recompute=full", "memory.offload_activations=true"),
    "parameters-away": ("memory.offload_parameters=true",),
}
PAIRS = [
    *[("full", name) for name in ("shard2", "tensor2", "pipeline2")],
    *[("selective", name) for name in ("1", "tensor2", "pipeline2")],
    *[("away", name) for name in ("shard2", "tensor2", "zero-bubble")],
    *[("full-away", "tensor2"), ("parameters-away", "shard2"), ("parameters-away", "pipeline2")],
]


def dropping(config: RunConfig) -> Recipe:
    """The text model with dropout after each feed-forward, so that random numbers count."""
    recipe = language_model(config)

    def drop(module: nn.Module, _: object, output: Tensor) -> Tensor:
        return F.dropout(output, 0.2, module.training)

    def model() -> nn.Module:
        module = recipe.model()
        for layer in module.layers:
            layer.mlp.register_forward_hook(drop)
        return module

    return dataclasses.replace(recipe, model=model)


@pytest.fixture(scope="module")
def result(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Losses and the digest of the state after a run on a layout, computed once."""
    known: dict[tuple[str, tuple[str, ...]], tuple[list[float], str]] = {}

    def run(layout: str, options: tuple[str, ...]) -> tuple[list[float], str]:
        if (layout, options) not in known:
            folder = tmp_path_factory.mktemp("memory") / "run"
            size, degrees = LAYOUTS[layout]
            layers = "model.num_layers=4" if layout == "zero-bubble" else "model.num_layers=2"
            config = corpus.config(folder, *SHORT, layers, *degrees, *options)
            assert train(config, size, recipe=dropping) == [0] * size
            known[layout, options] = losses(folder), summary(folder)["state_digest"]
        return known[layout, options]

    return run


@pytest.mark.slow(
    but=["selective-1", "away-shard2", "parameters-away-shard2", "selective-pipeline2"]
)
@pytest.mark.parametrize(("option", "layout"), PAIRS)
def test_a_memory_option_changes_no_bit(result: Any, option: str, layout: str) -> None:
    assert result(layout, OPTIONS[option]) == result(layout, ())


def test_dropout_was_there_to_be_repeated(corpus: Corpus, result: Any, tmp_path: Path) -> None:
    config = corpus.config(tmp_path / "run", *SHORT, "model.num_layers=2")
    assert train(config) == [0]
    assert losses(tmp_path / "run") != result("1", ())[0]


def test_settings_that_torch_cannot_join_are_refused_on_every_rank(
    corpus: Corpus, tmp_path: Path
) -> None:
    size, degrees = LAYOUTS["zero-bubble"]
    config = corpus.config(
        tmp_path / "run", *SHORT, "model.num_layers=4", *degrees, *OPTIONS["selective"]
    )
    for name, words in refusals(config, size):
        assert name == "ConfigError"
        assert words.startswith("memory.recompute=selective: found parallel.schedule=ZBVZeroBubble")
