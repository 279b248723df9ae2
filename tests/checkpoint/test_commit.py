"""A save that dies or fails at any point leaves the old step or the new one, never a mix."""

import contextlib
import errno
import os
import subprocess
from pathlib import Path

import pytest
import torch
from support.world import run_world

from keepstep.checkpoint import (
    CheckpointError,
    Checkpoints,
    DiskFullError,
    LocalStore,
    SoloExchange,
)

CHANGES = ("open", "write", "fsync", "link", "unlink", "mkdir", "rmdir")


def trip(monkeypatch, harm, k):
    """Makes the k-th and later changes of the file system do `harm(call, *arguments)`."""
    count = [0]

    def wrap(call):
        def counted(*arguments, **named):
            count[0] += 1
            if count[0] > k:
                harm(call, *arguments)
            return call(*arguments, **named)

        return counted

    for name in CHANGES:
        monkeypatch.setattr(os, name, wrap(getattr(os, name)))
    return count


def die(call, *arguments):
    """Ends the process; a write is torn in the middle first."""
    if call.__name__ == "write":
        file, data = arguments
        call(file, data[: len(data) // 2])
    os._exit(9)


def break_disk(call, *arguments):
    raise OSError(errno.EIO, "the disk is broken")


def save_and_die(kit, root, k):
    """Saves step 2 over step 1 in a forked process that dies at its k-th change; True if it did."""
    pid = os.fork()
    if not pid:
        with pytest.MonkeyPatch.context() as patch:
            trip(patch, die, k)
            checkpoints = Checkpoints(LocalStore(root), SoloExchange(), keep=1)
            kit.save(checkpoints, kit.full_state(2), 2)
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


def restored_step(kit, root):
    state = kit.full_state(0)
    restored = Checkpoints(LocalStore(root), SoloExchange(), keep=9).restore(state)
    assert not restored.damaged
    assert kit.is_equal(state, kit.full_state(restored.step))
    return restored.step


def test_a_run_goes_on_saving_over_the_debris_of_its_death(kit, tmp_path):
    checkpoints = Checkpoints(LocalStore(tmp_path), SoloExchange(), keep=1)
    kit.save(checkpoints, kit.full_state(1), 1)
    assert save_and_die(kit, tmp_path, 6)
    assert len(list(tmp_path.iterdir())) == 2
    kit.save(checkpoints, kit.full_state(2), 2)
    assert restored_step(kit, tmp_path) == 2


@pytest.mark.slow(but=["False"])
@pytest.mark.parametrize("heals", [True, False])
def test_an_error_at_every_change_of_the_disk_leaves_the_old_or_the_new_step(kit, tmp_path, heals):
    outcomes = []
    for k in range(200):
        checkpoints = Checkpoints(LocalStore(tmp_path / str(k)), SoloExchange(), keep=1)
        kit.save(checkpoints, kit.full_state(1), 1)
        with pytest.MonkeyPatch.context() as patch:

            def once(call, *arguments, patch=patch):
                if heals:
                    patch.undo()
                break_disk(call, *arguments)

            count = trip(patch, once, k)
            saved = 1
            with contextlib.suppress(CheckpointError):
                saved = kit.save(checkpoints, kit.full_state(2), 2).step
        found = restored_step(kit, tmp_path / str(k))
        outcomes.append((saved, found))
        if count[0] <= k:
            break
    assert len(outcomes) > 20
    assert outcomes[0] == (1, 1)
    assert outcomes[-1] == (2, 2)
    # A disk that stays broken after the manifest was linked cannot take it back.
    assert set(outcomes) <= {(1, 1), (2, 2)} | (set() if heals else {(1, 2)})


@pytest.mark.parametrize(("rank", "k"), [(0, 0), (0, 5), (0, 9), (0, 13), (1, 0), (1, 5)])
def test_a_rank_that_dies_in_a_save_leaves_a_whole_step(kit, tmp_path, rank, k):
    def body(me):
        checkpoints = Checkpoints(LocalStore(tmp_path), kit.GlooExchange(), keep=1)
        kit.save(checkpoints, kit.spread(kit.full_state(1), "shard2"), 1)
        if me == rank:
            trip(pytest.MonkeyPatch(), die, k)
        with contextlib.suppress(RuntimeError):  # what a survivor's gloo says of a dead peer
            kit.save(checkpoints, kit.spread(kit.full_state(2), "shard2"), 2)
        return "alive"

    assert run_world(2, body, expect_dead=(rank,))[rank] is None
    assert restored_step(kit, tmp_path) in (1, 2)


def test_one_rank_without_space_fails_all_and_leaves_no_trace(kit, tmp_path):
    def body(rank):
        checkpoints = Checkpoints(LocalStore(tmp_path), kit.GlooExchange(), keep=1)
        kit.save(checkpoints, kit.spread(kit.full_state(1), "shard2"), 1)

        def refuse(file, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        with pytest.MonkeyPatch.context() as patch:
            if rank == 1:
                patch.setattr(os, "write", refuse)
            with pytest.raises(DiskFullError, match="bytes free"):
                kit.save(checkpoints, kit.spread(kit.full_state(2), "shard2"), 2)
        return [step for step, _ in checkpoints.steps()]

    assert run_world(2, body) == [[1], [1]]
    assert [path.name[:14] for path in tmp_path.iterdir()] == ["step-000000001"]
    assert restored_step(kit, tmp_path) == 1


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB, where this process may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_said_and_the_older_checkpoint_stays(kit, small_disk):
    checkpoints = Checkpoints(LocalStore(small_disk / "run"), SoloExchange(), keep=3)
    kit.save(checkpoints, kit.full_state(1), 1)
    with pytest.raises(DiskFullError, match=r"needs 4\d{5} bytes: free some space") as caught:
        kit.save(checkpoints, {"big": torch.zeros(400_000, dtype=torch.uint8)}, 2)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.free_bytes < 262_144 < caught.value.needed_bytes
    assert restored_step(kit, small_disk / "run") == 1
    assert len(list((small_disk / "run").iterdir())) == 1
    kit.save(checkpoints, kit.full_state(2), 2)


def test_a_folder_that_turns_read_only_is_said_and_keeps_what_it_has(kit, small_disk):
    checkpoints = Checkpoints(LocalStore(small_disk / "run"), SoloExchange(), keep=3)
    kit.save(checkpoints, kit.full_state(1), 1)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(CheckpointError, match=r"at step 2: rank 0: OSError: .*Read-only file"):
        kit.save(checkpoints, kit.full_state(2), 2)
    assert restored_step(kit, small_disk / "run") == 1
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert kit.save(checkpoints, kit.full_state(3), 3).step == 3


def test_space_is_asked_for_before_any_work(kit, small_disk):
    checkpoints = Checkpoints(LocalStore(small_disk / "not" / "yet"), SoloExchange(), keep=3)
    checkpoints.require_space(kit.full_state(1))
    with pytest.raises(DiskFullError, match=r"has 2\d{5} bytes free .* but one checkpoint needs"):
        checkpoints.require_space({"big": torch.zeros(400_000, dtype=torch.uint8)})
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("layout", ["solo", "shard2", "hsdp2x2"])
def test_a_checkpoint_takes_no_more_than_was_asked_for(kit, tmp_path, layout):
    def body(rank):
        checkpoints = Checkpoints(LocalStore(tmp_path), kit.GlooExchange(), keep=1)
        state = kit.spread(kit.full_state(1), layout)
        return kit.save(checkpoints, state, 1).bytes, checkpoints.needed_bytes(state)

    for taken, needed in run_world(kit.LAYOUTS[layout][0], body):
        assert taken < needed < taken + 40_000


def test_a_tensor_that_a_checkpoint_cannot_hold_is_refused_by_name(kit, solo):
    with pytest.raises(ValueError, match="has dtype complex128, but checkpoints hold"):
        kit.save(solo(), {"odd": torch.zeros(2, dtype=torch.complex128)}, 1)
    assert solo().steps() == []


def test_a_save_leaves_only_its_files(kit, solo):
    folder = Path(kit.save(solo(), kit.full_state(1), 123).path)
    assert folder.name.startswith("step-000000123-")
    assert sorted(file.name for file in folder.iterdir()) == [
        "manifest.json",
        "rank-00000.safetensors",
    ]
