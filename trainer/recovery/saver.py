"""Durable saves by the guardian: sealed slots -> the place of the checkpoints, behind the loop's
back. A save under way goes on when the worker dies. It decides nothing about when to save."""

import contextlib
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, final

from ...checkpoint import Exchange, Keep, Store, commit, tidy
from ...checkpoint.claims import Fence
from ...checkpoint.errors import FencedError
from ...checkpoint.exchange import share
from ...checkpoint.seal import Seal
from ...checkpoint.slots import Held, newest
from ..telemetry.events import Events
from ..telemetry.progress import saved_words
from .exchange import RankGoneError
from .promoter import Promoter, Promotion
from .slots import SlotSet

_TRIES = 4
_BACKOFF_SECONDS = 0.5
_POLL_SECONDS = 0.002
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A worker's wish: the slot that holds (or soon will) the state after `step`, pinned."""

    generation: int
    serial: int
    """Counts the requests of a generation, from 0; the same save has the same on all ranks."""
    step: int
    slot: int
    """Index into `SlotSet.all`; -1 where none could be pinned, so that this rank has no part."""
    is_last: bool = False
    """Nothing is saved after it: the run finished or was asked to end."""


class MakeExchange(Protocol):
    """Makes the guardians' exchange for one try of one save."""

    def __call__(self, request: Request, attempt: int) -> Exchange: ...


class SlotLostError(RuntimeError):
    """The slot was never sealed: the worker died while it copied."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What every save of a job follows."""

    fence: Fence
    """Who may publish, asked on rank 0."""
    seal: Seal
    """What is signed and encrypted."""
    keep: Keep
    """What stays of what was saved."""
    max_failures: int
    """Saves that may fail in a row before the run is to end; 0 means any number."""


