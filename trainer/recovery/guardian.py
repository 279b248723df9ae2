"""The guardian of one rank: starts its worker, watches it, agrees with the other guardians when a
generation is over, and starts the next. It never touches an accelerator nor the training state."""

import contextlib
import json
import logging
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..config import RecoveryConfig
from ..errors import StoppedError
from ..telemetry.events import Events
from .generation import Failure, Generations
from .heartbeat import Page, Phase
from .ledger import backoff_seconds, recoveries_exceeded
from .signals import StopSignals
from .verdict import (
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_PREEMPTED,
    EXIT_WRONG,
    Cause,
    Ended,
    is_bug,
)
from .warm import WarmServer

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.01
_LOOK_SECONDS = 0.05
_MEET_SECONDS = 60.0
# After a stop signal: a launcher that ends a job because a guardian died signals the others too.
_HURRIED_MEET_SECONDS = 5.0
# An error that follows from a peer's death arrives before that peer's own guardian has spoken; the
# reporter of a consequence waits this long for the cause.
_CAUSE_SECONDS = 2.0


@dataclass(slots=True)
class Worker:
    """One worker as its guardian sees it."""

    pid: int
    generation: int
    report_fd: int
    exit_code: int | None = None
    error: dict[str, str] = field(default_factory=dict)
    has_stepped: bool = False
    buffer: bytes = b""
    is_talking: bool = True
    """Whether the report pipe is still open at the worker's end."""


