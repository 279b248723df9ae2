"""Any fsspec filesystem as a store, through what all of them share: find, info and cat_file."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, final

from ..errors import ChangedError, DeniedError, MissingError, StoreError, TransientError
from .answers import check, check_range, missing, passing
from .names import chosen, root
from .process import PerProcess
from .store import StoredObject

_TAGS = ("ETag", "etag", "e_tag", "generation", "md5", "mtime", "created", "last_modified")


@final
class FsspecStore:
    """Objects behind any fsspec protocol that has no store of its own here.

    An object that was replaced is found by a look at its size and tag after each read: one
    request more.

    Args:
        make: makes the filesystem; called once in each process.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._filesystem = PerProcess(make)

    def list(self, url: str) -> list[StoredObject]:
        filesystem = self._filesystem.get()
        path = str(filesystem._strip_protocol(url))
        try:
            found = filesystem.find(root(path), detail=True)
        except Exception as error:
            raise _said(url, error) from error
        facts = {str(name): one for name, one in found.items()}
        names = chosen(path, list(facts))
        if not names and root(path) == path:
            raise missing(url)
        return [self._stored(filesystem.unstrip_protocol(name), facts[name]) for name in names]

    def stat(self, url: str) -> StoredObject:
        filesystem = self._filesystem.get()
        try:
            facts = filesystem.info(filesystem._strip_protocol(url))
        except Exception as error:
            raise _said(url, error) from error
        if facts.get("type") == "directory":
            raise missing(url)
        return self._stored(url, facts)

    def read(self, obj: StoredObject, start: int, stop: int) -> bytes | memoryview:
        check_range(obj, start, stop)
        if start == stop:
            return b""
        filesystem = self._filesystem.get()
        try:
            path = filesystem._strip_protocol(obj.url)
            content: bytes = filesystem.cat_file(path, start=start, end=stop)
        except Exception as error:
            raise _said(obj.url, error) from error
        now = self.stat(obj.url)
        check(obj, start, stop, now.size, now.tag, len(content))
        return content

    def content(self, url: str) -> bytes:
        filesystem = self._filesystem.get()
        try:
            return bytes(filesystem.cat_file(filesystem._strip_protocol(url)))
        except Exception as error:
            raise _said(url, error) from error

    def close(self) -> None:
        """Lets go of the filesystem, which gives its connections back when it is collected."""
        self._filesystem.take()

    def _stored(self, url: str, facts: dict[str, Any]) -> StoredObject:
        tag = next((facts[name] for name in _TAGS if facts.get(name)), "")
        # The same moment may be a datetime from `info` and a number from `find`.
        tag = tag.timestamp() if isinstance(tag, datetime) else tag
        return StoredObject(url, int(facts["size"]), str(tag).strip('"'))


def _said(url: str, error: Exception) -> Exception:
    if isinstance(error, StoreError | ChangedError):
        return error
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return MissingError(url, "found no such object, needed it; correct the URL", "404")
    if isinstance(error, PermissionError):
        return DeniedError(url, f"found access denied ({error}), needed permission", "403")
    if isinstance(error, TimeoutError):
        return passing(url, "timeout", error)
    if isinstance(error, ConnectionRefusedError):
        return passing(url, "refused", error)
    if isinstance(error, ConnectionError):
        return passing(url, "reset", error)
    return TransientError(url, f"found the request failed ({error!r}), needed an answer", "other")
