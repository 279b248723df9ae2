"""The warm server: a forked copy of the guardian that has imported everything, runs one thread, has
touched no accelerator, and forks a worker in tens of milliseconds. It knows nothing of training.

    guardian --fork--> warm server --fork--> worker, worker, ...
"""

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import StoppedError
from .heartbeat import Page

_MESSAGE_BYTES = 65536
_MOST_FDS = 64
_CLOSE_SECONDS = 5.0
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


@dataclass(frozen=True, slots=True)
class Exit:
    """How a worker ended: its exit code, or the negative number of the signal that killed it."""

    pid: int
    code: int


Work = Callable[[Page, socket.socket, Sequence[int]], int]
"""The body of a worker: (page, its end of the line to the guardian, slots) -> exit code."""


class WarmServer:
    """The guardian's end of its warm server. Final; not safe for threads."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        self.channel = channel
        self._exits: list[Exit] = []

    @classmethod
    def start(cls, work: Work) -> "WarmServer":
        """Forks the server from this process, which must run one thread only.

        Raises:
            StoppedError: where other threads run, since a fork copies their locks but not them.
        """
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        sys.stderr.flush()
        guardian = os.getpid()
        pid = os.fork()
        if pid == 0:
            mine.close()
            never_return(lambda: _serve(theirs, work, guardian))
        theirs.close()
        server = cls(pid, mine)
        # Counted after the fork: the threads of numpy's OpenBLAS end themselves at a fork and are
        # made again when needed; any other that is here now was here then.
        threads = native_threads()
        if threads > 1:
            server.close()
            raise StoppedError(
                f"the guardian: found {threads} threads at its fork, needed 1; start threads "
                "inside the recipe and not at import, or set recovery.enabled=false"
            )
        return server

    def fork(self, fds: Sequence[int]) -> int:
        """Has a worker forked and returns its pid.

        Args:
            fds: of the page, of its end of the line, and of the slots; duplicated into it.

        Raises:
            StoppedError: the server is gone, and its workers with it; `exits` raises it too.
        """
        try:
            socket.send_fds(self.channel, [b"fork"], list(fds))
        except OSError as error:
            raise self._gone() from error
        while True:
            answer = self._receive()
            if "forked" in answer:
                return answer["forked"]
            self._exits.append(Exit(answer["exited"], answer["code"]))

    def exits(self) -> list[Exit]:
        """Workers that have ended since the last call; never blocks."""
        while _readable(self.channel, 0.0):
            answer = self._receive()
            self._exits.append(Exit(answer["exited"], answer["code"]))
        ended, self._exits = self._exits, []
        return ended

    def _receive(self) -> dict[str, int]:
        try:
            data = self.channel.recv(_MESSAGE_BYTES)
        except OSError as error:
            raise self._gone() from error
        if not data:
            raise self._gone()
        answer: dict[str, int] = json.loads(data)
        return answer

    def _gone(self) -> StoppedError:
        return StoppedError(
            f"the warm server: found its process {self.pid} gone, needed it to fork workers; start "
            "the same command again: the newest checkpoint is taken"
        )

    def close(self) -> None:
        """Ends every worker that still lives, and the server; safe twice. Blocks until they are
        gone, or for _CLOSE_SECONDS where one is stuck in the kernel."""
        with contextlib.suppress(OSError):
            self.channel.shutdown(socket.SHUT_WR)
            self.channel.settimeout(_CLOSE_SECONDS)
            while self.channel.recv(_MESSAGE_BYTES):
                continue
        self.channel.close()
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def native_threads() -> int:
    """Threads of this process, those of C libraries included."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else 1


def _serve(channel: socket.socket, work: Work, guardian: int) -> int:
    name_process("keepstep-warm")
    os.setsid()  # a launcher's signals to its process group are the guardian's business
    die_with_parent(guardian)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(name, signal.SIG_IGN)
    workers: set[int] = set()
    with selectors.DefaultSelector() as waiting:
        waiting.register(channel, selectors.EVENT_READ)
        waiting.register(wake_read, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in waiting.select()}
            if wake_read in ready:
                os.read(wake_read, 4096)
                workers -= _send_exits(channel)
            if channel in ready:
                body, fds, _, _ = socket.recv_fds(channel, _MESSAGE_BYTES, _MOST_FDS)
                if not body:
                    _end(workers)
                    return 0
                pid = _fork_worker(fds, channel, work)
                workers.add(pid)
                for fd in fds:
                    os.close(fd)
                channel.send(json.dumps({"forked": pid}).encode())


def _send_exits(channel: socket.socket) -> set[int]:
    ended = set()
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended.add(pid)
            code = os.waitstatus_to_exitcode(status)
            channel.send(json.dumps({"exited": pid, "code": code}).encode())
    return ended


def _end(workers: set[int]) -> None:
    """Kills what still lives and waits for it, so that none outlives the job by a moment."""
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    for pid in workers:
        os.waitpid(pid, 0)


def _fork_worker(fds: list[int], channel: socket.socket, work: Work) -> int:
    server = os.getpid()
    pid = os.fork()
    if pid == 0:
        die_with_parent(server)
        name_process("keepstep-spare")
        channel.close()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        never_return(lambda: work(Page(fds[0]), socket.socket(fileno=fds[1]), fds[2:]))
    return pid


def never_return(body: Callable[[], int]) -> None:
    """Runs a forked child's whole life: it must not unwind into its parent's frames."""
    code = 1
    try:
        code = body()
    except BaseException:
        traceback.print_exc()
    finally:
        # A reader of our output that is gone must not change the exit code, nor let us unwind.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)


def die_with_parent(parent: int) -> None:
    """Linux: the kernel kills this process when its parent dies, so that no orphan trains on."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the kernel was told
            os._exit(1)


def name_process(name: str) -> None:
    """Linux: what `top` and `ps -o comm` show of this process; at most 15 letters."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode())


def _readable(channel: socket.socket, seconds: float) -> bool:
    with selectors.DefaultSelector() as waiting:
        waiting.register(channel, selectors.EVENT_READ)
        return bool(waiting.select(seconds))
