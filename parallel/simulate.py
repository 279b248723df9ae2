"""A world of ranks that is not there: layouts can be assembled on `meta` and looked at."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore


@contextmanager
def simulated_world(rank: int, world_size: int) -> Iterator[None]:
    """Makes this process rank `rank` of a world by torch's fake process group, whose collectives
    do nothing. For shapes and sizes only: never for values, and never in a process that trains
    afterwards, for torch remembers meshes by their ranks and takes one world's for another's.

    Raises:
        RuntimeError: this process is in a process group already.
    """
    if dist.is_initialized():
        raise RuntimeError("a simulated world: found a process group, needed none; leave it first")
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()
