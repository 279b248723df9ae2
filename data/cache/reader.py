"""Finding entries in a tier's folder: whole ones only, each verified when it is seen first."""

import errno
import os
from collections.abc import Callable
from typing import final

from ..errors import CorruptDataError
from .entry import Entry, map_entry
from .folder import Folder
from .name import ExtentName

Failed = Callable[[OSError, str], None]
"""Takes an error and the verb that failed; counts and warns."""
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EBADF)


@final
class Reader:
    """Maps entries. Safe to call from many threads."""

    def __init__(self, folder: Folder, failed: Failed) -> None:
        self._folder = folder
        self._failed = failed
        self._verified: dict[ExtentName, int] = {}
        self._bad: dict[ExtentName, int] = {}

    def find(self, name: ExtentName) -> Entry | None:
        """The mapped entry; None where there is none that can be read.

        Raises:
            CorruptDataError: there is one, and it is not what was written.
            OSError: EMFILE, when this process has no file descriptor left.
        """
        try:
            fd = self._folder.open_entry(name)
        except OSError as error:
            if error.errno == errno.EMFILE:
                raise
            if error.errno not in _ABSENT:
                self._failed(error, "read")
            return None
        try:
            inode = os.fstat(fd).st_ino
            if self._bad.get(name) == inode:
                return None
            entry = map_entry(fd, name, verify=self._verified.get(name) != inode)
        except CorruptDataError:
            self._bad[name] = inode
            raise
        except OSError as error:
            if error.errno == errno.EMFILE:
                raise
            self._bad[name] = inode
            raise CorruptDataError(name.file, error.strerror or "no bytes", "its bytes") from error
        finally:
            os.close(fd)
        self._verified[name] = inode
        return entry

    def has(self, name: ExtentName) -> bool:
        """Whether `find` has a chance. Costs a few system calls."""
        return name not in self._bad and self._folder.has(name)

    def trust(self, name: ExtentName, inode: int) -> None:
        """Says that this process wrote the entry itself."""
        self._verified[name] = inode
        self._bad.pop(name, None)

    def forget(self, name: ExtentName) -> None:
        """Says that the entry was deleted: the next of its name is verified anew."""
        self._verified.pop(name, None)
        self._bad.pop(name, None)

    def is_bad(self, name: ExtentName) -> bool:
        return name in self._bad
