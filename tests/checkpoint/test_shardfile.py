"""Shard files are plain safetensors, aligned, and every range of them is proven when it is read."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from support.world import run_world

from keepstep.checkpoint import Checkpoints, CorruptError, LocalStore, read_manifest
from keepstep.checkpoint.dtypes import BY_NAME
from keepstep.checkpoint.layout import local_chunks
from keepstep.checkpoint.shardfile import read_chunk, verify_file, write_shard

TENSORS = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name != "__metadata__"),
    st.tuples(st.sampled_from(sorted(BY_NAME)), st.lists(st.integers(0, 4), max_size=3)),
    max_size=6,
)


def make(dtype, shape):
    count = torch.Size(shape).numel() * BY_NAME[dtype].itemsize
    data = torch.arange(count, dtype=torch.int32).to(torch.uint8) % 2
    return data.view(BY_NAME[dtype]).reshape(shape)


@settings(max_examples=40, deadline=None)
@given(TENSORS)
def test_safetensors_itself_reads_what_was_written(tmp_path_factory, tensors):
    root = tmp_path_factory.mktemp("shard")
    state = {name: make(*kind) for name, kind in tensors.items()}
    file, entries = write_shard(LocalStore(root), "here", 3, local_chunks(state))
    loaded = load_file(root / "here" / file.name)
    assert loaded.keys() == state.keys()
    for entry in entries:
        wanted = state[entry.name]
        assert loaded[entry.name].dtype == wanted.dtype
        assert loaded[entry.name].shape == wanted.shape
        assert torch.equal(loaded[entry.name].reshape(-1).view(torch.uint8), flat(wanted))
        assert torch.equal(flat(read_chunk(LocalStore(root), "here", entry)), flat(wanted))
        assert entry.start % wanted.dtype.itemsize == 0
    verify_file(LocalStore(root), "here", file)
    assert file.bytes == (root / "here" / file.name).stat().st_size


def test_tensors_that_fill_lines_of_64_bytes_begin_at_one(tmp_path):
    """What keeps copies between page cache and tensors at their full speed (see ALIGNMENT)."""
    state = {
        "a.bias": torch.ones(3, dtype=torch.float64),
        "b.weight": torch.ones(16),
        "c.bias": torch.ones(5),
        "d.weight": torch.ones(3, 64, dtype=torch.bfloat16),
        "e.flags": torch.ones(64, dtype=torch.bool),
        "f.flag": torch.ones(1, dtype=torch.bool),
    }
    _, entries = write_shard(LocalStore(tmp_path), "here", 0, local_chunks(state))
    assert [entry.name[0] for entry in entries] == list("bdeacf")
    assert [entry.start % 64 for entry in entries[:4]] == [0, 0, 0, 0]


def flat(tensor):
    return tensor.reshape(-1).view(torch.uint8)


def test_each_ranks_file_holds_its_boxes_under_the_tensors_names(kit, tmp_path):
    def body(rank):
        checkpoints = Checkpoints(LocalStore(tmp_path), kit.GlooExchange(), keep=1)
        return kit.save(checkpoints, kit.spread(kit.full_state(1), "shard2"), 1).path

    path = run_world(2, body)[0]
    manifest = read_manifest(LocalStore(tmp_path), path.rsplit("/", 1)[1])
    files = {file.name: load_file(f"{path}/{file.name}") for file in manifest.files}
    assert sorted(files) == ["rank-00000.safetensors", "rank-00001.safetensors"]
    full = kit.full_state(1)
    for entry in manifest.chunks:
        box = [slice(o, o + n) for o, n in zip(entry.offsets, entry.shape, strict=True)]
        assert torch.equal(files[entry.file][entry.name], full[entry.name][tuple(box)])


def test_a_strided_tensor_is_written_as_it_reads(tmp_path):
    state = {"w": torch.arange(6.0).reshape(2, 3).t()}
    _, (entry,) = write_shard(LocalStore(tmp_path), "here", 0, local_chunks(state))
    assert torch.equal(read_chunk(LocalStore(tmp_path), "here", entry), state["w"])


def test_a_chunk_is_read_into_the_tensor_that_waits_for_it(tmp_path):
    state = {"w": torch.arange(6.0)}
    _, (entry,) = write_shard(LocalStore(tmp_path), "here", 0, local_chunks(state))
    out = torch.zeros(6)
    assert read_chunk(LocalStore(tmp_path), "here", entry, out=out) is out
    assert torch.equal(out, state["w"])


def test_every_byte_is_proven(tmp_path):
    place = LocalStore(tmp_path)
    state = {"a": torch.arange(3), "b": torch.ones(2, dtype=torch.bfloat16)}
    file, entries = write_shard(place, "here", 0, local_chunks(state))
    whole = (tmp_path / "here" / file.name).read_bytes()
    for position in range(len(whole)):
        harmed = bytearray(whole)
        harmed[position] ^= 1
        (tmp_path / "here" / file.name).write_bytes(harmed)
        with pytest.raises(CorruptError) as caught:
            check(place, file, entries)
        assert caught.value.file == file.name


def check(place, file, entries):
    verify_file(place, "here", file)
    for entry in entries:
        read_chunk(place, "here", entry)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_short_file_is_refused_by_size_and_by_range(tmp_path, kept):
    place = LocalStore(tmp_path)
    file, (entry,) = write_shard(place, "here", 0, local_chunks({"a": torch.arange(9)}))
    path = tmp_path / "here" / file.name
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CorruptError, match=rf"bytes where {file.bytes} were written"):
        verify_file(place, "here", file)
    with pytest.raises(CorruptError, match="ends at byte"):
        read_chunk(place, "here", entry)
