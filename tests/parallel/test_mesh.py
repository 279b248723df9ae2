"""Degrees that fit or are refused, and what a topology hands out by role."""

import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from support.world import run_world

from keepstep.parallel import Degrees, ParallelConfig, Role, Topology

counts = st.integers(1, 64)


@given(counts, counts)
def test_shard_takes_what_replicate_leaves(replicate: int, shard: int) -> None:
    degrees = Degrees.resolve(ParallelConfig(replicate=replicate), replicate * shard)
    assert degrees == Degrees(replicate, shard)
    assert degrees.data_count == replicate * shard


@given(counts, counts, counts)
def test_degrees_resolve_to_the_whole_world_or_are_refused(
    replicate: int, shard: int, world_size: int
) -> None:
    config = ParallelConfig(replicate=replicate, shard=shard)
    if replicate * shard == world_size:
        assert Degrees.resolve(config, world_size).data_count == world_size
    else:
        with pytest.raises(ValueError, match=f"found {world_size} ranks, needed"):
            Degrees.resolve(config, world_size)


def test_degrees_that_do_not_fit_say_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"1 x 3: found 2 ranks, needed 3; start 3 ranks or set"):
        Degrees.resolve(ParallelConfig(shard=3), 2)


@pytest.mark.parametrize(("ranks", "start"), [(2, 3), (4, 6)])
def test_a_replicate_that_does_not_divide_is_refused(ranks: int, start: int) -> None:
    with pytest.raises(ValueError, match=f"found {ranks} ranks, needed a multiple.*start {start} "):
        Degrees.resolve(ParallelConfig(replicate=3), ranks)


def test_two_by_two_gives_each_rank_its_place() -> None:
    def body(rank: int) -> tuple[dict[str, int], int, dict[str, int]]:
        topology = Topology.create(Degrees(2, 2), "cpu")
        assert (topology.rank, topology.world_size, topology.data_count) == (rank, 4, 4)
        return topology.coordinates(), topology.data_index, topology.describe()

    assert run_world(4, body) == [
        (
            {"pipeline": 0, "replicate": r, "shard": s, "context": 0, "tensor": 0},
            2 * r + s,
            {"replicate": 2, "shard": 2},
        )
        for r in range(2)
        for s in range(2)
    ]


