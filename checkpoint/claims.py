"""Who may write into a place: numbered claims, of which the newest fences all older ones.

A claim is `claims/claim-<number>.json`, made by creating the next number, so two writers never get
the same one. Where a place cannot tell what exists (see `stores.probe`), names carry a random
word too, and of one number the greatest word counts: then every writer comes to the same verdict
at its next save at the latest.
"""

import contextlib
import json
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

from .errors import FencedError
from .listing import committed
from .stores import LocalStore, Store, is_exclusive, read_bytes
from .stores.lock import hold

CLAIMS = "claims"
_FILE = re.compile(r"claim-(\d{9,})(-[0-9a-f]{8})?\.json", re.ASCII)
_TRIES = 100
_logger = logging.getLogger(__name__)


@final
@dataclass(kw_only=True, slots=True)
class Claim:
    """The right of one job to write into a place, until another job of the run takes the next."""

    number: int
    run: str
    word: str = ""
    """What tells claims of one number apart where the place cannot; else empty."""
    lock: int | None = field(default=None, compare=False)
    """The file by which the kernel keeps other jobs of this host out; None where there is none."""

    @property
    def rank(self) -> tuple[int, str]:
        """Claims in their order: the greatest is the newest."""
        return self.number, self.word

    @property
    def text(self) -> str:
        """The claim as a worker is told of it, who makes it again by `of`."""
        return json.dumps([self.number, self.run, self.word])

    @classmethod
    def of(cls, text: str) -> "Claim":
        """A claim that another process of the job holds."""
        number, run, word = json.loads(text)
        return cls(number=number, run=run, word=word)

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets another job of this host claim the place; safe twice."""
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None


def claim(place: Store, run: str, *, takes_over: bool = False) -> Claim:
    """Claims the place for a job of `run`, which fences every older job. One process of a job.

    On a local disk the claim is also locked until it is closed or this process ends.

    Args:
        takes_over: whether the place may have been another run's.

    Raises:
        ValueError: the place is another run's, or a live job of this host writes into it.
        OSError: the place cannot be read or written.
    """
    lock = _lock(place, run)
    try:
        # Whoever claimed a place that is locked now, and saved nothing, is gone for good.
        takes_over |= lock is not None and not committed(place)
        _check_run(place, run, takes_over)
        has_order = is_exclusive(place)
        if not has_order:
            _logger.warning(
                "checkpoint.path %s creates what exists already (it ignores If-None-Match): two "
                "jobs that start at the same moment are told apart only when they next save",
                place.address(),
            )
        for _ in range(_TRIES):
            _check_run(place, run, takes_over)
            word = "" if has_order else secrets.token_hex(4)
            number = _newest_number(place) + 1
            with contextlib.suppress(FileExistsError):
                name = _name(number, word)
                place.create(name, [_record(run)])
                return Claim(number=number, run=run, word=word, lock=lock)
    except BaseException:
        if lock is not None:
            os.close(lock)
        raise
    raise OSError(
        f"{place.address(CLAIMS)}: found another job taking every one of {_TRIES} numbers, needed "
        "one of them; see which jobs write there"
    )


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Fence:
    """What a save must find open before it publishes; OPEN always is."""

    claim: Claim | None = None
    """The job's, which must be the newest of the place; None: no job has claimed it."""
    is_current: Callable[[], bool] = lambda: True
    """Whether no later generation of this job has begun."""

    def check(self, place: Store, folder: str, *, step: int) -> None:
        """Raises FencedError if the attempt in `folder` may not be published."""
        path = place.address(folder)
        if not self.is_current():
            raise FencedError(
                f"{path}: found that a later generation of the job has begun, needed this one to "
                "be the last; leave the saving to it",
                path=path,
                step=step,
            )
        if self.claim is not None and (newer := _newer(place, self.claim)):
            raise FencedError(
                f"{path}: found {newer}, newer than this job's claim {self.claim.number}, needed "
                "this job's to be the newest; end this job: another writes there now",
                path=path,
                step=step,
            )


OPEN = Fence()


def _newer(place: Store, mine: Claim) -> str:
    """What is newer than a claim, in words; empty if nothing is."""
    names = _claims(place)
    newest = max(names, default=mine.rank)
    if newest > mine.rank:
        holder = _holder(place, names[newest])
        who = f" of process {holder['pid']} on {holder['host']}" if holder else ""
        return f"claim {newest[0]}{who}"
    for one in committed(place):
        if one.head and (one.head.claim or 0) > mine.number:
            return f"{one.folder} of claim {one.head.claim}"
    return ""


def _check_run(place: Store, run: str, takes_over: bool) -> None:
    owner = _owner(place)
    if owner is None or owner == run or takes_over:
        return
    raise ValueError(
        f"checkpoint.path {place.address()}: found the checkpoints of run {owner}, needed an empty "
        f"place or those of run {run}; set another checkpoint.path, run.name={owner} to go on with "
        "that run, or run.on_change=accept to take its place over"
    )


def _owner(place: Store) -> str | None:
    """The run of the newest claim, else of the newest checkpoint; None where nobody says."""
    names = _claims(place)
    for rank in sorted(names, reverse=True):
        if run := _holder(place, names[rank]).get("run"):
            return str(run)
    runs = (one.head.run for one in committed(place) if one.head)
    return next(filter(None, runs), None)


def _newest_number(place: Store) -> int:
    """Of claims and of checkpoints, which may have been copied from another place."""
    numbers = [number for number, _ in _claims(place)]
    numbers += [one.head.claim or 0 for one in committed(place) if one.head]
    return max(numbers, default=0)


def _claims(place: Store) -> dict[tuple[int, str], str]:
    """Names of claims by their rank."""
    found = {}
    for name in place.list():
        folder, _, file = name.partition("/")
        if folder == CLAIMS and (matched := _FILE.fullmatch(file)):
            found[int(matched[1]), (matched[2] or "").removeprefix("-")] = name
    return found


def _name(number: int, word: str) -> str:
    return f"{CLAIMS}/claim-{number:09d}{'-' * bool(word)}{word}.json"


def _record(run: str) -> bytes:
    facts = {"run": run, "host": socket.gethostname(), "pid": os.getpid()}
    return json.dumps({**facts, "created": round(time.time(), 3)}).encode()


def _holder(place: Store, name: str) -> dict[str, Any]:
    """What a claim says of itself; empty where it cannot be read."""
    try:
        record = json.loads(read_bytes(place, name))
    except (OSError, ValueError):
        return {}
    is_whole = isinstance(record, dict) and {"run", "host", "pid"} <= record.keys()
    return record if is_whole else {}


def _lock(place: Store, run: str) -> int | None:
    if not isinstance(place, LocalStore):
        return None
    try:
        return hold(place.root / CLAIMS / ".lock", json.dumps({"run": run, "pid": os.getpid()}))
    except BlockingIOError as error:
        raise ValueError(
            f"checkpoint.path {place.address()}: found it being written by {error}, needed it "
            "free; wait for that job or end it, or set another checkpoint.path"
        ) from error
