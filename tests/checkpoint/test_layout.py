"""Boxes of all writers tile each tensor exactly, each copy is written once, and all write alike."""

import itertools
import math
from collections import Counter, defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.world import run_world
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

from keepstep.checkpoint.layout import Chunk, local_chunks, num_boxes, part_box, plan_writes
from keepstep.checkpoint.tiling import check_tiling

LAYOUTS = ["solo", "shard2", "shard2_dim1", "replicate2", "shard4", "hsdp2x2", "grid2x2"]


def boxes_of(state):
    return [chunk for chunk, _ in local_chunks(state)]


def written(state, rank, size):
    mine = plan_writes(state, boxes_of(state), rank=rank, holders=range(size))
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
    plans = [
        plan_writes(state, boxes_of(state), rank=rank, holders=range(size)) for rank in range(size)
    ]
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


def test_a_strided_shard_over_nothing_and_a_part_of_another_shape_are_refused_by_name():
    def body(rank):
        mesh = init_device_mesh("cpu", (2,))
        strided = DTensor.from_local(torch.ones(2), mesh, (_StridedShard(0, split_factor=2),))
        with pytest.raises(ValueError, match=r"Tensor rows of the state has .* that are one box"):
            local_chunks({"rows": strided})
        shape, stride = torch.Size((7,)), (1,)
        odd = DTensor.from_local(
            torch.ones(3 + rank), mesh, (Shard(0),), shape=shape, stride=stride
        )
        with pytest.raises(ValueError, match=r"part of shape \(\d,\), but .* leave \(\d,\) to"):
            local_chunks({"odd": odd})

    run_world(2, body)


@st.composite
def cut_tensors(draw, is_even=False):
    """A shape, a mesh, and for each tensor dim the mesh axes that cut it, first cut first."""
    mesh = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    dims = draw(st.integers(1, 2))
    of_axis = [draw(st.one_of(st.none(), st.integers(0, dims - 1))) for _ in mesh]
    axes = [[axis for axis, cut in enumerate(of_axis) if cut == dim] for dim in range(dims)]
    orders = [draw(st.permutations(held)) for held in axes]
    if is_even:
        shape = [draw(st.integers(1, 2)) * math.prod(mesh[a] for a in order) for order in orders]
    else:
        shape = [draw(st.integers(0, 13)) for _ in orders]
    return shape, mesh, orders


def placements_of(mesh, orders):
    """torch's words for those orders: strided over the axes to the right that cut before."""
    found = [Replicate() for _ in mesh]
    for dim, order in enumerate(orders):
        for turn, axis in enumerate(order):
            before = math.prod(mesh[other] for other in order[:turn] if other > axis)
            found[axis] = _StridedShard(dim, split_factor=before) if before > 1 else Shard(dim)
    return found


def coordinates(mesh):
    return itertools.product(*map(range, mesh))


def boxed(full, box):
    offsets, shape = box
    return full[tuple(slice(o, o + n) for o, n in zip(offsets, shape, strict=True))]


def chunk(tensor, parts, index, dim):
    """`torch.chunk`, with the empty pieces that it leaves out."""
    pieces = torch.chunk(tensor, parts, dim) if tensor.shape[dim] else ()
    return pieces[index] if index < len(pieces) else tensor.narrow(dim, 0, 0)


@given(cut_tensors())
@settings(max_examples=150, deadline=None)
def test_a_part_is_what_is_left_when_each_axis_chunks_in_its_turn(cut):
    shape, mesh, orders = cut
    full, placements = torch.arange(math.prod(shape)).view(shape), placements_of(mesh, orders)
    for at in coordinates(mesh):
        part = full
        for dim, order in enumerate(orders):
            for axis in order:
                part = chunk(part, mesh[axis], at[axis], dim)
        box = part_box(shape, mesh, at, placements)
        assert tuple(part.shape) == box[1]
        assert torch.equal(boxed(full, box), part)


@given(cut_tensors(is_even=True))
@settings(max_examples=80, deadline=None)
def test_even_parts_are_those_that_torch_makes_of_the_same_placements(cut):
    shape, mesh, orders = cut
    full, placements = torch.arange(math.prod(shape)).view(shape), placements_of(mesh, orders)
    for at in coordinates(mesh):
        part = full
        for size, index, placement in zip(mesh, at, placements, strict=True):
            if not placement.is_replicate():
                part = placement._split_tensor(part, size, with_padding=False)[0][index]
        assert torch.equal(boxed(full, part_box(shape, mesh, at, placements)), part)


@pytest.mark.parametrize(
    ("mesh", "placements"),
    [
        ((2,), (_StridedShard(0, split_factor=2),)),
        ((2, 3), (_StridedShard(0, split_factor=2), Shard(0))),
        ((2, 2), (Shard(0), _StridedShard(0, split_factor=2))),
        ((2, 2), (_StridedShard(0, split_factor=2), Shard(1))),
        ((1, 2), (Partial(), Shard(0))),
    ],
)
def test_a_part_that_is_no_box_has_none(mesh, placements):
    assert part_box((12, 12), mesh, (0,) * len(mesh), placements) is None


def test_plain_tensors_are_spread_over_their_holders_only():
    state = {f"w{index}": torch.zeros(4) for index in range(6)}
    plans = {
        rank: plan_writes(state, boxes_of(state), rank=rank, holders=(1, 3)) for rank in range(4)
    }
    assert [len(plans[rank]) for rank in range(4)] == [0, 3, 0, 3]
    assert plans[1] | plans[3] == state.keys()


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
