"""A store of the ranks in this process's memory, which counts what each rank asks of it and may be
held up before each word, so that a scheduler runs many ranks in any order."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, final

_MOST_LOOKS = 2000


@final
class MemoryStore:
    """What all ranks share: linearisable, as torch's TCPStore is."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def client(self, before: Callable[[], None] = lambda: None) -> "Client":
        """One rank's connection.

        Args:
            before: called before each word, and again and again while a key is waited for; it may
                hold the caller up, or raise.
        """
        return Client(self.values, before)


@final
class Client:
    """The part of torch.distributed.Store's face that generations use."""

    def __init__(self, values: dict[str, bytes], before: Callable[[], None]) -> None:
        self._values = values
        self._before = before
        self.calls: Counter[str] = Counter()
        self.num_bytes = 0

    def set(self, key: str, value: str | bytes) -> None:
        self._count("set", value)
        self._values[key] = _bytes(value)

    def get(self, key: str) -> bytes:
        self._need("get", [key])
        self.num_bytes += len(self._values[key])
        return self._values[key]

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        return [self.get(key) for key in keys]

    def check(self, keys: Sequence[str]) -> bool:
        self._count("check", *keys)
        return all(key in self._values for key in keys)

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        self._need("wait", keys)

    def add(self, key: str, amount: int) -> int:
        self._count("add", key)
        found = int(self._values.get(key, b"0")) + amount
        self._values[key] = str(found).encode()
        return found

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        self._count("compare_set", desired)
        if key not in self._values and expected:
            return expected.encode()
        if self._values.get(key, b"") == expected.encode():
            self._values[key] = desired.encode()
        return self._values[key]

    def _need(self, call: str, keys: Sequence[str]) -> None:
        self._count(call, *keys)
        for _ in range(_MOST_LOOKS):
            if all(key in self._values for key in keys):
                return
            self._before()
        raise AssertionError(f"{call} of {list(keys)} would block for ever")

    def _count(self, call: str, *sent: str | bytes) -> None:
        self._before()
        self.calls[call] += 1
        self.num_bytes += sum(map(len, sent))


def _bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)
