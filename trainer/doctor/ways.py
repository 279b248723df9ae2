"""Which ways back from a failure work on this node, by trying them: fork, warm server, in place."""

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..recovery.heartbeat import Page
from ..recovery.preload import preload
from ..recovery.proof import can_be_freed
from ..recovery.warm import WarmServer, native_threads
from .finding import Finding, Level, judged

_AREA = "recovery"
_CODE = 7
_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Ways:
    """What was tried."""

    threads: int
    """Of a process that has imported what a guardian imports."""
    worker_seconds: float | None
    """From the order to the end of an empty worker; None: it did not come back."""
    can_be_freed: bool
    """Whether a rank is thrown out of a collective."""


def try_ways(threads: int) -> Ways:
    """Forks a warm server and a worker, and two ranks of which one waits for the other.

    Call it in a fork of the process that has these `threads`. Blocks for a second or so.
    """
    preload()
    worker = _worker_seconds() if native_threads() == 1 else None
    return Ways(threads=threads, worker_seconds=worker, can_be_freed=can_be_freed())


def _worker_seconds() -> float | None:
    def work(page: Page, channel: socket.socket, fds: Sequence[int]) -> int:
        return _CODE

    server, page = WarmServer.start(work), Page.create()
    mine, theirs = socket.socketpair()
    try:
        begun = time.monotonic()
        pid = server.fork([page.fd, theirs.fileno()])
        while time.monotonic() - begun < _SECONDS:
            for end in server.exits():
                if (end.pid, end.code) == (pid, _CODE):
                    return time.monotonic() - begun
            time.sleep(0.001)
        return None
    finally:
        server.close()
        page.close()
        mine.close()
        theirs.close()


def judge_ways(found: Ways) -> list[Finding]:
    """Whether dead workers can be replaced here, and whether the others may stay."""
    if found.threads > 1:
        forks = f"{found.threads} threads run after the imports"
    elif found.worker_seconds is None:
        forks = "a worker that was forked did not come back"
    else:
        forks = f"a worker comes and goes in {found.worker_seconds * 1e3:.0f} ms"
    return [
        judged(
            *(_AREA, "warm server", forks),
            worst=Level.problem if found.threads > 1 or found.worker_seconds is None else None,
            needed="forks of one thread",
            remedy="start threads in the recipe and not at import, or set recovery.enabled=false",
        ),
        judged(
            *(_AREA, "in place", "works" if found.can_be_freed else "does not work"),
            worst=None if found.can_be_freed else Level.warning,
            needed="that shutting gloo's sockets frees a rank from its collective",
            remedy="nothing must be done: all workers are forked afresh, which takes longer",
        ),
    ]
