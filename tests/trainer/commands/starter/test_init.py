"""`keepstep init`: a project is whole or not there, trains on two ranks, goes on, tests itself."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.job import start_job
from support.training import events, summary
from support.world import run_world
from typer.testing import CliRunner

from keepstep.trainer import ConfigError
from keepstep.trainer.commands.app import app
from keepstep.trainer.commands.starter import write_project

FEW = ("checkpoint.every_steps=2", "run.name=one", "train.eval_every=0", "run.on_change=accept")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was written by the command, and trained by a person's own command line."""
    folder = tmp_path_factory.mktemp("init") / "above" / "my-model"
    done = CliRunner().invoke(app, ["init", str(folder)])
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith("&& torchrun --standalone --nproc-per-node=2 train.py\n")
    ran = subprocess.run(
        [sys.executable, "train.py", "train.steps=4", *FEW],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr
    return folder


def enter(folder: Path) -> None:
    """As a script in the folder would be started."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))


@pytest.mark.slow
def test_the_project_trains_with_its_own_name_and_settings(trained: Path) -> None:
    found = summary(trained / "runs" / "one")
    assert (found["steps"], found["world_size"]) == (4, 1)
    assert found["eval_loss"] < 6.0  # log 256 is 5.5
    assert "name: mine" in (trained / "runs" / "one" / "config.yaml").read_text()
    assert (trained / "README.md").read_text().startswith("# my-model\n")
    assert ".gitignore" in os.listdir(trained)


@pytest.mark.slow
def test_it_goes_on_on_two_ranks_through_a_kill(trained: Path, tmp_path: Path) -> None:
    kill = "chaos.plan=[{do:kill,rank:1,step:5}]"

    def body(_: int) -> list[int]:
        enter(trained)
        train = importlib.import_module("train")
        words = [*train.SETTINGS, "train.steps=6", kill, *FEW]
        with start_job(2, words, folder=tmp_path, recipe=train.recipe) as job:
            return job.wait()

    assert run_world(1, body, join=False) == [[0, 0]]
    run = trained / "runs" / "one"
    assert events(run, "restore")[0]["step"] == 4
    found = summary(run)
    assert (found["steps"], found["world_size"], found["recoveries"]) == (6, 2, 1)


def test_its_own_tests_pass(trained: Path, tmp_path: Path) -> None:
    def body(_: int) -> None:
        enter(trained)
        tests = importlib.import_module("test_train")
        tests.test_the_model_learns_one_sample_by_heart()
        tests.test_a_short_run_ends_with_its_summary(tmp_path)

    run_world(1, body, join=False)


def test_what_is_there_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    monkeypatch.chdir(tmp_path)
    for name, words in (
        ("full", "found mine.txt in it"),
        ("file", "found a file"),
        (".", "itself"),
    ):
        with pytest.raises(ConfigError, match=words):
            write_project(Path(name))
    assert sorted(os.listdir(tmp_path)) == ["file", "full"]
    assert os.listdir("full") == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    write_project(Path("empty"))
    assert "train.py" in os.listdir("empty")


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("keepstep.trainer.commands.starter.write.os.rename", full)
    with pytest.raises(OSError, match="No space left"):
        write_project(tmp_path / "new")
    assert os.listdir(tmp_path) == []
