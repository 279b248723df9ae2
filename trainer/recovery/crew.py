"""The training processes of one rank: the one that trains, and a spare that waits to take its
place. It takes no decision."""

import select
import socket
from collections.abc import Callable, Sequence
from typing import Any, final

from .heartbeat import Page
from .line import Order
from .warm import WarmServer
from .worker import Message, Worker

_SELECT_SECONDS = 0.25


@final
class Crew:
    """Workers forked by one warm server, with the slots that they fill.

    Args:
        slot_fds: descriptors that each of them gets.
        has_spare: whether one is forked ahead.
        proves: whether the first of those tries out if a process can be thrown out of a collective;
            one crew of a node does.
        hear: as of a Worker.
    """

    def __init__(
        self,
        server: WarmServer,
        page: Page,
        slot_fds: Sequence[int],
        *,
        has_spare: bool,
        proves: bool,
        hear: Callable[[Message], None],
    ) -> None:
        self.server = server
        self.page = page
        self.slot_fds = list(slot_fds)
        self.has_spare = has_spare
        self.proves = proves
        self.hear = hear
        self.has_disproved = False
        """Whether it was found that none can."""
        self.worker: Worker | None = None
        self.spare: Worker | None = None
        self._ending: list[Worker] = []

    def begin(self, order: Order) -> Worker:
        """Has the worker that waits take part in the order's generation; else the spare, else one
        that is forked now."""
        if self.worker is None:
            self.worker, self.spare = self.spare or self._forked(), None
        self.worker.begin(order)
        return self.worker

    def prepare_spare(self, *, proves: bool) -> None:
        """Forks the next worker ahead, if there is none; takes some milliseconds.

        Args:
            proves: whether this is the time to try out what is to be tried out.
        """
        if self.has_spare and self.spare is None:
            self.spare = self._forked()
            if proves and self.proves:
                self.spare.prove()
                self.proves = False
            self.spare.warm_up()  # last: who has other threads cannot fork, as a proof does

    def dismiss(self) -> None:
        """Kills the worker, and waits until it is no more: the next must not meet it."""
        worker, self.worker = self.worker, None
        if worker is None:
            return
        self._ending.append(worker)
        while worker.exit_code is None:
            worker.kill()
            select.select([self.server.channel], [], [], 0.01)
            self.listen()
        self._ending.remove(worker)
        worker.close()

    def listen(self) -> None:
        """Takes in what was said and who ended; never blocks."""
        for exited in self.server.exits():
            for one in self._all():
                if one.pid == exited.pid:
                    one.listen()
                    one.exit_code = exited.code
        for one in self._all():
            one.listen()
            self.has_disproved |= one.takes_no_call()
        if self.spare is not None and self.spare.exit_code is not None:
            self.spare.close()
            self.spare = None

    def wait(self, others: Sequence[Any], seconds: float = _SELECT_SECONDS) -> None:
        """Sleeps until there is something to listen to, there or on other descriptors."""
        speakers = [fd for one in (self.worker, self.spare) if one for fd in one.speaker]
        select.select([self.server.channel, *speakers, *others], [], [], max(0.0, seconds))

    def close(self) -> None:
        """Ends all of them, and the server; safe twice."""
        for one in self._all():
            one.kill()
        self.server.close()
        for one in self._all():
            one.channel.close()
        self.worker = self.spare = None

    def _all(self) -> list[Worker]:
        return [one for one in (self.worker, self.spare, *self._ending) if one is not None]

    def _forked(self) -> Worker:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                pid = self.server.fork([self.page.fd, theirs.fileno(), *self.slot_fds])
        except BaseException:
            mine.close()
            raise
        return Worker(self.page, pid=pid, channel=mine, hear=self.hear)
