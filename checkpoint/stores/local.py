"""A folder of the local disk, or of a network disk, as a place."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import final

from .names import check_name
from .pace import Pace, Piece, parts
from .store import Reads, Source

_BLOCK_BYTES = 16 * 2**20
# Of one read: while these are copied, the kernel fetches those that follow.
_READ_BYTES = 2**20
_VECTORS = 1024  # UIO_MAXIOV of Linux


@final
class LocalStore:
    """A folder of a file system with hard links; missing parents are made at the first write.

    Args:
        pace: bounds the rate of writing; None: none.
    """

    # A unit is little enough to lie in the cores' cache still when it is digested; a run long
    # enough for the kernel to fetch ahead, which it does a file that is open once and read in a
    # row, at twice the speed of what threads read of a cold disk by turns.
    reads = Reads(threads=4, unit_bytes=2 * 2**20, run_bytes=256 * 2**20)

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

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[Source]:
        file = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield partial(_read, file)
        finally:
            os.close(file)

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


def _read(file: int, start: int, *buffers: memoryview) -> int:
    count = 0
    for group in _grouped(buffers):
        while group:
            if not (part := os.preadv(file, group, start + count)):
                return count
            count += part
            group = _behind(group, part)
    return count


def _grouped(buffers: Iterable[memoryview]) -> Iterator[list[memoryview]]:
    """The buffers, cut where they are long, as one read each takes them."""
    group: list[memoryview] = []
    room = _READ_BYTES
    for buffer in buffers:
        while buffer:
            group.append(buffer[:room])
            buffer = buffer[len(group[-1]) :]
            room -= len(group[-1])
            if not room or len(group) == _VECTORS:
                yield group
                group, room = [], _READ_BYTES
    yield group


def _behind(group: Sequence[memoryview], count: int) -> list[memoryview]:
    """What of the buffers is left when so many bytes are filled."""
    left = []
    for buffer in group:
        if count < len(buffer):
            left.append(buffer[count:])
        count = max(0, count - len(buffer))
    return left


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
