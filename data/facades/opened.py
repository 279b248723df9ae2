"""A source that each process opens for itself, at its first reading. Reads nothing itself."""

import os
import threading
from collections.abc import Callable
from typing import Any, final

from ..errors import DataError
from ..sources import Source, Stored

Opener = Callable[[], Source]


@final
class Opened:
    """What was given: a source, which stays in this process where it has objects in a store, or a
    function that opens one, which goes anywhere.

    Threads and connections do not live on in a fork, nor can they be sent: a source that may have
    them is refused in any other process than the one it was made in.
    """

    def __init__(self, source: Source | Opener) -> None:
        self._given = source
        self._owner = os.getpid()
        self._reader = 0
        self._source: Source | None = None
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether it was given open."""
        return not callable(self._given)

    def source(self) -> Source:
        """This process's own; opened where it is not yet.

        Raises:
            DataError: it was given open, in another process, and has objects in a store.
        """
        own = os.getpid()
        if self._source is not None and self._reader == own:
            return self._source
        if self._reader not in (0, own):
            # Whoever held it before the fork does not exist here.
            self._lock = threading.Lock()
        with self._lock:
            if self._source is None or self._reader != own:
                self._source = self._made(own)
                self._reader = own
            return self._source

    def _made(self, own: int) -> Source:
        if callable(self._given):
            return self._given()
        if self._owner != own and isinstance(self._given, Stored):
            raise _not_here("a fork")
        return self._given

    def __getstate__(self) -> dict[str, Any]:
        if not callable(self._given) and isinstance(self._given, Stored):
            raise _not_here("another process")
        return {"_given": self._given}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_given"])


def _not_here(where: str) -> DataError:
    return DataError(
        f"the dataset's source: found one that was opened in one process and is read in {where}, "
        "needed a function that opens it where it is read; give e.g. `lambda: open_corpus(config, "
        "report=print).train`, or num_workers=0"
    )
