"""The process that feeds a run's sinks, and its keeper, which begins it again when it dies. Both
end with the guardian; neither was ever in a collective, touched a device or saw a weight.

    guardian, still of one thread --fork--> keeper, of one thread --fork--> feeder, a thread a sink
"""

import contextlib
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO, final

from ...recovery.signals import StopSignals
from ...recovery.warm import die_with_parent, name_process, never_return
from ..events import Events
from .choose import maker
from .config import SinkSettings
from .feed import Feed
from .place import FOLDER
from .sink import Ending, RunFacts

_MESSAGE_BYTES = 2**20
_LONGEST_BACKOFF = 30.0
# Beyond the grace that the feeder itself keeps to.
_LAST_SECONDS = 2.0
_NICE = 10
# Libraries that tell of each failed try what is said once already.
_CHATTY = ("alembic", "mlflow", "opentelemetry", "openlineage", "urllib3", "wandb")

Feeding = Callable[[RunFacts, socket.socket], int]


@final
class SinkProcess:
    """The guardian's end. Nothing that happens to the processes reaches it as an error."""

    def __init__(self, pid: int, channel: socket.socket, grace_seconds: float) -> None:
        self._pid = pid
        self._channel = channel
        self._grace_seconds = grace_seconds
        self._has_begun = False

    @classmethod
    def start(cls, settings: SinkSettings, *, speaks: bool) -> "SinkProcess | None":
        """Forks the keeper from this process, which must run one thread only; None where no sink
        is asked for.

        Args:
            speaks: whether failures of sinks are said on standard output too.
        """
        if not settings.sinks:
            return None
        if (count := threading.active_count()) > 1:
            sys.stderr.write(
                f"keepstep: telemetry.sinks: found {count} threads in this process, needed one to "
                "fork from; keepstep publish RUN shows the run once it is over\n"
            )
            return None
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            mine.close()
            work = feeding(settings, speaks=speaks)
            never_return(lambda: _keep(theirs, parent, work))
        theirs.close()
        return cls(pid, mine, settings.feed.grace_seconds)

    def begin(self, run: RunFacts) -> None:
        """The run's folder is there and this job's: its files may be followed."""
        self._has_begun = True
        self._send({"run": {**asdict(run), "folder": str(run.folder)}})

    def end(self, ending: Ending) -> None:
        """Waits until all is delivered, for the grace at most or until a stop signal, and ends the
        processes; safe twice; main thread only. The run's folder must be this job's until then."""
        if self._has_begun:
            self._has_begun = False
            self._send({"ending": ending})
            # What is asked to end a second time must not lose its exit code over this.
            with StopSignals() as signals:
                waiting: list[Any] = [self._channel, signals.wake_fd]
                select.select(waiting, [], [], self._grace_seconds + _LAST_SECONDS)
        self._channel.close()
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._channel.send(json.dumps(message, default=str).encode())


def feeding(settings: SinkSettings, *, speaks: bool) -> Feeding:
    """The body of a feeder: follows the files until it hears of the end; its exit code is 0 where
    every sink has all."""

    def feed(run: RunFacts, channel: socket.socket) -> int:
        console = _own_output(run.folder)
        events = Events(run.folder, rank=0)

        def tell(name: str, reason: str | None) -> None:
            kind = "sink_failed" if reason else "sink_back"
            with contextlib.suppress(OSError):
                events.write(kind, step=None, generation=0, sink=name, reason=reason)
            say(f"{name} fails and is tried again: {reason}" if reason else f"{name} is back")

        def say(words: str) -> None:
            if speaks:
                with contextlib.suppress(OSError):  # nobody reads it any more
                    console.write(f"{words}\n")
                    console.flush()

        feeds = [
            Feed(
                name,
                maker(name, settings),
                run,
                tell=tell,
                every_seconds=settings.feed.every_seconds,
            )
            for name in settings.sinks
        ]
        for one in feeds:
            one.start()
        ending = Ending(json.loads(channel.recv(_MESSAGE_BYTES))["ending"])
        return deliver(feeds, ending, seconds=settings.feed.grace_seconds, say=say)

    return feed


def deliver(
    feeds: list[Feed], ending: Ending, *, seconds: float, say: Callable[[str], None]
) -> int:
    """Waits until every feed is through, so long at most; 1 where one is not."""
    deadline = time.monotonic() + seconds
    for one in feeds:
        one.end(ending)
    for one in feeds:
        one.join(max(0.0, deadline - time.monotonic()))
    late = [one.sink_name for one in feeds if one.is_alive()]
    if late:
        say(
            f"{', '.join(late)}: not all was delivered within telemetry.feed.grace_seconds="
            f"{seconds:g}; keepstep publish RUN sends the rest"
        )
    return int(bool(late))


def _keep(channel: socket.socket, guardian: int, feed: Feeding) -> int:
    """The keeper's life: a feeder always runs, until one has come to the end by itself."""
    name_process("keepstep-sinks")
    os.setsid()  # a launcher's signals to its process group are the guardian's business
    die_with_parent(guardian)
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(name, signal.SIG_IGN)
    if not (raw := channel.recv(_MESSAGE_BYTES)):
        return 1
    told = json.loads(raw)["run"]
    run, ending, deaths = RunFacts(**{**told, "folder": Path(told["folder"])}), b"", 0
    while True:
        line, pid = _fork_feeder(run, feed, channel)
        with line:
            if ending:
                line.send(ending)
            while line not in (
                ready := select.select([line, *[channel] * (not ending)], [], [])[0]
            ):
                assert channel in ready
                if not (ending := channel.recv(_MESSAGE_BYTES)):
                    return 1  # which ends the feeder too
                with contextlib.suppress(OSError):  # it has just died
                    line.send(ending)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if ending and code >= 0:
            return code
        deaths += 1
        select.select([] if ending else [channel], [], [], min(_LONGEST_BACKOFF, 2.0**deaths / 4))


def _fork_feeder(run: RunFacts, feed: Feeding, channel: socket.socket) -> tuple[socket.socket, int]:
    """The keeper's end of the line to it, readable once it has ended, and its pid."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    keeper, pid = os.getpid(), os.fork()
    if pid == 0:
        die_with_parent(keeper)
        name_process("keepstep-feed")
        mine.close()
        channel.close()
        os.nice(_NICE)
        never_return(lambda: feed(run, theirs))
    theirs.close()
    return mine, pid


def _own_output(folder: Path) -> TextIO:
    """Sends what libraries write to a file of the run's folder; answers where a person reads."""
    (folder / FOLDER).mkdir(exist_ok=True)
    console = os.fdopen(os.dup(1), "w")
    log = os.open(folder / FOLDER / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    warnings.simplefilter("ignore")  # of these libraries there, to which nobody here can listen
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    return console
