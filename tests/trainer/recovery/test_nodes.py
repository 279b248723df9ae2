"""Runs that go on with fewer ranks, and with more again: from what is left in memory where that is
the whole state, from the newest checkpoint where it is not; every sample once, in order."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from support.gate import Gate
from support.job import Job, Ran, overrides, start_job, tiny

from keepstep.trainer.recovery.slots import slot_paths

SLOW = tiny(sleep_seconds=0.02)


def leave(words: list[str], ran: Ran, folder: Path, *, steps: int = 5) -> None:
    """A job of four ranks on two nodes, all of which are killed once it has done that many."""
    held = Gate(ran, steps=steps + 1).recipe(SLOW)
    with start_job(4, words, folder=folder, recipe=held, node_size=2) as job:
        job.until(lambda: len(ran.losses) >= steps, 60.0, "the steps")
        job.kill_tree()


def lose(run: Path, *ranks: int) -> None:
    """The memory of the node that these ranks were on, with what it kept for the other one."""
    for path in slot_paths(str(run.resolve())):
        rank = int(path.name.split("-")[2])
        if ((rank + 2) % 4 if "kept" in path.name else rank) in ranks:
            path.unlink()


def finish(job: Job, size: int) -> None:
    assert job.wait() == [0] * size, job.errors(0)


def assert_same_curve(ran: Ran, undisturbed: Ran) -> None:
    """Equal but for the order of sums, which the number of ranks decides."""
    assert sorted(ran.losses) == sorted(undisturbed.losses)
    losses = [
        torch.tensor([run.losses[step] for step in sorted(run.losses)])
        for run in (ran, undisturbed)
    ]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("gone", [(2, 3), (0, 1)])
def test_of_two_copies_one_is_lost_and_the_run_goes_on_smaller_and_grows_back(
    gone: tuple[int, ...], tmp_path: Path, undisturbed
) -> None:
    ran = Ran(tmp_path / "run")
    words = overrides(ran.folder, "parallel.replicate=2", save_every=0)
    leave(words, ran, tmp_path)
    lose(ran.folder, *gone)
    gate = Gate(ran, steps=2)
    with start_job(2, words, folder=tmp_path, recipe=gate.recipe(SLOW)) as job:
        job.until(lambda: len(ran.losses) >= 7, 60.0, "two more steps")
        os.kill(job.guardians[0], signal.SIGTERM)
        job.until(lambda: ran.events("stop"), 60.0, "note of the signal")
        gate.open()
        assert job.wait() == [75, 75], job.errors(0)
    (saved,) = ran.events("salvage")
    assert saved["lost"] == list(gone)
    assert saved["step"] >= 4
    with start_job(4, words, folder=tmp_path) as job:
        finish(job, 4)
    assert [event["step"] for event in ran.events("restore")] == [
        saved["step"],
        ran.events("preemption")[0]["step"],
    ]
    assert [event["world_size"] for event in ran.events("start")] == [4, 2, 4]
    assert_same_curve(ran, undisturbed(4))


def test_all_parts_are_there_and_fewer_ranks_take_them_up(tmp_path: Path, undisturbed) -> None:
    ran, words = Ran(tmp_path / "run"), overrides(tmp_path / "run", save_every=0)
    leave(words, ran, tmp_path)
    with start_job(2, words, folder=tmp_path) as job:
        finish(job, 2)
    (saved,), (restore,) = ran.events("salvage"), ran.events("restore")
    assert (saved["lost"], saved["step"]) == ([], restore["step"])
    assert saved["step"] >= 4
    assert_same_curve(ran, undisturbed(4))


@pytest.mark.slow
def test_a_part_is_lost_and_the_newest_checkpoint_is_taken(tmp_path: Path, undisturbed) -> None:
    ran, words = Ran(tmp_path / "run"), overrides(tmp_path / "run", save_every=2)
    with start_job(4, words, folder=tmp_path, recipe=Gate(ran, steps=8).recipe(SLOW)) as job:
        job.until(lambda: ran.events("checkpoint"), 60.0, "a checkpoint")
        job.until(lambda: len(ran.losses) >= 5, 60.0, "five steps")
        job.kill_tree()
    lose(ran.folder, 3)
    with start_job(2, words, folder=tmp_path) as job:
        finish(job, 2)
    assert ran.events("salvage") == []
    assert ran.events("restore")[0]["step"] in (2, 4, 6, 8)
    assert_same_curve(ran, undisturbed(4))
    assert slot_paths(str(ran.folder.resolve())) == []


@pytest.mark.slow
@pytest.mark.parametrize("gone", [(2, 3), (0, 1)])
def test_a_part_is_lost_and_its_peers_have_kept_it(
    gone: tuple[int, ...], tmp_path: Path, undisturbed
) -> None:
    ran, size = Ran(tmp_path / "run"), 2
    more = ("recovery.peers=1", "recovery.peer_every=2")
    words = overrides(ran.folder, *more, save_every=0)
    leave(words, ran, tmp_path, steps=7)
    lose(ran.folder, *gone)
    with start_job(size, words, folder=tmp_path) as job:
        finish(job, size)
    (saved,), (restore,) = ran.events("salvage"), ran.events("restore")
    assert (saved["lost"], saved["step"]) == ([], restore["step"])
    assert saved["step"] in (2, 4, 6)
    assert_same_curve(ran, undisturbed(4))
    assert slot_paths(str(ran.folder.resolve())) == []


@pytest.mark.slow
def test_what_cannot_be_saved_stays_in_memory(tmp_path: Path, undisturbed) -> None:
    ran, words = Ran(tmp_path / "run"), overrides(tmp_path / "run", save_every=0)
    leave(words, ran, tmp_path)
    place = ran.folder / "checkpoints"
    shutil.move(place / "claims", tmp_path / "claims")
    for path in place.iterdir():
        assert path.name == "claims"
    place.rmdir()
    place.symlink_to("/proc/self/fdinfo")  # nothing can be made there
    with start_job(2, words, folder=tmp_path) as job:
        assert job.wait() != [0, 0]
    kept = slot_paths(str(ran.folder.resolve()))  # what holds no whole state is given back
    assert {path.name.split("-")[2] for path in kept} == {"0", "1", "2", "3"}
    place.unlink()
    with start_job(2, words, folder=tmp_path) as job:
        finish(job, 2)
    assert len(ran.events("salvage")) == 1
    assert_same_curve(ran, undisturbed(4))
