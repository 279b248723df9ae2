"""A transform in processes of its own: records go there and samples come back by shared memory.

Owns which record is where, and that each is done, whatever becomes of the processes.
"""

import contextlib
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from mmap import mmap
from typing import Any, Self, final

import torch

from ..errors import CorruptDataError, DataError, TransformError
from ..sources.source import Record
from .codec import TooLargeError, decode, encode
from .function import Transform
from .process import ANSWER, ORDER, REQUEST, Outcome, Wires, Word, fork_zygote

_log = logging.getLogger(__name__)
_MOST_DEATHS = 3
# While one is worked on others lie ready: a worker and its parent then wake each other once for
# several records, and the way there and back is hidden.
_DEPTH = 8
_END_SECONDS = 3.0

Put = Callable[[int, int, Any], None]
"""Takes the place, the record's id, and the sample, whose arrays are valid for the call only."""
Task = tuple[tuple[int, int], Record]
"""The key of a record's randomness, of which the second word is its id; and the record."""


@final
@dataclass(slots=True)
class _Given:
    """A record that a worker has."""

    place: int
    task: Task
    worker: int
    ticket: int
    deaths: int = 0


@final
@dataclass(slots=True)
class _Worker:
    pid: int = 0
    """0 where it is not born yet."""
    slots: tuple[int, ...] = ()
    """Of the records it has, the oldest first."""
    since: float = 0.0
    """When it began the oldest."""
    is_late: bool = False


