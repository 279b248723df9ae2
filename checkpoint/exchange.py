"""How the ranks of a save or a restore speak: the protocol, one rank alone, and failing together.

Transports (process groups, stores) belong to the caller; nothing here opens one.
"""

import errno
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final

from .digest import digest_bytes
from .errors import FencedError

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """What one rank ran into; `is_full` where the system said that no space or quota is left,
    `is_fenced` where the job may write no more."""

    rank: int
    reason: str
    is_full: bool
    is_fenced: bool


class RanksFailedError(RuntimeError):
    """At least one rank failed; raised on every rank, from its own exception where it has one."""

    def __init__(self, failures: list[Failure]) -> None:
        super().__init__("; ".join(f"rank {fail.rank}: {fail.reason}" for fail in failures))
        self.failures = failures

    @property
    def is_full(self) -> bool:
        return any(failure.is_full for failure in self.failures)

    @property
    def is_fenced(self) -> bool:
        return any(failure.is_fenced for failure in self.failures)


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
        kinds = [_is_full(error), isinstance(error, FencedError)]
        payload = _FAILED + json.dumps([_reason(error), *kinds]).encode()
    payloads = exchange.gather_bytes(payload)
    failures = [
        Failure(rank=rank, reason=reason, is_full=is_full, is_fenced=is_fenced)
        for rank, answer in enumerate(payloads)
        if answer[:1] == _FAILED
        for reason, is_full, is_fenced in [json.loads(answer[1:])]
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
    answers = exchange.gather_bytes(made[0] if first[exchange.rank] == exchange.rank else b"")
    return [answers[rank] for rank in first]


def share(exchange: Exchange, make: Callable[[], bytes]) -> bytes:
    """Collective: what `make` returned on rank 0, on every rank; raises as `gather_results`."""
    return gather_results(exchange, make if exchange.rank == 0 else bytes)[0]


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in _FULL
