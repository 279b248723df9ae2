"""Whether a run's job lives is what the kernel says, never a guess."""

import json
import os
import time
from pathlib import Path

from keepstep.trainer.telemetry.alive import JOB, note_job, presence


def change(folder: Path, **fields: object) -> None:
    said = json.loads((folder / JOB).read_text())
    (folder / JOB).write_text(json.dumps({**said, **fields}))


def test_the_process_that_noted_itself_is_alive(tmp_path: Path) -> None:
    note_job(tmp_path)
    found = presence(tmp_path)
    assert found is not None
    assert found.is_alive is True
    assert abs(found.begun - time.time()) < 5


def test_a_process_that_has_ended_is_not(tmp_path: Path) -> None:
    if (pid := os.fork()) == 0:
        note_job(tmp_path)
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    found = presence(tmp_path)  # a zombie, since nobody has asked for its end yet
    assert found is not None
    assert found.is_alive is False
    os.waitpid(pid, 0)
    found = presence(tmp_path)
    assert found is not None
    assert found.is_alive is False


def test_another_process_of_the_same_number_is_another(tmp_path: Path) -> None:
    note_job(tmp_path)
    change(tmp_path, ticks=12)
    found = presence(tmp_path)
    assert found is not None
    assert found.is_alive is False


def test_what_runs_on_another_machine_cannot_be_known(tmp_path: Path) -> None:
    note_job(tmp_path)
    change(tmp_path, machine="another", host="node7")
    os.utime(tmp_path / JOB, (time.time() - 500, time.time() - 500))
    found = presence(tmp_path)
    assert found is not None
    assert (found.is_alive, found.host) == (None, "node7")
    assert 499 < found.silent_seconds < 600


def test_a_folder_without_a_job_says_nothing(tmp_path: Path) -> None:
    assert presence(tmp_path) is None
    (tmp_path / JOB).write_text("{")
    assert presence(tmp_path) is None
