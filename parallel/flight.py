"""Where this process waits for its peers: the collective under way, by torch's own flight recorder,
which keeps the last of every group in memory (torch/csrc/distributed/c10d/FlightRecorder.hpp)."""

import json
import time
from dataclasses import dataclass
from typing import Any

from torch._C import _distributed_c10d


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """A collective that this rank has begun, and that is not over."""

    operation: str
    """As the backend names it: all_reduce, send, ..."""
    group: str
    """What the group is for."""
    number: int
    """Which one of its group, counted from 1."""
    seconds: float
    """Since it was begun."""

    def __str__(self) -> str:
        return f"{self.operation} {self.number} of group {self.group}"


def pending(*, since: float = 0.0) -> Pending | None:
    """The oldest collective under way in this process, for any thread; None where there is none,
    or where this torch does not record them. Milliseconds.

    Args:
        since: unix seconds before which nothing counts, as what a group that was broken left.
    """
    dump = getattr(_distributed_c10d, "_dump_fr_trace_json", None)
    if dump is None:
        return None
    trace: dict[str, Any] = json.loads(dump(True))
    for entry in trace.get("entries", []):
        begun = entry["time_created_ns"] / 1e9
        if entry["retired"] or begun < since:
            continue
        name, purpose = entry["process_group"]
        return Pending(
            operation=entry["profiling_name"].rpartition(":")[2],
            group=purpose or name,
            number=entry["p2p_seq_id"] if entry["is_p2p"] else entry["collective_seq_id"],
            seconds=max(0.0, time.time() - begun),
        )
    return None
