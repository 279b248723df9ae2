"""Jobs that go on from what their ranks have in memory: the run that comes out is the undisturbed
one, and at most the step in flight is done again."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from support.gate import Gate
from support.job import Ran, overrides, start_job, tiny

from keepstep.checkpoint.slots import SlotFile, newest
from keepstep.trainer.recovery.chaos import flip_byte
from keepstep.trainer.recovery.slots import slot_paths

SLOW = tiny(sleep_seconds=0.02)
MOUNT = Path("/dev/shm")


def slots_of(worker: int) -> set[Path]:
    """The named ones among those that the process has open."""
    links = (Path(os.readlink(link)) for link in Path(f"/proc/{worker}/fd").iterdir())
    return {path for path in links if path.match(f"{MOUNT}/keepstep-*")}


def assert_equal(ran: Ran, reference: Ran) -> None:
    assert ran.losses == reference.losses
    assert ran.digest == reference.digest


@pytest.mark.parametrize("size", [1, 2])
def test_a_killed_worker_goes_on_from_memory_and_repeats_the_step_in_flight_only(
    size: int, tmp_path: Path, undisturbed
) -> None:
    ran, plan = Ran(tmp_path / "run"), "chaos.plan=[{do:kill,rank:0,step:8}]"
    with start_job(size, overrides(ran.folder, plan, save_every=0), folder=tmp_path) as job:
        assert job.wait() == [0] * size, job.errors(0)
    assert_equal(ran, undisturbed(size))
    (restore,) = ran.events("restore")
    assert restore["path"] == "memory"
    assert restore["step"] in (7, 8)  # the copy of step 8 may have been under way
    found = [(one["slots"], one["step"]) for one in ran.events("snapshots")]
    assert found == [(2, 0), (2, restore["step"])]


def test_a_run_that_saves_its_last_step_alone_takes_no_memory_for_slots(
    tmp_path: Path, undisturbed
) -> None:
    ran = Ran(tmp_path / "run")
    words = overrides(ran.folder, "recovery.snapshot_every=0", save_every=0)
    with start_job(1, words, folder=tmp_path, recipe=SLOW) as job:
        job.until(lambda: ran.losses, 60.0, "the first step")
        slots = [SlotFile.named(path).num_bytes for path in slots_of(job.worker(0))]
        assert job.wait() == [0], job.errors(0)
    assert ran.events("snapshots") == []
    assert max(slots, default=0) <= 4096
    assert_equal(ran, undisturbed(1))
    assert [one["step"] for one in ran.events("checkpoint")] == [10]


def test_a_whole_tree_killed_goes_on_from_the_memory_that_it_left(
    tmp_path: Path, undisturbed
) -> None:
    ran, words = Ran(tmp_path / "run"), overrides(tmp_path / "run", save_every=0)
    with start_job(2, words, folder=tmp_path, recipe=Gate(ran, steps=8).recipe(SLOW)) as job:
        job.until(lambda: len(ran.losses) >= 5, 60.0, "five steps")
        job.kill_tree()
        assert job.wait() == [-signal.SIGKILL] * 2
    with start_job(2, words, folder=tmp_path) as job:
        assert job.wait() == [0, 0], job.errors(0)
    assert_equal(ran, undisturbed(2))
    (restore,) = ran.events("restore")
    assert restore["path"] == "memory"
    assert restore["step"] >= 3


@pytest.mark.slow
def test_a_wrong_byte_in_memory_is_named_and_the_older_snapshot_used(
    tmp_path: Path, undisturbed
) -> None:
    ran = Ran(tmp_path / "run")
    # One slot may be in the writing, and one is damaged.
    words = overrides(ran.folder, "recovery.slots=3", save_every=0)
    gate = Gate(ran, steps=8)
    with start_job(2, words, folder=tmp_path, recipe=gate.recipe(SLOW)) as job:
        job.until(lambda: len(ran.losses) >= 5, 60.0, "five steps")
        for rank in (0, 1):
            os.kill(job.worker(rank), signal.SIGSTOP)
        slots = {path: SlotFile.named(path) for path in slots_of(job.worker(1))}
        held = newest(list(slots.values()))[0]
        path, slot = list(slots.items())[held.index]
        sealed = slot.read()
        assert sealed is not None
        flip_byte(path, sealed.data[1] - 3)
        for slot in slots.values():
            slot.close()
        os.kill(job.worker(1), signal.SIGKILL)
        gate.open()
        assert job.wait() == [0, 0], job.errors(0)
    assert_equal(ran, undisturbed(2))
    (restore,) = ran.events("restore")
    assert restore["step"] < held.step
    assert "does not match its digest" in str(restore["damaged"]) or restore["damaged"] == []


@pytest.mark.slow
def test_a_run_whose_memory_is_all_damaged_stops_and_begins_anew_when_started_again(
    tmp_path: Path, undisturbed
) -> None:
    ran, words = Ran(tmp_path / "run"), overrides(tmp_path / "run", save_every=0)
    with start_job(1, words, folder=tmp_path, recipe=SLOW) as job:
        job.until(lambda: len(ran.losses) >= 5, 20.0, "five steps")
        job.kill_tree()
        assert job.wait() == [-signal.SIGKILL]
    for path in slot_paths(str(ran.folder.resolve())):
        slot = SlotFile.named(path)
        if (sealed := slot.read()) is not None:
            flip_byte(path, sealed.data[1] - 3)
        slot.close()
    with start_job(1, words, folder=tmp_path) as job:
        assert job.wait() == [1]
        assert "memory: found every snapshot damaged (slot-" in job.errors(0)
    with start_job(1, words, folder=tmp_path) as job:
        assert job.wait() == [0], job.errors(0)
    assert ran.events("restore") == []
    assert_equal(ran, undisturbed(1))


def test_a_fresh_start_is_not_confused_by_what_another_configuration_left(
    tmp_path: Path, undisturbed
) -> None:
    ran, words = Ran(tmp_path / "run"), overrides(tmp_path / "run", save_every=0)
    held = Gate(ran, steps=8).recipe(SLOW)
    with start_job(1, [*words, "train.seed=9"], folder=tmp_path, recipe=held) as job:
        job.until(lambda: len(ran.losses) >= 4, 60.0, "four steps")
        job.kill_tree()
        assert job.wait() == [-signal.SIGKILL]
    for name in ("metrics.jsonl", "events.jsonl"):
        (ran.folder / name).unlink()
    with start_job(1, words, folder=tmp_path) as job:
        assert job.wait() == [0], job.errors(0)
    assert_equal(ran, undisturbed(1))
    assert ran.events("restore") == []


@pytest.mark.slow
def test_a_run_whose_disk_is_lost_goes_on_from_a_further_place(tmp_path: Path, undisturbed) -> None:
    ran = Ran(tmp_path / "run")
    tier = f"checkpoint.tiers=[{{path:{tmp_path}/bucket,every_seconds:0}}]"
    words = overrides(ran.folder, tier, save_every=1)
    with start_job(2, words, folder=tmp_path, recipe=Gate(ran, steps=8).recipe(SLOW)) as job:
        job.until(lambda: len(ran.events("promotion")) >= 3, 60.0, "three copies")
        job.kill_tree()
        assert job.wait() == [-signal.SIGKILL] * 2
    shutil.rmtree(ran.folder / "checkpoints")
    for path in slot_paths(str(ran.folder.resolve())):
        path.unlink()
    with start_job(2, words, folder=tmp_path) as job:
        assert job.wait() == [0, 0], job.errors(0)
    assert_equal(ran, undisturbed(2))
    (restore,) = ran.events("restore")
    assert restore["path"].startswith(f"{tmp_path}/bucket/step-")
