"""The average of the weights: what it is, that it survives everything the weights survive, and that
evaluations and exports can take it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.job import Ran, overrides, start_job
from support.training import Corpus, copied, events, losses, summary, train
from torch import nn

from keepstep.checkpoint import LocalStore, committed, read_manifest
from keepstep.checkpoint.offline import items_of
from keepstep.trainer.compose import compose
from keepstep.trainer.ema import Ema
from keepstep.trainer.identity import identity

EMA = "optim.ema_decay=0.5"


def states(run: Path) -> dict[int, dict[str, torch.Tensor]]:
    """The whole state after each step that was saved."""
    place = LocalStore(run / "checkpoints")
    found: dict[int, dict[str, torch.Tensor]] = {}
    for one in committed(place):
        items = items_of(place, one.folder, read_manifest(place, one.folder))
        found[one.step] = {item.name: item.read() for item in items}
    return found


@pytest.mark.parametrize(
    "layout", [(1, ()), (2, ()), (2, ("parallel.pipeline=2", "model.num_layers=2"))], ids=str
)
def test_each_step_moves_the_average_towards_the_weights(
    corpus: Corpus, tmp_path: Path, layout: tuple[int, Any]
) -> None:
    size, words = layout
    saving = ("checkpoint.every_steps=1", "checkpoint.keep=9", "train.steps=4")
    tied = "model.tie_embeddings=true"
    config = corpus.config(tmp_path / "run", EMA, tied, *saving, *words)
    assert train(config, size) == [0] * size
    found = states(tmp_path / "run")
    names = [name for name in found[1] if name.startswith("ema.")]
    assert len(names) == sum(name.startswith("model.") for name in found[1])
    for step in (2, 3, 4):
        for name in names:
            weights = found[step][name.replace("ema.", "model.")]
            wanted = found[step - 1][name] * 0.5 + weights * 0.5
            assert torch.equal(found[step][name], wanted)


@pytest.mark.slow
def test_a_run_with_an_average_survives_a_kill_bit_for_bit(tmp_path: Path) -> None:
    runs = [Ran(tmp_path / name) for name in ("undisturbed", "killed")]
    faults = ([], ["chaos.plan=[{do:kill,rank:1,step:5}]"])
    for ran, words in zip(runs, faults, strict=True):
        with start_job(2, overrides(ran.folder, EMA, *words), folder=tmp_path) as job:
            assert job.wait() == [0, 0], job.errors(0)
    assert len(runs[1].events("recovery")) == 1
    assert runs[0].digest == runs[1].digest
    last = states(runs[0].folder)[10]
    again = states(runs[1].folder)[10]
    assert any(name.startswith("ema.") for name in last)
    assert all(torch.equal(again[name], tensor) for name, tensor in last.items())


@pytest.mark.slow
def test_an_average_goes_on_over_another_number_of_ranks(corpus: Corpus, tmp_path: Path) -> None:
    assert train(corpus.config(tmp_path / "one", EMA, "train.steps=3"), 2) == [0, 0]
    first = copied(tmp_path / "one", tmp_path / "two")
    both = {}
    for folder, size in ((tmp_path / "one", 2), (first, 1)):
        assert train(corpus.config(folder, EMA, "train.steps=5"), size) == [0] * size
        both[size] = states(folder)[5]
    for name, tensor in both[2].items():
        if name.startswith("ema."):
            assert torch.allclose(both[1][name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_an_average_changes_nothing_of_the_training(corpus: Corpus, tmp_path: Path) -> None:
    words = ("train.steps=5", "train.eval_every=3", "checkpoint.every_steps=4")
    asked = {"plain": (), "kept": (EMA,), "evaluated": (EMA, "optim.ema_eval=true")}
    for name, more in asked.items():
        assert train(corpus.config(tmp_path / name, *words, *more), 2) == [0, 0]
    curves = [losses(tmp_path / name) for name in asked]
    assert curves[0] == curves[1] == curves[2]
    digests = [summary(tmp_path / name)["state_digest"] for name in asked]
    assert digests[1] == digests[2] != digests[0]
    evaluated = [[e["loss"] for e in events(tmp_path / name, "eval")] for name in asked]
    assert evaluated[0] == evaluated[1]
    assert all(a != b for a, b in zip(evaluated[0], evaluated[2], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "size"), [("fp32", 2), ("bf16_pure", 1)])
def test_an_evaluation_of_the_average_is_between_the_first_weights_and_the_last(
    corpus: Corpus, tmp_path: Path, precision: str, size: int
) -> None:
    found = {}
    for decay in ("0.9999999", "0.0000001"):
        words = (f"optim.ema_decay={decay}", "optim.ema_eval=true", f"precision={precision}")
        assert train(corpus.config(tmp_path / decay, *words), size) == [0] * size
        found[decay] = summary(tmp_path / decay)["eval_loss"]
    plain = corpus.config(tmp_path / "plain", f"precision={precision}")
    assert train(plain, size) == [0] * size
    assert found["0.0000001"] == pytest.approx(summary(tmp_path / "plain")["eval_loss"], rel=1e-5)
    assert found["0.9999999"] == pytest.approx(math.log(300), abs=0.1)
    assert found["0.9999999"] > found["0.0000001"] + 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_as_before_once_the_average_was_in_their_place(dtype: torch.dtype) -> None:
    module = nn.Linear(3, 2, dtype=dtype)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    ema = Ema(module, 0.9)
    with torch.no_grad():
        module.weight.add_(1)
    ema.update()
    moved = module.weight.detach().clone()
    averages = [average.clone() for average in ema.averages.values()]
    with ema.in_place():
        assert torch.equal(module.weight, averages[0].to(dtype))
        assert not torch.equal(module.weight, moved)
    assert torch.equal(module.weight, moved)
    assert torch.equal(module.bias, before["bias"])
    assert all(map(torch.equal, averages, ema.averages.values()))


def test_only_the_decay_decides_what_run_it_is() -> None:
    plain, kept, looked = (
        identity(compose(words)) for words in ([], [EMA], [EMA, "optim.ema_eval=true"])
    )
    assert plain != kept
    assert kept == looked
