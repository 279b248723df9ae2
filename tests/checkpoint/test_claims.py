"""Of the jobs of one run only the newest publishes; other runs and live jobs are refused."""

import json
import os
import signal
import time
from dataclasses import replace

import pytest

from keepstep.checkpoint import (
    CheckpointError,
    Checkpoints,
    LocalStore,
    SoloExchange,
    committed,
    read_manifest,
)
from keepstep.checkpoint.claims import Fence, claim
from keepstep.checkpoint.errors import FencedError
from keepstep.checkpoint.listing import folder_name
from keepstep.checkpoint.manifest import MANIFEST, decode, encode
from keepstep.checkpoint.stores import open_place, read_bytes


class Lax:
    """A place that creates what exists already, as rclone's S3 does."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def create(self, name, pieces):
        path = self.inner.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(bytes(piece) for piece in pieces))


@pytest.fixture
def lax(tmp_path):
    return Lax(LocalStore(tmp_path))


@pytest.fixture
def remote():
    """A place without locks, so that two jobs may live at once."""
    return open_place(f"memory://claims-{time.monotonic_ns()}")


def fenced(place, mine, **more):
    return Checkpoints(place, SoloExchange(), keep=9, fence=Fence(claim=mine, **more))


def test_each_job_of_a_run_takes_the_next_number_and_says_who_it_is(remote):
    assert [claim(remote, "mine").number for _ in range(3)] == [1, 2, 3]
    record = json.loads(read_bytes(remote, "claims/claim-000000002.json"))
    assert (record["run"], record["pid"]) == ("mine", os.getpid())
    assert len(remote.list()) == 3


def test_another_run_is_refused_with_both_names_and_what_to_do(remote):
    claim(remote, "first")
    with pytest.raises(ValueError, match=r"checkpoints of run first, needed .* of run second; set"):
        claim(remote, "second")
    assert claim(remote, "second", takes_over=True).number == 2
    with pytest.raises(ValueError, match="checkpoints of run second"):
        claim(remote, "first")


def test_checkpoints_say_whose_place_it_is_where_claims_are_gone(kit, remote):
    kit.save(fenced(remote, claim(remote, "first")), kit.full_state(1), 1)
    remote.remove("claims", first="claim-000000001.json")
    with pytest.raises(ValueError, match="checkpoints of run first"):
        claim(remote, "second")


def test_checkpoints_without_a_claim_are_anyone_s(kit, remote):
    kit.save(Checkpoints(remote, SoloExchange(), keep=1), kit.full_state(1), 1)
    assert claim(remote, "mine").number == 1


def test_a_fenced_job_publishes_nothing_and_leaves_nothing(kit, remote):
    old = fenced(remote, claim(remote, "mine"))
    kit.save(old, kit.full_state(1), 1)
    new = fenced(remote, claim(remote, "mine"))
    before = remote.list().keys()
    with pytest.raises(FencedError, match=f"claim 2 of process {os.getpid()} on .* claim 1") as one:
        kit.save(old, kit.full_state(2), 2)
    assert isinstance(one.value, CheckpointError)
    assert one.value.step == 2
    assert remote.list().keys() == before
    assert kit.save(new, kit.full_state(3), 3).step == 3


def test_an_older_generation_publishes_nothing_once_a_newer_one_has_begun(kit, remote):
    is_current = [True]
    checkpoints = fenced(remote, None, is_current=lambda: is_current[0])
    kit.save(checkpoints, kit.full_state(1), 1)
    is_current[0] = False
    with pytest.raises(FencedError, match="a later generation of the job has begun"):
        kit.save(checkpoints, kit.full_state(2), 2)
    assert [step for step, _ in checkpoints.steps()] == [1]


def test_what_a_fenced_job_publishes_after_all_is_never_the_newest(kit, remote, monkeypatch):
    old, new = (fenced(remote, claim(remote, "mine")) for _ in range(2))
    kit.save(new, kit.full_state(5), 5)
    monkeypatch.setattr(Fence, "check", lambda *_, **__: None)  # it was asked just too early
    later = time.time() + 50
    monkeypatch.setattr("time.time", lambda: later)
    kit.save(old, kit.full_state(9), 9)
    assert [step for step, _ in new.steps()] == [5, 9]
    state = kit.zeroed(kit.full_state(0))
    assert new.restore(state).step == 5
    assert kit.is_equal(state, kit.full_state(5))


def test_a_manifest_names_its_claim_and_run(kit, remote):
    kit.save(fenced(remote, claim(remote, "mine")), kit.full_state(1), 1)
    (found,) = committed(remote)
    assert (found.head.claim, found.head.run) == (1, "mine")
    free = replace(read_manifest(remote, found.folder), claim=None, run=None)
    assert decode(encode(free), path="here") == free


def test_a_checkpoint_copied_from_a_place_of_more_claims_does_not_stay_the_newest(kit, remote):
    there = open_place(f"memory://other-{time.monotonic_ns()}")
    for _ in range(7):
        taken = claim(there, "mine")
    kit.save(fenced(there, taken), kit.full_state(1), 1)
    mine = fenced(remote, claim(remote, "mine"))
    for name in there.list():
        if name.startswith("step-"):
            remote.create(name, [read_bytes(there, name)])
    with pytest.raises(FencedError, match="of claim 7, newer than this job's claim 1"):
        kit.save(mine, kit.full_state(2), 2)
    again = fenced(remote, claim(remote, "mine"))
    kit.save(again, kit.full_state(3), 3)
    assert [step for step, _ in again.steps()] == [3, 1]


def test_an_unreadable_manifest_counts_as_of_the_newest_claim(kit, remote):
    for step in (1, 2):
        kit.save(fenced(remote, claim(remote, "mine")), kit.full_state(step), step)
    remote.create(f"{folder_name(3, '0123abcd')}/{MANIFEST}", [b"torn"])
    assert [found.step for found in committed(remote)] == [3, 2, 1]


def test_a_live_job_of_this_host_is_named_and_keeps_its_claim(tmp_path):
    place = LocalStore(tmp_path)
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        claim(place, "mine")
        os.write(writer, b".")
        time.sleep(60)
        os._exit(0)
    try:
        assert os.read(reader, 1) == b"."
        with pytest.raises(ValueError, match=rf"being written by pid {pid} \(run mine\), needed"):
            claim(place, "mine")
        assert [name for name in place.list() if "claim-" in name] == [
            "claims/claim-000000001.json"
        ]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
    again = claim(place, "mine")
    assert again.number == 2
    again.close()
    again.close()
    claim(place, "mine").close()


def test_a_place_that_overwrites_is_named_and_tells_jobs_apart_by_a_word(kit, lax, caplog):
    one = claim(lax, "mine")
    assert "creates what exists already (it ignores If-None-Match)" in caplog.text
    two = replace(one, word="f" * 8)
    lax.create(f"claims/claim-000000001-{two.word}.json", [b"{}"])
    assert one.rank < two.rank
    kit.save(fenced(lax, two), kit.full_state(1), 1)
    with pytest.raises(FencedError, match="found claim 1, newer than this job's claim 1"):
        kit.save(fenced(lax, one), kit.full_state(2), 2)
    assert claim(lax, "mine").number == 2


def test_a_locked_place_in_which_nothing_was_saved_is_anyone_s(kit, tmp_path):
    place = LocalStore(tmp_path)
    claim(place, "first").close()
    with claim(place, "second") as mine:
        assert mine.number == 2
        kit.save(fenced(place, mine), kit.full_state(1), 1)
    with pytest.raises(ValueError, match="checkpoints of run second"):
        claim(place, "first")
