"""Where the wall time of a run goes: every second is booked to one account, so that the accounts
sum to the time that passed, over generations, restarts and machines.

The accounts lie in the page that guardian and worker share, so that none is lost with a process;
rank 0's guardian keeps them in the run's folder for the next job. Time that is booked begins where
the last booking ended: nothing can be left out, nor counted twice.
"""

import contextlib
import json
import os
import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, final

from .heartbeat import Page

LEDGER = "ledger.json"
# Doubles of the page, behind the heartbeat's words.
_MARK, _STEPS, _SINCE, _FIRST_ACCOUNT = 16, 17, 18, 24


class Account(StrEnum):
    """What time was spent on; a run is good for as much of it as went into `step`."""

    init = "init"
    """From the start of the processes to the first step, imports included."""
    compile = "compile"
    """First steps of processes that compile the model."""
    data = "data"
    """Steps that waited for their data."""
    step = "step"
    """Steps that count: each one's first time, unless the state it made was lost."""
    snapshot = "snapshot"
    """Steps that waited for a copy of the state, or took one."""
    save = "save"
    """Saves that held the loop up, and the end of a run."""
    eval = "eval"
    """Evaluations."""
    restore = "restore"
    """From a failure to the next step's begin, and reading checkpoints."""
    redo = "redo"
    """The step that a failure cut short, and steps that were done before."""
    wait = "wait"
    """Between the end of a job and the begin of the next one."""


@final
class Books:
    """The accounts of one rank, by its page; `book` is for whoever is at work, one at a time."""

    def __init__(self, page: Page) -> None:
        self._page = page.floats
        self._folder: Path | None = None
        self._kept_at = float("-inf")

    def open(self, folder: Path | None, *, begun: float) -> None:
        """Guardian: goes on with what an earlier job of the run left in its folder.

        Args:
            folder: that is kept up to date; None where another rank does that.
            begun: monotonic seconds at which this job's process began.
        """
        self._folder = folder
        left = _read(folder / LEDGER) if folder else {}
        started = time.time() - (time.monotonic() - begun)
        self._page[_MARK] = begun
        self._page[_SINCE] = float(left.get("since", started))
        self._page[_STEPS] = float(left.get("steps", 0))
        for place, account in enumerate(Account):
            found = left.get("seconds", {}).get(account.value, 0.0)
            self._page[_FIRST_ACCOUNT + place] = float(found)
        if left:
            self._add(Account.wait, max(0.0, started - float(left["until"])))

    def book(self, account: Account, *, now: float | None = None) -> float:
        """Everything since the last booking was spent on that; the seconds."""
        now = time.monotonic() if now is None else now
        if not self._page[_MARK]:  # nobody has opened them: they begin here
            self._page[_MARK] = now
        seconds = max(0.0, now - self._page[_MARK])
        self._page[_MARK] = max(now, self._page[_MARK])
        self._add(account, seconds)
        return seconds

    def book_step(self, step: int, *, data: float, snapshot: float, compiles: bool = False) -> None:
        """As `book`, of the step that has brought the count to `step`: of its time `data` and
        `snapshot` seconds were waited for those."""
        is_first = step > self._page[_STEPS]
        account = Account.step if is_first else Account.redo
        seconds = self.book(Account.compile if compiles else account)
        if is_first:
            self._page[_STEPS] = step
            if not compiles:
                for other, part in ((Account.data, data), (Account.snapshot, snapshot)):
                    moved = min(part, seconds)
                    seconds -= moved
                    self._add(Account.step, -moved)
                    self._add(other, moved)

    @property
    def seconds(self) -> dict[str, float]:
        """By account."""
        return {
            account.value: self._page[_FIRST_ACCOUNT + place]
            for place, account in enumerate(Account)
        }

    @property
    def wall_seconds(self) -> float:
        """What is booked altogether: from the run's first begin to the last booking."""
        return sum(self.seconds.values())

    @property
    def steps(self) -> int:
        """Distinct steps that were done."""
        return int(self._page[_STEPS])

    @property
    def until(self) -> float:
        """Unix seconds at which the last booking ended."""
        return time.time() - (time.monotonic() - self._page[_MARK])

    def keep(self, *, every_seconds: float = 0.0) -> None:
        """Guardian: writes the accounts into the run's folder, whole or not at all; not more often
        than that. A disk that cannot take them is no reason to stop."""
        now = time.monotonic()
        if self._folder is None or now - self._kept_at < every_seconds:
            return
        self._kept_at = now
        said = {
            "since": self._page[_SINCE],
            "until": self.until,
            "steps": self.steps,
            "seconds": self.seconds,
        }
        with contextlib.suppress(OSError):
            partial = self._folder / f"{LEDGER}.part"
            partial.write_text(json.dumps(said, indent=1) + "\n")
            partial.replace(self._folder / LEDGER)

    def _add(self, account: Account, seconds: float) -> None:
        place = _FIRST_ACCOUNT + list(Account).index(account)
        self._page[place] = self._page[place] + seconds


def process_begin() -> float:
    """Monotonic seconds at which this process began; now, where the kernel does not say."""
    now = time.monotonic()
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        return min(now, now - (since_boot - began))
    return now


def _read(path: Path) -> Mapping[str, Any]:
    with contextlib.suppress(OSError, json.JSONDecodeError):
        found = json.loads(path.read_text())
        if isinstance(found, dict) and "until" in found:
            return found
    return {}
