"""What torch's own flight recorder knows of this process's collectives: it keeps the last of every
group in memory (torch/csrc/distributed/c10d/FlightRecorder.hpp). Of gloo's it has when they were
begun and whether they are over, not when they ended; sends between two ranks it leaves out."""

import json
import time
from collections.abc import Sequence
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
    for entry in _entries():
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


def begun_between(begin: int, end: int) -> list[tuple[str, int]] | None:
    """The collectives that this process has begun in that time, in their order: the name of the
    group, and when (unix nanoseconds). None where the recorder does not reach back so far, or is
    off. Some 20 milliseconds for a thousand entries, of which torch keeps two thousand."""
    entries = _entries()
    if not entries or (entries[0]["record_id"] and entries[0]["time_created_ns"] > begin):
        return None
    every = ((entry["process_group"][0], int(entry["time_created_ns"])) for entry in entries)
    return [(group, moment) for group, moment in every if begin < moment <= end]


def _entries() -> Sequence[dict[str, Any]]:
    """The oldest first; none where this torch does not record them."""
    dump = getattr(_distributed_c10d, "_dump_fr_trace_json", None)
    if dump is None:
        return []
    found: Sequence[dict[str, Any]] = json.loads(dump(True)).get("entries", [])
    return found
