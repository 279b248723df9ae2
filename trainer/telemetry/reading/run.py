"""A run's folder as values. Files that a run has not written yet are empty; damage is no error."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...errors import ConfigError
from ...recovery.books import LEDGER
from ...recovery.ledger import read_lines

CONFIG, METRICS, EVENTS, SUMMARY = "config.yaml", "metrics.jsonl", "events.jsonl", "summary.json"
Line = dict[str, Any]
# Both make plain values only; the one in C, which not every build has, is ten times as fast.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """All that a run's folder holds beside its checkpoints."""

    folder: Path
    config: Mapping[str, Any]
    """Resolved settings, nested."""
    metrics: Sequence[Line]
    """Every line, in the order in which they were written: a step done twice has two."""
    events: Sequence[Line]
    ledger: Mapping[str, Any]
    summary: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    def steps(self) -> list[Line]:
        """The last line of each step, by step."""
        found = {int(line["step"]): line for line in self.metrics}
        return [found[step] for step in sorted(found)]

    def of_kind(self, *kinds: str) -> list[Line]:
        """Events of these kinds."""
        return [event for event in self.events if event["kind"] in kinds]


def is_run(folder: Path) -> bool:
    """Whether a run has begun there."""
    return (folder / CONFIG).is_file()


def read_run(folder: Path) -> Run:
    """Reads a run; ConfigError where there is none."""
    if not is_run(folder):
        raise ConfigError(
            f"{folder}: found no {CONFIG}, needed a run's folder; keepstep runs DIR shows those of "
            "a folder"
        )
    return Run(
        folder=folder,
        config=read_settings(folder),
        metrics=[line for line in read_lines(folder / METRICS) if "step" in line],
        events=[line for line in read_lines(folder / EVENTS) if {"kind", "time"} <= line.keys()],
        ledger=read_ledger(folder),
        summary=read_summary(folder),
    )


def read_settings(folder: Path) -> dict[str, Any]:
    """The run's resolved settings, nested; empty where its file is no YAML."""
    with contextlib.suppress(OSError, yaml.YAMLError):
        found = yaml.load((folder / CONFIG).read_text(), Loader=_LOADER)
        return found if isinstance(found, dict) else {}
    return {}


def read_ledger(folder: Path) -> dict[str, Any]:
    """The run's ledger as its guardian last kept it; empty where none did."""
    return _object(folder / LEDGER)


def read_summary(folder: Path) -> dict[str, Any]:
    """What a finished run says of itself; empty before."""
    return _object(folder / SUMMARY)


def last_lines(path: Path, *, most_bytes: int = 2**17) -> list[Line]:
    """The last lines of a JSONL file, as many as lie in so many bytes; those torn are left out."""
    found: list[Line] = []
    with contextlib.suppress(OSError), path.open("rb") as file:
        start = max(0, file.seek(0, 2) - most_bytes)
        file.seek(start)
        for line in file.read().splitlines()[bool(start) :]:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict)]


def _object(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, json.JSONDecodeError):
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else {}
    return {}
