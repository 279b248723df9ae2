"""The files of one tier, opened relative to folders that are held open: no link is followed.

<root>/keepstep-cache           the marker
<root>/v1/ledger                locks and records
<root>/v1/temporary/<writer>... entries that are being written
<root>/v1/extents/<2 hex>/<object 32 hex>-<number>
"""

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import final

from .claim import make
from .name import ExtentName, parse_file, parse_temporary

_SHELF = re.compile(r"[0-9a-f]{2}")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC


@final
class Folder:
    """Open folders of a tier. Safe to call from many threads."""

    def __init__(self, extents: int, temporary: int, ledger: Path | None, *, group: bool) -> None:
        self._extents = extents
        self._temporary = temporary
        self.ledger = ledger
        """None where the folder can only be read."""
        self._file_mode, self._folder_mode = (0o660, 0o2770) if group else (0o600, 0o700)

    @classmethod
    def open(cls, root: Path, *, group: bool) -> "Folder":
        """Opens a claimed folder, and makes what is missing in it. OSError where it cannot."""
        base = root / "v1"
        paths = [base, base / "extents", base / "temporary"]
        for path in paths:
            make(path, 0o2770 if group else 0o700)
        extents, temporary = (os.open(path, _FOLDER) for path in paths[1:])
        folder = cls(extents, temporary, base / "ledger", group=group)
        try:
            os.close(folder.open_ledger())
        except OSError:
            folder.ledger = None
        return folder

    def open_ledger(self) -> int:
        assert self.ledger is not None
        fd = os.open(self.ledger, os.O_RDWR | os.O_CREAT | _FILE, self._file_mode)
        self._widen(fd)
        return fd

    def open_entry(self, name: ExtentName) -> int:
        """A descriptor to read an extent's file by. FileNotFoundError where there is none."""
        with self._shelf(name) as shelf:
            return os.open(name.file, os.O_RDONLY | _FILE, dir_fd=shelf)

    def has(self, name: ExtentName) -> bool:
        try:  # one call where there is none, which is what is asked before each fetch
            os.stat(f"{name.shelf}/{name.file}", dir_fd=self._extents, follow_symlinks=False)
        except OSError:
            return False
        return self.touched(name) is not None

    def touched(self, name: ExtentName) -> float | None:
        """When an extent's file was used last (time.time seconds); None where there is none."""
        try:
            with self._shelf(name) as shelf:
                return os.stat(name.file, dir_fd=shelf, follow_symlinks=False).st_mtime
        except OSError:
            return None

    def touch(self, name: ExtentName) -> None:
        """Marks an extent as used now."""
        with contextlib.suppress(OSError), self._shelf(name) as shelf:
            os.utime(name.file, dir_fd=shelf, follow_symlinks=False)

    def create(self, temporary: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE
        fd = os.open(temporary, flags, self._file_mode, dir_fd=self._temporary)
        self._widen(fd)
        return fd

    def publish(self, temporary: str, name: ExtentName) -> None:
        """Gives a finished file its name, in one step."""
        try:
            with self._shelf(name) as shelf:
                os.rename(temporary, name.file, src_dir_fd=self._temporary, dst_dir_fd=shelf)
        except FileNotFoundError:
            self._make_shelf(name)
            with self._shelf(name) as shelf:
                os.rename(temporary, name.file, src_dir_fd=self._temporary, dst_dir_fd=shelf)

    def discard(self, temporary: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=self._temporary)

    def remove(self, name: ExtentName) -> bool:
        """Deletes an extent's file; False where there was none. Maps of it stay readable."""
        try:
            with self._shelf(name) as shelf:
                os.unlink(name.file, dir_fd=shelf)
        except FileNotFoundError:
            return False
        return True

    def temporaries(self) -> list[str]:
        """Files that are being written, or whose writer died."""
        return [file for file in os.listdir(self._temporary) if parse_temporary(file)]

    def entries(self) -> Iterator[tuple[ExtentName, os.stat_result]]:
        """All published extents. What has another name or kind is left alone."""
        for shelf in sorted(filter(_SHELF.fullmatch, os.listdir(self._extents))):
            try:
                fd = os.open(shelf, _FOLDER, dir_fd=self._extents)
            except OSError:
                continue
            try:
                for file in os.listdir(fd):
                    name = parse_file(file)
                    if name is None or name.shelf != shelf:
                        continue
                    with contextlib.suppress(FileNotFoundError):
                        facts = os.stat(file, dir_fd=fd, follow_symlinks=False)
                        if stat.S_ISREG(facts.st_mode):
                            yield name, facts
            finally:
                os.close(fd)

    def free_bytes(self) -> int:
        """Bytes that the file system has left for users."""
        facts = os.fstatvfs(self._extents)
        return facts.f_bavail * facts.f_frsize

    def close(self) -> None:
        for fd in (self._extents, self._temporary):
            if fd >= 0:
                os.close(fd)
        self._extents = self._temporary = -1

    @contextlib.contextmanager
    def _shelf(self, name: ExtentName) -> Iterator[int]:
        fd = os.open(name.shelf, _FOLDER, dir_fd=self._extents)
        try:
            yield fd
        finally:
            os.close(fd)

    def _make_shelf(self, name: ExtentName) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name.shelf, self._folder_mode, dir_fd=self._extents)
            with self._shelf(name) as shelf:
                os.fchmod(shelf, self._folder_mode)

    def _widen(self, fd: int) -> None:
        # The umask takes the group's bits from what open makes; only the maker may give them back.
        if self._file_mode == 0o660:
            with contextlib.suppress(PermissionError):
                os.fchmod(fd, self._file_mode)
