"""The training state by name: what is in it, that it is live, one digest on every layout."""

import pytest
import torch
import torch.distributed as dist
from support.world import run_world
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.distributed.tensor.placement_types import _StridedShard

from keepstep.parallel import Exchange
from keepstep.trainer.optim import materialise_state
from keepstep.trainer.state import Progress, digest, gather_state


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("table", torch.ones(2), persistent=False)


def state() -> tuple[Model, torch.optim.Optimizer, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    materialise_state(optimizer)
    return model, optimizer, gather_state(model, optimizer, {}).tensors


def test_names_are_sorted_and_hold_parameters_kept_buffers_and_optimizer() -> None:
    _, _, found = state()
    parameters = ("embed.weight", "norm.bias", "norm.weight")
    kept = ("norm.num_batches_tracked", "norm.running_mean", "norm.running_var")
    wanted = [f"model.{name}" for name in (*parameters, *kept)]
    wanted += [f"optim.{n}.{key}" for n in parameters for key in ("exp_avg", "exp_avg_sq", "step")]
    assert list(found) == sorted(wanted)


def test_the_tensors_are_the_live_ones() -> None:
    model, optimizer, found = state()
    with torch.no_grad():
        model.norm.weight.fill_(7.0)
    optimizer.state[model.norm.bias]["exp_avg"].fill_(3.0)
    assert found["model.norm.weight"].tolist() == [7.0] * 3
    assert found["optim.norm.bias.exp_avg"].tolist() == [3.0] * 3
    found["model.embed.weight"].zero_()
    assert not model.head.weight.any()


def test_a_copy_of_what_another_stage_owns_is_filled_and_not_saved() -> None:
    model = nn.Linear(3, 5, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    materialise_state(optimizer)
    found = gather_state(model, optimizer, {"weight": "embed.weight"})
    assert next(iter(found.tensors)) == "model.embed.weight"
    assert "optim.embed.weight.exp_avg" in found.tensors
    assert (found.saved, found.twins) == ({}, ())


def test_where_both_copies_are_on_one_rank_the_second_follows_the_first() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    materialise_state(optimizer)
    found = gather_state(model, optimizer, {"head.weight": "embed.weight"})
    assert found.saved == found.tensors
    found.tensors["model.embed.weight"].fill_(2.0)
    found.tensors["optim.embed.weight.exp_avg"].fill_(3.0)
    found.copy_to_twins()
    assert set(model["head"].weight.flatten().tolist()) == {2.0}
    assert set(optimizer.state[model["head"].weight]["exp_avg"].flatten().tolist()) == {3.0}


def test_progress_goes_through_its_state_and_back() -> None:
    progress, other = Progress(step=3, samples=48, tokens=768, skips=2, skips_in_row=1), Progress()
    other.load_state_dict(progress.state_dict())
    assert other == progress


def test_a_digest_sees_one_bit_a_name_and_a_shape() -> None:
    plain = {"model.a": torch.ones(2, 2)}
    changed = {"model.a": torch.ones(2, 2)}
    changed["model.a"][1, 1] += 1e-7
    others = [changed, {"model.b": torch.ones(2, 2)}, {"model.a": torch.ones(4)}]
    assert len({digest(one) for one in (plain, *others)}) == 4
    assert digest({"model.a": torch.ones(2, 2)}) == digest(plain)


def test_one_digest_on_every_layout() -> None:
    full = {
        "model.even": torch.arange(24.0).view(8, 3),
        "model.uneven": torch.arange(10.0).view(5, 2),
        "model.one": torch.ones(1),
        "optim.even.step": torch.tensor(4.0),
    }

    def body(rank: int, shape: tuple[int, ...]) -> str:
        mesh = init_device_mesh("cpu", shape)
        placements = [Replicate()] * (len(shape) - 1) + [Shard(0)]
        sharded = {
            name: tensor if tensor.ndim == 0 else distribute_tensor(tensor, mesh, placements)
            for name, tensor in full.items()
        }
        assert dist.get_rank() == rank
        return digest(sharded)

    found = set(run_world(1, body, (1,)) + run_world(2, body, (2,)) + run_world(4, body, (2, 2)))
    assert found == {digest(full)}


def test_one_digest_on_tensor_parallel_layouts_with_uneven_and_empty_parts() -> None:
    """9 rows over 2 x 4 ranks: 5 and 4, the 5 as 2 2 1 0 and the 4 as 1 1 1 1."""
    full = {"model.weight": torch.arange(18.0).view(9, 2), "model.bias": torch.arange(9.0)}

    def body(rank: int, shape: tuple[int, ...], rows: int) -> tuple[str, bool]:
        axes = ("replicate", "shard", "tensor")[-len(shape) :]
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=axes)
        linear = nn.Linear(2, rows)
        linear.load_state_dict({"weight": full["model.weight"], "bias": full["model.bias"]})
        parallelize_module(linear, mesh["tensor"], ColwiseParallel())
        fully_shard(linear, mesh=mesh[axes[:-1]])
        found = {f"model.{name}": parameter for name, parameter in linear.named_parameters()}
        return digest(found), type(found["model.weight"].placements[-2]) is _StridedShard

    assert run_world(4, body, (2, 2), 9) == [(digest(full), True)] * 4
    assert run_world(8, body, (4, 2), 9) == [(digest(full), True)] * 8
    assert run_world(8, body, (2, 2, 2), 9) == [(digest(full), True)] * 8


def staged(rank: int) -> dict[str, torch.Tensor]:
    """A tensor and a number for each of two stages of two ranks, and one that both stages have."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("stage", "shard"))["shard"]
    own = {f"model.{rank // 2}": torch.arange(5.0) + rank // 2, "model.tied": torch.ones(3)}
    sharded = {name: distribute_tensor(tensor, mesh, [Shard(0)]) for name, tensor in own.items()}
    return sharded | {f"optim.{rank // 2}.step": torch.tensor(2.0)}


def test_stages_that_each_hold_a_part_have_the_digest_of_the_whole() -> None:
    full = {"model.0": torch.arange(5.0), "model.1": torch.arange(5.0) + 1}
    full |= {"model.tied": torch.ones(3)}
    full |= {f"optim.{stage}.step": torch.tensor(2.0) for stage in range(2)}

    def body(rank: int) -> str:
        return digest(staged(rank), Exchange(dist.group.WORLD))

    assert run_world(4, body) == [digest(full)] * 4


def test_ranks_that_diverged_in_silence_are_named_on_every_rank() -> None:
    def body(rank: int) -> str:
        state = staged(rank)
        if rank == 3:
            state["optim.1.step"] += 1
        with pytest.raises(RuntimeError, match=r"^Tensor optim\.1\.step has digests") as caught:
            digest(state, Exchange(dist.group.WORLD))
        return str(caught.value)

    said = run_world(4, body)
    assert len(set(said)) == 1
    assert "on ranks [2]; " in said[0]
    assert "on ranks [3], but must be equal" in said[0]


def test_a_tied_copy_that_went_its_own_way_is_seen() -> None:
    def body(rank: int) -> None:
        state = staged(rank)
        if rank >= 2:
            state["model.tied"] += 1
        with pytest.raises(
            RuntimeError, match=r"Tensor model\.tied .* on ranks \[0, 1\]; .*\[2, 3\]"
        ):
            digest(state, Exchange(dist.group.WORLD))

    run_world(4, body)
