"""Any fsspec file system as a wire, through what all of them share."""

import contextlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, final

from .errors import taken, unanswered
from .pace import Piece

_TIMES = ("LastModified", "last_modified", "mtime", "updated", "timeModified", "created")


@final
class FsspecWire:
    """Keys are paths of the file system. What cannot be created on condition there is looked for
    first, which two writers at once can slip through: see `probe`."""

    connections = 1

    def __init__(self, filesystem: Any) -> None:
        self._filesystem = filesystem

    def scan(self, prefix: str) -> dict[str, float]:
        top = prefix.rstrip("/")
        with self._said(prefix):
            try:
                found = self._filesystem.find(top, detail=True, refresh=True)
            except FileNotFoundError:
                return {}
        keys = {self._plain(name): facts for name, facts in found.items()}
        return {key: _seconds(facts) for key, facts in keys.items() if key.startswith(prefix)}

    def size(self, key: str) -> int:
        with self._said(key):
            facts = self._filesystem.info(key, refresh=True)
            if facts.get("type") == "directory":
                raise FileNotFoundError(key)
            return int(facts["size"])

    def read(self, key: str, start: int, buffer: memoryview) -> int:
        stop = min(start + len(buffer), self.size(key))
        if stop <= start:
            return 0
        with self._said(key):
            found: bytes = self._filesystem.cat_file(key, start=start, end=stop)
        if len(found) != stop - start:
            raise unanswered(key, f"{len(found)} of {stop - start} bytes came")
        buffer[: len(found)] = found
        return len(found)

    def put(self, key: str, data: Piece) -> None:
        with self._said(key):
            self._make_parent(key)
            try:
                self._filesystem.pipe_file(key, bytes(data), mode="create")
            except FileExistsError as error:
                raise taken(key) from error

    def upload(self, key: str, parts: Iterator[Piece]) -> None:
        with self._said(key):
            self._make_parent(key)
            file = self._filesystem.open(key, "wb", autocommit=False)
        # No `with`, which would make an object of what was written up to an error.
        try:
            for part in parts:
                with self._said(key):
                    file.write(part)
            with self._said(key):
                file.close()
                file.commit()
        except BaseException:
            with contextlib.suppress(Exception):
                file.discard()
            with contextlib.suppress(Exception):  # some have written the object by then
                self._filesystem.rm_file(key)
            raise

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            with self._said(key), contextlib.suppress(FileNotFoundError):
                self._filesystem.rm_file(key)

    def pending(self, prefix: str) -> dict[str, float]:
        return {}

    def abort(self, prefix: str) -> None:
        """Nothing: `upload` discards what it began."""

    def _make_parent(self, key: str) -> None:
        self._filesystem.makedirs(key.rpartition("/")[0], exist_ok=True)

    def _plain(self, name: object) -> str:
        return str(self._filesystem._strip_protocol(str(name)))

    @contextlib.contextmanager
    def _said(self, key: str) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise unanswered(key, "timeout") from error
        except (OSError, ValueError):
            raise
        except Exception as error:
            # The type alone: what a client says of itself may hold its credentials.
            raise unanswered(key, type(error).__name__) from error


def _seconds(facts: dict[str, Any]) -> float:
    for name in _TIMES:
        found = facts.get(name)
        if isinstance(found, datetime):
            return found.timestamp()
        if isinstance(found, int | float):
            return float(found)
        if isinstance(found, str):
            with contextlib.suppress(ValueError):
                return datetime.fromisoformat(found).timestamp()
    return 0.0
