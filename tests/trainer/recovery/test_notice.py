"""A notice that the machine will be taken away ends a run as a signal does."""

import os
import time
from pathlib import Path

import pytest
from support.job import Ran, overrides, start_job, tiny

from keepstep.trainer.recovery.notice import Notice


def test_without_a_file_nothing_comes() -> None:
    assert not Notice(None).has_come()


def test_it_comes_when_the_file_is_written_and_is_looked_for_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, now = tmp_path / "notice", 10.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    notice = Notice(str(path))
    assert not notice.has_come()
    path.touch()
    assert not notice.has_come()  # it was looked for just now
    now = 11.5
    assert notice.has_come()


def test_one_that_was_there_before_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "notice"
    path.touch()
    os.utime(path, (1.0, 1.0))
    assert not Notice(str(path)).has_come()


@pytest.mark.slow
def test_a_run_saves_and_ends_with_75_and_goes_on_with_the_same_command(tmp_path: Path) -> None:
    ran, path = Ran(tmp_path / "run"), tmp_path / "notice"
    words = overrides(ran.folder, f"recovery.preempt_file={path}", steps=60)
    with start_job(2, words, folder=tmp_path, recipe=tiny(sleep_seconds=0.02)) as job:
        job.until(lambda: ran.losses, 30.0, "first step")
        path.touch()
        assert job.wait() == [75, 75], job.errors(0)
    with start_job(2, words, folder=tmp_path) as job:
        assert job.wait() == [0, 0], job.errors(0)
    assert ran.events("restore")[0]["step"] == ran.events("preemption")[0]["step"]
