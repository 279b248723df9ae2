"""One tier's account over all processes: who was admitted, who has gone, and the bytes of all.

Every change is made inside the ledger's guard, after the others' changes were read: bytes are
reserved before a file is begun, and given back after one is deleted. So the sum of published files
never exceeds the budget, whoever is killed where. Unfinished files are reserved for too, but one
that is evicted unfinished lies there until its writer notices, or a scan finds its writer dead.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from typing import final

from .folder import Folder
from .ledger import Ledger, Record
from .name import ExtentName, parse_temporary, temporary_file
from .residents import Residents

_WRITERS = 1 << 62
"""Where the ledger's bytes of living writers begin; those of leases lie below."""
_FUTURE_SECONDS = 60.0
_FOLLOW_SECONDS = 1.0


@final
class Account:
    """A process's part in the account of one folder. One thread at a time, but for `is_due`."""

    def __init__(self, folder: Folder, residents: Residents, gone: Callable[[ExtentName], None]):
        self.residents = residents
        self._folder = folder
        self._gone = gone
        self.ledger = Ledger(-1)
        self._writer = ""
        self._count = 0
        self._seen = -1
        self._scanned = self._followed = -float("inf")

    def open(self) -> None:
        """Begins this process's part: its own locks, its own name as a writer. Also after a fork.

        Closing an inherited descriptor leaves the parent's locks to the parent.
        """
        self.ledger.close()
        self.ledger = Ledger(self._folder.open_ledger())
        self._writer = secrets.token_hex(6)
        self.ledger.take(_WRITERS + int(self._writer, 16))
        self._seen = -1

    def close(self) -> None:
        self.ledger.close()

    def scan_age(self) -> float:
        """Seconds since this process counted the folder."""
        return time.monotonic() - self._scanned

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Inside, the account is this thread's and up to date. TimeoutError as of the ledger."""
        with self.ledger.guard():
            self._catch_up()
            yield

    def follow(self) -> None:
        """Reads the others' changes where nobody has the guard, at most once a second."""
        now = time.monotonic()
        if now - self._followed >= _FOLLOW_SECONDS and self.ledger.take(0):
            self._followed = now
            try:
                self._catch_up()
            finally:
                self.ledger.free(0)

    def reserve(self, name: ExtentName, size: int) -> tuple[str, int]:
        """Begins a newcomer's temporary file and enters it: file, descriptor. Inside the guard."""
        self._count += 1
        temporary = temporary_file(self._writer, size, self._count, name)
        fd = self._folder.create(temporary)
        try:
            self._enter(Record(name, size))
        except OSError:
            os.close(fd)
            self._folder.discard(temporary)
            raise
        return temporary, fd

    def publish(self, temporary: str, name: ExtentName) -> bool:
        """Gives a written file its name; False where it was evicted meanwhile. Inside the guard."""
        if name not in self.residents.entries:
            self._folder.discard(temporary)
            return False
        self._folder.publish(temporary, name)
        return True

    def give_up(self, name: ExtentName) -> None:
        """Takes back the reservation of a file that was discarded. Inside the guard."""
        if not self._folder.has(name):
            self._enter(Record(name, 0))

    def evict(self, name: ExtentName) -> bool:
        """Deletes an entry; False where its file was not there. Inside the guard."""
        removed = self._folder.remove(name)
        if not removed:  # its writer may be dead: what that left takes room, and is counted soon
            self._scanned = -float("inf")
        self._enter(Record(name, 0))
        self._gone(name)
        return removed

    def scan(self) -> None:
        """Counts the folder anew and deletes what dead writers left. Inside the guard.

        Temporary files are listed first: one that is published meanwhile is seen twice, and never
        missed.
        """
        self._seen, _ = self.ledger.since(self.ledger.head())
        before = set(self.residents.entries)
        self.residents.clear()
        now = time.time()
        for file in self._folder.temporaries():
            writer, size, name = parse_temporary(file) or ("", 0, ExtentName("", 0))
            if writer == self._writer:
                if name in before:  # else it was evicted unfinished, and will be discarded
                    self.residents.put(name, size, now)
            elif self.ledger.is_taken(_WRITERS + int(writer, 16)):
                self.residents.put(name, size, now)
            else:
                self._folder.discard(file)
        for name, facts in self._folder.entries():
            touched = facts.st_mtime
            if touched > now + _FUTURE_SECONDS:  # the clock was set back: count from now on
                self._folder.touch(name)
                touched = now
            self.residents.put(name, _cost(facts), touched)
        for name in before - self.residents.entries.keys():
            self._gone(name)
        self._scanned = time.monotonic()

    def _catch_up(self) -> None:
        seen, records = self.ledger.since(self._seen) if self._seen >= 0 else (0, None)
        if records is None:
            self.scan()
            return
        self._seen = seen
        for record in records:
            self._note(record)

    def _enter(self, record: Record) -> None:
        self._seen = self.ledger.append([record], self._seen)
        self._note(record)

    def _note(self, record: Record) -> None:
        if record.size:
            self.residents.put(record.name, record.size, time.time())
        else:
            self.residents.drop(record.name)
            self._gone(record.name)


def _cost(facts: os.stat_result) -> int:
    return -(-facts.st_size // 4096) * 4096
