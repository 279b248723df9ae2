"""The few collectives that others need: sums, maxima, and bytes exchanged without pickle."""

from collections.abc import Callable
from typing import final

import torch
import torch.distributed as dist
from torch import Tensor

# What a rank says travels behind its length; most of it fits in here.
_LENGTH_BYTES, _SMALL_BYTES = 8, 1016


def sum_(tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Collective: sums in place over the group and returns the tensor; None: nothing to do."""
    if group is not None:
        dist.all_reduce(tensor, dist.ReduceOp.SUM, group)
    return tensor


def max_(tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Collective: takes the maximum in place over the group; None: nothing to do.

    Whether a NaN wins depends on the backend: vote with flags, not with the values themselves.
    """
    if group is not None:
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group)
    return tensor


def begin_sum(value: int, group: dist.ProcessGroup | None) -> Callable[[], int]:
    """Collective: begins to sum an integer over the group, and returns what waits for the sum.

    The sum goes on in the background, so that nobody waits for the slowest rank before the sum is
    needed. The returned function may be called again.
    """
    total = torch.tensor(value, dtype=torch.int64)
    work = None
    if group is not None:
        work = dist.all_reduce(total, dist.ReduceOp.SUM, group, async_op=True)

    def wait() -> int:
        if work is not None:
            work.wait()
        return int(total)

    return wait


@final
class Exchange:
    """Bytes and votes among the ranks of a gloo group; both calls block for its deadline."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.rank = group.rank()
        self.size = group.size()

    def gather_bytes(self, payload: bytes) -> list[bytes]:
        """Collective: returns every rank's payload in rank order; lengths may differ, and be 0.

        One round where every payload is small, and a second one for all of them otherwise.
        """
        head = len(payload).to_bytes(_LENGTH_BYTES, "little")
        first = self._gather(head + payload[:_SMALL_BYTES], _LENGTH_BYTES + _SMALL_BYTES)
        sizes = [int.from_bytes(one[:_LENGTH_BYTES], "little") for one in first]
        if max(sizes) <= _SMALL_BYTES:
            pairs = zip(first, sizes, strict=True)
            return [one[_LENGTH_BYTES : _LENGTH_BYTES + size] for one, size in pairs]
        whole = self._gather(payload, max(sizes))
        return [one[:size] for one, size in zip(whole, sizes, strict=True)]

    def _gather(self, payload: bytes, width: int) -> list[bytes]:
        padded = torch.frombuffer(bytearray(payload.ljust(width, b"\0")), dtype=torch.uint8)
        received = torch.empty(self.size, width, dtype=torch.uint8)
        dist.all_gather(list(received), padded, self.group)
        return [row.numpy().tobytes() for row in received]

    def all_agree(self, ok: bool) -> bool:
        """Collective: returns whether every rank said yes."""
        vote = torch.tensor([int(ok)], dtype=torch.int32)
        dist.all_reduce(vote, dist.ReduceOp.MIN, self.group)
        return bool(vote.item())
