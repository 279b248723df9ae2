"""Where prepared data lives, that one process at a time makes it, and that what it says on disks
is one sentence. Knows no text and no tokens."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from ..errors import DataError

Report = Callable[[str], None]
_FULL_OR_FORBIDDEN = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


@contextlib.contextmanager
def alone(folder: Path, report: Report, lock_seconds: float) -> Iterator[None]:
    """Holds the lock on making `folder`, after waiting for whoever holds it.

    Raises:
        TimeoutError: another process held it for longer than `lock_seconds`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        report(f"another process prepares {folder.name}; waiting for it")
        lock.acquire(timeout=lock_seconds)
    try:
        yield
    finally:
        lock.release()


def check_empty(folder: Path) -> None:
    """Refuses a folder that holds anything."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"the folder to write to: found {folder} in use, needed a new or empty folder; "
            "name another one, or remove it first"
        )


def sync(folder: Path) -> None:
    """Makes the folder's names durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def said_in_a_sentence(thing: str, folder: Path) -> Iterator[None]:
    """A full disk or a folder that may not be written is the user's to mend, not a fault."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL_OR_FORBIDDEN:
            raise
        raise DataError(
            f"{thing}: found {folder} not writable ({error.strerror}), needed room and permission "
            "for the prepared tokens; free some space or name another folder, what is done is kept "
            "and the same command goes on"
        ) from error
