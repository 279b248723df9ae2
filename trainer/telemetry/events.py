"""The run's `events.jsonl`: a line for each thing that happened to it."""

import time
from pathlib import Path

from .files import append_line


class Events:
    """One process's pen; several may write the same file."""

    def __init__(self, folder: Path, *, rank: int) -> None:
        self.path = folder / "events.jsonl"
        self.rank = rank

    def write(self, kind: str, *, step: int | None, generation: int, **fields: object) -> None:
        """One event; `step` counts finished steps, None where none is meant."""
        head = {"time": time.time(), "kind": kind, "step": step}
        append_line(self.path, {**head, "generation": generation, "rank": self.rank, **fields})
