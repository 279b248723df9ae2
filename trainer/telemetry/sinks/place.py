"""How far one sink is: its place in the run's files, kept there as `sinks/NAME.json`."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..files import write_atomically

FOLDER = "sinks"


@dataclass(kw_only=True, slots=True)
class Place:
    """Everything before it was delivered."""

    metrics: int = 0
    """Offset in metrics.jsonl, in bytes."""
    events: int = 0
    """Offset in events.jsonl, in bytes."""
    step: int = 0
    """The last step that was delivered."""
    memory: dict[str, Any] = field(default_factory=dict)
    """The sink's own."""

    @classmethod
    def read(cls, folder: Path, name: str) -> "Place":
        """As it was kept; the begin, where nothing was or it cannot be read."""
        try:
            found = json.loads((folder / FOLDER / f"{name}.json").read_text())
            return cls(**found)
        except (OSError, ValueError, TypeError):
            return cls()

    def keep(self, folder: Path, name: str) -> None:
        """Writes it, whole or not at all."""
        (folder / FOLDER).mkdir(exist_ok=True)
        path = folder / FOLDER / f"{name}.json"
        write_atomically(path, json.dumps(asdict(self), indent=1) + "\n")
