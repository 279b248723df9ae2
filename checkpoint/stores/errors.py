"""What a store's answer means, as the exceptions of files; and asking again for what may pass.

FileNotFoundError, FileExistsError, PermissionError    as of a file
OSError with ENOSPC                                    the store's quota or disk is full
TransientError(ConnectionError)                        trying again may help
"""

import errno
import random
import time
from collections.abc import Callable
from threading import Event
from typing import TypeVar, final

Result = TypeVar("Result")

_DENIALS = frozenset(
    {
        *("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"),
        *("InvalidToken", "TokenRefreshRequired", "RequestTimeTooSkewed", "AccountProblem"),
    }
)
_FULL = frozenset({"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull"})
_LONGEST_PAUSE = 5.0


@final
class TransientError(ConnectionError):
    """The store did not answer, or said that it cannot now."""


def refusal(address: str, status: int, code: str = "") -> OSError:
    """The error for an HTTP status of 300 and more."""
    said = f"{status} {code}".strip()
    if status == 507 or code in _FULL:
        return OSError(errno.ENOSPC, f"{address}: found the store full ({said}), needed room")
    if status in (401, 403) or code in _DENIALS:
        return denied(address, said)
    # 409 is of two conditional writes of one name at the same time.
    if status in (408, 409, 429) or status >= 500 or code in ("SlowDown", "RequestTimeout"):
        return TransientError(f"{address}: found {said}, needed an answer; look at the store")
    if status == 412:
        return taken(address)
    if status == 404:
        words = f"{address}: found no such object or bucket ({said}), needed one; correct the URL"
        return FileNotFoundError(errno.ENOENT, words)
    words = "needed an answer; correct the URL, the endpoint or the region"
    return OSError(errno.EIO, f"{address}: found {said}, {words}")


def taken(address: str) -> FileExistsError:
    """The error for a name that must be new and is not."""
    words = "found an object of that name, needed none; no object is written twice"
    return FileExistsError(errno.EEXIST, f"{address}: {words}")


def denied(address: str, said: str) -> PermissionError:
    """The error for credentials that are missing or do not suffice."""
    return PermissionError(
        errno.EACCES,
        f"{address}: found access denied ({said}), needed credentials that may read, write, list "
        "and delete; set those of the store's SDK, e.g. AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY",
    )


def unanswered(address: str, reason: object) -> TransientError:
    """The error for a request that broke off."""
    return TransientError(
        f"{address}: found the request broken off ({reason}), needed an answer; look at the "
        "network and the store"
    )


@final
class Patience:
    """Asks again what failed in a way that may pass, with growing pauses, for `seconds` in all."""

    def __init__(
        self,
        seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.seconds = seconds
        self._clock = clock
        self._sleep = sleep

    def ask(self, call: Callable[[], Result], *, over: Event | None = None) -> Result:
        """What `call` answers; the last TransientError once the time is over, or `over` is set."""
        deadline, pause = self._clock() + self.seconds, 0.1
        while True:
            try:
                return call()
            except TransientError:
                is_over = over is not None and over.is_set()
                if is_over or self._clock() + pause > deadline:
                    raise
            self._sleep(pause * random.uniform(0.5, 1.0))
            pause = min(_LONGEST_PAUSE, pause * 2)
