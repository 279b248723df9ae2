"""The processes of a pool: a zygote, which stays as it was forked, and the workers it forks.

parent --requests, a pipe a worker--> worker --answers, one pipe--> parent
       --orders, one socket--> zygote --who died and was born--> parent

Messages are shorter than a pipe's atomic write, so that whoever is killed leaves no half of one.
"""

import contextlib
import ctypes
import gc
import os
import selectors
import signal
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass, field
from enum import IntEnum
from mmap import mmap
from typing import Any, NoReturn, final

import torch

from ..errors import CorruptDataError, DataError, TransformError
from .codec import TooLargeError, decode, encode
from .function import Draws, Transform, apply, check_sample

REQUEST = struct.Struct("<IIQq")
"""Slot, ticket, and the two words of the record's randomness, of which the second is its id."""
ANSWER = struct.Struct("<III")
"""Slot, ticket, and an Outcome."""
ORDER = struct.Struct("<iii")
"""A Word, a worker, and what the word says."""

_PR_SET_PDEATHSIG = 1
_WATCH_SECONDS = 0.5
_END_SECONDS = 1.0
# Of a traceback: the end says what happened.
_MOST_TEXT = 16_000


class Outcome(IntEnum):
    """What became of a record."""

    done = 0
    failed = 1


class Word(IntEnum):
    """What parent and zygote say to each other."""

    respawn = 0
    kill = 1
    died = 2
    born = 3


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Wires:
    """Everything that parent, zygote and workers share; made before the first fork."""

    transform: Transform
    memory: mmap
    slot_bytes: int
    requests: list[tuple[int, int]]
    """Of each worker, both ends of its pipe."""
    answers: tuple[int, int]
    orders: tuple[socket.socket, socket.socket]
    """The parent's end and the zygote's."""

    def slot(self, number: int) -> memoryview:
        start = number * self.slot_bytes
        return memoryview(self.memory)[start : start + self.slot_bytes]


def fork_zygote(wires: Wires) -> int:
    """Forks the zygote, which forks the workers at once; its process id."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        die_with(parent)
        _Zygote(wires, parent).run()
    finally:
        os._exit(1)


def die_with(parent: int) -> None:
    """Linux: the kernel kills this process when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel was told
        os._exit(1)


@final
@dataclass(slots=True)
class _Zygote:
    """Forks workers, tells of their ends, and ends with its parent."""

    wires: Wires
    parent: int
    pids: dict[int, int] = field(default_factory=dict)
    """Worker by process id, of those not yet reaped."""

    def run(self) -> NoReturn:
        # A terminal's Ctrl-C and a scheduler's SIGTERM reach the whole group: the parent decides.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        self.wires.orders[0].close()
        for _, writer in self.wires.requests:
            os.close(writer)
        reader, writer = os.pipe()
        for end in (reader, writer):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        gc.freeze()  # collections would write to, and so copy, every page shared with the parent
        for worker in range(len(self.wires.requests)):
            self._spawn(worker)
        with selectors.DefaultSelector() as waiting:
            waiting.register(reader, selectors.EVENT_READ)
            waiting.register(self.wires.orders[1], selectors.EVENT_READ)
            while os.getppid() == self.parent:
                ready = {key.fileobj for key, _ in waiting.select(_WATCH_SECONDS)}
                if reader in ready:
                    os.read(reader, 4096)
                self._reap()
                if self.wires.orders[1] in ready and not self._obey():
                    break
        self._end()

    def _spawn(self, worker: int) -> None:
        own = os.getpid()
        pid = os.fork()
        if not pid:
            try:
                die_with(own)
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _work(self.wires, worker, own)
            finally:
                os._exit(1)
        self.pids[pid] = worker
        self._say(Word.born, worker, pid)

    def _obey(self) -> bool:
        """Follows one order; False where the parent has none any more."""
        message = self.wires.orders[1].recv(ORDER.size, socket.MSG_WAITALL)
        if len(message) < ORDER.size:
            return False
        word, worker, _ = ORDER.unpack(message)
        if word == Word.respawn:
            # What the dead one had not taken yet is sent again by the parent, with all the rest.
            reader = self.wires.requests[worker][0]
            os.set_blocking(reader, False)
            with contextlib.suppress(BlockingIOError):
                while os.read(reader, REQUEST.size):
                    pass
            os.set_blocking(reader, True)
            self._spawn(worker)
        for pid, number in list(self.pids.items()):
            if word == Word.kill and number == worker:
                os.kill(pid, signal.SIGKILL)
        return True

    def _reap(self) -> None:
        for pid in list(self.pids):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self._say(Word.died, self.pids.pop(pid), os.waitstatus_to_exitcode(status))

    def _say(self, word: Word, worker: int, value: int) -> None:
        with contextlib.suppress(OSError):  # a parent that is gone is found by the loop
            self.wires.orders[1].sendall(ORDER.pack(word, worker, value))

    def _end(self) -> NoReturn:
        """Workers end at the end of their requests; those that do not are killed."""
        deadline = time.monotonic() + _END_SECONDS
        while self.pids and os.getppid() == self.parent and time.monotonic() < deadline:
            for pid in list(self.pids):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    del self.pids[pid]
            time.sleep(0.005)
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        os._exit(0)


def _work(wires: Wires, worker: int, zygote: int) -> NoReturn:
    """Answers requests until there are no more."""
    # A transform in C that never comes back is ended by the kernel, and one where the kernel
    # cannot (no Linux) by this thread.
    threading.Thread(target=_watch, args=(zygote,), daemon=True).start()
    # One process a core is the pool's business; and the parent's threads of OpenMP are not here.
    torch.set_num_threads(1)
    draws = Draws()
    wires.orders[1].close()
    while request := os.read(wires.requests[worker][0], REQUEST.size):
        number, ticket, word, record = REQUEST.unpack(request)
        slot = wires.slot(number)
        outcome = _answer(wires.transform, slot, draws, (word, record))
        os.write(wires.answers[1], ANSWER.pack(number, ticket, outcome))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)


def _answer(transform: Transform, slot: memoryview, draws: Draws, key: tuple[int, int]) -> Outcome:
    """Replaces the record in the slot by its sample, or by what went wrong."""
    record = key[1]
    try:
        sample = check_sample(apply(transform, decode(slot), draws, key), record)
        encode(dict(sample), slot, f"the sample of record {record}")
        return Outcome.done
    except CorruptDataError as error:
        said: dict[str, Any] = {"corrupt": [str(error.path), error.found, error.needed, str(error)]}
    except TransformError as error:
        said = {"failed": error.text[-_MOST_TEXT:]}
    except TooLargeError as error:
        said = {"large": error.needed}
    except DataError as error:
        said = {"refused": str(error)[:_MOST_TEXT]}
    except Exception as error:  # a sample that raises where it is looked at
        said = {"failed": f"{type(error).__name__}: {error}"[-_MOST_TEXT:]}
    encode(said, slot, "an error")
    return Outcome.failed


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)
