"""State -> slots -> state or checkpoint, bit for bit."""

import errno
import os

import pytest
import torch

from keepstep.checkpoint import CorruptError, LocalStore, SoloExchange, verify
from keepstep.checkpoint.commit import Cargo, commit
from keepstep.checkpoint.manager import Checkpoints
from keepstep.checkpoint.slots import Held, Image, SlotFile, Snapshots, newest


def make_state():
    return {
        "model.w": torch.randn(64, 33),
        "model.bf": torch.randn(7, dtype=torch.bfloat16),
        "model.mean": torch.zeros(3),
        "model.none": torch.empty(0, 4),
        "optim.w.step": torch.tensor(3.0),
        "model.turned": torch.randn(5, 6).t(),
    }


def cargo(step):
    return Cargo(step=step, topology={"shard": 1}, progress={"samples": 8}, lineage={})


@pytest.fixture
def slots():
    slots = [SlotFile.unnamed() for _ in range(2)]
    yield slots
    for slot in slots:
        slot.close()


@pytest.fixture
def state():
    torch.manual_seed(0)
    return make_state()


def image_of(state):
    return Image.of(state, state, rank=0, holders=[0], label={"run": "here"})


@pytest.fixture
def snapshots(slots, state):
    taken = Snapshots(slots, [], image_of(state), volatile={"model.mean"}, say=print)
    taken.open()
    yield taken
    taken.close()


def held(slots, place=0):
    return newest(slots)[place]


def prove_and_load(found, live):
    found.prove()
    found.load_into(live)


LOADS = pytest.mark.parametrize("load", [prove_and_load, Held.fill])


@LOADS
def test_a_state_comes_back_bit_for_bit(snapshots, slots, state, load):
    snapshots.begin(state, cargo(5))
    snapshots.settle()
    found, other = held(slots), {name: torch.ones_like(one) for name, one in state.items()}
    load(found, other)
    assert found.cargo == cargo(5)
    assert all(torch.equal(other[name], state[name]) for name in state)


def test_tensors_of_many_blocks_and_pieces_come_back_bit_for_bit(slots):
    state = {f"model.{count}": torch.randn(count) for count in (2**18 + 3, 2**21 - 1, 2**20)}
    taken = Snapshots(slots, [], image_of(state), volatile=(), say=print)
    taken.open()
    taken.begin(state, cargo(1))
    taken.settle()
    taken.close()
    other = {name: torch.zeros_like(one) for name, one in state.items()}
    held(slots).prove()
    held(slots).fill(other)
    assert all(torch.equal(other[name], state[name]) for name in state)


def test_what_changes_after_wait_is_not_in_the_snapshot(snapshots, slots, state):
    before = {name: one.clone() for name, one in state.items()}
    snapshots.begin(state, cargo(5))
    state["model.mean"].add_(1)  # volatile: a forward may change it at once
    snapshots.wait()
    for one in state.values():
        one.add_(1)
    snapshots.settle()
    held(slots).load_into(state)
    assert all(torch.equal(before[name], state[name]) for name in state)


def test_two_slots_take_turns_and_the_older_one_stays_whole(snapshots, slots, state):
    indices = [snapshots.begin(state, cargo(step)) for step in (1, 2, 3)]
    snapshots.settle()
    assert indices == [0, 1, 0]
    assert [one.step for one in newest(slots)] == [3, 2]


def test_a_pinned_slot_is_not_written(snapshots, slots, state):
    first = snapshots.begin(state, cargo(1), pin=True)
    assert [snapshots.begin(state, cargo(step)) for step in (2, 3)] == [1, 1]
    second = snapshots.begin(state, cargo(4), pin=True)
    assert (first, second) == (0, 1)
    assert snapshots.begin(state, cargo(5)) is None
    slots[0].unpin()
    assert snapshots.begin(state, cargo(5)) == 0


def test_the_same_topology_finds_the_slots_of_a_process_that_died(snapshots, slots, state):
    snapshots.begin(state, cargo(5))
    snapshots.settle()
    again = Snapshots(slots, [], image_of(state), volatile=(), say=print)
    again.open()
    assert newest(slots)[0].plan == image_of(state).encode()
    again.close()


@LOADS
def test_a_flipped_byte_in_memory_is_named(snapshots, slots, state, load):
    snapshots.begin(state, cargo(5))
    snapshots.settle()
    data = slots[0].map()
    data[len(data) // 2] ^= 1
    with pytest.raises(CorruptError, match=r"tensor model\.w does not match its digest"):
        load(held(slots), state)


def test_a_durable_save_out_of_a_slot_is_the_checkpoint_of_the_live_state(
    snapshots, slots, state, tmp_path
):
    place = LocalStore(tmp_path / "saved")
    snapshots.begin(state, cargo(5), pin=True)
    snapshots.settle()
    found = held(slots)
    folder, _ = commit(place, SoloExchange(), found, found.cargo)
    assert verify(place, folder) == []
    other = {name: torch.zeros_like(one) for name, one in state.items()}
    restored = Checkpoints(place, SoloExchange(), keep=1).restore(other)
    assert restored is not None
    assert restored.progress == {"samples": 8}
    assert all(torch.equal(other[name], state[name]) for name in state)


def test_slots_that_do_not_fit_the_mount_are_kept_without_a_name(tmp_path, state, monkeypatch):
    named, unnamed, said = [SlotFile.named(tmp_path / "a")], [SlotFile.unnamed()], []
    take = os.posix_fallocate

    def refuse(fd, start, length):
        if fd == named[0].fd:
            raise OSError(errno.ENOSPC, "No space left on device")
        take(fd, start, length)

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    taken = Snapshots(named, unnamed, image_of(state), volatile=(), say=said.append)
    taken.open()
    taken.begin(state, cargo(2))
    taken.settle()
    assert "found no room for 1 slots of 0 MiB" in said[0]
    assert [one.step for one in newest(unnamed)] == [2]
    assert newest(named) == []
    taken.close()
    for slot in (*named, *unnamed):
        slot.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_state_on_a_device_comes_back_bit_for_bit_and_its_slots_are_pinned(slots, state):
    live = {name: one.cuda() for name, one in state.items()}
    taken = Snapshots(slots, [], image_of(live), volatile={"model.mean"}, say=print)
    taken.open()
    for step in (1, 2):
        taken.begin(live, cargo(step))
        taken.settle()
    assert taken._views[0][1].is_pinned()
    for one in live.values():
        one.zero_()
    held(slots).prove()
    held(slots).load_into(live)
    assert all(torch.equal(live[name].cpu(), state[name]) for name in state)
    taken.close()
