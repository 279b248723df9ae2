"""The guardian of one rank: decides what its worker's end means, agrees with the other guardians
when a generation is over, and begins the next. It never touches an accelerator nor the state."""

import time
from collections.abc import Callable

from ..config import RecoveryConfig
from ..errors import StoppedError
from ..telemetry.events import Events
from .generation import Failure, Generations
from .heartbeat import Page
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
from .warm import Order, WarmServer
from .worker import Worker

_POLL_SECONDS = 0.01
_MEET_SECONDS = 60.0
# After a stop signal: a launcher that ends a job because a guardian died signals the others too.
_HURRIED_MEET_SECONDS = 5.0
# An error that follows from a peer's death arrives before that peer's own guardian has spoken; the
# reporter of a consequence waits this long for the cause.
_CAUSE_SECONDS = 2.0


class Guardian:
    """Final. `run` blocks for the whole job and answers its exit code."""

    def __init__(
        self,
        config: RecoveryConfig,
        server: WarmServer,
        generations: Generations,
        order: Order,
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
        self.barren_at: list[float] = []

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
        begin = now + backoff_seconds(self.barren_at, now=now)
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
        worker = Worker.start(self.server, self.page, {**self.order, "generation": generation})
        is_noted = generation == 0 or self.events.rank > 0
        stop_by: float | None = None
        try:
            while True:
                worker.listen()
                if worker.first_step is not None and not is_noted:
                    self._note_recovery(worker)
                    is_noted = True
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
                worker.wait()
        finally:
            worker.kill()
            if worker.first_step is None:
                self.barren_at.append(time.monotonic())

    def _unsaved(self, signals: StopSignals) -> str:
        grace = f"found nothing saved within recovery.grace_seconds={self.config.grace_seconds:g}"
        found = "found it a second time" if signals.count > 1 else grace
        return (
            f"{signals.name}: {found}, needed time to save; start the same command again: the "
            "newest checkpoint is taken"
        )

    def _note_recovery(self, worker: Worker) -> None:
        """Rank 0: the first step of a later generation is done."""
        failures = self.generations.failures(worker.generation - 1)
        seconds = round(time.time() - min(failure.time for failure in failures), 3)
        self.events.write(
            "recovery", step=worker.first_step, generation=worker.generation, seconds=seconds
        )
        self.say(f"recovered: generation {worker.generation}, {seconds} s after the failure")

    def _how_it_ended(self, worker: Worker) -> Ended | None:
        """None while the worker lives."""
        late = worker.late(self.config.hang_seconds)
        if worker.exit_code is None and late is None:
            return None
        ended = worker.ended(late)
        if late is not None and ended.cause == Cause.hung:
            moment = time.time() - late.age_seconds
            self.generations.note_late(worker.generation, (late.step, late.phase), moment)
            worker.dump_stacks()  # meanwhile the guardians of other late workers say so too
        return ended

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
