"""The guardian of one rank: decides what its worker's end means, agrees with the other guardians
when a generation is over, and begins the next. It never touches an accelerator nor the state."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import final

from ..errors import StoppedError
from ..telemetry.events import Events
from .books import Account, Books
from .config import RecoveryConfig
from .crew import Crew
from .generation import Failure, Generations, Turn
from .heartbeat import Beat, Phase
from .ledger import backoff_seconds, recoveries_exceeded
from .line import Order
from .listener import Listener
from .notice import Notice
from .saver import Request, Saver
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
from .worker import Worker

_MEET_SECONDS = 60.0
# After a stop signal: a launcher that ends a job because a guardian died signals the others too.
_HURRIED_MEET_SECONDS = 5.0
# Left of the grace after a stop signal when copies to further places are no longer waited for.
_PARTING_SECONDS = 3.0
# An error that follows from a peer's death arrives before that peer's own guardian has spoken; who
# lost a peer waits so long for the cause.
_CAUSE_SECONDS = 2.0
# All who wait for one hung rank are late within a moment of one another; the stacks of all are
# written meanwhile.
_INQUEST_SECONDS = 0.3
# Of the accounts, what a machine that dies takes with it.
_KEEP_SECONDS = 10.0


@dataclass(slots=True)
class _Watched:
    """What the guardian remembers of one generation."""

    begun: float
    lost_at: float | None = None
    late: Beat | None = None
    judge_at: float | None = None
    is_done: bool = False
    is_sentenced: bool = False
    has_located: bool = False


@final
class Guardian:
    """`run` blocks for the whole job and answers its exit code.

    Args:
        books: in the page that its workers share.
    """

    def __init__(
        self,
        config: RecoveryConfig,
        crew: Crew,
        generations: Generations,
        listener: Listener,
        order: Order,
        saver: Saver,
        events: Events,
        say: Callable[[str], None],
        *,
        books: Books,
    ) -> None:
        self.order = order
        self.books = books
        self.config = config
        self.crew = crew
        self.generations = generations
        self.listener = listener
        self.saver = saver
        self.events = events
        self.say = say
        self.generation = 0
        self.watched = _Watched(0.0)
        self.raised_at: list[float] = []
        self.barren_at: list[float] = []
        self.stop_by: float | None = None
        self.notice = Notice(config.preempt_file)

    def run(self) -> int:
        """Lives through generations until the job is over. Blocks; main thread only."""
        try:
            with StopSignals() as signals:
                return self._run(signals)
        except StoppedError as error:
            number = self.generation
            while not self.generations.end(number, EXIT_FAILED, str(error)):
                if (turn := self.generations.turn(number)) is not None and turn.is_end:
                    break
                number += 1  # it was over already, and the others are in the next
            return EXIT_FAILED

    def close(self) -> None:
        """Ends the warm server and any worker; safe twice."""
        self.saver.close()
        self.crew.close()

    def _run(self, signals: StopSignals) -> int:
        while True:
            turn = self._live(signals)
            if turn.code is not None:
                return turn.code
            self.books.book(Account.redo)  # what was begun and came to nothing
            self.generation += 1
            self.raised_at.append(time.monotonic())

    def _live(self, signals: StopSignals) -> Turn:
        """One generation, from the settling of the last one to its own turn."""
        number = self.generation
        self.generations.arrive("here", number)
        if turn := self._pause(signals):
            if not self._is_in_place(turn):
                self.crew.dismiss()  # who has survived the last one has no part in the next
            return turn
        worker = self._begin()
        is_noted = number == 0 or self.events.rank > 0
        while (turn := self.listener.turn(number)) is None:
            self._mind(signals)
            self._take_wishes(worker)
            if worker.first_step is not None:
                self._prepare()
                if not is_noted:
                    self._note_recovery(worker)
                    is_noted = True
            self._judge(worker)
            self._wait(signals)
        self._settle(turn, worker, signals)
        return turn

    def _begin(self) -> Worker:
        self.saver.slots.release(self.saver.busy_slots)
        self.watched = _Watched(time.monotonic())
        return self.crew.begin({**self.order, "generation": self.generation})

    def _prepare(self) -> None:
        """While all is well: the next worker waits, and it is known whether others will go on."""
        self.crew.prepare_spare(proves=self.config.in_place and self.generation == 0)
        if self.crew.has_disproved:
            self.crew.has_disproved = False
            self.generations.forbid_in_place()
            self.events.write("afresh_only", step=None, generation=self.generation)
            self.say("no process can be thrown out of a collective here: each failure replaces all")

    def _pause(self, signals: StopSignals) -> Turn | None:
        """Waits where too many lives have ended without a step; how the generation has ended
        meanwhile, if it has."""
        begin = time.monotonic() + backoff_seconds(self.barren_at, now=time.monotonic())
        while (left := begin - time.monotonic()) > 0 and not signals.count:
            if turn := self.listener.turn(self.generation):
                return turn
            self._wait(signals, left)
        return self.listener.turn(self.generation)

    def _settle(self, turn: Turn, worker: Worker, signals: StopSignals) -> None:
        """The generation is over: the worker leaves it, or is killed."""
        goes_on = not (turn.is_end or turn.culprit == self.generations.rank or worker.is_over)
        if goes_on and self._is_in_place(turn):
            worker.call_off()
            deadline = time.monotonic() + self.config.in_place_seconds
            while not (worker.is_waiting or worker.is_over) and time.monotonic() < deadline:
                self._wait(signals, deadline - time.monotonic())
        if not worker.is_waiting or worker.is_over:
            self.crew.dismiss()
        self._take_wishes(worker)
        number = self.generation
        self.generations.note_over(number, self.saver.end_generation(number))
        if worker.first_step is None:
            self.barren_at.append(time.monotonic())
        if self.events.rank == 0 and not turn.is_end:
            self._say_failures(number)

    def _say_failures(self, generation: int) -> None:
        """What others have said of its end; those who only lost a peer are not to blame."""
        found = self.generations.failures(generation)
        causes = [failure for failure in found if failure.cause != Cause.peer] or found
        for one in causes:
            self.say(f"rank {one.rank} failed at step {one.step} ({one.reason}); recovering")

    def _is_in_place(self, turn: Turn) -> bool:
        """Whether those that are alive go on after that turn."""
        forbidden = turn.afresh or self.generations.is_in_place_forbidden
        return self.config.in_place and not forbidden

    def _wait(self, signals: StopSignals, seconds: float | None = None) -> None:
        fds = [self.listener.wake_fd, self.saver.wake_fd, signals.wake_fd]
        due = [at for at in (self.watched.judge_at, self.stop_by) if at is not None]
        limits = [at - time.monotonic() for at in due]
        if seconds is not None:
            limits.append(seconds)
        self.crew.wait(fds, *([min(0.25, *limits)] if limits else []))
        self.books.keep(every_seconds=_KEEP_SECONDS)
        self.listener.drain()
        self.saver.drain()
        signals.drain()
        self.crew.listen()

    def _mind(self, signals: StopSignals) -> None:
        """Stop signals, and what else ends the job whatever the worker does."""
        if self.notice.has_come():
            signals.ask(f"recovery.preempt_file={self.config.preempt_file}")
        if signals.count and self.stop_by is None:
            self.stop_by = time.monotonic() + self.config.grace_seconds
            with contextlib.suppress(OSError):  # saving matters more
                number, name = self.generation, signals.name
                self.events.write("stop", step=None, generation=number, reason=name)
        if signals.count:
            self.crew.page.request_stop()
        if signals.is_impatient or (self.stop_by and time.monotonic() > self.stop_by):
            self._end(EXIT_FAILED, self._unsaved(signals))
        elif self.saver.fatal:
            self._end(EXIT_FAILED, self.saver.fatal)
        elif (missed := self._missed(signals)) is not None:
            self._end(EXIT_FAILED, missed)

    def _missed(self, signals: StopSignals) -> str | None:
        """What to say where a guardian has not come; a step shows that all have."""
        seconds = _MEET_SECONDS
        if signals.count:
            seconds = _HURRIED_MEET_SECONDS
        elif self.generation:  # whose guardian lives, comes once its worker has left
            seconds = min(seconds, self.config.in_place_seconds + _HURRIED_MEET_SECONDS)
        worker = self.crew.worker
        if worker is None or worker.first_step is not None:
            return None
        if time.monotonic() < self.watched.begun + seconds:
            return None
        if self.generations.all_arrived("here", self.generation):
            return None
        missing = self.generations.missing("here", self.generation)
        return (
            f"generation {self.generation}: found no guardian of ranks {missing} for {seconds:.0f} "
            "s, needed all of them; start the same command again: the newest checkpoint is taken"
        )

    def _judge(self, worker: Worker) -> None:
        """What the worker's state means for the generation."""
        if self.watched.is_sentenced:
            return
        if worker.exit_code in (EXIT_FINISHED, EXIT_PREEMPTED):
            self._finish(worker.exit_code)
        elif worker.is_over:
            self._sentence(worker.ended())
        elif worker.lost:
            self._miss_peer(worker)
        elif (late := self._late(worker)) is not None:
            self._inquire(worker, late)
        else:
            self.watched.late = self.watched.judge_at = None

    def _late(self, worker: Worker) -> Beat | None:
        return worker.late(self.config.hang_seconds, factor=self.config.hang_factor)

    def _finish(self, code: int) -> None:
        """The worker is done: so is the job, once all are and all is saved."""
        if self.watched.is_done or not self.saver.is_idle or self._is_copying():
            return
        self.watched.is_done = True
        if self.generations.arrive("done", self.generation):
            self._end(code, "")

    def _is_copying(self) -> bool:
        """Whether a further place still gets its copy, and there is time to wait for that."""
        is_late = self.stop_by is not None and time.monotonic() > self.stop_by - _PARTING_SECONDS
        return not is_late and not self.saver.promoter.is_idle

    def _take_wishes(self, worker: Worker) -> None:
        """Hands on what the worker wants saved."""
        while worker.wishes:
            wish = worker.wishes.pop(0)
            self.saver.request(
                Request(
                    generation=worker.generation,
                    serial=int(wish["serial"]),
                    step=int(wish["step"]),
                    slot=int(wish["slot"]),
                    is_last=bool(wish["is_last"]),
                )
            )

    def _unsaved(self, signals: StopSignals) -> str:
        grace = f"found nothing saved within recovery.grace_seconds={self.config.grace_seconds:g}"
        found = "found it a second time" if signals.is_impatient else grace
        return (
            f"{signals.name}: {found}, needed time to save; start the same command again: the "
            "newest checkpoint is taken"
        )

    def _note_recovery(self, worker: Worker) -> None:
        """Rank 0: the first step of a later generation is done."""
        before = worker.generation - 1
        failures, turn = self.generations.failures(before), self.generations.turn(before)
        seconds = round(time.time() - min(failure.time for failure in failures), 3)
        way = "in place" if turn is not None and self._is_in_place(turn) else "afresh"
        self.events.write(
            "recovery",
            step=worker.first_step,
            generation=worker.generation,
            seconds=seconds,
            ranks=[failure.rank for failure in failures],
            way=way,
        )
        self.say(f"recovered {way} within {seconds} s: generation {worker.generation}")

    def _miss_peer(self, worker: Worker) -> None:
        """A peer is gone: its guardian says so in a moment, or is gone with it."""
        now = time.monotonic()
        self.watched.lost_at = self.watched.lost_at or now
        self.watched.judge_at = self.watched.lost_at + _CAUSE_SECONDS
        if now >= self.watched.judge_at:
            self._sentence(worker.ended())

    def _inquire(self, worker: Worker, late: Beat) -> None:
        """All hang in a collective that one does not come to: who is it? One guardian asks."""
        watched, now = self.watched, time.monotonic()
        if watched.late is None:
            watched.late, watched.judge_at = late, None
            place = f"phase {late.phase.name} for {late.age_seconds:.1f} s"
            sys.stderr.write(f"rank {self.generations.rank}: late, in {place}; its stacks:\n")
            worker.dump_stacks()
            worker.locate()
            moment = time.time() - late.age_seconds
            if self.generations.note_late(worker.generation, (late.step, late.phase), moment):
                watched.judge_at = now + _INQUEST_SECONDS
            else:  # whoever asks has a while longer
                watched.judge_at = now + _INQUEST_SECONDS + _CAUSE_SECONDS
            return
        if worker.waits is not None and not watched.has_located:
            watched.has_located = True
            self.generations.note_waits(worker.generation, worker.waits)
        if watched.judge_at is not None and now >= watched.judge_at:
            self._sentence_late(worker)

    def _sentence_late(self, worker: Worker) -> None:
        found = self.generations.furthest_behind(worker.generation)
        phase, age = Phase(found.phase).name, time.time() - found.moment
        reason = f"no heartbeat for {age:.1f} s in phase {phase}"
        if found.waits:
            reason = f"{reason}; {found.waits}"
        ended = replace(worker.ended(), cause=Cause.hung, step=found.step, reason=reason)
        self._sentence(ended, culprit=found.rank)

    def _sentence(self, ended: Ended, *, culprit: int | None = None) -> None:
        """Decides what a worker's end means for the job, and tells the other guardians."""
        self.watched.is_sentenced = True
        self.watched.judge_at = None
        rank = self.generations.rank if culprit is None else culprit
        self._write(ended, rank)
        if ended.cause == Cause.setting:
            return self._end(EXIT_WRONG, ended.reason)
        if ended.cause == Cause.stopped:
            return self._end(EXIT_FAILED, ended.reason)
        if is_bug(ended, self._earlier()):
            reason = f"rank {rank}, step {ended.step}: {ended.reason}"
            return self._end(EXIT_FAILED, f"{reason}\n{ended.trace}".rstrip())
        limit = self.config.max_recoveries
        if recoveries_exceeded(self.raised_at, now=time.monotonic(), limit=limit):
            return self._end(EXIT_FAILED, self._too_many(ended))
        failure = Failure(
            rank=rank,
            step=ended.step,
            cause=str(ended.cause),
            reason=ended.reason,
            time=time.time(),
        )
        # What ended without a step may have been poisoned by what it went on from.
        afresh = self.generation > 0 and not ended.has_stepped
        self.generations.raise_from(self.generation, failure, afresh=afresh, culprit=culprit)
        return None

    def _write(self, ended: Ended, rank: int) -> None:
        self.events.write(
            "hang" if ended.cause == Cause.hung else "failure",
            step=ended.step,
            generation=ended.generation,
            rank=rank,
            cause=str(ended.cause),
            reason=ended.reason,
        )

    def _earlier(self) -> Iterator[Ended]:
        """How the workers of all ranks ended in the generations before this one."""
        for number in range(self.generation):
            for failure in self.generations.failures(number):
                yield Ended(
                    cause=Cause(failure.cause),
                    generation=number,
                    step=failure.step,
                    has_stepped=True,
                    reason=failure.reason,
                )

    def _end(self, code: int, reason: str) -> None:
        self.generations.end(self.generation, code, reason)

    def _too_many(self, ended: Ended) -> str:
        limit = self.config.max_recoveries
        return (
            f"recovery.max_recoveries: found more than {limit} failures within an hour, needed at "
            f"most {limit}; mend the cause of the last ({ended.reason} on rank "
            f"{self.generations.rank}, step {ended.step}) and start the same command again"
        )
