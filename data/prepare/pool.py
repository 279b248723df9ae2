"""Processes that share the numbered work of a job. Passes numbers and verdicts, never data."""

import json
import os
import selectors
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, final

from ..errors import DataError
from .job import Job
from .worker import Runner, die_with, serve

Done = Callable[[int], None]
_TASKS = Path("/proc/self/task")
_LISTEN_SECONDS = 0.5


@dataclass(slots=True)
class _Worker:
    pid: int
    orders: IO[bytes]
    verdicts: IO[bytes]
    order: tuple[str, int] | None = None


@final
class Pool:
    """Workers of one job; with one worker the work is done in this process."""

    def __init__(self, job: Job, workers: int) -> None:
        self._job = job
        self._count = workers
        self._workers: list[_Worker] = []

    @contextmanager
    def started(self) -> Iterator["Pool"]:
        """Starts the workers, and ends them by their process ids however the body ends.

        They are forked where this process has one thread, since locks that another holds stay
        locked in a fork; else they are started anew, which takes seconds.
        """
        try:
            if self._count > 1:
                self._job.save()
                start = self._fork if _has_one_thread() else self._spawn
                for _ in range(self._count):
                    self._workers.append(start())
            yield self
        finally:
            self.close()

    def close(self) -> None:
        """Ends all workers at once: a result that is half done has not been published."""
        for worker in self._workers:
            os.kill(worker.pid, signal.SIGKILL)
            os.waitpid(worker.pid, 0)
            worker.orders.close()
            worker.verdicts.close()
        self._workers = []

    def run(self, stage: str, numbers: list[int], done: Done) -> None:
        """Makes the results, in any order; `done` is called here with each number, and every half
        a second with -1.

        Raises:
            DataError: the text or a setting cannot be used.
            OSError: a file cannot be read or written, or a worker was killed.
        """
        if not self._workers:
            runner = Runner(self._job, is_alone=True)
            for number in numbers:
                runner.run(stage, number)
                done(number)
            return
        waiting, busy = numbers[::-1], 0
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.verdicts, selectors.EVENT_READ, worker)
                busy += self._order(worker, stage, waiting)
            while busy:
                for key, _ in selector.select(_LISTEN_SECONDS):
                    done(_verdict(key.data))
                    busy += self._order(key.data, stage, waiting) - 1
                done(-1)

    def _order(self, worker: _Worker, stage: str, waiting: list[int]) -> int:
        """Gives the next number, and returns how many were given."""
        if not waiting:
            return 0
        number = waiting.pop()
        worker.order = (stage, number)
        try:
            worker.orders.write(f"{stage} {number}\n".encode())
            worker.orders.flush()
        except BrokenPipeError as error:
            raise _gone(worker) from error
        return 1

    def _fork(self) -> _Worker:
        orders_out, orders_in = os.pipe()
        verdicts_out, verdicts_in = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid:
            os.close(orders_out)
            os.close(verdicts_in)
            return _Worker(pid, os.fdopen(orders_in, "wb"), os.fdopen(verdicts_out, "rb"))
        status = 1
        try:
            die_with(parent)
            # An end of a pipe that stays open here would keep another worker waiting for ever.
            for other in self._workers:
                os.close(other.orders.fileno())
                os.close(other.verdicts.fileno())
            os.close(orders_in)
            os.close(verdicts_out)
            serve(self._job, os.fdopen(orders_out, "rb"), os.fdopen(verdicts_in, "wb"))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _spawn(self) -> _Worker:
        module = f"{__name__.rpartition('.')[0]}.worker"
        code = f"from {module} import main; main()"
        arguments = [sys.executable, "-c", code, str(self._job.work), str(os.getpid())]
        orders_out, orders_in = os.pipe()
        verdicts_out, verdicts_in = os.pipe()
        process = subprocess.Popen(arguments, stdin=orders_out, stdout=verdicts_in)
        os.close(orders_out)
        os.close(verdicts_in)
        # The pool waits for it by its id, and Popen must not.
        process.returncode = 0
        return _Worker(process.pid, os.fdopen(orders_in, "wb"), os.fdopen(verdicts_out, "rb"))


def _has_one_thread() -> bool:
    """Whether no other thread runs here, those that no Python knows of included."""
    return _TASKS.exists() and len(list(_TASKS.iterdir())) == 1


def _verdict(worker: _Worker) -> int:
    """The number that a worker has done, or raises what it says."""
    line = worker.verdicts.readline()
    if not line.endswith(b"\n"):
        raise _gone(worker)
    said = json.loads(line)
    if "done" in said:
        return int(said["done"])
    if said["kind"] == "data":
        raise DataError(said["text"])
    if said["kind"] == "os":
        raise OSError(said["errno"], said["text"])
    raise RuntimeError(f"a worker at {_said(worker)} failed:\n{said['text']}")


def _gone(worker: _Worker) -> ChildProcessError:
    return ChildProcessError(
        f"data.prepare.workers: found worker {worker.pid} gone at {_said(worker)}, needed it to "
        "finish (a machine short of memory ends processes); run the same command again, with fewer "
        "workers if need be, and it goes on from what is done"
    )


def _said(worker: _Worker) -> str:
    return "no work" if worker.order is None else f"part {worker.order[1]} of {worker.order[0]}"