class Guardian:
    """Final. `run` blocks for the whole job and answers its exit code."""

    def __init__(
        self,
        config: RecoveryConfig,
        server: WarmServer,
        generations: Generations,
        order: dict[str, int | str | float],
        events: Events,
        say: Callable[[str], None],
    ) -> None:
        self.order = order
        self.config = config
        self.server = server
        self.generations = generations
        self.events = events
        self.say = say
        self.page = Page.create()
        self.ended: list[Ended] = []
        self.raised_at: list[float] = []

    def run(self) -> int:
        """Lives through generations until the job is over. Blocks; main thread only."""
        try:
            with StopSignals() as signals:
                return self._run(signals)
        except StoppedError as error:
            self.generations.end(EXIT_FAILED, str(error))
            return EXIT_FAILED

    def _run(self, signals: StopSignals) -> int:
        generation = 0
        while True:
            code = self._meet(generation, signals)
            if code is None:
                self._recall(generation - 1)
                code = self._live(generation, signals)
            if code is not None:
                return code
            generation += 1
            self.raised_at.append(time.monotonic())

    def close(self) -> None:
        """Ends the warm server and any worker; safe twice."""
        self.server.close()
        self.page.close()

    def _meet(self, generation: int, signals: StopSignals) -> int | None:
        """Waits until every guardian has no worker left of an earlier generation."""
        now = time.monotonic()
        begin = now + backoff_seconds(self.raised_at, now=now)
        seconds = _MEET_SECONDS
        has_come = False
        while True:
            if not has_come and (signals.count or time.monotonic() >= begin):
                self.generations.arrive("ready", generation)
                has_come, begin = True, time.monotonic()
            has_all = has_come and self.generations.all_arrived("ready", generation)
            _, end = self.generations.look()  # after all came, so that nobody begins what is over
            if end is not None:
                return end.code
            if has_all:
                return None
            if signals.count:
                seconds = _HURRIED_MEET_SECONDS
            if has_come and time.monotonic() > begin + seconds:
                self._miss(generation, seconds)
            time.sleep(_POLL_SECONDS)

    def _miss(self, generation: int, seconds: float) -> None:
        missing = self.generations.missing("ready", generation)
        self.generations.end(
            EXIT_FAILED,
            f"generation {generation}: found no guardian of ranks {missing} for {seconds:.0f} s, "
            "needed all of them; start the same command again: the newest checkpoint is taken",
        )

    def _recall(self, generation: int) -> None:
        """Takes in how the workers of all ranks ended in a generation that is over."""
        for failure in self.generations.failures(generation):
            ended = Ended(
                cause=Cause(failure.cause),
                generation=generation,
                step=failure.step,
                has_stepped=True,
                reason=failure.reason,
            )
            self.ended.append(ended)

    def _live(self, generation: int, signals: StopSignals) -> int | None:
        """One generation: None when the next one is to be begun, else the job's exit code."""
        worker = self._start(generation)
        stop_by: float | None = None
        try:
            while True:
                self._listen(worker)
                number, end = self.generations.look()
                if end is not None:
                    return end.code
                if number > generation:
                    return None
                if signals.count and stop_by is None:
                    stop_by = time.monotonic() + self.config.grace_seconds
                    self.page.request_stop()
                if signals.count > 1 or (stop_by and time.monotonic() > stop_by):
                    self.generations.end(EXIT_FAILED, self._unsaved(signals))
                elif worker.exit_code in (EXIT_FINISHED, EXIT_PREEMPTED):
                    self.generations.arrive("done", generation)
                    if self.generations.all_arrived("done", generation):
                        return worker.exit_code
                elif (ended := self._how_it_ended(worker)) is not None:
                    self._pass_sentence(ended)
                self._wait(worker)
        finally:
            self._kill(worker)

    def _unsaved(self, signals: StopSignals) -> str:
        grace = f"found nothing saved within recovery.grace_seconds={self.config.grace_seconds:g}"
        found = "found it a second time" if signals.count > 1 else grace
        return (
            f"{signals.name}: {found}, needed time to save; start the same command again: the "
            "newest checkpoint is taken"
        )

    def _start(self, generation: int) -> Worker:
        read_fd, write_fd = os.pipe()
        os.set_blocking(read_fd, False)
        self.page.reset()
        pid = self.server.fork({**self.order, "generation": generation}, self.page, write_fd)
        os.close(write_fd)
        return Worker(pid=pid, generation=generation, report_fd=read_fd)

    def _listen(self, worker: Worker) -> None:
        """Takes in what the worker said and whether it ended."""
        with contextlib.suppress(BlockingIOError):
            said = os.read(worker.report_fd, 65536)
            worker.is_talking = bool(said)
            worker.buffer += said
        *lines, worker.buffer = worker.buffer.split(b"\n")
        for line in lines:
            self._hear(worker, json.loads(line))
        for exited in self.server.exits():
            if exited.pid == worker.pid:
                worker.exit_code = exited.code

    def _wait(self, worker: Worker) -> None:
        """Sleeps until the worker or the warm server says something, or it is time to look at the
        store again: often enough to notice, seldom enough to leave the cores to the workers."""
        speakers: list[Any] = [self.server.channel]
        if worker.is_talking:
            speakers.append(worker.report_fd)
        select.select(speakers, [], [], _LOOK_SECONDS)

    def _hear(self, worker: Worker, message: dict[str, str]) -> None:
        if message["kind"] == "error":
            worker.error = message
        elif message["kind"] == "stepped":
            worker.has_stepped = True
            if worker.generation > 0 and self.events.rank == 0:
                failures = self.generations.failures(worker.generation - 1)
                seconds = round(time.time() - min(failure.time for failure in failures), 3)
                self.events.write(
                    "recovery",
                    step=int(message["step"]),
                    generation=worker.generation,
                    seconds=seconds,
                )
                self.say(
                    f"recovered: generation {worker.generation}, {seconds} s after the failure"
                )

    def _how_it_ended(self, worker: Worker) -> Ended | None:
        """None while the worker lives."""
        beat = self.page.read()
        seconds = self.config.hang_seconds
        late = 0 < seconds < beat.age_seconds and beat.phase != Phase.prepare
        if worker.exit_code is None and not late:
            return None
        self._listen(worker)
        cause, reason = Cause.killed, _signal_name(worker.exit_code)
        if worker.error:
            cause, reason = Cause(worker.error["cause"]), worker.error["reason"]
        elif worker.exit_code is None:
            cause = Cause.hung
            reason = f"no heartbeat for {beat.age_seconds:.1f} s in phase {beat.phase.name}"
            moment = time.time() - beat.age_seconds
            self.generations.note_late(worker.generation, (beat.step, beat.phase), moment)
            self._dump_stacks(worker)
        return Ended(
            cause=cause,
            generation=worker.generation,
            step=beat.step,
            has_stepped=worker.has_stepped,
            reason=reason,
            trace=worker.error.get("trace", ""),
        )

    def _pass_sentence(self, ended: Ended) -> None:
        """Decides what a worker's end means for the job, and tells the other guardians."""
        if self._is_consequence(ended) and self._cause_comes(ended.generation):
            return None
        self.events.write(
            "hang" if ended.cause == Cause.hung else "failure",
            step=ended.step,
            generation=ended.generation,
            cause=str(ended.cause),
            reason=ended.reason,
        )
        if ended.cause == Cause.setting:
            return self.generations.end(EXIT_WRONG, ended.reason)
        if ended.cause == Cause.stopped:
            return self.generations.end(EXIT_FAILED, ended.reason)
        now = time.monotonic()
        if is_bug(ended, self.ended):
            reason = f"rank {self.generations.rank}, step {ended.step}: {ended.reason}"
            return self.generations.end(EXIT_FAILED, f"{reason}\n{ended.trace}".rstrip())
        if recoveries_exceeded(self.raised_at, now=now, limit=self.config.max_recoveries):
            return self.generations.end(EXIT_FAILED, self._too_many(ended))
        failure = Failure(
            rank=self.generations.rank,
            step=ended.step,
            cause=str(ended.cause),
            reason=ended.reason,
            time=time.time(),
        )
        if self.generations.raise_from(ended.generation, failure):
            self.say(
                f"rank {failure.rank} failed at step {ended.step} ({ended.reason}); recovering"
            )
        return None

    def _too_many(self, ended: Ended) -> str:
        limit = self.config.max_recoveries
        return (
            f"recovery.max_recoveries: found more than {limit} failures within an hour, needed at "
            f"most {limit}; mend the cause of the last ({ended.reason} on rank "
            f"{self.generations.rank}, step {ended.step}) and start the same command again"
        )

    def _is_consequence(self, ended: Ended) -> bool:
        """Whether another rank is at fault: all hang in a collective that one does not come to."""
        if ended.cause == Cause.hung:
            return self.generations.furthest_behind(ended.generation) != self.generations.rank
        return ended.cause == Cause.peer

    def _cause_comes(self, generation: int) -> bool:
        deadline = time.monotonic() + _CAUSE_SECONDS
        while time.monotonic() < deadline:
            number, end = self.generations.look()
            if number > generation or end is not None:
                return True
            time.sleep(_POLL_SECONDS)
        return False

    def _dump_stacks(self, worker: Worker) -> None:
        """Has the worker write all its Python stacks to standard error before it is killed; in the
        meantime the guardians of other late workers say so too."""
        try:
            os.kill(worker.pid, signal.SIGUSR2)
            time.sleep(0.2)
        except ProcessLookupError:
            log.debug("worker %d is gone already", worker.pid)

    def _kill(self, worker: Worker) -> None:
        """SIGKILL, and no way back: the next generation must not meet this worker."""
        while worker.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
            time.sleep(0.001)
            self._listen(worker)
        os.close(worker.report_fd)


def _signal_name(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
