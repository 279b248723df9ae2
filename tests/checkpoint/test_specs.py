"""What the ranks hold together is one answer, the same on each of them."""

import pytest
import torch
from support.world import run_world
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from keepstep.checkpoint import Checkpoints, LocalStore
from keepstep.checkpoint.specs import Spec, gather_specs


def test_the_names_of_all_ranks_are_answered_on_each_and_in_order(kit):
    def body(rank):
        state = {f"only.{rank}": torch.tensor(rank), "every": torch.ones(2, 3)}
        return list(gather_specs(kit.GlooExchange(), state).items())

    every = Spec(dtype="float32", shape=(2, 3), boxes=1)
    only = Spec(dtype="int64", shape=(), boxes=1)
    assert run_world(2, body) == [[("every", every), ("only.0", only), ("only.1", only)]] * 2


def test_a_tensor_on_two_meshes_counts_once_and_with_the_most_boxes(kit, tmp_path):
    def body(rank):
        stage = init_device_mesh("cpu", (2, 2), mesh_dim_names=("stage", "shard"))["shard"]
        placement = Shard(0) if rank < 2 else Replicate()
        tied = distribute_tensor(torch.ones(100, 10), stage, (placement,))
        checkpoints = Checkpoints(LocalStore(tmp_path), kit.GlooExchange(), keep=1)
        specs = gather_specs(kit.GlooExchange(), {"tied": tied})
        one = checkpoints.needed_bytes({"tied": tied} if rank < 2 else {})
        return specs["tied"].boxes, checkpoints.needed_bytes({"tied": tied}) - one

    assert run_world(4, body) == [(2, 0)] * 4


def test_one_name_for_two_tensors_is_refused_on_every_rank(kit):
    def body(rank):
        state = {"w": torch.ones(2 + rank // 2)}
        with pytest.raises(ValueError, match="must be the same wherever") as caught:
            gather_specs(kit.GlooExchange(), state)
        return str(caught.value).partition(", but")[0]

    wanted = "Tensor w of the state is float32[2] on rank 0 and float32[3] on rank 2"
    assert run_world(3, body) == [wanted] * 3


def test_what_one_rank_cannot_save_is_refused_on_every_rank(kit, tmp_path):
    def body(rank):
        mesh = init_device_mesh("cpu", (2,))
        state = {f"sum.{rank}": torch.ones(2)}
        if rank == 1:
            state = {"sum.1": DTensor.from_local(torch.ones(2), mesh, (Partial(),))}
        checkpoints = Checkpoints(LocalStore(tmp_path), kit.GlooExchange(), keep=1, holders=[rank])
        with pytest.raises(
            ValueError, match=r"Tensor sum\.1 of the state has placements"
        ) as caught:
            kit.save(checkpoints, state, 1)
        return str(caught.value).startswith("The state was refused on other ranks: rank 1:")

    assert run_world(2, body) == [True, False]
    assert not list(tmp_path.iterdir())
