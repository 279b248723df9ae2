"""What a rank writes is given by the caller: live tensors, or bytes that lie ready."""

import json

import pytest
import torch

from keepstep.checkpoint import CheckpointError, Checkpoints, LocalStore, SoloExchange, verify
from keepstep.checkpoint.commit import Cargo, commit
from keepstep.checkpoint.digest import digest_bytes
from keepstep.checkpoint.manifest import ChunkEntry, FileEntry
from keepstep.checkpoint.part import LivePart
from keepstep.checkpoint.specs import Spec, merge_specs

CARGO = Cargo(step=7, topology={"world_size": 1}, progress={"step": 7}, lineage={})


class ReadyPart:
    """A safetensors image of one tensor, as bytes that lie ready: no tensor is looked at."""

    def __init__(self, data):
        head = json.dumps(
            {"w": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}
        )
        head = head.ljust(-(-len(head) // 8) * 8).encode()
        self.header, self.data = len(head).to_bytes(8, "little") + head, data

    def specs(self, exchange):
        own = {"w": Spec(dtype="uint8", shape=(len(self.data),), boxes=1)}
        return merge_specs(exchange, lambda: own)

    def write(self, place, folder, rank, seal):
        name, start = f"rank-{rank:05d}.safetensors", len(self.header)
        place.create(f"{folder}/{name}", [self.header, self.data])
        end, shape = start + len(self.data), (len(self.data),)
        file = FileEntry(
            name=name, bytes=end, header_bytes=start, header_digest=digest_bytes(self.header)
        )
        chunk = ChunkEntry(
            name="w",
            dtype="uint8",
            global_shape=shape,
            offsets=(0,),
            shape=shape,
            file=name,
            start=start,
            end=end,
            digest=digest_bytes(self.data),
        )
        return file, [chunk]


def test_bytes_that_lie_ready_are_committed_without_a_tensor(tmp_path):
    place = LocalStore(tmp_path)
    folder, count = commit(place, SoloExchange(), ReadyPart(bytes(range(100))), CARGO)
    assert verify(place, folder) == []
    assert count == sum(file.stat().st_size for file in (tmp_path / folder).iterdir())
    state = {"w": torch.zeros(100, dtype=torch.uint8)}
    assert Checkpoints(place, SoloExchange(), keep=1).restore(state).progress == {"step": 7}
    assert state["w"].tolist() == list(range(100))


def test_a_part_that_writes_nothing_of_what_it_named_fails_the_save(tmp_path):
    class Forgetful(ReadyPart):
        def write(self, place, folder, rank, seal):
            return None

    with pytest.raises(CheckpointError, match=r"1 tensors were written by no rank \(w\)"):
        commit(LocalStore(tmp_path), SoloExchange(), Forgetful(b"ab"), CARGO)
    assert list(tmp_path.iterdir()) == []


def test_live_tensors_are_one_kind_of_part(kit, tmp_path):
    place, state = LocalStore(tmp_path), kit.full_state(3)
    folder, _ = commit(place, SoloExchange(), LivePart(state, [0]), CARGO)
    loaded = kit.zeroed(state)
    Checkpoints(place, SoloExchange(), keep=1).restore(loaded)
    assert folder.startswith("step-000000007-")
    assert kit.is_equal(loaded, state)
