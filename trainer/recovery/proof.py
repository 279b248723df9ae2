"""Whether a process can be thrown out of a collective here: it depends on what gloo does with its
sockets, which no interface promises. Tried out once a node, in processes that end with it."""

import contextlib
import os
import signal
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import FileStore  # type: ignore[attr-defined]

from ...parallel import Links, join, leave
from .warm import die_with_parent

_CPU = torch.device("cpu")
_SHUT_AFTER_SECONDS, _FREED_SECONDS = 0.05, 1.0
_LONGEST = timedelta(seconds=20)


def can_be_freed() -> bool:
    """Whether one of two forked ranks that waits for the other gets free when its connections are
    shut, and both can meet again. Blocks for a fraction of a second, 20 at most; the caller runs
    one thread."""
    with tempfile.TemporaryDirectory(prefix="keepstep-proof-") as folder:
        pids = [_fork(Path(folder), rank) for rank in range(2)]
        deadline = time.monotonic() + _LONGEST.total_seconds()
        codes = [_wait(pid, deadline) for pid in pids]
    return codes == [0, 0]


def _fork(folder: Path, rank: int) -> int:
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        die_with_parent(parent)
        code = 1
        with contextlib.suppress(BaseException):
            code = 0 if _is_freed(folder, rank) else 1
        os._exit(code)
    return pid


def _wait(pid: int, deadline: float) -> int:
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -signal.SIGKILL


def _is_freed(folder: Path, rank: int) -> bool:
    links = Links()
    with links.recording():
        join(FileStore(str(folder / "first"), 2), rank, 2, device=_CPU, timeout=_LONGEST)
    begun = time.monotonic()
    if rank == 0:
        threading.Timer(_SHUT_AFTER_SECONDS, links.shut).start()
        with contextlib.suppress(RuntimeError):
            dist.all_reduce(torch.ones(1))
        (folder / "freed").touch()
    else:
        while not (folder / "freed").exists():
            time.sleep(0.002)
    is_quick = time.monotonic() - begun < _FREED_SECONDS
    links.shut()
    leave()
    join(FileStore(str(folder / "second"), 2), rank, 2, device=_CPU, timeout=_LONGEST)
    total = torch.ones(1)
    dist.all_reduce(total)
    return is_quick and total.item() == 2.0
