"""A run's metrics and events as they are written, told in one line each."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

from .run import EVENTS, METRICS, Line

_HEAD = {"time", "kind", "step", "generation", "rank", "reason", "path"}
_QUIET = {"snapshots", "energy"}


@final
class Lines:
    """The whole lines of a file that is being written, each once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def read(self) -> list[Line]:
        """Those that were written since the last call; never blocks. A file that is not there yet
        has none."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return list(_objects(whole))


@final
class Follower:
    """Both files of a run, in the order of time."""

    def __init__(self, folder: Path) -> None:
        self._files = (Lines(folder / METRICS), Lines(folder / EVENTS))

    def read(self) -> list[Line]:
        """What is new, earliest first; events that nobody looks for are left out."""
        found = [line for file in self._files for line in file.read()]
        shown = [line for line in found if line.get("kind") not in _QUIET]
        return sorted(shown, key=lambda line: float(line.get("time", 0.0)))


def told(line: Mapping[str, Any]) -> str:
    """One line of metrics or events for a person; times are those of this machine's zone."""
    clock = time.strftime("%H:%M:%S", time.localtime(float(line.get("time", 0.0))))
    return f"{clock}  {_event(line) if 'kind' in line else _metrics(line)}"


def _metrics(line: Mapping[str, Any]) -> str:
    words = [f"step {line.get('step')}"]
    for key, name, shape in (
        ("loss", "loss", ".4f"),
        ("grad_norm", "norm", ".3g"),
        ("lr", "lr", ".2e"),
        ("tokens_per_second", "tokens/s", ",.0f"),
        ("step_seconds", "seconds", ".3f"),
        ("mfu", "mfu", ".1%"),
    ):
        if (value := line.get(key)) is not None:
            words.append(f"{name} {value:{shape}}")
    return "  ".join(words)


def _event(line: Mapping[str, Any]) -> str:
    step = "" if line.get("step") is None else f"  step {line['step']}"
    rank = f"  rank {line['rank']}" if line.get("rank") else ""
    said = [str(line[key]) for key in ("reason", "path") if line.get(key)]
    more = [f"{key} {_shown(value)}" for key, value in line.items() if key not in _HEAD]
    return f"{line['kind']}{step}{rank}  {'  '.join([*said, *more])}".rstrip()


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def _objects(text: bytes) -> Iterator[Line]:
    for row in text.splitlines():
        try:
            found = json.loads(row)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found
