"""Tensor parallelism whose communication overlaps with its matrix products: torch's, on CUDA."""

import warnings

import torch._inductor.config
from torch.distributed._symmetric_memory import enable_symm_mem_for_group
from torch.distributed.device_mesh import DeviceMesh


def overlap_tensor(mesh: DeviceMesh) -> None:
    """Lets the compiler break gathers and matrix products of a tensor mesh into steps that overlap
    (torch's asynchronous tensor parallelism, as torchtitan enables it). A setting of the compiler's
    for the whole process: call it before the first compiled block runs. `check_settings` refuses
    what has none of it.
    """
    torch._inductor.config._micro_pipeline_tp = True
    with warnings.catch_warnings():
        # HACK: torch 2.13 calls this needless, yet its pass leaves out groups without it.
        warnings.simplefilter("ignore", FutureWarning)
        enable_symm_mem_for_group(mesh.get_group().group_name)
