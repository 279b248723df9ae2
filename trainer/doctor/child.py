"""What may hang or must not touch this process, done in a fork that has a deadline."""

import os
import selectors
import signal
import sys
import time
from collections.abc import Callable

from ..recovery.warm import die_with_parent, never_return

_LEAVE_SECONDS = 0.5


class LateError(TimeoutError):
    """The child had not answered by its deadline, or ended without an answer."""


def in_child(body: Callable[[], str], *, seconds: float) -> str:
    """Answers what `body` does in a fork of this process, which is killed after `seconds`.

    Raises:
        LateError: no answer by then; a child that the kernel cannot end (a dead network disk) is
            left to it.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        os.close(reading)
        die_with_parent(parent)
        never_return(lambda: _answer(body, writing))
    os.close(writing)
    try:
        return _read(reading, seconds)
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        _reap(pid)


def _reap(pid: int) -> None:
    """Takes leave of a child that was killed, unless the kernel cannot end it."""
    deadline = time.monotonic() + _LEAVE_SECONDS
    while os.waitpid(pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.001)


def _answer(body: Callable[[], str], writing: int) -> int:
    with os.fdopen(writing, "w") as pipe:
        pipe.write(body())
    return 0


def _read(reading: int, seconds: float) -> str:
    deadline, found = time.monotonic() + seconds, b""
    with selectors.DefaultSelector() as waiting:
        waiting.register(reading, selectors.EVENT_READ)
        while waiting.select(max(0.0, deadline - time.monotonic())):
            part = os.read(reading, 65536)
            if not part:
                break
            found += part
        else:
            raise LateError(f"found no answer within {seconds:.0f} s")
    if not found:
        raise LateError("found that the look ended without an answer")
    return found.decode()
