"""Files of this machine as a store."""

from pathlib import Path
from typing import final

from ..errors import ChangedError, DeniedError, MissingError, TransientError
from .answers import check_range
from .names import chosen, root
from .store import StoredObject


@final
class LocalStore:
    """Paths and file: URLs. What it lists are absolute paths."""

    def list(self, url: str) -> list[StoredObject]:
        path = str(_path(url))
        top = Path(root(path))
        if root(path) == path and not top.is_dir():
            return [self.stat(path)]
        # Only what may match is walked through: the folder may hold more than data.
        rest = "**/*" if top == Path(path) or "**" in path else str(Path(path).relative_to(top))
        names = [str(one) for one in top.glob(rest) if not one.is_dir()]
        return [self.stat(name) for name in chosen(path, names)]

    def stat(self, url: str) -> StoredObject:
        path = _path(url)
        try:
            facts = path.stat()
        except OSError as error:
            raise _said(url, error) from error
        return StoredObject(str(path), facts.st_size, f"{facts.st_mtime_ns}-{facts.st_size}")

    def read(self, obj: StoredObject, start: int, stop: int) -> bytes:
        check_range(obj, start, stop)
        try:
            with _path(obj.url).open("rb") as stream:
                stream.seek(start)
                content = stream.read(stop - start)
        except OSError as error:
            raise _said(obj.url, error) from error
        found = self.stat(obj.url)
        if found.size != obj.size or (obj.tag and found.tag != obj.tag):
            raise ChangedError(obj.url, found.tag, obj.tag or f"{obj.size} bytes")
        return content

    def content(self, url: str) -> bytes:
        try:
            return _path(url).read_bytes()
        except OSError as error:
            raise _said(url, error) from error

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
