"""Values that were costly to make, kept by key while they fit in a budget of bytes."""

from collections.abc import Callable, Hashable
from threading import Condition
from typing import Generic, TypeVar, final

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@final
class Kept(Generic[Key, Value]):
    """The values used last, at most `limit_bytes` of them but always the newest. Thread-safe.

    A value is made by one thread, outside of the lock; others that want it wait for that one, and
    one of them makes it where the first failed.
    """

    def __init__(self, limit_bytes: int, size: Callable[[Value], int]) -> None:
        self._limit_bytes = limit_bytes
        self._size = size
        self._values: dict[Key, Value] = {}
        self._bytes = 0
        self._making: set[Key] = set()
        self._changed = Condition()

    def peek(self, key: Key) -> Value | None:
        """The value, where it is kept. Never waits for one that is being made."""
        with self._changed:
            found = self._values.pop(key, None)
            if found is not None:
                self._values[key] = found
            return found

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        with self._changed:
            while key in self._making:
                self._changed.wait()
            if key in self._values:
                found = self._values[key] = self._values.pop(key)
                return found
            self._making.add(key)
        try:
            value = make()
            self.put(key, value)
            return value
        finally:
            with self._changed:
                self._making.discard(key)
                self._changed.notify_all()

    def put(self, key: Key, value: Value) -> None:
        """Keeps a value, and lets go of the ones not used for longest."""
        with self._changed:
            if key in self._values:
                self._bytes -= self._size(self._values.pop(key))
            self._values[key] = value
            self._bytes += self._size(value)
            while self._bytes > self._limit_bytes and len(self._values) > 1:
                oldest = next(iter(self._values))
                self._bytes -= self._size(self._values.pop(oldest))
