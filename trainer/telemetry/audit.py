"""The run's `audit.jsonl`: what was read, written, resumed, overridden and skipped, each line with
the SHA-256 of the line before it, so that none can be changed or taken out unseen. Checkpoints
carry the digest of the newest line, so that the last lines cannot be cut off either.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AUDIT = "audit.jsonl"
FIRST = "0" * 64
"""What the first line has in the place of a digest."""
KINDS = frozenset(
    (
        *("bad_record", "checkpoint", "corruption", "eval", "failure", "finish", "hang", "job"),
        *("override", "preemption", "promotion", "recovery", "restore", "rollback", "save_failed"),
        *("skip", "start", "torn"),
    )
)
_BLOCK = 2**16


@dataclass(frozen=True, slots=True)
class Head:
    """How many lines there are, and the digest of the last."""

    lines: int
    digest: str


def append(folder: Path, kind: str, **fields: object) -> None:
    """Adds one line behind whatever any process has added; blocks for as long as another one is at
    it. A last line that a loss of power tore stays, and the line after it says so."""
    fd = os.open(folder / AUDIT, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        number, last = _end(fd)
        previous = _digest(last) if last else FIRST
        if last and not last.endswith(b"\n"):
            os.write(fd, b"\n")
            previous, number = _written(fd, number, previous, {"kind": "torn"}), number + 1
        _written(fd, number, previous, {"kind": kind, **fields})
    finally:
        os.close(fd)


def head(folder: Path) -> Head | None:
    """Where the chain ends now; None where there is none."""
    try:
        fd = os.open(folder / AUDIT, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        number, last = _end(fd)
        return Head(number, _digest(last)) if last else None
    finally:
        os.close(fd)


def lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None, str]]:
    """Each line's number from 1, its record (None where it is none), and its digest."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                record = json.loads(raw)
            except ValueError:
                record = None
            yield number, record if isinstance(record, dict) else None, _digest(raw)


def broken(path: Path) -> str | None:
    """The first thing that is wrong with the chain, by line; None where all of it holds."""
    before, torn = FIRST, False
    number = 0
    for number, record, digest in lines(path):
        if torn and (record is None or record.get("kind") != "torn"):
            return f"line {number - 1}: found no record, needed one, or the next to say it was torn"
        torn = record is None
        if record is not None and record.get("previous") != before:
            return (
                f"line {number}: found the digest {str(record.get('previous'))[:12]} of the line "
                f"before it, needed {before[:12]}: that line or this one was changed, or lines "
                "between them were taken out or put in"
            )
        if record is not None and record.get("n") != number - 1:
            return f"line {number}: found the number {record.get('n')}, needed {number - 1}"
        before = digest
    return f"line {number}: found no whole record at the end" if torn else None


def _written(fd: int, number: int, previous: str, fields: dict[str, object]) -> str:
    """Writes a line; its digest."""
    head = {"n": number, "time": round(time.time(), 3), **fields, "previous": previous}
    raw = json.dumps(head, default=str).encode() + b"\n"
    os.write(fd, raw)
    return _digest(raw)


def _end(fd: int) -> tuple[int, bytes]:
    """How many lines the last one's number says there are, and the last one; no bytes where there
    is none. Reads the end of the file only."""
    size = os.fstat(fd).st_size
    raw, at = b"", size
    while at > 0 and raw.count(b"\n", 0, -1) == 0:
        begin = max(0, at - _BLOCK)
        raw, at = os.pread(fd, at - begin, begin) + raw, begin
    last = raw[raw.rfind(b"\n", 0, -1) + 1 :]
    try:
        return int(json.loads(last)["n"]) + 1, last
    except (ValueError, KeyError, TypeError):
        return _count(fd), last


def _count(fd: int) -> int:
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        return sum(1 for _ in file)


def _digest(raw: bytes) -> str:
    """Of a line without its end, so that one that was torn and ended later stays the same."""
    return hashlib.sha256(raw.rstrip(b"\n")).hexdigest()
