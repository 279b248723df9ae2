"""Files of this machine as a store."""

from pathlib import Path
from typing import final

from ..errors import ChangedError, DeniedError, MissingError, TransientError
from .store import StoredObject


@final
class LocalStore:
    """Paths and file: URLs. What it lists are absolute paths."""

    def list(self, url: str) -> list[StoredObject]:
        path = _path(url)
        if any(letter in path.name for letter in "*?["):
            found = sorted(path.parent.glob(path.name))
        elif path.is_dir():
            found = sorted(one for one in path.rglob("*"))
        else:
            found = [path]
        hidden = len(path.parts) if path.is_dir() else len(path.parts) - 1
        visible = [p for p in found if not any(x.startswith(".") for x in p.parts[hidden:])]
        return [self.stat(str(one)) for one in visible if not one.is_dir()]

    def stat(self, url: str) -> StoredObject:
        path = _path(url)
        try:
            facts = path.stat()
        except OSError as error:
            raise _said(url, error) from error
        return StoredObject(str(path), facts.st_size, f"{facts.st_mtime_ns}-{facts.st_size}")

    def read(self, obj: StoredObject, start: int, stop: int) -> bytes:
        try:
            with _path(obj.url).open("rb") as stream:
                stream.seek(start)
                content = stream.read(stop - start)
        except OSError as error:
            raise _said(obj.url, error) from error
        found = self.stat(obj.url)
        if found.size != obj.size or (obj.tag and found.tag != obj.tag):
            raise ChangedError(obj.url, found.tag, obj.tag or str(obj.size))
        return content

    def close(self) -> None:
        """Nothing is held open."""


def _path(url: str) -> Path:
    return Path(url.removeprefix("file://")).expanduser().absolute()


def _said(url: str, error: OSError) -> Exception:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return MissingError(url, "found no such file, needed one; correct the path", "404")
    if isinstance(error, PermissionError):
        return DeniedError(
            url, f"found it not readable ({error.strerror}), needed permission", "403"
        )
    return TransientError(url, f"found it not readable ({error.strerror})", "io")
