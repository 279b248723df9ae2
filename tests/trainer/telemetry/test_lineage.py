"""Lineage: who made what with which code and data, over jobs and forks, as plain JSON."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from keepstep.trainer.telemetry.lineage import (
    add_job,
    code,
    folded,
    read_lineage,
    run_id_of,
    segments,
    surroundings,
    unfolded,
)


def git(folder: Path, *words: str) -> str:
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(
        ["git", *author, *words], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "train.py").write_text("x = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "x")
    return tmp_path


def record(time: float, step: int, **more: Any) -> dict[str, Any]:
    return {"time": time, "from_step": step, "from_sample": 8 * step, "seed": 3, **more}


def test_the_surroundings_are_json_with_versions() -> None:
    facts = surroundings()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["versions"]["torch"] == torch.__version__


def test_a_clean_tree_is_its_commit(repository: Path) -> None:
    assert code(repository) == {"commit": git(repository, "rev-parse", "HEAD"), "is_dirty": False}


def test_each_change_of_a_tree_has_a_digest_of_its_own(repository: Path) -> None:
    def dirt() -> str:
        found = code(repository)
        assert found["is_dirty"]
        return str(found["diff_digest"])

    (repository / "train.py").write_text("x = 2\n")
    edited = dirt()
    (repository / "new.py").write_text("y = 1\n")
    added = dirt()
    (repository / "new.py").write_text("y = 2\n")
    assert len({edited, added, dirt()}) == 3


def test_large_files_beside_the_code_count_by_their_size(repository: Path) -> None:
    def written(data: bytes) -> object:
        (repository / "data.bin").write_bytes(data)
        return code(repository)["diff_digest"]

    large = 2**20 + 1
    assert written(b"a" * large) == written(b"b" * large) != written(b"b" * (large + 1))


def test_the_remote_is_kept_without_its_password(repository: Path) -> None:
    git(repository, "remote", "add", "origin", "https://me:hunter2@example.org/code.git")
    assert code(repository)["remote"] == "https://example.org/code.git"


def test_there_is_no_code_outside_a_repository_or_without_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert code(tmp_path) == {}
    monkeypatch.setenv("PATH", "")
    assert code(tmp_path) == {}


def test_a_run_keeps_its_id_and_each_job_is_recorded_once(tmp_path: Path) -> None:
    first = run_id_of(tmp_path)
    for time in (1.0, 1.0, 2.0):
        add_job(tmp_path, record(time, 0), [])
    assert run_id_of(tmp_path) == first
    assert [job["job"] for job in read_lineage(tmp_path)["jobs"]] == [0, 1]


def test_jobs_count_up_to_where_the_next_one_went_on(tmp_path: Path) -> None:
    for time, step in ((1.0, 0), (2.0, 40), (3.0, 90)):
        add_job(tmp_path, record(time, step), [])
    found = segments(read_lineage(tmp_path), 3.0)
    ends = [(one["from_step"], one.get("to_step"), one.get("to_sample")) for one in found]
    assert ends == [(0, 40, 320), (40, 90, 720), (90, None, None)]
    assert len(segments(read_lineage(tmp_path), 2.0)) == 2


def test_what_was_gone_back_from_is_no_part_of_it(tmp_path: Path) -> None:
    for time, step in ((1.0, 0), (2.0, 40), (3.0, 20)):
        add_job(tmp_path, record(time, step), [])
    found = segments(read_lineage(tmp_path), 3.0)
    assert [(one["job"], one.get("to_step")) for one in found] == [(0, 20), (2, None)]


def test_a_fork_begins_with_the_segments_of_what_it_was_forked_from(tmp_path: Path) -> None:
    add_job(tmp_path, record(5.0, 0), [{"run_id": "other", "from_step": 0, "to_step": 7}])
    found = segments(read_lineage(tmp_path), 5.0)
    assert [one["run_id"] for one in found] == ["other", run_id_of(tmp_path)]


def test_equal_segments_are_short_and_come_back_whole() -> None:
    whole = [record(1.0, 0, to_step=5, host="a"), record(2.0, 5, to_step=9), record(3.0, 9)]
    short = folded(whole)
    assert short[1] == {
        "time": 2.0,
        "from_step": 5,
        "from_sample": 40,
        "to_step": 9,
        "host": None,
    }
    assert unfolded(json.loads(json.dumps(short))) == whole
