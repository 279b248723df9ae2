"""What a line of metrics.jsonl holds now and then beside its step: the ledger so far, memory, and
what the node's energy counters say. A few file reads a second."""

import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch

from ..recovery.books import Books
from .energy import Meter, read_all

_EVERY_SECONDS, _FIRST = 1.0, 2
_PAGE = resource.getpagesize()


@final
class Sampler:
    """Answers once a second at most, and at the first two steps of a generation, whose first was
    begun before.

    Args:
        device: whose memory is looked at beside the host's.
        meters: of this node; none where another rank reads them.
    """

    def __init__(self, books: Books, device: torch.device, meters: Sequence[Meter]) -> None:
        self.books = books
        self.device = device
        self.meters = meters
        self._last = float("-inf")
        self._asked = 0

    def take(
        self, *, is_last: bool = False, every_seconds: float = _EVERY_SECONDS
    ) -> dict[str, Any]:
        """Keys for a line: `ledger` (seconds by account since the run began, and `until` when in
        unix seconds), `memory` (bytes), `energy_joules` (counters); nothing between times."""
        now = time.monotonic()
        self._asked += 1
        if self._asked > _FIRST and not is_last and now - self._last < every_seconds:
            return {}
        self._last = now
        booked = {key: round(value, 4) for key, value in self.books.seconds.items() if value}
        found: dict[str, Any] = {
            "ledger": {"until": round(self.books.until, 4), **booked},
            "memory": memory(self.device),
        }
        if self.meters:
            found["energy_joules"] = read_all(self.meters)
        return found


def memory(device: torch.device) -> dict[str, int]:
    """Bytes that this process has resident now and had at most, shared snapshots included; on CUDA
    those that tensors take, took at most, and those that torch holds of the device."""
    found = {"peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    status = Path("/proc/self/statm")
    if status.exists():
        found["rss_bytes"] = rss = int(status.read_text().split()[1]) * _PAGE
        found["peak_rss_bytes"] = max(rss, found["peak_rss_bytes"])  # the kernel's comes late
    if device.type == "cuda":
        found |= {
            "cuda_bytes": torch.cuda.memory_allocated(device),
            "peak_cuda_bytes": torch.cuda.max_memory_allocated(device),
            "reserved_cuda_bytes": torch.cuda.memory_reserved(device),
        }
    return found
