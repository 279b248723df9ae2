"""Following a JSONL file that others append to: whole lines from a place on, and the next place."""

import json
from dataclasses import dataclass
from pathlib import Path

from .sink import Line

_MOST_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Piece:
    """Some lines, and the offset behind the last of them."""

    lines: list[Line]
    offset: int


def read_from(path: Path, offset: int, *, most_bytes: int = _MOST_BYTES) -> Piece:
    """The whole lines from `offset` on, about `most_bytes` of them; a line that is still being
    written is left for later, one that a loss of power tore is passed over. A file that has become
    shorter is another one, and begins anew."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return Piece([], offset)
    offset = offset if offset <= size else 0
    with path.open("rb") as file:
        file.seek(offset)
        raw = file.read(most_bytes)
        if raw and b"\n" not in raw:
            raw += file.readline()
    whole = raw[: raw.rfind(b"\n") + 1]
    return Piece(
        [line for text in whole.splitlines() if (line := _parsed(text))], offset + len(whole)
    )


def _parsed(text: bytes) -> Line | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None
