"""A client for each process that asks for one: sockets and threads do not survive a fork."""

import os
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar, final

Client = TypeVar("Client")


@final
class PerProcess(Generic[Client]):
    """Makes the client of a process when it first asks. Safe to call from many threads.

    A fork inherits its parent's client too, and with it sockets on which both would read: it is
    kept, unused, since closing it would act on what the parent still uses.
    """

    def __init__(self, make: Callable[[], Client]) -> None:
        self._make = make
        self._made: dict[int, Client] = {}
        self._locks: dict[int, Lock] = {}

    def get(self) -> Client:
        process = os.getpid()
        found = self._made.get(process)
        if found is not None:
            return found
        # A lock of each process's own: the parent's may have been held when it was forked.
        with self._locks.setdefault(process, Lock()):
            if process not in self._made:
                self._made[process] = self._make()
            return self._made[process]

    def take(self) -> Client | None:
        """This process's client, which the next `get` makes anew; None where none was made."""
        return self._made.pop(os.getpid(), None)
