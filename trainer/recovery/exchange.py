"""How guardians speak while they save: over the agent's store, one key a word, never a collective.

A rank that will not come, since its worker died before it could ask for the save, is known at once.
"""

import time
from collections.abc import Sequence
from typing import final

from .generation import Generations

_SHORTEST_SECONDS, _LONGEST_SECONDS = 0.002, 0.1


class RankGoneError(ConnectionError):
    """A rank's worker ended before it took part."""

    def __init__(self, rank: int, step: int) -> None:
        super().__init__(
            f"rank {rank}: its training process ended before it had a snapshot of step {step}, "
            "which all ranks need; the next save takes its place"
        )
        self.rank = rank


@final
class StoreExchange:
    """An `Exchange` between the guardians of all ranks, for one save; for one thread.

    Args:
        generations: over a connection of this thread's own, since waiting holds it.
        name: of this try, the same on all ranks and never used before.
        seconds: how long the slowest rank may take for one word.
    """

    def __init__(
        self,
        generations: Generations,
        *,
        name: str,
        generation: int,
        step: int,
        seconds: float,
    ) -> None:
        self._generations, self._store = generations, generations.store
        self._name = name
        self._generation, self._step = generation, step
        self._seconds = seconds
        self._words = 0

    @property
    def rank(self) -> int:
        return self._generations.rank

    @property
    def size(self) -> int:
        return self._generations.size

    def gather_bytes(self, payload: bytes) -> list[bytes]:
        """Collective: every rank's payload; raises RankGoneError, or TimeoutError after a while."""
        self._words += 1
        word = f"save/{self._name}/{self._words}"
        keys = [f"{word}/{rank}" for rank in range(self.size)]
        self._store.set(keys[self.rank], payload)  # type: ignore[arg-type]
        if self._store.add(f"{word}/count", 1) == self.size:
            self._store.set(f"{word}/all", "1")
        self._await(word, keys)
        found: list[bytes] = self._store.multi_get(keys)
        return found

    def all_agree(self, ok: bool) -> bool:
        """Collective: whether every rank said yes."""
        return all(answer == b"+" for answer in self.gather_bytes(b"+" if ok else b"-"))

    def _await(self, word: str, keys: Sequence[str]) -> None:
        """Looks for one key, ever less often: a wait with a deadline would have the store's client
        log a warning at each."""
        deadline, pause = time.monotonic() + self._seconds, _SHORTEST_SECONDS
        while not self._store.check([f"{word}/all"]):
            if time.monotonic() > deadline:
                missing = [rank for rank, key in enumerate(keys) if not self._store.check([key])]
                raise TimeoutError(
                    f"ranks {missing}: found no answer to {word} within {self._seconds:.0f} s, "
                    "needed one of every rank; look at their machines and their store"
                )
            if pause >= _LONGEST_SECONDS:
                self._check_all_take_part(keys)
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_SECONDS)

    def _check_all_take_part(self, keys: Sequence[str]) -> None:
        if self._generations.turn(self._generation) is None:
            return
        for rank, key in enumerate(keys):
            is_gone = not self._store.check([key]) and self._generations.takes_no_part(
                self._generation, rank, self._step
            )
            # What it said before it went counts all the same.
            if is_gone and not self._store.check([key]):
                raise RankGoneError(rank, self._step)
