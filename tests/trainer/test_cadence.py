"""When whole runs save and what of it stays, as their settings say."""

import json
from pathlib import Path

import pytest
from support.training import Corpus, events, train

BEST = ("train.eval_every=2", "checkpoint.best_metric=eval_loss", "checkpoint.keep=1")
# The rate is so large after its warm-up that the first evaluations are the best.
TOO_FAST = ("optim.lr=3", "schedule=constant", "schedule.warmup_steps=6", "optim.clip_norm=0")


def kept(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in (folder / "checkpoints").iterdir())


def test_chosen_steps_are_saved_and_multiples_stay(corpus: Corpus, tmp_path: Path) -> None:
    words = ("checkpoint.at_steps=[3,6,7]", "checkpoint.keep=1", "checkpoint.keep_every_steps=3")
    assert train(corpus.config(tmp_path / "run", *words)) == [0]
    saved = [event["step"] for event in events(tmp_path / "run", "checkpoint")]
    assert (saved, kept(tmp_path / "run")) == ([3, 6, 7, 10], [3, 6, 10])


@pytest.mark.slow
def test_a_better_evaluation_is_saved_with_its_metric_and_stays(
    corpus: Corpus, tmp_path: Path
) -> None:
    assert train(corpus.config(tmp_path / "run", *BEST, *TOO_FAST), 2) == [0, 0]
    found = {event["step"]: event["loss"] for event in events(tmp_path / "run", "eval")}
    best = min(found, key=lambda step: found[step])
    assert best < 10
    assert kept(tmp_path / "run") == [best, 10]
    for path in (tmp_path / "run" / "checkpoints").glob("step-*"):
        progress = json.loads((path / "manifest.json").read_bytes())["head"]["progress"]
        assert progress["metrics"]["eval_loss"] == found[progress["step"]]


def test_the_best_so_far_is_known_after_a_stop(corpus: Corpus, tmp_path: Path) -> None:
    config = corpus.config(tmp_path / "run", *BEST, *TOO_FAST)
    assert train(config, stop_at=6) == [75]
    saved = len(events(tmp_path / "run", "checkpoint"))
    assert train(config) == [0]
    assert [event["step"] for event in events(tmp_path / "run", "eval")] == [2, 4, 6, 8, 10]
    assert [event["step"] for event in events(tmp_path / "run", "checkpoint")[saved:]] == [10]
