"""Finished optimizer steps as a job's files tell them, read as they grow."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Step:
    step: int
    generation: int
    """Grows with each recovery."""
    world: int
    """Ranks, or replicas, that took part."""


class Reader(Protocol):
    def read(self) -> list[Step]:
        """What was finished since the last call, in order."""


class Tail:
    """The whole lines that were added to a JSONL file since the last call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0

    def read(self) -> list[dict[str, Any]]:
        try:
            with open(self.path, "rb") as file:
                file.seek(self.position)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self.position += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


class PeerSteps:
    """steps.jsonl of the peers' programs; replicas repeat one another's steps."""

    def __init__(self, folder: Path) -> None:
        self.tail = Tail(folder / "steps.jsonl")

    def read(self) -> list[Step]:
        return [Step(**line) for line in self.tail.read()]


class KeepstepSteps:
    """metrics.jsonl of a run's folder, with the generations of its events.jsonl."""

    def __init__(self, folder: Path, ranks: int) -> None:
        self.metrics, self.events = Tail(folder / "metrics.jsonl"), Tail(folder / "events.jsonl")
        self.ranks = ranks
        self.generation = 0

    def read(self) -> list[Step]:
        # Events first: a generation's start is written before its first step, so that a step is
        # never taken for one of a generation that began after it was read.
        for event in self.events.read():
            if event["kind"] == "start":
                self.generation = int(event["generation"])
        return [
            Step(int(line["step"]), self.generation, self.ranks) for line in self.metrics.read()
        ]
