"""Resuming: one rule for where to begin, any layout from any other, damage passed over by name."""

import dataclasses
import shutil
import time
from pathlib import Path

import pytest
from support.training import Corpus, differs, events, lines, losses, refusals, summary, train

from keepstep.checkpoint import Found
from keepstep.trainer import ConfigError
from keepstep.trainer.compose import compose
from keepstep.trainer.config import RunSection
from keepstep.trainer.recovery.chaos import flip_byte
from keepstep.trainer.resume import NEWEST, NOTHING, choose

STARTED = 1000.0


def found(*steps: int, created: float = 0.0) -> list[Found]:
    """Checkpoints of these steps, the last committed first."""
    return [
        Found(step=step, folder=f"step-{step:09d}-a", created=created - index, head=None)
        for index, step in enumerate(steps)
    ]


PLAIN = compose()


def choice(rule: str, there: list[Found]) -> str:
    config = dataclasses.replace(PLAIN, run=RunSection(resume=rule, dir="/run"))
    return choose(config, there, started=STARTED)


@pytest.mark.parametrize(
    ("rule", "steps", "wanted"),
    [
        ("auto", (), NOTHING),
        ("auto", (8, 4), NEWEST),
        ("never", (), NOTHING),
        ("must", (8,), NEWEST),
        ("4", (8, 4), "4"),
        ("8", (8, 4), "8"),
    ],
)
def test_a_rule_chooses_from_what_is_there(rule: str, steps: tuple[int, ...], wanted: str) -> None:
    assert choice(rule, found(*steps)) == wanted


@pytest.mark.parametrize(
    ("rule", "steps", "words"),
    [
        ("never", (8, 4), "run.resume=never: found a checkpoint of step 8 in /run/checkpoints"),
        ("must", (), "run.resume=must: found no checkpoint in /run/checkpoints, needed one"),
        ("5", (8, 4), r"run.resume=5: found checkpoints of the steps \[4, 8\] in /run/checkpoints"),
        ("5", (), r"run.resume=5: found checkpoints of the steps \[\] in /run/checkpoints"),
    ],
)
def test_a_rule_that_cannot_be_met_is_refused(
    rule: str, steps: tuple[int, ...], words: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{words}") as caught:
        choice(rule, found(*steps))
    assert "; " in str(caught.value)


@pytest.mark.parametrize("rule", ["auto", "never", "must", "4", "5"])
@pytest.mark.parametrize("later", [0.0, 0.1, 1e6])
def test_once_the_job_has_saved_every_rule_takes_the_newest(rule: str, later: float) -> None:
    there = [*found(12, created=STARTED + later), *found(8, 4)]
    assert choice(rule, there) == NEWEST


@pytest.fixture(scope="module")
def writers(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Ten undisturbed steps on 1, 2 and 4 ranks, saved after each fourth."""
    folders = {}
    for size in (1, 2, 4):
        folders[size] = tmp_path_factory.mktemp(f"ranks-{size}") / "run"
        config = corpus.config(folders[size], "checkpoint.every_steps=4", *degrees(size))
        assert train(config, size) == [0] * size
    return folders


def degrees(size: int) -> tuple[str, ...]:
    return ("parallel.replicate=2",) if size == 4 else ()


def left_at(writer: Path, to: Path, *steps: int) -> Path:
    """A run's folder as it was when its newest checkpoints were those of `steps`."""
    for step in steps:
        (path,) = (writer / "checkpoints").glob(f"step-{step:09d}-*")
        shutil.copytree(path, to / "checkpoints" / path.name)
    return to


@pytest.mark.slow(but=["2-4", "4-2"])
@pytest.mark.parametrize("reader", [1, 2, 4])
@pytest.mark.parametrize("writer", [1, 2, 4])
def test_a_checkpoint_of_any_layout_goes_on_on_any_other(
    corpus: Corpus, writers: dict[int, Path], tmp_path: Path, writer: int, reader: int
) -> None:
    folder = left_at(writers[writer], tmp_path / "run", 4)
    assert train(corpus.config(folder, *degrees(reader)), reader) == [0] * reader
    (restore,) = events(folder, "restore")
    assert (restore["step"], restore["damaged"]) == (4, [])
    later = [line["loss"] for line in lines(folder, "metrics")]
    assert differs(later, losses(writers[writer])[4:]) < 1e-5
    same = summary(folder)["state_digest"] == summary(writers[writer])["state_digest"]
    assert same or writer != reader


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("rank-00000.safetensors", 0.0),
        ("rank-00000.safetensors", 0.5),
        ("rank-00001.safetensors", 1.0),
        ("manifest.json", 0.5),
    ],
)
def test_a_flipped_byte_of_the_newest_is_named_and_the_older_one_is_used(
    corpus: Corpus, writers: dict[int, Path], tmp_path: Path, file: str, part: float
) -> None:
    folder = left_at(writers[2], tmp_path / "run", 4, 8)
    (path,) = (folder / "checkpoints").glob(f"step-000000008-*/{file}")
    flip_byte(path, int(part * (path.stat().st_size - 1)))
    assert train(corpus.config(folder), 2) == [0, 0]
    (restore,) = events(folder, "restore")
    assert restore["step"] == 4
    assert [(one["path"], one["file"]) for one in restore["damaged"]] == [
        (str(path.parent), path.name)
    ]
    assert restore["damaged"][0]["reason"]
    assert summary(folder)["state_digest"] == summary(writers[2])["state_digest"]


