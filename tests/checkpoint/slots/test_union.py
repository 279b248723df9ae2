"""What slots of ranks that are gone hold between them, as a checkpoint: bit for bit, or not."""

import dataclasses

import pytest
import torch
from support.world import run_world

from keepstep.checkpoint import Checkpoints, DamagedPartError, LocalStore, SoloExchange
from keepstep.checkpoint.commit import Cargo, commit
from keepstep.checkpoint.slots import (
    Image,
    Left,
    SlotFile,
    Snapshots,
    Union,
    boxes_of,
    deal,
    newest,
    wholes,
)

DEGREES = {
    "shard4": {"replicate": 1, "shard": 4},
    "hsdp2x2": {"replicate": 2, "shard": 2},
}


def copies_of(degrees):
    grid = torch.arange(degrees["replicate"] * degrees["shard"])
    return grid.view(degrees["replicate"], degrees["shard"]).t().tolist()


def leave(kit, folder, layout, steps=(5,)):
    """Ranks that snapshot their part of a state into named slots, and end."""

    def body(rank):
        for step in steps:
            state = kit.spread(kit.full_state(step), layout)
            label = {"rank": rank, "world_size": 4, "topology": DEGREES[layout]}
            image = Image.of(state, state, rank=rank, holders=range(4), label=label)
            slot = SlotFile.named(folder / f"{rank}-{step}")
            taken = Snapshots([slot], [], image, volatile=(), say=print)
            taken.open()
            taken.begin(state, cargo(step))
            taken.settle()
            taken.close()

    return body


def cargo(step):
    return Cargo(step=step, topology={"shard": 4}, progress={"samples": 8 * step}, lineage={})


def lefts(found):
    return [Left.of(held, finder=0, index=index) for index, held in enumerate(found)]


def found_in(folder, *, without=()):
    paths = sorted(path for path in folder.iterdir() if path.name not in without)
    return [newest([SlotFile.named(path)])[0] for path in paths]


def save(found, whole, place):
    dealt = deal([boxes_of(found[left.index]) for left in whole.lefts])
    pairs = zip(whole.lefts, dealt, strict=True)
    part = Union([(found[left.index], positions) for left, positions in pairs])
    return commit(place, SoloExchange(), part, found[whole.lefts[0].index].cargo)


@pytest.fixture
def slots(tmp_path):
    (tmp_path / "slots").mkdir()
    return tmp_path / "slots"


@pytest.mark.parametrize(
    ("layout", "gone"),
    [
        ("shard4", ()),
        ("hsdp2x2", ()),
        ("hsdp2x2", ("0-5", "1-5")),
        ("hsdp2x2", ("2-5", "1-5")),
    ],
)
def test_what_is_left_makes_the_whole_state(kit, slots, tmp_path, layout, gone):
    run_world(4, leave(kit, slots, layout))
    found = found_in(slots, without=gone)
    (whole,) = wholes(lefts(found), copies_of)
    assert whole.lost == tuple(sorted(int(name[0]) for name in gone))
    place = LocalStore(tmp_path / "place")
    save(found, whole, place)
    full, read = kit.full_state(5), kit.zeroed(kit.full_state(5))
    restored = Checkpoints(place, SoloExchange(), keep=1).restore(read)
    assert (restored.step, restored.progress) == (5, {"samples": 40})
    assert kit.is_equal(read, full)


def test_a_state_of_which_a_part_is_gone_is_passed_over_for_an_older_one(kit, slots):
    run_world(4, leave(kit, slots, "shard4", steps=(5, 6)))
    found = found_in(slots, without=("2-6",))
    assert [whole.step for whole in wholes(lefts(found), copies_of)] == [5]


def test_slots_of_other_worlds_make_none_together(kit, slots):
    run_world(4, leave(kit, slots, "hsdp2x2"))
    left = lefts(found_in(slots, without=("2-5", "3-5")))
    other = {**left[0].label, "world_size": 8}
    assert wholes([dataclasses.replace(left[0], label=other), left[1]], copies_of) == []


def test_a_later_place_in_the_data_is_newer_than_a_later_step(kit, slots):
    run_world(4, leave(kit, slots, "shard4", steps=(5, 6)))
    found = lefts(found_in(slots))
    went_back = [dataclasses.replace(one, samples=99) if one.step == 5 else one for one in found]
    assert [whole.step for whole in wholes(went_back, copies_of)] == [5, 6]


def test_boxes_that_leave_a_gap_are_refused(kit, slots):
    run_world(4, leave(kit, slots, "shard4"))
    offered = [boxes_of(held) for held in found_in(slots, without=("3-5",))]
    with pytest.raises(ValueError, match="gap"):
        deal(offered)


def test_damaged_memory_saves_nothing(kit, slots, tmp_path):
    run_world(4, leave(kit, slots, "hsdp2x2"))
    found = found_in(slots)
    (whole,) = wholes(lefts(found), copies_of)
    with open(slots / "0-5", "r+b") as file:
        sealed = SlotFile.named(slots / "0-5").read()
        file.seek(sealed.data[1] - 1)
        byte = file.read(1)
        file.seek(sealed.data[1] - 1)
        file.write(bytes([byte[0] ^ 1]))
    place = LocalStore(tmp_path / "place")
    with pytest.raises(DamagedPartError, match="does not match its digest"):
        save(found, whole, place)
    assert not place.list()
