"""The run's `events.jsonl`: a line for each thing that happened to it. What touches its state is in
`audit.jsonl` too."""

import time
from pathlib import Path

from .audit import KINDS, append
from .files import append_line


class Events:
    """One process's pen; several may write the same file."""

    def __init__(self, folder: Path, *, rank: int) -> None:
        self.path = folder / "events.jsonl"
        self.rank = rank

    def write(self, kind: str, *, step: int | None, generation: int, **fields: object) -> None:
        """One event; `step` counts finished steps, None where none is meant."""
        body = {"step": step, "generation": generation, "rank": self.rank, **fields}
        append_line(self.path, {"time": time.time(), "kind": kind, **body})
        if kind in KINDS:
            append(self.path.parent, kind, **body)
