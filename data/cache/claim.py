"""Whose a cache's folders are: nothing is written or deleted where no cache's marker lies."""

import contextlib
import os
import stat
from pathlib import Path

from ..errors import DataError

MARKER = "keepstep-cache"
_TEXT = "Made by keepstep: a cache of extents. All of it may be deleted at any time.\n"


def make(folder: Path, mode: int) -> None:
    """Makes a folder with this mode, whatever the umask, where there is none. OSError."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=mode)
        folder.chmod(mode)


def claim(folder: Path) -> None:
    """Finds that a folder is a cache's, or marks it as one if it is empty.

    Raises:
        DataError: it holds other things and no marker, or is no folder.
        OSError: it cannot be read or written.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: found a file, needed a folder for the cache; remove it or set "
            "data.cache.folder to another"
        )
    names = os.listdir(folder)
    marker = folder / MARKER
    if marker.exists():  # asked after the listing: whoever claims it now marks it first
        return
    if names:
        raise DataError(
            f"{folder}: found {len(names)} entries such as {sorted(names)[0]!r} and no {MARKER}, "
            "needed an empty folder or a cache's; set data.cache.folder to another"
        )
    with contextlib.suppress(FileExistsError), marker.open("x") as stream:
        stream.write(_TEXT)


def require_owner(folder: Path, *, group: bool) -> None:
    """Refuses a folder that somebody else may have prepared for us, or may change under us.

    Raises:
        DataError: a link, another user's, or writable by more than it should be.
    """
    facts = os.lstat(folder)
    mode = stat.S_IMODE(facts.st_mode)
    if not stat.S_ISDIR(facts.st_mode):
        wrong, needed = "a link", "a folder"
    elif mode & (0o002 if group else 0o022):
        wrong, needed = f"mode {mode:o}", "2770" if group else "700"
    elif not group and facts.st_uid != os.geteuid():
        wrong, needed = f"user {facts.st_uid} as its owner", f"user {os.geteuid()}"
    else:
        return
    raise DataError(
        f"{folder}: found {wrong}, needed {needed}; remove it or set data.cache.folder to another"
    )
