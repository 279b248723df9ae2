"""A restore reads the pieces that hold what it wants, each once, and each of them is proven."""

import contextlib
import itertools
import threading

import pytest
import torch
from support.world import run_world
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from keepstep.checkpoint import (
    CheckpointError,
    Checkpoints,
    LocalStore,
    SoloExchange,
    pieces,
    reader,
    shardfile,
    transfer,
)
from keepstep.checkpoint.layout import Chunk, local_chunks
from keepstep.checkpoint.listing import committed, read_manifest
from keepstep.checkpoint.manifest import ChunkEntry
from keepstep.checkpoint.reader import Reader
from keepstep.checkpoint.stores import Reads

PIECE = 64


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of 64 bytes, so that small tensors have many; nothing counts as too small to cut."""
    for module in (pieces, reader, shardfile, transfer):
        monkeypatch.setattr(module, "PIECE_BYTES", PIECE)
    monkeypatch.setattr("keepstep.checkpoint.manifest.PIECE_BYTES", PIECE)
    monkeypatch.setattr(transfer, "SMALL_BYTES", 0)
    reads = Reads(threads=4, unit_bytes=2 * PIECE, run_bytes=4 * PIECE)
    monkeypatch.setattr(LocalStore, "reads", reads)


class Counting:
    """A local place that notes each range that is read of a shard."""

    def __init__(self, root):
        self.inner, self.read = LocalStore(root), []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    @contextlib.contextmanager
    def opened(self, name):
        def read(start, *buffers):
            if name.endswith("safetensors"):
                self.read.append((start, start + sum(map(len, buffers))))
            return inner(start, *buffers)

        with self.inner.opened(name) as inner:
            yield read


def of(root):
    return Checkpoints(LocalStore(root), SoloExchange(), keep=9)


@pytest.fixture
def saved(kit, tmp_path, small_pieces):
    """A tensor of 40 rows of 100 bytes, and one of 3 dims."""
    state = {"w": torch.arange(1000.0).view(40, 25), "deep": torch.randn(6, 10, 7)}
    kit.save(of(tmp_path), state, 1)
    (found,) = committed(LocalStore(tmp_path))
    return state, found.folder


def read_box(place, folder, chunk):
    """A box of a saved tensor, read as a rank does that holds just it."""
    manifest = read_manifest(place, folder)
    memory = torch.full(chunk.shape, -1.0)
    target = reader.Target(chunk, memory, memory)
    Reader(place, folder, manifest, None)._read([target])
    return memory


BOXES = [
    ("w", (0, 0), (40, 25)),
    ("w", (3, 0), (9, 25)),
    ("w", (39, 24), (1, 1)),
    ("w", (5, 7), (20, 3)),
    ("w", (0, 0), (40, 1)),
    ("deep", (1, 2, 0), (4, 3, 7)),
    ("deep", (0, 9, 3), (6, 1, 2)),
    ("deep", (2, 0, 0), (1, 10, 7)),
]


@pytest.mark.parametrize(("name", "offsets", "shape"), BOXES)
def test_a_box_is_read_from_the_pieces_that_hold_it_and_no_others(
    saved, tmp_path, name, offsets, shape
):
    state, folder = saved
    place = Counting(tmp_path)
    whole = state[name]
    chunk = Chunk(
        name=name, dtype="float32", global_shape=tuple(whole.shape), offsets=offsets, shape=shape
    )
    part = tuple(slice(at, at + n) for at, n in zip(offsets, shape, strict=True))
    assert torch.equal(read_box(place, folder, chunk), whole[part])
    (entry,) = read_manifest(place, folder).by_name[name]
    places = torch.arange(whole.numel()).view(whole.shape)[part].flatten() * 4 // PIECE
    spans = [
        (entry.start + index * PIECE, min(entry.start + (index + 1) * PIECE, entry.end))
        for index in sorted(set(places.tolist()))
    ]
    read = [
        (at, min(at + PIECE, stop))
        for start, stop in place.read
        for at in range(start, stop, PIECE)
    ]
    assert sorted(read) == spans


def test_a_damaged_piece_is_met_by_those_who_read_it_and_by_nobody_else(saved, tmp_path):
    state, folder = saved
    (entry,) = read_manifest(LocalStore(tmp_path), folder).by_name["w"]
    path = tmp_path / folder / entry.file
    data = bytearray(path.read_bytes())
    data[entry.start + 2 * PIECE + 5] ^= 1
    path.write_bytes(data)

    def rows(start, count):
        fields = {"name": "w", "dtype": "float32", "global_shape": (40, 25)}
        chunk = Chunk(**fields, offsets=(start, 0), shape=(count, 25))
        return read_box(LocalStore(tmp_path), folder, chunk)

    span = rf"bytes {entry.start + 2 * PIECE} to {entry.start + 3 * PIECE} \(tensor w\) do not"
    with pytest.raises(CheckpointError, match=span):
        rows(0, 2)
    assert torch.equal(rows(2, 38), state["w"][2:])


@pytest.mark.parametrize("in_place", [False, True])
def test_a_whole_state_is_read_in_order_each_byte_once(saved, tmp_path, in_place):
    state, folder = saved
    place = Counting(tmp_path)
    loaded = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    Checkpoints(place, SoloExchange(), keep=1).restore(loaded, in_place=in_place)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    spans = sorted(place.read)
    assert all(one[1] == other[0] for one, other in itertools.pairwise(spans))
    assert spans[-1][1] == read_manifest(place, folder).files[0].bytes


def test_what_lies_on_other_devices_or_strided_is_read_beside_and_copied(kit, tmp_path):
    state = {"w": torch.arange(12.0).view(3, 4), "b": torch.arange(5)}
    kit.save(of(tmp_path), state, 1)
    loaded = {"w": torch.zeros(4, 3).t(), "b": torch.zeros(10, dtype=torch.int64)[::2]}
    of(tmp_path).restore(loaded, in_place=True)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_small_tensors_beside_one_another_are_read_together(kit, tmp_path):
    state = {f"bias{place:03d}": torch.randn(50) for place in range(200)}
    kit.save(of(tmp_path), state, 1)
    place = Counting(tmp_path)
    loaded = kit.zeroed(state)
    Checkpoints(place, SoloExchange(), keep=1).restore(loaded, in_place=True)
    assert kit.is_equal(loaded, state)
    assert len(place.read) == 2  # the header, and all of them


@pytest.mark.parametrize("in_place", [False, True])
def test_pieces_of_real_size_make_up_large_tensors_on_any_layout(kit, tmp_path, in_place):
    full = {"w": torch.randn(2100, 1024), "v": torch.randn(3, 700, 1025)}

    def body(rank):
        mesh = init_device_mesh("cpu", (2,))
        spread = {
            dim: {
                name: distribute_tensor(tensor, mesh, [Shard(dim)], src_data_rank=None)
                for name, tensor in full.items()
            }
            for dim in (0, 1)
        }
        checkpoints = Checkpoints(LocalStore(tmp_path), kit.GlooExchange(), keep=9)
        kit.save(checkpoints, spread[0], 1)
        for state in spread.values():
            for _, local in local_chunks(state):
                local.zero_()
            checkpoints.restore(state, in_place=in_place)
            if not kit.is_equal(kit.gathered(state), full):
                return False
        return True

    assert run_world(2, body) == [True, True]


def test_a_place_that_reads_one_at_a_time_is_read_by_one_thread(saved, tmp_path):
    state, _ = saved

    threads = set()

    class Single(Counting):
        reads = Reads(threads=1, unit_bytes=2 * PIECE, run_bytes=4 * PIECE)

        def opened(self, name):
            threads.add(threading.get_ident())
            return super().opened(name)

    loaded = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    Checkpoints(Single(tmp_path), SoloExchange(), keep=1).restore(loaded)
    assert torch.equal(loaded["w"], state["w"])
    assert len(threads) == 1


def test_a_run_is_of_one_file_and_as_long_as_one_thread_reads_well():
    def span(file, start, length):
        box = {"name": f"{file}{start}", "dtype": "uint8", "global_shape": (length,)}
        place = {"file": file, "start": start, "end": start + length, "digest": "", "tags": ""}
        entry = ChunkEntry(**box, offsets=(0,), shape=(length,), **place)
        return transfer.Span(entry, 0, 1, lambda data: None)

    large = transfer.SMALL_BYTES
    found = [
        *(span("b", 8, 10), span("a", 0, 10), span("a", 30, 5), span("a", 10, 20)),
        *(span("a", 40, large), span("a", 40 + large, 3)),
    ]
    reads = Reads(threads=1, unit_bytes=30, run_bytes=large)
    runs = transfer.runs_of(found, reads)
    names = [[[span.entry.name for span in unit] for unit in run] for run in runs]
    behind = f"a{40 + large}"
    assert names == [[["a0", "a10"], ["a30"], ["a40"]], [[behind]], [["b8"]]]
