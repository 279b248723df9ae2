"""What saving takes of a guardian and its worker beside memory: nothing that grows."""

import os
from pathlib import Path

import pytest
from support.job import Ran, overrides, start_job, tiny


def counts(pid: int) -> tuple[int, int] | None:
    """Descriptors and threads of a process; None where it is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))
    except (FileNotFoundError, ProcessLookupError):
        return None


@pytest.mark.slow
def test_descriptors_and_threads_stay_flat_over_twenty_saves(tmp_path: Path) -> None:
    """The least that is seen between two saves counts: what a save itself opens comes and goes."""
    ran, least = Ran(tmp_path / "run"), dict[tuple[int, int], tuple[int, int]]()
    words = overrides(ran.folder, steps=32, save_every=1)
    with start_job(1, words, folder=tmp_path, recipe=tiny(sleep_seconds=0.02)) as job:
        guardian, worker = job.guardians[0], job.worker(0)

        def look() -> bool:
            saves = len(ran.events("checkpoint"))
            for pid in (guardian, worker):
                if found := counts(pid):
                    least[pid, saves] = min(found, least.get((pid, saves), found))
            return job.is_over()

        job.until(look, 60.0, "the end of the run")
        assert job.wait() == [0], job.errors(0)
    assert len(ran.events("checkpoint")) >= 20
    for pid in (guardian, worker):
        early = [seen for (one, saves), seen in least.items() if one == pid and 2 <= saves <= 6]
        late = [seen for (one, saves), seen in least.items() if one == pid and saves >= 15]
        assert min(late) <= max(early), least
