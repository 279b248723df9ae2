"""One worker as its guardian sees it: started, heard, waited for, killed. It takes no decision."""

import contextlib
import json
import logging
import os
import select
import signal
import time
from typing import Any

from .heartbeat import Beat, Page, Phase
from .verdict import Cause, Ended
from .warm import Order, WarmServer

log = logging.getLogger(__name__)

# Often enough to notice what another guardian says, seldom enough to leave the cores to workers.
_LOOK_SECONDS = 0.1


class Worker:
    """The training process of one generation. Final; made by `start`, ended by `kill`."""

    def __init__(
        self, server: WarmServer, page: Page, *, pid: int, generation: int, report_fd: int
    ) -> None:
        self.server = server
        self.page = page
        self.pid = pid
        self.generation = generation
        self.report_fd = report_fd
        self.exit_code: int | None = None
        self.error: dict[str, str] = {}
        self.first_step: int | None = None
        self._buffer = b""
        self._is_talking = True

    @classmethod
    def start(cls, server: WarmServer, page: Page, order: Order) -> "Worker":
        """Has the warm server fork a worker for the order's generation."""
        read_fd, write_fd = os.pipe()
        os.set_blocking(read_fd, False)
        page.reset()
        pid = server.fork(order, page, write_fd)
        os.close(write_fd)
        return cls(server, page, pid=pid, generation=int(order["generation"]), report_fd=read_fd)

    def listen(self) -> None:
        """Takes in what the worker said and whether it ended; never blocks."""
        with contextlib.suppress(BlockingIOError):
            said = os.read(self.report_fd, 65536)
            self._is_talking = bool(said)  # nothing at all: its end of the pipe is closed
            self._buffer += said
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message["kind"] == "error":
                self.error = message
            elif message["kind"] == "stepped":
                self.first_step = int(message["step"])
        for exited in self.server.exits():
            if exited.pid == self.pid:
                self.exit_code = exited.code

    def wait(self) -> None:
        """Sleeps until there is something to listen to, or it is time to look at the store."""
        speakers: list[Any] = [self.server.channel]
        if self._is_talking:
            speakers.append(self.report_fd)
        select.select(speakers, [], [], _LOOK_SECONDS)

    def late(self, hang_seconds: float) -> Beat | None:
        """The last heartbeat, where it is older than a hang is allowed to be; 0 means never.
        Preparing data may take as long as it takes."""
        beat = self.page.read()
        is_late = 0 < hang_seconds < beat.age_seconds and beat.phase != Phase.prepare
        return beat if is_late and self.exit_code is None else None

    def ended(self, late: Beat | None) -> Ended:
        """How it ended, or that it hangs; call it once either is known."""
        self.listen()
        cause, reason = Cause.killed, _signal_name(self.exit_code)
        if self.error:
            cause, reason = Cause(self.error["cause"]), self.error["reason"]
        elif late is not None:
            cause = Cause.hung
            reason = f"no heartbeat for {late.age_seconds:.1f} s in phase {late.phase.name}"
        return Ended(
            cause=cause,
            generation=self.generation,
            step=self.page.read().step,
            has_stepped=self.first_step is not None,
            reason=reason,
            trace=self.error.get("trace", ""),
        )

    def dump_stacks(self) -> None:
        """Has the worker write all its Python stacks to standard error; takes 0.2 s."""
        try:
            os.kill(self.pid, signal.SIGUSR2)
            time.sleep(0.2)
        except ProcessLookupError:
            log.debug("worker %d is gone already", self.pid)

    def kill(self) -> None:
        """SIGKILL, and no way back: the next generation must not meet this worker."""
        while self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.001)
            self.listen()
        os.close(self.report_fd)


def _signal_name(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
