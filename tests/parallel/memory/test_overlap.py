"""The compiler is told of the tensor group, without a warning."""

import torch._inductor.config
from support.world import run_world
from torch.distributed._symmetric_memory import is_symm_mem_enabled_for_group
from torch.distributed.device_mesh import init_device_mesh

from keepstep.parallel.memory.overlap import overlap_tensor


def test_the_compiler_learns_that_the_tensor_group_may_overlap() -> None:
    def body(rank: int) -> tuple[bool, bool, bool]:
        mesh = init_device_mesh("cpu", (2,))
        before = is_symm_mem_enabled_for_group(mesh.get_group().group_name)
        overlap_tensor(mesh)
        after = is_symm_mem_enabled_for_group(mesh.get_group().group_name)
        return before, after, torch._inductor.config._micro_pipeline_tp

    assert run_world(2, body) == [(False, True, True)] * 2