def test_replicas_are_the_ranks_with_the_same_shard() -> None:
    def body(rank: int) -> tuple[list[int], list[int]]:
        mesh = Topology.create(Degrees(2, 2), "cpu").mesh(Role.PARAM)
        assert mesh is not None
        assert mesh.mesh_dim_names == ("replicate", "shard")
        replicas, shards = (dist.get_process_group_ranks(mesh.get_group(d)) for d in (0, 1))
        return replicas, shards

    assert run_world(4, body) == [
        ([r % 2, r % 2 + 2], [r // 2 * 2, r // 2 * 2 + 1]) for r in range(4)
    ]


def test_roles_of_size_one_have_no_mesh_but_parameters_always_do() -> None:
    def body(rank: int) -> None:
        topology = Topology.create(Degrees(1, 1), "cpu")
        param = topology.mesh(Role.PARAM)
        assert param is not None
        assert param.mesh_dim_names == ("shard",)
        assert all(topology.mesh(role) is None for role in Role if role is not Role.PARAM)
        assert all(topology.group(role) is None for role in Role)

    run_world(1, body)


def test_data_loss_and_parameters_reduce_over_the_whole_world_here() -> None:
    def body(rank: int) -> list[float]:
        topology = Topology.create(Degrees(2, 1), "cpu")
        assert topology.mesh(Role.TENSOR) is None
        totals = [torch.ones(()) for _ in range(3)]
        for role, total in zip((Role.DATA, Role.LOSS, Role.PARAM), totals, strict=True):
            dist.all_reduce(total, group=topology.group(role))
        return [total.item() for total in totals]

    assert run_world(2, body) == [[2.0] * 3] * 2


def test_the_control_group_is_apart_from_the_compute_group() -> None:
    def body(rank: int) -> None:
        topology = Topology.create(Degrees(1, 2), "cpu")
        assert dist.get_backend(topology.control) == "gloo"
        assert topology.control.size() == 2
        assert topology.control not in (dist.group.WORLD, topology.group(Role.DATA))

    run_world(2, body)


EIGHT = Degrees(1, 2, pipeline=2, tensor=2)


def test_pipeline_is_outermost_and_tensor_innermost() -> None:
    def body(rank: int) -> tuple[list[int], list[int], list[int], list[int]]:
        topology = Topology.create(EIGHT, "cpu")
        assert topology.param_mesh.mesh_dim_names == ("shard",)
        at = topology.coordinates()
        assert (at["pipeline"], at["shard"], at["tensor"]) == (rank // 4, rank // 2 % 2, rank % 2)
        assert topology.data_index == at["shard"]
        groups = [topology.group(role) for role in (Role.STAGE, Role.DATA, Role.TENSOR)]
        return *(dist.get_process_group_ranks(group) for group in groups), topology.holders

    found = run_world(8, body)
    assert found[0] == ([0, 4], [0, 2], [0, 1], [0, 1, 2, 3])
    assert found[7] == ([3, 7], [5, 7], [6, 7], [4, 5, 6, 7])


def test_ranks_of_a_sequence_share_its_samples_and_the_parameters() -> None:
    def body(rank: int) -> tuple[int, list[int], list[int], int]:
        topology = Topology.create(Degrees(1, 2, context=2), "cpu")
        loss, context = topology.group(Role.LOSS), topology.group(Role.CONTEXT)
        assert topology.param_mesh.size() == 4
        ranks = [dist.get_process_group_ranks(group) for group in (loss, context)]
        return topology.data_index, *ranks, topology.group(Role.DATA).size()

    everyone = [0, 1, 2, 3]
    assert run_world(4, body) == [
        (r // 2, everyone, [r // 2 * 2, r // 2 * 2 + 1], 2) for r in everyone
    ]


def test_experts_lie_on_neighbours_and_are_sharded_over_the_others() -> None:
    def body(rank: int) -> tuple[list[int], list[int]]:
        topology = Topology.create(Degrees(1, 4, expert=2), "cpu")
        assert topology.expert_mesh is not None
        assert topology.expert_param_mesh is not None
        meshes = (topology.expert_mesh, topology.expert_param_mesh)
        return tuple(dist.get_process_group_ranks(mesh.get_group()) for mesh in meshes)

    assert run_world(4, body) == [
        ([0, 1], [0, 2]),
        ([0, 1], [1, 3]),
        ([2, 3], [0, 2]),
        ([2, 3], [1, 3]),
    ]


def test_experts_that_the_holders_cannot_share_are_refused() -> None:
    needed = "parallel.expert: found 3, needed a divisor of .* = 4, .*set parallel.expert=2"
    with pytest.raises(ValueError, match=needed):
        Degrees.resolve(ParallelConfig(expert=3), 4)


@given(counts, counts, counts)
def test_all_degrees_multiply_to_the_world(pipeline: int, context: int, tensor: int) -> None:
    config = ParallelConfig(pipeline=pipeline, context=context, tensor=tensor)
    fixed = pipeline * context * tensor
    degrees = Degrees.resolve(config, 3 * fixed)
    assert (degrees.shard, degrees.world_size) == (3, 3 * fixed)
    if fixed > 1:
        with pytest.raises(ValueError, match=f"needed a multiple of {fixed}"):
            Degrees.resolve(config, 3 * fixed + 1)


def test_two_topologies_live_in_one_process() -> None:
    def body(rank: int) -> tuple[int, int]:
        flat, square = (
            Topology.create(degrees, "cpu") for degrees in (Degrees(1, 4), Degrees(2, 2))
        )
        return flat.coordinates()["shard"], square.coordinates()["shard"]

    assert run_world(4, body) == [(0, 0), (1, 1), (2, 0), (3, 1)]


def test_every_group_gives_a_late_rank_up_at_the_deadline() -> None:
    def body(rank: int) -> list[float]:
        topology = Topology.create(Degrees(2, 2), "cpu", timeout=timedelta(seconds=0.2))
        if rank:
            time.sleep(3.0)
            return []
        mesh = topology.param_mesh
        waited = []
        for group in (topology.control, mesh.get_group(0), mesh.get_group(1)):
            started = time.monotonic()
            with pytest.raises(RuntimeError):
                dist.all_reduce(torch.ones(()), group=group)
            waited.append(time.monotonic() - started)
        return waited

    waited = run_world(4, body)[0]
    assert len(waited) == 3
    assert all(0.1 < seconds < 1.2 for seconds in waited)
