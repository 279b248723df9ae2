"""What every sink is: something that is told of a run line by line, and can be told again."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

Line = dict[str, Any]
"""One line of metrics.jsonl or events.jsonl."""


class Ending(StrEnum):
    """How a job of a run ended."""

    finished = "finished"
    preempted = "preempted"
    failed = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """What a sink is told of the run before its lines; nothing in it is a secret."""

    folder: Path
    name: str
    run_id: str
    """32 hexadecimal digits; the same in every job of the run."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Dotted keys of the configuration."""


class Sink(Protocol):
    """All methods are called by one thread, in order, and may block and raise: then the sink is
    closed, opened again later, and told the same lines again."""

    replays: bool
    """Whether each opening wants the run from its first line."""

    def open(self, run: RunFacts, memory: dict[str, Any], last_step: int) -> None:
        """Gets ready, going on with what it did before.

        Args:
            memory: what the sink itself put there, kept in the run's folder as JSON.
            last_step: of the last line that `metrics` was given; 0 before the first.
        """
        ...

    def metrics(self, lines: Sequence[Line]) -> None:
        """Steps, in order, none twice; what it returns from is delivered."""
        ...

    def events(self, lines: Sequence[Line]) -> None:
        """Events, in the order of the file."""
        ...

    def finish(self, ending: Ending) -> None:
        """The job is over and every line was told."""
        ...

    def close(self) -> None:
        """Lets go of what `open` took; safe twice and after a failure."""
        ...


def numbers(line: Line) -> dict[str, float]:
    """The finite numbers of a line by name, those of nested objects as `data_causes/network`."""
    found: dict[str, float] = {}
    for key, value in line.items():
        if isinstance(value, dict):
            found |= {f"{key}/{name}": number for name, number in numbers(value).items()}
        elif _is_number(value) and key not in ("step", "time"):
            found[key] = float(value)
    return found


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)
