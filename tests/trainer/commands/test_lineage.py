"""What the commands tell of a run that was killed and resumed, and of one that began from it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.job import Ran, overrides, start_job, tiny
from typer.testing import CliRunner

from keepstep.checkpoint import LocalStore, committed, read_manifest
from keepstep.trainer.commands.app import app
from keepstep.trainer.telemetry.audit import AUDIT

SLOW = tiny(sleep_seconds=0.03)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `first`, of two jobs, and `second`, which has its weights."""
    folder = tmp_path_factory.mktemp("runs")
    first, second = Ran(folder / "first"), Ran(folder / "second")
    named = "run.name=first"
    secret = "telemetry.wandb.entity=https://me:hunter2@example.org"
    with start_job(1, overrides(first.folder, named), folder=folder, recipe=SLOW) as job:
        job.until(lambda: len(first.losses) >= 5, 30.0, "step 5")
        job.until(lambda: first.events("checkpoint"), 30.0, "a checkpoint")
        job.kill_tree()
    with start_job(1, [*overrides(first.folder, named), secret], folder=folder) as job:
        assert job.wait() == [0], job.errors(0)
    words = overrides(
        second.folder, f"run.init_from={first.folder}", "train.steps=4", "run.name=second"
    )
    with start_job(1, words, folder=folder) as job:
        assert job.wait() == [0], job.errors(0)
    return folder


def said(*words: str, code: int = 0) -> str:
    found = CliRunner().invoke(app, list(words))
    assert found.exit_code == code, found.output
    return found.stdout if code == 0 else found.stderr


def segments(run: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(said("lineage", str(run), "--json"))
    return found


@pytest.mark.slow
def test_every_step_has_one_segment_over_jobs_and_forks(runs: Path) -> None:
    found = segments(runs / "second")
    assert [(one["run"], one["job"]) for one in found] == [
        ("first", 0),
        ("first", 1),
        ("second", 0),
    ]
    assert (found[0]["from_step"], found[0]["to_step"]) == (0, found[1]["from_step"])
    assert found[1]["to_step"] == 10
    assert (found[2]["from_step"], found[2]["to_step"]) == (0, 4)
    assert found[2]["to_sample"] == 32


def test_lineage_says_it_to_a_person(runs: Path) -> None:
    text = said("lineage", str(runs / "first"))
    assert "job 1" in text
    assert "`- step 0: new weights" in text
    assert "hunter2" not in text
    assert "the weights of" not in text
    forked = said("lineage", str(runs / "second"))
    assert f"whose weights are {runs / 'first'}" in forked


def test_no_file_of_the_run_has_the_secret(runs: Path) -> None:
    for name in ("lineage.json", AUDIT):
        assert "hunter2" not in (runs / "first" / name).read_text()
    store = LocalStore(runs / "first" / "checkpoints")
    facts = read_manifest(store, committed(store)[0].folder).lineage
    assert "hunter2" not in json.dumps(facts)


def test_a_whole_audit_is_said_to_be_whole(runs: Path) -> None:
    assert " lines, whole; " in said("audit", str(runs / "first"))
    text = said("audit", str(runs / "first"), "--show")
    kinds = [json.loads(line)["kind"] for line in text.splitlines()[:-1]]
    assert kinds.count("job") == 2
    assert {"start", "restore", "checkpoint", "finish"} <= set(kinds)


def test_an_audit_that_was_changed_or_cut_off_is_named_by_line(runs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs / "first", copy)
    whole = (copy / AUDIT).read_text()
    (copy / AUDIT).write_text(whole.replace('"bytes": ', '"bytes": 1', 1))
    assert "found the digest" in said("audit", str(copy), code=1)
    (copy / AUDIT).write_text("".join(whole.splitlines(keepends=True)[:2]))
    assert "so lines were cut off" in said("audit", str(copy), code=1)


def test_reproduce_writes_the_command_the_commit_and_what_it_depends_on(runs: Path) -> None:
    script = said("reproduce", str(runs / "first"))
    commands = [line for line in script.splitlines() if not line.startswith("#")]
    assert any(line.startswith("git checkout ") for line in commands)
    train = [line for line in commands if "train.batch_samples=8" in line]
    assert "checkpoint.every_steps=10" in train[-1]
    assert "run.dir" not in script
    assert "# data shakespeare: 64 samples, digest " in script


def test_what_no_run_wrote_is_refused(runs: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["audit", str(tmp_path)])
    assert "found no audit" in str(result.exception)
