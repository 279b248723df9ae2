"""A new run begins with another's weights, and with nothing else of it."""

from pathlib import Path

import pytest
import torch
from support.training import Corpus, events, lines, losses, refusals, train

from keepstep.checkpoint import LocalStore, committed, read_manifest
from keepstep.checkpoint.offline import items_of
from keepstep.trainer.compose import compose

EVERY = ("checkpoint.every_steps=1", "checkpoint.keep=20")


def tensors(run: Path, step: int) -> dict[str, torch.Tensor]:
    """The whole state after a step that was saved."""
    place = LocalStore(run / "checkpoints")
    (folder,) = [one.folder for one in committed(place) if one.step == step]
    return {one.name: one.read() for one in items_of(place, folder, read_manifest(place, folder))}


@pytest.fixture
def first(corpus: Corpus, tmp_path: Path) -> Path:
    run = tmp_path / "first"
    assert train(corpus.config(run, "train.steps=4", *EVERY)) == [0]
    return run


def frozen(corpus: Corpus, run: Path, source: object, *words: str, size: int = 1) -> None:
    """A run whose steps change no weight, so that its first checkpoint holds what it began with."""
    still = ("optim.lr=1e-30", "optim.weight_decay=0", "train.steps=2", "train.seed=7")
    config = corpus.config(run, *still, f"run.init_from={source}", *EVERY, *words)
    assert train(config, size) == [0] * size


@pytest.mark.parametrize("what", ["run", "place", "one"])
def test_a_run_a_place_or_one_checkpoint_gives_the_weights_and_no_progress(
    corpus: Corpus, tmp_path: Path, first: Path, what: str
) -> None:
    place = first / "checkpoints"
    folder = committed(LocalStore(place))[-1].folder
    source, step = {"run": (first, 4), "place": (place, 4), "one": (place / folder, 1)}[what]
    run = tmp_path / "second"
    frozen(corpus, run, source)
    begun, given = tensors(run, 1), tensors(first, step)
    weights = [name for name in given if name.startswith("model.")]
    assert weights
    assert all(torch.equal(begun[name], given[name]) for name in weights)
    assert [line["step"] for line in lines(run, "metrics")] == [1, 2]
    assert not events(run, "restore")
    head = committed(LocalStore(run / "checkpoints"))[-1].head
    assert head is not None
    assert str(first) in head.lineage["parent"]


@pytest.mark.slow
def test_the_weights_come_on_any_layout_and_averages_begin_with_them(
    corpus: Corpus, tmp_path: Path, first: Path
) -> None:
    run = tmp_path / "second"
    frozen(corpus, run, first, "optim.ema_decay=0.5", "parallel.shard=2", size=2)
    begun, given = tensors(run, 1), tensors(first, 4)
    for name in (name for name in given if name.startswith("model.")):
        assert torch.equal(begun[name], given[name])
        assert torch.equal(begun[name.replace("model.", "ema.", 1)], given[name])


@pytest.mark.slow
def test_a_run_that_goes_on_does_not_begin_again(
    corpus: Corpus, tmp_path: Path, first: Path
) -> None:
    runs = [tmp_path / name for name in ("whole", "halves")]
    words = (f"run.init_from={first}", *EVERY)
    assert train(corpus.config(runs[0], *words, "train.steps=6")) == [0]
    config = corpus.config(runs[1], *words, "train.steps=6")
    assert train(config, stop_at=3) == [75]
    assert train(config) == [0]
    assert losses(runs[0]) == losses(runs[1])


def test_another_models_weights_are_refused_with_the_names_that_differ(
    corpus: Corpus, tmp_path: Path, first: Path
) -> None:
    words = ("model.intermediate_size=96", f"run.init_from={first}")
    ((kind, said),) = refusals(corpus.config(tmp_path / "second", *words))
    assert kind == "MismatchError"
    assert "saved float32[64, 32], live float32[96, 32]" in said


@pytest.mark.parametrize(
    ("globs", "said"),
    [
        ("[nothing.*]", r"run.init_only: found \['nothing.\*'\], needed one or more globs"),
        ("[optim.*]", r"each of names that begin with model. or ema."),
        ("[]", "set .model.*. for the weights"),
    ],
)
def test_globs_of_other_things_than_weights_are_refused(globs: str, said: str) -> None:
    with pytest.raises(Exception, match=said):
        compose([f"run.init_only={globs}"])


def test_a_place_without_checkpoints_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    config = corpus.config(tmp_path / "run", f"run.init_from={tmp_path / 'empty'}")
    ((kind, said),) = refusals(config)
    assert kind == "ConfigError"
    assert f"run.init_from={tmp_path / 'empty'}: found no checkpoint there, needed one" in said
