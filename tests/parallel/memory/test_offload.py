"""Which tensors wait in the host's memory, and that they come back as they were."""

import torch
from support.world import run_world
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from keepstep.parallel.memory import offload
from keepstep.parallel.memory.offload import Offloading, apply_offload


def moved_by(module: nn.Module, x: torch.Tensor, monkey: list[torch.Size]) -> torch.Tensor:
    real = offload._to_host

    def watched(tensor: torch.Tensor) -> object:
        monkey.append(tensor.shape)
        return real(tensor)

    offload._to_host = watched
    try:
        return Offloading(module)(x)
    finally:
        offload._to_host = real


def test_activations_are_moved_and_parameters_are_not() -> None:
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    x, moved = torch.ones(4, 3, requires_grad=True), []
    moved_by(module, x, moved).sum().backward()
    assert set(moved) == {torch.Size([4, 3]), torch.Size([4, 5])}
    found = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    module(x).sum().backward()
    assert all(map(torch.equal, found, [p.grad for p in module.parameters()]))


def test_what_waits_is_a_copy_that_later_writes_do_not_reach() -> None:
    tensor = torch.arange(6.0).view(2, 3).t()
    away = offload._to_host(tensor)
    back = offload._from_host(away)
    assert torch.equal(back, tensor)
    assert back.stride() == tensor.stride()
    assert back.data_ptr() != tensor.data_ptr()


def test_a_dtensor_comes_back_with_its_mesh_and_uneven_shape() -> None:
    def body(rank: int) -> bool:
        mesh = init_device_mesh("cpu", (2,))
        local = torch.full((2 - rank, 2), float(rank))
        whole = DTensor.from_local(
            local, mesh, [Shard(0)], run_check=False, shape=torch.Size([3, 2]), stride=(2, 1)
        )
        back = offload._from_host(offload._to_host(whole))
        assert isinstance(back, DTensor)
        assert (back.placements, back.shape) == (whole.placements, whole.shape)
        return torch.equal(
            back.redistribute(placements=[Replicate()]).to_local(), whole.full_tensor()
        )

    assert run_world(2, body) == [True, True]


def test_units_are_wrapped_and_keep_their_names() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    names = list(module.state_dict())
    apply_offload(module, ["1"])
    assert [isinstance(child, Offloading) for child in module] == [False, True]
    assert list(module.state_dict()) == names
