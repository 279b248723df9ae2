"""Writing the run's small files: JSON lines appended whole, and files replaced whole."""

import json
import math
import os
from pathlib import Path


def append_line(path: Path, fields: dict[str, object]) -> None:
    """Appends one JSON object in one write, so that several processes may; values that are not
    finite become null."""
    line = json.dumps({key: _plain(value) for key, value in fields.items()}) + "\n"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file whole: a reader sees the old text or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    os.replace(temporary, path)


def _plain(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
