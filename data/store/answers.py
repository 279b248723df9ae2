"""What a store's answer means: the error that a status stands for, and whether bytes are right."""

from ..errors import (
    ChangedError,
    DeniedError,
    MissingError,
    StoreError,
    ThrottledError,
    TransientError,
)
from .store import StoredObject

_DENIALS = frozenset(
    {
        *("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"),
        *("InvalidToken", "TokenRefreshRequired", "RequestTimeTooSkewed", "AccountProblem"),
    }
)
_PASSING = {
    "timeout": "found no answer in time",
    "refused": "found no server that takes connections",
    "reset": "found its connection broken",
    "short": "found fewer bytes than were announced or asked for",
    "other": "found the request failed",
}


def refusal(url: str, status: int, code: str = "") -> StoreError:
    """The error for an HTTP status of 400 and more, other than 412 and 416."""
    said = f"{status} {code}".strip()
    if status in (429, 503) or code in ("SlowDown", "Throttling", "TooManyRequests"):
        return ThrottledError(url, f"found {said}, needed an answer", str(status))
    if status == 408 or code == "RequestTimeout":
        return TransientError(url, f"found {said}, needed an answer", "timeout")
    if status >= 500:
        return TransientError(url, f"found {said}, needed an answer", "5xx")
    if status == 404:
        return MissingError(url, f"found no such object or bucket ({said}); correct the URL", "404")
    if status in (401, 403) or code in _DENIALS:
        return denied(url, said, str(status))
    remedy = "correct the URL, the endpoint or the region"
    return StoreError(url, f"found {said}, needed an answer; {remedy}", str(status))


def denied(url: str, said: str, cause: str = "credentials") -> DeniedError:
    """The error for credentials that are missing or do not suffice."""
    return DeniedError(
        url,
        f"found access denied ({said}), needed credentials that may read it; set those of the "
        "store's SDK, e.g. AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or store.anonymous=true "
        "for a public bucket",
        cause,
    )


def passing(url: str, cause: str, error: object = "") -> TransientError:
    """The error for a failure that may pass; `cause` is a key of the words above."""
    detail = f" ({error})" if str(error) else ""
    return TransientError(url, f"{_PASSING[cause]}{detail}, needed an answer", cause)


def no_ranges(url: str) -> StoreError:
    """The error for a store that answers a range as if it were the whole object."""
    return StoreError(
        url,
        "found an answer that is not marked as a range, needed a store that serves ranges; read "
        "it from another, or try data.store.transport=fsspec, which asks for less",
        "range",
    )


def missing(url: str) -> MissingError:
    """The error for a listing that found nothing."""
    return MissingError(url, "found no object at or below it, needed one; correct the URL", "404")


def check(obj: StoredObject, start: int, stop: int, size: int, tag: str, length: int) -> None:
    """Checks an answer to a read of [start, stop): the object's whole size and tag as the answer
    says them, and the bytes that came. Stores that ignore conditions are found out here.

    Raises:
        ChangedError: the object is not the one that was listed.
        TransientError: bytes are missing.
    """
    if size != obj.size:
        raise ChangedError(obj.url, f"{size} bytes", f"{obj.size} bytes")
    if obj.tag and tag and tag != obj.tag:
        raise ChangedError(obj.url, tag, obj.tag)
    if length != stop - start:
        raise passing(obj.url, "short", f"{length} of {stop - start} bytes")


def check_range(obj: StoredObject, start: int, stop: int) -> None:
    """Refuses a range outside of the object, which stores answer in many ways."""
    if not 0 <= start <= stop <= obj.size:
        raise ValueError(
            f"{obj.url}: found the range [{start}, {stop}), needed one within its {obj.size} "
            "bytes; read what the object holds"
        )
