"""One folder of extents with a hard budget: finding, keeping, evicting, never failing."""

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final

import xxhash

from ..errors import CorruptDataError
from .account import Account
from .counters import Counters
from .entry import Entry, disk_cost, map_entry, write_entry
from .folder import Folder
from .foresight import Foresight
from .name import ExtentName
from .policy import Verdict
from .reader import Reader
from .residents import Residents, Victim

_log = logging.getLogger(__name__)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_SCAN_AGAIN_SECONDS = 5.0
_ATTEMPTS = 6


@dataclass(kw_only=True, slots=True)
class TierRules:
    """A tier's bounds; see CacheConfig for what each means."""

    budget_bytes: int
    free_bytes: int
    idle_seconds: float
    rescan_seconds: float
    fsync: bool = False


class Newcomer(NamedTuple):
    """An extent that asks to be admitted."""

    name: ExtentName
    size: int
    """Bytes it costs."""
    use: float | None = None
    """Its next use; nan unknown, None not asked for yet: that takes longer than all the rest, and
    is of use only where somebody has to go."""


class Evicted(NamedTuple):
    """An entry that was evicted, still mapped, and its next use."""

    name: ExtentName
    entry: Entry
    use: float


Gone = Callable[[ExtentName], None]


@final
class Tier:
    """Extents in one folder, shared with all processes that open it. Safe to call from threads.

    No call raises for what the folder does: a call that fails is a miss or a refusal, counted, and
    warned of once a kind of failure.
    """

    def __init__(
        self, root: Path, folder: Folder, rules: TierRules, foresight: Foresight, gone: Gone
    ) -> None:
        self.root = root
        self.counters = Counters()
        self._folder = folder
        self._rules = rules
        self._foresight = foresight
        self._gone = gone
        self._reader = Reader(folder, self._warn)
        self._residents = Residents(foresight, rules.idle_seconds)
        self.account = Account(folder, self._residents, self._forget)
        self._warned: set[str] = set()
        self._lock = threading.Lock()

    @property
    def is_writable(self) -> bool:
        return self._folder.ledger is not None

    def start(self) -> None:
        """Joins the account and counts the folder; what dead writers left is deleted.

        A folder whose account cannot be joined is read only.
        """
        self.restart()
        if self.is_writable:
            try:
                with self.account.guard():
                    pass
            except OSError as error:
                self._warn(error, "count")

    def restart(self) -> None:
        """Joins the account as a process of its own, which a forked child is; counts later."""
        self._lock = threading.Lock()
        if self.is_writable:
            try:
                self.account.open()
            except OSError as error:
                self._folder.ledger = None
                self._warn(error, "share")

    def close(self) -> None:
        with self._lock:
            self._folder.ledger = None
            self.account.close()
            self._folder.close()

    def find(self, name: ExtentName) -> Entry | None:
        """The mapped entry, verified when this process sees it first; None where there is none.

        Raises:
            OSError: EMFILE, when this process has no file descriptor left.
        """
        try:
            return self._reader.find(name)
        except CorruptDataError as error:
            self.counters.corrupt += 1
            self._warn_once("corrupt", f"{error}")
        if self.is_writable:
            try:
                with self._lock, self.account.guard():
                    if self._reader.is_bad(name):  # else another thread has replaced it by now
                        self.account.evict(name)
            except OSError as error:
                self._warn(error, "delete")
        return None

    def has(self, name: ExtentName) -> bool:
        """Whether `find` has a chance. Costs a few system calls."""
        return self._reader.has(name)

    def touch(self, name: ExtentName) -> None:
        """Says that an entry is in use, and hears of those that others evicted."""
        self._folder.touch(name)
        self.follow()

    def follow(self) -> None:
        """Hears of entries that others evicted. Never waits."""
        if self.is_writable and self._lock.acquire(blocking=False):
            try:
                self.account.follow()
            except OSError as error:
                self._warn(error, "follow")
            finally:
                self._lock.release()

    def keep(
        self,
        name: ExtentName,
        content: memoryview,
        digest: str = "",
        demoted: list[Evicted] | None = None,
    ) -> bool:
        """Publishes an extent; False where it is not admitted or cannot be written.

        Blocks while it is written. Evicted entries that are needed again are added to `demoted`.
        """
        if self.is_writable:
            try:
                return self._keep(name, content, digest, demoted)
            except OSError as error:
                self._warn(error, "write")
        self.counters.refused += 1
        return False

    def _keep(
        self, name: ExtentName, content: memoryview, digest: str, demoted: list[Evicted] | None
    ) -> bool:
        newcomer = Newcomer(name, disk_cost(len(content)))
        digest = digest or xxhash.xxh3_128_hexdigest(content)
        for extra in (0, newcomer.size):  # the file system may be full below our budget
            reserved = self._reserve(newcomer, extra, demoted)
            if reserved is None:
                return self._folder.has(name)
            temporary, fd = reserved
            try:
                inode = self._write(fd, name, content, digest)
                with self._lock, self.account.guard():
                    if not self.account.publish(temporary, name):
                        self.counters.bypassed += 1
                        return False
                    self._reader.trust(name, inode)
            except OSError as error:
                self._folder.discard(temporary)
                with self._lock, self.account.guard():
                    self.account.give_up(name)
                if error.errno in _NO_ROOM and not extra:
                    continue
                raise
            self.counters.puts += 1
            self.counters.put_bytes += len(content)
            return True
        return False

    def _write(self, fd: int, name: ExtentName, content: memoryview, digest: str) -> int:
        try:
            write_entry(fd, name, content, digest)
            if self._rules.fsync:
                os.fsync(fd)
            return os.fstat(fd).st_ino
        finally:
            os.close(fd)

    def _reserve(
        self, newcomer: Newcomer, extra: int, demoted: list[Evicted] | None
    ) -> tuple[str, int] | None:
        """Makes room and begins the file; None where it is published already or not admitted."""
        should_scan = self.account.scan_age() > self._rules.rescan_seconds
        with self._lock:
            for _ in range(1 + _ATTEMPTS):
                with self.account.guard():
                    if should_scan:
                        self.account.scan()
                        should_scan = False
                    if self._reader.has(newcomer.name):
                        return None
                    chosen = self._choose(newcomer, extra)
                    if isinstance(chosen, list):
                        self._evict(chosen, demoted)
                        if not chosen or self._needed(newcomer.size, 0) <= 0:
                            return self.account.reserve(*newcomer[:2])
                        break  # what was deleted is still mapped somewhere
                if chosen is Verdict.bypass:
                    self.counters.bypassed += 1
                    return None
                # Outside of the guard, which others may want while next uses are computed.
                if newcomer.use is None:
                    use = float(self._foresight.uses([newcomer.name])[0])
                    newcomer = newcomer._replace(use=use)
                elif chosen is None or not self._residents.is_fresh:
                    self._residents.sort(self._folder.touched)
                elif self.account.scan_age() > _SCAN_AGAIN_SECONDS:
                    should_scan = True
                else:
                    break
        self.counters.refused += 1
        return None

    def _choose(self, newcomer: Newcomer, extra: int) -> list[Victim] | Verdict | None:
        """Who goes, or why none does; None where the queue must be sorted first."""
        needed = self._needed(newcomer.size, extra)
        if needed <= 0:
            return []
        if newcomer.use is None or not self._residents.is_sorted:
            return None
        return self._residents.choose(needed, newcomer.use)

    def _needed(self, size: int, extra: int) -> int:
        over = self._residents.total_bytes + size - self._rules.budget_bytes
        return max(over, self._rules.free_bytes + size - self._folder.free_bytes(), extra)

    def _evict(self, chosen: list[Victim], demoted: list[Evicted] | None) -> None:
        for victim in chosen:
            if demoted is not None and victim.use < float("inf"):
                with contextlib.suppress(OSError, CorruptDataError):
                    fd = self._folder.open_entry(victim.name)
                    try:
                        entry = map_entry(fd, victim.name, verify=False)
                    finally:
                        os.close(fd)
                    demoted.append(Evicted(victim.name, entry, victim.use))
            if self.account.evict(victim.name):
                self.counters.evictions += 1
                self.counters.evicted_bytes += victim.size

    def _forget(self, name: ExtentName) -> None:
        self._reader.forget(name)
        self._gone(name)

    def _warn(self, error: OSError, verb: str) -> None:
        reason = error.strerror or str(error)
        self._warn_once(f"{verb} {error.errno}", f"could not {verb} extents ({reason})")

    def _warn_once(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            _log.warning("The cache in %s %s; it goes on without", self.root, message)
