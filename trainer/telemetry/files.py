"""Writing the run's small files: JSON lines appended whole, and files replaced whole."""

import json
import math
import os
from pathlib import Path


def append_line(path: Path, fields: dict[str, object]) -> None:
    """Appends one JSON object in one write, so that several processes may; values that are not
    finite become null. A last line that a kill tore (the kernel may end a write between two pages)
    is ended first, so that it takes no other with it."""
    line = json.dumps({key: _plain(value) for key, value in fields.items()}) + "\n"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(fd, ("\n" if _is_torn(fd) else "").encode() + line.encode())
    finally:
        os.close(fd)


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file whole: a reader sees the old text or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    os.replace(temporary, path)


def _is_torn(fd: int) -> bool:
    """Or being written at this moment, which makes it an empty line more."""
    size = os.fstat(fd).st_size
    return size > 0 and os.pread(fd, 1, size - 1) != b"\n"


def _plain(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