@final
class Saver(threading.Thread):
    """Takes requests in turn. Its own thread, so that the guardian goes on watching.

    Args:
        open_place: called once, in the thread.
        promoter: copies what was committed to further places.
        say: tells a person something.
    """

    def __init__(
        self,
        slots: SlotSet,
        open_place: Callable[[], Store],
        exchange: MakeExchange,
        events: Events,
        say: Callable[[str], None],
        *,
        promoter: Promoter,
        rules: Rules,
    ) -> None:
        super().__init__(name="keepstep-saver", daemon=True)
        self.slots = slots
        self._open_place = open_place
        self._place: Store | None = None
        self._exchange = exchange
        self._events = events
        self._say = say
        self.promoter = promoter
        self._rules = rules
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._waiting: list[Request] = []
        self._over: set[int] = set()
        self._lock = threading.Lock()
        self._failed_in_row = 0
        self._parent: str | None = None
        self._fatal = ""
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """Readable when a save has ended, until `drain` is called."""

    def request(self, request: Request) -> None:
        """Asks for a save; never blocks."""
        with self._lock:
            self._waiting.append(request)
        self._requests.put(request)

    def end_generation(self, generation: int) -> int:
        """The worker of that generation is gone: what it has not sealed never will be. Answers the
        step of the last save that it asked for; -1 where there is none."""
        with self._lock:
            self._over.add(generation)
            asked = [one.step for one in self._waiting if one.generation == generation]
        return max(asked, default=-1)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way or waiting."""
        with self._lock:
            return not self._waiting

    @property
    def fatal(self) -> str:
        """Why the run cannot go on; empty while it can."""
        return self._fatal

    @property
    def busy_slots(self) -> list[int]:
        """Slots that are being saved or are to be."""
        with self._lock:
            return [one.slot for one in self._waiting]

    def wake(self) -> None:
        """Says that something has ended."""
        os.eventfd_write(self.wake_fd, 1)

    def drain(self) -> None:
        """Takes note of what woke the guardian."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wake_fd)

    def close(self) -> None:
        """Lets the thread end after the save under way; does not wait for it."""
        self._requests.put(None)
        self.promoter.close()

    def run(self) -> None:
        while (request := self._requests.get()) is not None:
            try:
                self._save(request)
                self._failed_in_row = 0
            except Exception as error:
                self._note_failure(request, error)
            finally:
                if request.slot >= 0:
                    self.slots.all[request.slot].unpin()
                with self._lock:
                    self._waiting.remove(request)
                self.wake()

    def _save(self, request: Request) -> None:
        for attempt in range(_TRIES):
            begun = time.monotonic()
            exchange = self._exchange(request, attempt)
            try:
                place, folder, count = self._commit(exchange, request)
            except (RankGoneError, ValueError, SlotLostError, FencedError):
                raise  # no other try could end otherwise
            except Exception as error:
                if attempt == _TRIES - 1:
                    raise
                if exchange.rank == 0:
                    self._note_retry(request, _one_line(error), tries=attempt + 1)
                time.sleep(_BACKOFF_SECONDS * 4**attempt)
                continue
            self._parent = place.address(folder)
            if exchange.rank == 0:
                seconds = round(time.monotonic() - begun, 4)
                self._tell(request, "checkpoint", path=self._parent, bytes=count, seconds=seconds)
                self._speak(saved_words(request.step, count, seconds))
                tidy(place, self._rules.keep, spare=[folder, *self.promoter.folders])
            self._promote(exchange, request, folder)
            return

    def _promote(self, exchange: Exchange, request: Request, folder: str) -> None:
        """Collective: rank 0's clock says where the checkpoint goes on to."""
        due = share(
            exchange, lambda: json.dumps(self.promoter.due(is_last=request.is_last)).encode()
        )
        self.promoter.add(
            [
                Promotion(
                    tier=tier, folder=folder, step=request.step, generation=request.generation
                )
                for tier in json.loads(due)
            ]
        )

    def _commit(self, exchange: Exchange, request: Request) -> tuple[Store, str, int]:
        """Collective among the guardians; also where this rank has nothing to give, so that the
        others learn of it and need not wait."""
        try:
            held = self._sealed(request)
            place = self._place = self._place or self._open_place()
        except Exception as error:
            exchange.gather_bytes(b"-")
            if isinstance(error, SlotLostError):
                raise
            raise ValueError(_one_line(error)) from error  # the others try no more either
        if any(answer != b"+" for answer in exchange.gather_bytes(b"+")):
            raise SlotLostError(f"step {request.step}: another rank has no snapshot of it")
        lineage = held.cargo.lineage
        cargo = replace(
            held.cargo, lineage={**lineage, "parent": self._parent or lineage.get("parent")}
        )
        return place, *commit(place, exchange, held, cargo, self._rules.fence, self._rules.seal)

    def _sealed(self, request: Request) -> Held:
        """Waits until the worker has sealed the slot; it does so within one step, or is dead."""
        if request.slot < 0:
            raise SlotLostError(
                f"step {request.step}: every slot but the last was still being saved; the newest "
                "step is saved once one is free"
            )
        slot = self.slots.all[request.slot]
        while slot.step != request.step:
            with self._lock:
                is_over = request.generation in self._over
            if is_over and slot.step != request.step:
                raise SlotLostError(f"step {request.step}: the worker died while it was copied")
            time.sleep(_POLL_SECONDS)
        found = newest([slot])
        if not found:
            raise SlotLostError(f"step {request.step}: the slot does not match its digests")
        return found[0]

    def _note_failure(self, request: Request, error: Exception) -> None:
        reason = _one_line(error)
        if self._events.rank == 0:
            self._speak(f"step {request.step} was not saved: {reason}")
            self._tell(request, "save_failed", reason=reason)
        if isinstance(error, RankGoneError | SlotLostError):
            return  # the next generation makes up for it
        self._failed_in_row += 1
        if isinstance(error, FencedError):
            self._fatal = reason
        elif request.is_last:
            self._fatal = f"the last save, of step {request.step}: {reason}"
        elif 0 < self._rules.max_failures <= self._failed_in_row:
            self._fatal = (
                f"checkpoint.max_failures: found {self._failed_in_row} saves in a row that failed, "
                f"needed fewer than {self._rules.max_failures}; mend the last one's cause "
                f"({reason}) and start the same command again"
            )

    def _note_retry(self, request: Request, reason: str, *, tries: int) -> None:
        self._speak(f"step {request.step} is not saved yet (try {tries} of {_TRIES}): {reason}")
        self._tell(request, "save_retry", reason=reason, tries=tries)

    def _tell(self, request: Request, kind: str, **fields: object) -> None:
        """An event. A disk that cannot take it must not end what saves."""
        try:
            self._events.write(kind, step=request.step, generation=request.generation, **fields)
        except OSError as error:
            _logger.warning("Event %s of step %d is lost: %s", kind, request.step, error)

    def _speak(self, words: str) -> None:
        with contextlib.suppress(OSError):  # nobody reads it any more
            self._say(words)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"[:500]