def test_a_run_whose_checkpoints_are_all_damaged_stops_and_keeps_them(
    corpus: Corpus, writers: dict[int, Path], tmp_path: Path
) -> None:
    folder = left_at(writers[2], tmp_path / "run", 4, 8)
    for path in folder.glob("checkpoints/*/manifest.json"):
        flip_byte(path)
    kept = sorted((folder / "checkpoints").rglob("*"))
    for name, words in refusals(corpus.config(folder), 2):
        assert name == "StoppedError"
        assert f"{folder / 'checkpoints'} holds no whole checkpoint" in words
        assert "step-000000004" in words
        assert "step-000000008" in words
    assert sorted((folder / "checkpoints").rglob("*")) == kept


def test_a_step_may_be_chosen_and_its_line_is_gone_on_from(
    corpus: Corpus, writers: dict[int, Path], tmp_path: Path
) -> None:
    folder = left_at(writers[2], tmp_path / "run", 4, 8)
    config = corpus.config(folder, "run.resume=4", "train.steps=6")
    assert train(config, 2) == [0, 0]
    assert events(folder, "restore")[0]["step"] == 4
    assert [line["step"] for line in lines(folder, "metrics")] == [5, 6]
    time.sleep(0.01)
    assert train(corpus.config(folder, "train.steps=7"), 2) == [0, 0]
    assert events(folder, "restore")[1]["step"] == 6  # committed last, though 8 is a later step


def test_a_rule_that_cannot_be_met_is_refused_on_every_rank(
    corpus: Corpus, writers: dict[int, Path], tmp_path: Path
) -> None:
    folder = left_at(writers[2], tmp_path / "run", 4)
    for name, words in refusals(corpus.config(folder, "run.resume=never"), 2):
        assert name == "ConfigError"
        assert words.startswith("run.resume=never: found a checkpoint of step 4")
    assert not (folder / "metrics.jsonl").exists()


def test_a_checkpoint_of_another_model_is_refused_by_the_names_that_differ(
    corpus: Corpus, writers: dict[int, Path], tmp_path: Path
) -> None:
    folder = left_at(writers[2], tmp_path / "run", 4)
    for name, words in refusals(corpus.config(folder, "model.num_layers=2"), 2):
        assert name == "MismatchError"
        assert "model.layers.1." in words
    for name, words in refusals(corpus.config(folder, "model.intermediate_size=32"), 2):
        assert name == "MismatchError"
        assert "mlp.down_proj.weight" in words


def test_a_checkpoint_of_other_data_is_refused_unless_the_change_is_accepted(
    corpus: Corpus, writers: dict[int, Path], tmp_path: Path
) -> None:
    folder = left_at(writers[2], tmp_path / "run", 4)
    for name, words in refusals(corpus.config(folder, "data.window=4"), 2):
        assert name == "DataError"
        assert "window was 8, is 4" in words
    config = corpus.config(folder, "data.window=4", "run.on_change=accept")
    assert train(config, 2) == [0, 0]
    assert events(folder, "restore")[0]["step"] == 4
