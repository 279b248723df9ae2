"""Places that hold checkpoints: named objects in folders one level deep, and the local disk as one.

Knows nothing of what the bytes mean.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, final


class Store(Protocol):
    """Objects named `folder/file`. No object is ever written twice."""

    def address(self, name: str = "") -> str:
        """Where an object, a folder or the place itself lies, for people."""
        ...

    def list(self) -> dict[str, float]:
        """Every object and when it last changed, in unix seconds; an empty folder as `folder/`."""
        ...

    def size(self, name: str) -> int:
        """The object's bytes; FileNotFoundError if there is none."""
        ...

    def read_into(self, name: str, start: int, buffer: memoryview) -> int:
        """Fills `buffer` from byte `start`; answers how many bytes there were."""
        ...

    def create(self, name: str, pieces: Iterable[bytes | memoryview]) -> None:
        """Creates the object whole and durable, or not at all; FileExistsError if it exists."""
        ...

    def remove(self, folder: str, *, first: str) -> None:
        """Removes a folder, its file `first` durably before the rest; silent if it is gone."""
        ...

    def free_bytes(self) -> int | None:
        """Bytes that can still be written here; None where there is no such bound."""
        ...


def read_bytes(store: Store, name: str) -> bytes:
    """The whole object."""
    buffer = bytearray(store.size(name))
    count = store.read_into(name, 0, memoryview(buffer))
    return bytes(buffer[:count])


@final
class LocalStore:
    """A folder of a file system with hard links; missing parents are made at the first write."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def address(self, name: str = "") -> str:
        return str(self._path(name)) if name else str(self.root)

    def list(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for folder in _entries(self.root):
            if not folder.is_dir():
                continue
            files = _entries(Path(folder.path))
            try:
                times = {f"{folder.name}/{file.name}": file.stat().st_mtime for file in files}
                found |= times or {f"{folder.name}/": folder.stat().st_mtime}
            except FileNotFoundError:
                continue  # removed while we looked
        return found

    def size(self, name: str) -> int:
        return os.stat(self._path(name)).st_size

    def read_into(self, name: str, start: int, buffer: memoryview) -> int:
        count = 0
        with open(self._path(name), "rb", buffering=0) as file:
            file.seek(start)
            # One read answers at most 2 GiB on Linux.
            while part := file.readinto(buffer[count:]):
                count += part
        return count

    def create(self, name: str, pieces: Iterable[bytes | memoryview]) -> None:
        path = self._path(name)
        _make_folders(path.parent)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            _write(temporary, pieces)
            # link, not rename: it fails where the name exists, so nobody's object is replaced.
            os.link(temporary, path)
        finally:
            if temporary.exists():
                os.unlink(temporary)
        _sync(path.parent)

    def remove(self, folder: str, *, first: str) -> None:
        path = self._path(folder)
        if not path.is_dir():
            return
        if (path / first).exists():
            os.unlink(path / first)
            _sync(path)
        for entry in _entries(path):
            os.unlink(entry.path)
        os.rmdir(path)
        _sync(self.root)

    def free_bytes(self) -> int:
        existing = next(
            path for path in (self.root, *self.root.absolute().parents) if path.exists()
        )
        return shutil.disk_usage(existing).free

    def _path(self, name: str) -> Path:
        parts = name.split("/")
        if not all(parts) or "." in parts or ".." in parts or "\0" in name:
            raise ValueError(
                f"The name {name!r} is not inside {self.root}, but must be a folder or "
                "`folder/file` of it: name one that a listing shows."
            )
        return self.root.joinpath(*parts)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []


def _write(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[os.write(file, view) :]
        os.fsync(file)
    finally:
        os.close(file)


def _make_folders(folder: Path) -> None:
    """Makes a folder and its parents, each durable in the one above before it is used."""
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    if not folder.is_dir():
        with contextlib.suppress(FileExistsError):  # another rank was quicker
            os.mkdir(folder)
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
