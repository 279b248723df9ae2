"""A place that is slower than the saves: what is under way outlives its worker, the loop is never
held up by it, what is skipped is named, and the newest step is saved in the end."""

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from support.gate import Gate
from support.job import Ran, overrides, start_job, tiny

from keepstep.checkpoint import LocalStore, committed, verify

SLOW = tiny(sleep_seconds=0.01)


@pytest.fixture
def gates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder; while `shut` is in it, nothing is written to any place. Who waits leaves a mark."""
    folder, create = tmp_path / "gates", LocalStore.create
    folder.mkdir()

    def wait_and_create(place: LocalStore, name: str, pieces: Iterable[Any]) -> None:
        while (folder / "shut").exists() and name.startswith("step-"):
            (folder / name.split("/")[0]).touch()
            time.sleep(0.005)
        create(place, name, pieces)

    monkeypatch.setattr(LocalStore, "create", wait_and_create)
    return folder


def waiting(gates: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in gates.glob("step-*"))


def test_a_save_under_way_is_finished_though_its_worker_is_killed_and_replaced(
    tmp_path: Path, gates: Path, undisturbed
) -> None:
    ran = Ran(tmp_path / "run")
    (gates / "shut").touch()
    held = Gate(ran, steps=8)
    with start_job(2, overrides(ran.folder), folder=tmp_path, recipe=held.recipe(SLOW)) as job:
        job.until(lambda: waiting(gates), 60.0, "save under way")
        os.kill(job.worker(1), signal.SIGKILL)
        held.open()
        job.until(lambda: ran.events("recovery"), 60.0, "recovery while it is under way")
        assert ran.events("checkpoint") == []
        (gates / "shut").unlink()
        assert job.wait(60.0) == [0, 0], job.errors(0)
    first, *_ = ran.events("checkpoint")
    assert (first["step"], first["generation"]) == (waiting(gates)[0], 0)
    assert ran.events("restore")[0]["path"] == "memory"
    assert (ran.digest, ran.losses) == (undisturbed(2).digest, undisturbed(2).losses)


def test_a_place_slower_than_the_cadence_skips_saves_by_name_and_gets_the_newest(
    tmp_path: Path, gates: Path, undisturbed
) -> None:
    """Nine saves are due while the first one is under way, and no step waits for any of them."""
    ran = Ran(tmp_path / "run")
    (gates / "shut").touch()
    words = overrides(ran.folder, "checkpoint.keep=9", save_every=1)
    with start_job(1, words, folder=tmp_path, recipe=SLOW) as job:
        job.until(lambda: len(ran.losses) == 10, 60.0, "last step while the first save lasts")
        assert ran.events("checkpoint") == []
        (gates / "shut").unlink()
        assert job.wait(60.0) == [0], job.errors(0)
    assert [one["step"] for one in ran.events("checkpoint")] == [1, 10]
    skipped = ran.events("save_failed")
    assert [one["step"] for one in skipped] == list(range(2, 10))
    assert {one["reason"].split("; ")[1] for one in skipped} == {
        "the newest step is saved once one is free"
    }
    place = LocalStore(ran.folder / "checkpoints")
    assert [verify(place, one.folder) for one in committed(place)] == [[], []]
    assert (ran.digest, ran.losses) == (undisturbed(1).digest, undisturbed(1).losses)


@pytest.mark.slow
def test_a_skipped_save_is_made_up_for_at_the_next_step_that_can(
    tmp_path: Path, gates: Path
) -> None:
    """Due at 2, 4 and so on; what 4 was refused the next step with a free slot is given."""
    ran = Ran(tmp_path / "run")
    (gates / "shut").touch()
    words = overrides(ran.folder, "checkpoint.at_steps=[2,4]", steps=60, save_every=0)
    allowed = Gate(ran, steps=30)
    with start_job(1, words, folder=tmp_path, recipe=allowed.recipe(SLOW)) as job:
        job.until(lambda: len(ran.losses) >= 4, 60.0, "the step whose save is skipped")
        (gates / "shut").unlink()
        job.until(lambda: ran.events("checkpoint"), 60.0, "a free slot")
        allowed.open()
        assert job.wait(60.0) == [0], job.errors(0)
    first, second, last = (one["step"] for one in ran.events("checkpoint"))
    assert (first, last) == (2, 60)
    assert 4 < second < 60


def test_a_worker_is_killed_at_every_step_of_an_outage_and_repeats_little(
    tmp_path: Path, gates: Path, undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepstep.trainer.recovery.guardian.backoff_seconds", lambda *_, now: 0.0)
    ran = Ran(tmp_path / "run")
    (gates / "shut").touch()
    kills = ",".join(f"{{do:kill,rank:0,step:{step}}}" for step in (4, 6, 8))
    words = overrides(ran.folder, f"chaos.plan=[{kills}]", "recovery.slots=3", save_every=1)
    with start_job(1, words, folder=tmp_path, recipe=SLOW) as job:
        job.until(lambda: len(ran.losses) == 10, 60.0, "last step")
        (gates / "shut").unlink()
        assert job.wait(60.0) == [0], job.errors(0)
    restored = [(one["path"], one["step"]) for one in ran.events("restore")]
    for (path, step), died in zip(restored, (4, 6, 8), strict=True):
        assert path == "memory"
        assert step in (died - 2, died - 1, died)  # of the newest the copy may be torn
    assert (ran.digest, ran.losses) == (undisturbed(1).digest, undisturbed(1).losses)
