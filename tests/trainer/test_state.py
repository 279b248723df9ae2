"""The training state by name: what is in it, that it is live, one digest on every layout."""

import torch
import torch.distributed as dist
from support.world import run_world
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from keepstep.trainer.optim import materialise_state
from keepstep.trainer.state import Progress, digest, tensors


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
    return model, optimizer, tensors(model, optimizer)


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
