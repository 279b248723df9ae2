"""The TCP connections by which the ranks of a process group speak: recorded while they are made,
watched over by the kernel, and shut to throw this process out of a collective. Linux only.

gloo's own `abort()` does not free who waits for a peer that is stuck; `shutdown(2)` on its
connected sockets does, within milliseconds (torch 2.13). Its listening socket must be spared:
without it gloo ends the process.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import final

import torch.distributed as dist

_FOLDER = Path("/proc/self/fd")
# Before the kernel gives a silent peer up it asks once, after a second without a word.
_IDLE_SECONDS, _INTERVAL_SECONDS, _PROBES = 1, 1, 3


@final
class Links:
    """What one process group, and the client of its store, have opened; safe for threads.

    Other connections that are made while it records are shut with the rest: whoever owns one must
    be able to make it anew.
    """

    def __init__(self) -> None:
        self._own: dict[int, str] = {}
        self._before: dict[int, str] | None = None
        self._is_shut = False
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Everything that is connected meanwhile belongs to it.

        Raises:
            ConnectionAbortedError: it is shut already.
        """
        with self._lock:
            if self._is_shut:
                raise ConnectionAbortedError("These connections were shut before they were made")
            self._before = _sockets()
        try:
            yield
        finally:
            with self._lock:
                self._own |= self._new()
                self._before = None

    def limit_silence(self, seconds: float) -> None:
        """Has the kernel break what got no answer from the other machine for so long; 0: never.

        A peer that dies says so; one whose machine or network is gone does not, and gloo would wait
        for the deadline of its group. Measured with packets dropped: 1.7 s at 1.5 s.
        """
        if seconds <= 0:
            return
        for one in self._connected():
            with contextlib.suppress(OSError), one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_SECONDS)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _INTERVAL_SECONDS)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * seconds))

    def shut(self) -> None:
        """Breaks them all: whoever waits in a collective, or for the store, gets an error at once.

        From any thread; again where connections were made meanwhile.
        """
        with self._lock:
            self._is_shut = True
        for one in self._connected():
            with contextlib.suppress(OSError), one:
                one.shutdown(socket.SHUT_RDWR)
        _abort_devices()

    def _new(self) -> dict[int, str]:
        """Sockets that were opened since recording began, by descriptor."""
        if self._before is None:
            return {}
        before = set(self._before.items())
        return dict(one for one in _sockets().items() if one not in before)

    def _connected(self) -> list[socket.socket]:
        """Descriptors of our own of the connections that still are what they were; to be closed."""
        with self._lock:
            own = {**self._own, **self._new()}
        found = []
        for fd, name in own.items():
            if _name(fd) != name:  # closed since, and the number taken by something else
                continue
            with contextlib.suppress(OSError):
                one = socket.socket(fileno=os.dup(fd))
                try:
                    one.getpeername()
                except OSError:  # a listener, or not connected yet
                    one.close()
                else:
                    found.append(one)
        return [one for one in found if one.family in (socket.AF_INET, socket.AF_INET6)]


def _sockets() -> dict[int, str]:
    """The kernel's name of every socket of this process, by descriptor."""
    if not _FOLDER.exists():
        return {}
    named = {int(one.name): _name(int(one.name)) for one in _FOLDER.iterdir()}
    return {fd: name for fd, name in named.items() if name.startswith("socket:")}


def _name(fd: int) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(_FOLDER / str(fd))
    return ""


def _abort_devices() -> None:
    """NCCL: its communicators have an abort that works, and sockets that are not ours."""
    if dist.is_initialized() and "nccl" in str(dist.get_backend_config()):
        dist.distributed_c10d._abort_process_group()
