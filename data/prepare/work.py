"""A work folder: results of numbered pieces of work, each there whole or not at all.

A result is any number of .npy arrays and then one JSON of facts, all published by rename: whoever
finds the facts finds the arrays. Knows no stage and no text.
"""

import json
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_FACTS = re.compile(r"([a-z]+)-(\d+)\.json")


@final
class Work:
    """The results in one folder; any process may read and write them, several at once too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, stage: str, number: int, facts: dict[str, Any], **arrays: Array) -> None:
        """Publishes a result. Writing one again, with equal content, harms no reader."""
        for name, array in arrays.items():
            publish(
                self._path(stage, number, name),
                lambda stream, array=array: np.save(stream, array, allow_pickle=False),  # type: ignore[misc]
            )
        content = json.dumps(facts).encode()
        publish(self.folder / f"{stage}-{number:05d}.json", lambda stream: stream.write(content))

    def facts(self, stage: str, number: int) -> dict[str, Any]:
        """The facts of a result that is there."""
        found = json.loads((self.folder / f"{stage}-{number:05d}.json").read_bytes())
        return dict(found)

    def array(self, stage: str, number: int, name: str) -> Array:
        """An array of a result that is there, mapped and not read."""
        path = self._path(stage, number, name)
        found: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        return found

    def done(self, stage: str) -> set[int]:
        """The numbers whose results are there."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return set()
        found = (_FACTS.fullmatch(name) for name in names)
        return {int(match[2]) for match in found if match is not None and match[1] == stage}

    def _path(self, stage: str, number: int, name: str) -> Path:
        return self.folder / f"{stage}-{number:05d}-{name}.npy"


def publish(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a sibling, makes it durable and renames it; two writers do not meet."""
    draft = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.draft")
    try:
        with draft.open("xb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
