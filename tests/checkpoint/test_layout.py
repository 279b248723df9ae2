"""Boxes of all writers tile each tensor exactly, each copy is written once, and all write alike."""

import math
from collections import Counter, defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.world import run_world
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Partial, Replicate, Shard, distribute_tensor

from keepstep.checkpoint.layout import Chunk, local_chunks, num_boxes, plan_writes
from keepstep.checkpoint.manifest import check_tiling

LAYOUTS = ["solo", "shard2", "shard2_dim1", "replicate2", "shard4", "hsdp2x2", "grid2x2"]


def written(state, rank, size):
    mine = plan_writes(state, rank=rank, size=size)
    return [chunk for chunk, _ in local_chunks(state) if chunk.name in mine]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_what_the_ranks_write_tiles_every_tensor(kit, size):
    full = kit.full_state(1)
    layouts = [name for name in LAYOUTS if kit.LAYOUTS[name][0] == size]

    def body(rank):
        return [written(kit.spread(full, layout), rank, size) for layout in layouts]

    for parts in zip(*run_world(size, body), strict=True):
        chunks = [chunk for part in parts for chunk in part]
        assert {chunk.name: chunk.global_shape for chunk in chunks} == {
            name: tuple(tensor.shape) for name, tensor in full.items()
        }
        for name in full:
            check_tiling([chunk for chunk in chunks if chunk.name == name])


def test_boxes_are_counted_as_they_are_cut(kit):
    def body(rank):
        states = [kit.spread(kit.full_state(1), name) for name in ("grid2x2", "hsdp2x2", "shard4")]
        return [num_boxes(state["model.deep"]) for state in states], num_boxes(torch.ones(2))

    assert run_world(4, body) == [([4, 2, 4], 1)] * 4


def test_boxes_hold_the_values_that_lie_there(kit):
    full = kit.full_state(1)

    def body(rank):
        held = local_chunks(kit.spread(full, "grid2x2"))
        for chunk, tensor in held:
            slices = [slice(o, o + n) for o, n in zip(chunk.offsets, chunk.shape, strict=True)]
            if tensor.numel():
                assert torch.equal(tensor, full[chunk.name][tuple(slices)])
        return len(held)

    assert min(run_world(4, body)) > 5


def test_all_small_shapes_are_tiled_over_a_replicated_and_sharded_mesh():
    shapes = [(rows, columns) for rows in range(1, 6) for columns in range(1, 4)]

    def body(rank):
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
        state = {
            f"{shape} by {dim}": distribute_tensor(
                torch.ones(shape), mesh, (Replicate(), Shard(dim)), src_data_rank=None
            )
            for shape in shapes
            for dim in (0, 1)
        }
        return written(state, rank, 4)

    by_name = defaultdict(list)
    for part in run_world(4, body):
        for chunk in part:
            by_name[chunk.name].append(chunk)
    assert len(by_name) == 2 * len(shapes)
    for chunks in by_name.values():
        check_tiling(chunks)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_plain_tensors_are_each_written_once_and_spread_by_bytes(size):
    state = {f"w{index:02d}": torch.zeros(1 + index * 7 % 31) for index in range(40)}
    plans = [plan_writes(state, rank=rank, size=size) for rank in range(size)]
    assert Counter(name for plan in plans for name in plan) == Counter(dict.fromkeys(state, 1))
    loads = [sum(state[name].nbytes for name in plan) for plan in plans]
    assert max(loads) - min(loads) <= max(tensor.nbytes for tensor in state.values())


def test_replicas_share_the_writing_of_what_they_hold_in_common():
    def body(rank):
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
        state = {
            f"w{index}": distribute_tensor(torch.ones(8, 4), mesh, (Replicate(), Shard(0)))
            for index in range(6)
        }
        return sum(math.prod(chunk.shape) for chunk in written(state, rank, 4))

    assert run_world(4, body) == [48] * 4


def test_a_sum_not_yet_reduced_is_refused_by_name():
    def body(rank):
        mesh = init_device_mesh("cpu", (2,))
        whole = distribute_tensor(torch.ones(4), mesh, (Replicate(),))
        partial = type(whole).from_local(torch.ones(4), mesh, (Partial(),))
        with pytest.raises(ValueError, match="Tensor grads of the state has placements"):
            local_chunks({"grads": partial})

    run_world(2, body)


def test_the_name_that_safetensors_keeps_for_itself_is_refused():
    with pytest.raises(ValueError, match="A tensor of the state is named __metadata__"):
        local_chunks({"__metadata__": torch.ones(1)})


def box(offsets, shape, global_shape=(4, 6), name="w"):
    return Chunk(
        name=name, dtype="float32", global_shape=global_shape, offsets=offsets, shape=shape
    )


@pytest.mark.parametrize(
    ("chunks", "wrong"),
    [
        ([box((0, 0), (3, 6))], "leave a gap"),
        ([box((0, 0), (4, 6)), box((0, 0), (4, 6))], "leave a gap"),
        ([box((0, 0), (2, 6)), box((1, 0), (2, 6))], "overlap"),
        ([box((0, 0), (4, 3)), box((0, 2), (4, 3))], "overlap"),
        ([box((0, 0), (4, 3)), box((0, 4), (4, 3))], "outside"),
        ([box((0,), (24,))], "outside"),
        ([box((), (), ()), box((), (), ())], "leave a gap"),
        ([box((0,), (0,), (0,)), box((0,), (0,), (0,))], "several boxes"),
    ],
)
def test_boxes_that_do_not_tile_are_refused(chunks, wrong):
    with pytest.raises(ValueError, match=wrong):
        check_tiling(chunks)


@given(st.integers(1, 12), st.integers(1, 12), st.data())
@settings(max_examples=60, deadline=None)
def test_any_grid_tiles_and_without_one_box_does_not(rows, columns, data):
    cuts = [
        sorted({0, size, *data.draw(st.sets(st.integers(0, size)))}) for size in (rows, columns)
    ]
    chunks = [
        box((top, left), (bottom - top, right - left), (rows, columns))
        for top, bottom in zip(cuts[0], cuts[0][1:], strict=False)
        for left, right in zip(cuts[1], cuts[1][1:], strict=False)
    ]
    check_tiling(chunks)
    gone = data.draw(st.integers(0, len(chunks) - 1))
    if len(chunks) > 1:
        with pytest.raises(ValueError, match="leave a gap"):
            check_tiling(chunks[:gone] + chunks[gone + 1 :])
