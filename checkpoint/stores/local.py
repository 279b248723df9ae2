"""A folder of the local disk, or of a network disk, as a place."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import final

from .names import check_name
from .pace import Pace, Piece, parts

_BLOCK_BYTES = 16 * 2**20


@final
class LocalStore:
    """A folder of a file system with hard links; missing parents are made at the first write.

    Args:
        pace: bounds the rate of writing; None: none.
    """

    reads_at_once = 4
    smallest_read = 2**16

    def __init__(self, root: str | Path, *, pace: Pace | None = None) -> None:
        self.root = Path(root)
        self._pace = pace

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

    def create(self, name: str, pieces: Iterable[Piece]) -> None:
        path = self._path(name)
        _make_folders(path.parent)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            _write(temporary, pieces if self._pace is None else _paced(pieces, self._pace))
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
        return self.root.joinpath(*check_name(name, self.root))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []


def _paced(pieces: Iterable[Piece], pace: Pace) -> Iterator[Piece]:
    for part in parts(pieces, _BLOCK_BYTES):
        pace.take(len(part))
        yield part


def _write(path: Path, pieces: Iterable[Piece]) -> None:
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
