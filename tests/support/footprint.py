"""What a process holds of the machine, from /proc: what may not grow while a run lives on."""

import statistics
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Footprint:
    """One look at one process."""

    descriptors: int
    threads: int
    resident_kib: int
    private_kib: int
    """Memory that no other process shares."""

    @classmethod
    def of(cls, pid: int) -> "Footprint | None":
        """None where the process has ended."""
        proc = Path(f"/proc/{pid}")
        try:
            words = [line.split() for line in (proc / "smaps_rollup").read_text().splitlines()]
            kib = {line[0]: int(line[1]) for line in words if line[0].endswith(":")}
            private = kib["Private_Clean:"] + kib["Private_Dirty:"]
            descriptors = len(list((proc / "fd").iterdir()))
            threads = len(list((proc / "task").iterdir()))
        except (OSError, KeyError):
            return None
        return cls(descriptors, threads, kib["Rss:"], private)


class Growth(NamedTuple):
    """Medians of the first and of the last quarter of what was seen."""

    first: Footprint
    last: Footprint

    @classmethod
    def over(cls, seen: Sequence[Footprint]) -> "Growth":
        quarter = max(1, len(seen) // 4)
        return cls(_median(seen[:quarter]), _median(seen[-quarter:]))

    @property
    def is_flat(self) -> bool:
        """Whether nothing grew by more than what comes and goes with where a step is. What leaks is
        private and resident: private alone becomes what was shared with a process that has ended,
        resident alone what was read of a file."""
        more = min(
            self.last.private_kib - self.first.private_kib,
            self.last.resident_kib - self.first.resident_kib,
        )
        return (
            self.last.descriptors - self.first.descriptors <= 3
            and self.last.threads - self.first.threads <= 2
            and more <= 8 * 1024 + self.first.private_kib // 10
        )


def _median(seen: Sequence[Footprint]) -> Footprint:
    columns = zip(*map(astuple, seen), strict=True)
    return Footprint(*(int(statistics.median(column)) for column in columns))
