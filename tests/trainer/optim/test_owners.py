"""Shards go to one owner each and come back, whatever the mesh."""

import itertools

import pytest
import torch
from support.world import run_world
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Placement, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from keepstep.parallel import held_indices
from keepstep.trainer.optim.owners import Owners

SHAPES = [torch.Size(shape) for shape in ((5, 3), (1, 4), (3, 2, 6), (8, 8), (7, 2))]
CASES: list[tuple[tuple[int, ...], tuple[Placement, ...]]] = [
    ((3,), (Shard(0),)),
    ((3,), (Replicate(),)),
    ((2,), (Shard(1),)),
    ((2, 2), (Replicate(), Shard(0))),
    ((2, 2), (Shard(0), Replicate())),
    ((2, 2), (Shard(0), Shard(1))),
    ((2, 2), (Shard(0), Shard(0))),
    ((2, 2), (_StridedShard(0, split_factor=2), Shard(0))),
    ((2, 2), (Replicate(), Replicate())),
    ((1, 2, 2), (Replicate(), Shard(1), Shard(0))),
]


@pytest.mark.parametrize(("sizes", "placements"), CASES, ids=str)
def test_each_tensor_is_whole_on_one_rank_and_comes_back_in_shards(
    sizes: tuple[int, ...], placements: tuple[Placement, ...]
) -> None:
    def body(rank: int) -> list[int]:
        mesh = init_device_mesh("cpu", sizes)
        whole = [
            torch.arange(shape.numel()).view(shape) * (i + 1.0) for i, shape in enumerate(SHAPES)
        ]
        shards = [_shard(tensor, mesh, placements) for tensor in whole]
        owners = Owners(mesh, placements, SHAPES, [float(shape.numel()) for shape in SHAPES])
        found = owners.gather(shards)
        assert sorted(found) == owners.mine
        assert all(torch.equal(found[index], whole[index]) for index in found)
        back = owners.scatter({index: -tensor for index, tensor in found.items()}, shards)
        assert all(torch.equal(a, -b) for a, b in zip(back, shards, strict=True))
        return owners.mine

    size = torch.Size(sizes).numel()
    mine = run_world(size, body)
    assert sorted(itertools.chain(*mine)) == list(range(len(SHAPES)))
    assert all(mine)  # five tensors over four ranks: none is idle


def _shard(tensor: Tensor, mesh: DeviceMesh, placements: tuple[Placement, ...]) -> Tensor:
    at = mesh.get_coordinate()
    assert at is not None
    held = held_indices(tensor.shape, mesh.shape, placements, at)
    return tensor[torch.meshgrid(*held, indexing="ij")]
