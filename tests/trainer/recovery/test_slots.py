"""Slots between jobs: found again by the same run, held by one, swept when nobody wants them."""

import os
from pathlib import Path

from keepstep.checkpoint.slots import SlotFile
from keepstep.trainer.recovery.slots import SlotSet


def open_set(folder: Path, run: str = "run", rank: int = 0) -> SlotSet:
    return SlotSet.open(run, rank=rank, count=2, folder=folder)


def seal(slot: SlotFile, step: int) -> None:
    slot.prepare(b"plan", 10)
    slot.seal(step, b"tail")


def test_a_later_job_of_the_run_finds_what_an_earlier_one_left(tmp_path: Path) -> None:
    first = open_set(tmp_path)
    seal(first.named[1], 7)
    first.named[1].pin()
    first.close()  # as the kernel does for a process that is killed
    again = open_set(tmp_path)
    assert [slot.step for slot in again.named] == [-1, 7]
    assert not again.named[1].is_pinned
    again.close()


def test_other_runs_and_ranks_have_slots_of_their_own(tmp_path: Path) -> None:
    sets = [open_set(tmp_path), open_set(tmp_path, run="other"), open_set(tmp_path, rank=1)]
    assert len(list(tmp_path.iterdir())) == 6
    for one in sets:
        one.close()


def test_a_second_job_of_the_run_keeps_its_slots_without_a_name(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("keepstep.trainer.recovery.slots._LOCK_SECONDS", 0.0)
    first, second = open_set(tmp_path), open_set(tmp_path)
    assert (len(second.named), len(second.unnamed), len(second.fds)) == (0, 2, 4)
    seal(second.all[0], 3)
    assert [slot.step for slot in first.named] == [-1, -1]
    first.close()
    second.close()


def test_a_worker_sees_its_guardians_slots_under_the_same_places(tmp_path: Path) -> None:
    guardian = open_set(tmp_path)
    worker = SlotSet.from_fds([os.dup(fd) for fd in guardian.fds])
    assert worker is not None
    for place, slot in enumerate(worker.all):
        seal(slot, place)
    assert [slot.step for slot in guardian.all] == [0, 1, 2, 3]
    assert SlotSet.from_fds([]) is None
    worker.close()
    guardian.close()


def test_pins_of_a_dead_worker_go_but_for_what_is_being_saved(tmp_path: Path) -> None:
    slots = open_set(tmp_path)
    for slot in slots.named:
        slot.pin()
    slots.release(kept=[1])
    assert [slot.is_pinned for slot in slots.named] == [False, True]
    slots.close()


def test_the_end_in_good_order_leaves_no_file(tmp_path: Path) -> None:
    slots = open_set(tmp_path)
    slots.forget()
    slots.close()
    assert list(tmp_path.iterdir()) == []


def test_what_nobody_took_up_for_a_day_is_swept_and_what_somebody_holds_is_not(
    tmp_path: Path,
) -> None:
    left, held = open_set(tmp_path, run="left"), open_set(tmp_path, run="held")
    left.close()
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    (tmp_path / "other-file").touch()
    open_set(tmp_path, run="new").close()
    assert len(list(tmp_path.iterdir())) == 2 + 2 + 1
    assert all(slot.num_bytes for slot in held.named)
    held.close()