@final
class TransformPool:
    """Runs `transform` in `workers` processes, forked by `open`.

    Open it first of all: before any thread, store, cache or CUDA context exists, as none of these
    outlives a fork whole. Close it after the loaders that read through it. Its processes end
    within two seconds of their parent, however that ends. One that is killed is replaced, and its
    records are done again.

    Args:
        workers: processes; 1 or more.
        slot_bytes: the most that a record or a sample takes. Memory is used where it is written.
        record_seconds: the longest that a record may take.
    """

    def __init__(
        self,
        transform: Transform,
        workers: int,
        *,
        slot_bytes: int = 16 << 20,
        record_seconds: float = 300.0,
    ) -> None:
        if workers < 1 or slot_bytes < 64 << 10 or not record_seconds > 0:
            raise DataError(
                f"TransformPool: found workers={workers}, slot_bytes={slot_bytes} and "
                f"record_seconds={record_seconds}, needed 1 or more, {64 << 10} or more, and more "
                "than 0; set them so"
            )
        self.transform = transform
        self.replaced = 0
        self._slot_bytes = slot_bytes
        self._record_seconds = record_seconds
        self._workers = [_Worker() for _ in range(workers)]
        self._given: dict[int, _Given] = {}
        self._failures: dict[int, Exception] = {}
        self._tickets = 0
        self._wires: Wires | None = None
        self._waiting = select.poll()
        self._zygote = 0
        self._owner = 0
        self._lock = threading.Lock()

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers, as far as they are known."""
        return [worker.pid for worker in self._workers if worker.pid]

    def open(self) -> Self:
        """Forks the processes; returns itself, for `with`.

        Raises:
            DataError: other threads run in this process, or it has used CUDA.
        """
        self.close()
        others = [
            one.name for one in threading.enumerate() if one is not threading.current_thread()
        ]
        if others or torch.cuda.is_initialized():
            found = f"the threads {', '.join(others)}" if others else "a CUDA context"
            raise DataError(
                f"TransformPool.open: found {found} in this process, needed none, as they do not "
                "live on in forked processes; open the pool first of all, before data is opened "
                "and devices are used"
            )
        count = len(self._workers)
        self._workers = [_Worker() for _ in range(count)]
        self._wires = Wires(
            transform=self.transform,
            memory=mmap(-1, count * _DEPTH * self._slot_bytes),
            slot_bytes=self._slot_bytes,
            requests=[os.pipe() for _ in range(count)],
            answers=os.pipe(),
            orders=socket.socketpair(),
        )
        self._owner = os.getpid()
        self._zygote = fork_zygote(self._wires)
        for reader, _ in self._wires.requests:
            os.close(reader)
        self._wires.orders[1].close()
        os.set_blocking(self._wires.answers[0], False)
        self._waiting = select.poll()
        self._waiting.register(self._wires.answers[0], select.POLLIN)
        self._waiting.register(self._wires.orders[0], select.POLLIN)
        return self

    def run(self, tasks: Iterable[Task], put: Put) -> None:
        """Gives every task to a worker and every sample to `put`, in whatever order they are done.

        Blocks until none is left. One call at a time; others wait.

        Raises:
            TransformError: a transform raised, took too long, or died three times over.
            CorruptDataError: a transform said so of its record.
            DataError: a record or a sample is too large, or of a type that cannot cross; or what
                `put` raises. Of several errors, that of the first task.
            RuntimeError: the pool is not open in this process, or its zygote is gone.
        """
        with self._lock:
            wires = self._opened()
            self._failures = {}
            try:
                for place, task in enumerate(tasks):
                    while (worker := self._idlest()) is None:
                        self._serve(wires, put)
                    if self._failures:
                        break
                    self._submit(wires, place, task, worker)
            finally:
                # Whatever ends this call, the next one finds all slots free.
                while self._given:
                    self._serve(wires, put)
            if self._failures:
                raise self._failures[min(self._failures)]

    def close(self) -> None:
        """Ends the processes; safe twice. Waits for at most a few seconds."""
        wires, self._wires = self._wires, None
        if wires is None:
            return
        for _, writer in wires.requests:
            os.close(writer)
        for end in wires.answers:
            os.close(end)
        if self._owner == os.getpid():
            # Closing alone says nothing where a fork of this process still has it open.
            with contextlib.suppress(OSError):
                wires.orders[0].shutdown(socket.SHUT_RDWR)
        wires.orders[0].close()
        zygote, self._zygote = self._zygote, 0
        if self._owner == os.getpid():
            _reap(zygote, time.monotonic() + _END_SECONDS)

    def __enter__(self) -> Self:
        return self if self._wires is not None else self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _opened(self) -> Wires:
        if self._wires is None or self._owner != os.getpid():
            where = "closed" if self._wires is None else f"opened by process {self._owner}"
            raise RuntimeError(
                f"the transform pool: found it {where}, needed it open in this process "
                f"({os.getpid()}); call open() here, before any thread is started"
            )
        return self._wires

    def _idlest(self) -> int | None:
        """The worker that has the fewest records; None where all have enough."""
        free = [
            (len(worker.slots), number)
            for number, worker in enumerate(self._workers)
            if worker.pid and len(worker.slots) < _DEPTH
        ]
        return min(free)[1] if free else None

    def _submit(self, wires: Wires, place: int, task: Task, number: int) -> None:
        worker = self._workers[number]
        own = range(number * _DEPTH, (number + 1) * _DEPTH)
        slot = next(one for one in own if one not in worker.slots)
        given = _Given(place, task, number, 0)
        self._given[slot] = given
        if not worker.slots:
            worker.since = time.monotonic()
        worker.slots = (*worker.slots, slot)
        self._send(wires, slot, given)

    def _send(self, wires: Wires, slot: int, given: _Given) -> None:
        (word, record), values = given.task
        self._tickets = given.ticket = (self._tickets + 1) % 2**32
        try:
            encode(values, wires.slot(slot), f"record {record}")
        except TooLargeError as error:
            self._fail(slot, _too_large("record", record, error.needed, self._slot_bytes))
        except DataError as error:
            self._fail(slot, error)
        else:
            message = REQUEST.pack(slot, given.ticket, word, record)
            os.write(wires.requests[given.worker][1], message)

    def _serve(self, wires: Wires, put: Put) -> None:
        """Waits for something to happen, and takes it in."""
        milliseconds = min(1000.0, self._record_seconds * 250)
        ready = [number for number, _ in self._waiting.poll(milliseconds)]
        if wires.answers[0] in ready:
            self._take_answers(wires, put)
        if wires.orders[0].fileno() in ready:
            self._take_news(wires, put)
        late = time.monotonic() - self._record_seconds
        for number, worker in enumerate(self._workers):
            if worker.slots and worker.pid and worker.since < late and not worker.is_late:
                worker.is_late = True
                wires.orders[0].sendall(ORDER.pack(Word.kill, number, 0))

    def _take_answers(self, wires: Wires, put: Put) -> None:
        with contextlib.suppress(BlockingIOError):
            content = os.read(wires.answers[0], 1024 * ANSWER.size)
            for slot, ticket, outcome in ANSWER.iter_unpack(content):
                given = self._given.get(slot)
                if given is not None and given.ticket == ticket:
                    self._take(wires.slot(slot), slot, given, Outcome(outcome), put)

    def _take(
        self, memory: memoryview, slot: int, given: _Given, outcome: Outcome, put: Put
    ) -> None:
        record = given.task[0][1]
        sample = decode(memory, copy=False)
        if outcome is Outcome.failed:
            self._fail(slot, _error_of(sample, record, self._slot_bytes))
            return
        self._release(slot)
        try:
            put(given.place, record, sample)
        except DataError as error:
            self._failures[given.place] = error

    def _take_news(self, wires: Wires, put: Put) -> None:
        message = wires.orders[0].recv(ORDER.size, socket.MSG_WAITALL)
        if len(message) < ORDER.size:
            self._given.clear()
            raise RuntimeError(
                "the transform pool: found its first process gone, needed it to go on; close the "
                "pool and start the run again"
            )
        word, number, value = ORDER.unpack(message)
        worker = self._workers[number]
        if word == Word.born:
            worker.pid, worker.since = value, time.monotonic()
            for slot in worker.slots:
                self._send(wires, slot, self._given[slot])
            return
        # All that it still answered lies in the pipe by now.
        self._take_answers(wires, put)
        self._bury(worker, value)
        wires.orders[0].sendall(ORDER.pack(Word.respawn, number, 0))

    def _bury(self, worker: _Worker, status: int) -> None:
        pid, worker.pid = worker.pid, 0
        is_late, worker.is_late = worker.is_late, False
        self.replaced += 1
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"
        _log.warning("a transform's process %s ended by %s; it is replaced", pid, how)
        if not worker.slots:
            return
        slot = worker.slots[0]
        given = self._given[slot]
        given.deaths += 1
        record = given.task[0][1]
        if is_late:
            said = f"no sample after {self._record_seconds} s (record_seconds)"
            self._fail(slot, TransformError(record, said))
        elif given.deaths == _MOST_DEATHS:
            said = f"its process ended by {how}, {_MOST_DEATHS} times in a row"
            self._fail(slot, TransformError(record, said))

    def _fail(self, slot: int, error: Exception) -> None:
        self._failures[self._given[slot].place] = error
        self._release(slot)

    def _release(self, slot: int) -> None:
        worker = self._workers[self._given.pop(slot).worker]
        worker.slots = tuple(one for one in worker.slots if one != slot)
        worker.since = time.monotonic()


def _error_of(said: dict[str, Any], record: int, slot_bytes: int) -> Exception:
    [(word, facts)] = said.items()
    if word == "corrupt":
        path, found, needed, message = facts
        remedy = message.partition(f"needed {needed}; ")[2]
        return CorruptDataError(path, found, needed, remedy)
    if word == "large":
        return _too_large("sample", record, facts, slot_bytes)
    return DataError(facts) if word == "refused" else TransformError(record, facts)


def _too_large(what: str, record: int, needed: int, slot_bytes: int) -> DataError:
    return DataError(
        f"TransformPool slot_bytes: found a {what} of record {record} that takes {needed} bytes, "
        f"needed {slot_bytes} at most; set slot_bytes={1 << needed.bit_length()}"
    )


def _reap(pid: int, deadline: float) -> None:
    """Waits for a child until the deadline, and then kills it."""
    with contextlib.suppress(ChildProcessError, ProcessLookupError):
        while not os.waitpid(pid, os.WNOHANG)[0]:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return
            time.sleep(0.002)
