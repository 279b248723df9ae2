"""Lineage: plain facts that a manifest can hold."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from keepstep.trainer.telemetry.lineage import git_commit, lineage


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    git_commit.cache_clear()
    yield
    git_commit.cache_clear()


def test_it_is_json_with_digests_seed_parent_and_versions() -> None:
    facts = lineage(config_digest="c", data_digest="d", seed=3, parent="runs/x/step")
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["config_digest"], facts["data_digest"]) == ("c", "d")
    assert (facts["seed"], facts["parent"]) == (3, "runs/x/step")
    assert facts["versions"]["torch"] == torch.__version__


def test_the_commit_is_that_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], [*author, "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", *command], check=True)
    head = subprocess.run(["git", "log", "-1", "--format=%H"], capture_output=True, text=True)
    assert git_commit() == head.stdout.strip() != ""


def test_there_is_no_commit_outside_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit() is None


def test_there_is_no_commit_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_commit() is None
