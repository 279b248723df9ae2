"""What goes wrong with data: what the user set, bytes that are not what was written, and stores.

ValueError    <- DataError           what the user set or gave; trying again cannot help
RuntimeError  <- CorruptDataError    bytes that differ from what their manifest or index says
RuntimeError  <- ChangedError        an object is another one than when it was listed or locked
RuntimeError  <- TransformError      the user's transform raised, or its process was killed
OSError       <- StoreError          a store did not give what it was asked for
                 |- TransientError   trying again may help: time-outs, resets, short bodies, 5xx
                 |  |- ThrottledError   the store asks for fewer requests (429, 503)
                 |- MissingError     there is no such object or bucket
                 |- DeniedError      the store refuses (credentials, permission)
"""

from pathlib import Path


class DataError(ValueError):
    """Data or a data setting that cannot be used; the message is one sentence for the user."""


class CorruptDataError(RuntimeError):
    """An object is not what its manifest or its own index says.

    Attributes:
        path: the file, or the object's URL.
        found: what it holds.
        needed: what the manifest says.
    """

    def __init__(
        self,
        path: Path | str,
        found: str,
        needed: str,
        remedy: str = "remove the folder and prepare the data again, or restore it from a copy",
    ) -> None:
        super().__init__(f"{path}: found {found}, needed {needed}; {remedy}")
        self.path = path
        self.found = found
        self.needed = needed


class ChangedError(RuntimeError):
    """An object was replaced after it was listed or locked.

    Attributes:
        url: the object.
        found: its tag or size now.
        needed: its tag or size then.
    """

    def __init__(self, url: str, found: str, needed: str) -> None:
        super().__init__(
            f"{url}: found {found}, needed {needed} as when the data was locked; restore the "
            "object, or lock the data again and start a new run"
        )
        self.url = url
        self.found = found
        self.needed = needed


class TransformError(RuntimeError):
    """The transform of a record raised, or the process that ran it died each time.

    Attributes:
        record: its id.
        text: the traceback of the user's code, or how the process ended.
    """

    def __init__(self, record: int, text: str) -> None:
        super().__init__(
            f"the transform of record {record}: found an error, needed a sample; correct the "
            f"transform, or raise CorruptDataError in it where the record is at fault:\n{text}"
        )
        self.record = record
        self.text = text


class StoreError(OSError):
    """A store did not give what it was asked for.

    Attributes:
        url: the object or folder that was asked for.
        cause: a word for counters, e.g. "timeout", "reset", "short", "503".
    """

    def __init__(self, url: str, message: str, cause: str = "other") -> None:
        super().__init__(f"{url}: {message}")
        self.url = url
        self.cause = cause


class TransientError(StoreError):
    """A failure that may pass: the same request may succeed later."""


class ThrottledError(TransientError):
    """The store asks for fewer requests."""


class MissingError(StoreError):
    """There is no such object or bucket."""


class DeniedError(StoreError):
    """The store refuses: credentials are missing, wrong or not enough."""
