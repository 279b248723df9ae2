"""How the ranks of a save or a restore speak: the protocol, one rank alone, and failing together.

Transports (process groups, stores) belong to the caller; nothing here opens one.
"""

import errno
import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, final

from .digest import digest_bytes
from .errors import DamagedPartError, FencedError

_DONE, _FAILED = b"+", b"-"
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Exchange(Protocol):
    """Ranks 0 to `size` - 1, which are the world's ranks; each method is called by all of them."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def gather_bytes(self, payload: bytes) -> list[bytes]:
        """Collective: every rank's payload, of any length, in the order of ranks."""
        ...

    def all_agree(self, ok: bool) -> bool:
        """Collective: whether every rank said yes."""
        ...


@final
class SoloExchange:
    """Rank 0 of 1: tools, and runs of one process."""

    rank = 0
    size = 1

    def gather_bytes(self, payload: bytes) -> list[bytes]:
        return [payload]

    def all_agree(self, ok: bool) -> bool:
        return ok


class Kind(StrEnum):
    """What others do about a failure."""

    other = "other"
    full = "full"
    """The system said that no space or quota is left."""
    fenced = "fenced"
    """The job may write no more."""
    damaged = "damaged"
    """What was to be saved is not as it was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """What one rank ran into."""

    rank: int
    reason: str
    kind: Kind


class RanksFailedError(RuntimeError):
    """At least one rank failed; raised on every rank, from its own exception where it has one."""

    def __init__(self, failures: list[Failure]) -> None:
        super().__init__("; ".join(f"rank {fail.rank}: {fail.reason}" for fail in failures))
        self.failures = failures

    def has(self, kind: Kind) -> bool:
        return any(failure.kind is kind for failure in self.failures)


def gather_results(exchange: Exchange, work: Callable[[], bytes]) -> list[bytes]:
    """Collective: runs `work` on every rank and answers what each returned, in order.

    Raises:
        RanksFailedError: on every rank, where `work` raised on any.
    """
    cause: Exception | None = None
    try:
        payload = _DONE + work()
    except Exception as error:
        cause = error
        payload = _FAILED + json.dumps([_reason(error), _kind(error)]).encode()
    payloads = exchange.gather_bytes(payload)
    failures = [
        Failure(rank=rank, reason=reason, kind=Kind(kind))
        for rank, answer in enumerate(payloads)
        if answer[:1] == _FAILED
        for reason, kind in [json.loads(answer[1:])]
    ]
    if failures:
        raise RanksFailedError(failures) from cause
    return [answer[1:] for answer in payloads]


def gather_distinct(exchange: Exchange, work: Callable[[], bytes]) -> list[bytes]:
    """Collective: as `gather_results`, but equal answers travel once, from the first who has them.

    Many ranks hold the same names, so what a thousand of them say of these costs what a few do.
    """
    made = []

    def digest() -> bytes:
        made.append(work())
        return digest_bytes(made[0]).encode()

    digests = gather_results(exchange, digest)
    first = [digests.index(one) for one in digests]
    if not any(first):
        return made * exchange.size
    answers = exchange.gather_bytes(made[0] if first[exchange.rank] == exchange.rank else b"")
    return [answers[rank] for rank in first]


def share(exchange: Exchange, make: Callable[[], bytes]) -> bytes:
    """Collective: what `make` returned on rank 0, on every rank; raises as `gather_results`."""
    return gather_results(exchange, make if exchange.rank == 0 else bytes)[0]


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _kind(error: Exception) -> Kind:
    if isinstance(error, FencedError):
        return Kind.fenced
    if isinstance(error, DamagedPartError):
        return Kind.damaged
    is_full = isinstance(error, OSError) and error.errno in _FULL
    return Kind.full if is_full else Kind.other
