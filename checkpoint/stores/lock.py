"""A lock on a folder of this host that the kernel drops with the process that holds it."""

import errno
import fcntl
import json
import logging
import os
from pathlib import Path

_UNKNOWN = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
_logger = logging.getLogger(__name__)


def hold(path: Path, words: str) -> int | None:
    """Locks the file and writes `words` (JSON with a `pid`) into it; the descriptor to close.

    None where the file system has no locks.

    Raises:
        BlockingIOError: another process holds it; its text names the holder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(file, 0)
        os.pwrite(file, words.encode(), 0)
    except BlockingIOError as error:
        os.close(file)
        raise BlockingIOError(_holder(path)) from error
    except OSError as error:
        os.close(file)
        if error.errno not in _UNKNOWN:
            raise
        _logger.warning("%s: its file system has no locks; claims alone tell jobs apart", path)
        return None
    return file


def _holder(path: Path) -> str:
    try:
        record = json.loads(path.read_bytes())
        return f"pid {int(record['pid'])} (run {record['run']})"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"
