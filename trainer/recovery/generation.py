"""Generations: a chain of words in the shared store, one for the end of each life of the process
group: what comes next, or that the job is over. It kills and starts nothing.

A recovery costs each rank a few words, whatever their number: who waits, waits for one key, and
what all ranks have come to is counted.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]

# Of those who failed at once, how many are heard: one is the cause, and where all ranks fail at the
# same line the rest say nothing new.
_MOST_HEARD = 32
_DAY = timedelta(days=1)
_MOST_NAMED = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a generation ended: seen by the guardian of `rank`."""

    rank: int
    step: int
    cause: str
    reason: str
    time: float
    """Unix seconds at which it was noticed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """The end of one generation, the same for every guardian."""

    by: int
    """Rank whose guardian called it."""
    code: int | None = None
    """Exit code of the job, which is over; None where another generation follows."""
    reason: str = ""
    """One sentence, where the job is over for a reason."""
    afresh: bool = False
    """Whether every worker is replaced; else those that can go on do."""
    culprit: int | None = None
    """Rank whose worker is replaced in any case, as it keeps the others waiting."""

    @property
    def is_end(self) -> bool:
        """Whether the job is over."""
        return self.code is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Late:
    """A worker that gives no sign of life: where it was, and since when (unix seconds)."""

    rank: int
    step: int
    phase: int
    moment: float
    waits: str = ""
    """What others wait in for it, as a sentence; empty where none has said so."""


@dataclass(frozen=True, slots=True)
class Generations:
    """All guardians' view of the store; every method answers at once unless it says that it waits.

    For one thread: what waits holds the connection.
    """

    store: Store
    rank: int
    size: int

    def agree_on_start(self, now: float, config_digest: str) -> tuple[float, dict[int, str]]:
        """When the job began (the first caller's clock counts), and the configurations that differ
        from rank 0's, which comes first, by rank; empty where there are none. Waits for all."""
        started = self.store.compare_set("started", "", repr(now)).decode()
        if self.rank == 0:
            self.store.set("config", config_digest)
        common = self.store.get("config").decode()
        if common != config_digest:
            self._note("odd", json.dumps([self.rank, config_digest]))
        self.arrive("started", 0)
        self.store.wait(["started/0/all"])
        odd = {rank: found for rank, found in map(json.loads, self._noted("odd"))}
        return float(started), {0: common, **odd} if odd else {}

    def wait_first(self, key: str) -> None:
        """Waits until rank 0 has come to `key`; rank 0 comes by calling it."""
        if self.rank == 0:
            self.store.set(key, "1")
        else:
            self.store.wait([key])

    def turn(self, generation: int) -> Turn | None:
        """How `generation` ended; None while it is on."""
        key = f"turn/{generation}"
        return Turn(**json.loads(self.store.get(key))) if self.store.check([key]) else None

    def wait_turn(self, generation: int) -> Turn:
        """As `turn`; waits for it, as long as that takes."""
        key = f"turn/{generation}"
        while True:
            try:
                self.store.wait([key], _DAY)
            except dist.DistStoreError:
                continue
            return Turn(**json.loads(self.store.get(key)))

    def raise_from(
        self, generation: int, failure: Failure, *, afresh: bool = False, culprit: int | None = None
    ) -> bool:
        """Ends `generation` for everybody; False where somebody else already had."""
        self._note(f"failures/{generation}", json.dumps(asdict(failure)))
        return self._call(generation, Turn(by=self.rank, afresh=afresh, culprit=culprit))

    def end(self, generation: int, code: int, reason: str = "") -> bool:
        """Ends the job with `generation`; False where somebody else had ended that before."""
        return self._call(generation, Turn(by=self.rank, code=code, reason=reason))

    def failures(self, generation: int) -> list[Failure]:
        """What was noted of the end of `generation`, by rank, as far as it is known by now."""
        found = [Failure(**json.loads(one)) for one in self._noted(f"failures/{generation}")]
        return sorted(found, key=lambda failure: failure.rank)

    def note_late(self, generation: int, place: tuple[int, int], moment: float) -> bool:
        """Says that this rank's worker gives no sign of life since `moment` (unix seconds), and its
        place then: (step, phase). True for one rank: the one who asks who is to blame."""
        self.store.set(f"late/{generation}/{self.rank}", json.dumps([place, moment]))
        return bool(self.store.add(f"inquest/{generation}", 1) == 1)

    def furthest_behind(self, generation: int) -> Late:
        """Of the ranks whose workers are late, the one the others wait for: the earliest place, and
        of equal ones one that is in no collective while others are, then the earliest moment. Needs
        one `note_late` at least; for one rank to ask."""
        late = self._said(f"late/{generation}")
        waits = {rank: said for rank, said in self._said(f"waits/{generation}").items() if said}

        def order(rank: int) -> tuple[tuple[int, int], bool, float]:
            place, moment = late[rank]
            return tuple(place), rank in waits, moment

        rank = min(late, key=order)
        (step, phase), moment = late[rank]
        others = {other: said for other, said in waits.items() if other != rank}
        return Late(rank=rank, step=step, phase=phase, moment=moment, waits=_waiting(others))

    def note_waits(self, generation: int, waits: str) -> None:
        """Says which collective this rank's late worker is in; empty: none."""
        self.store.set(f"waits/{generation}/{self.rank}", json.dumps(waits))

    def note_over(self, generation: int, last_save: int) -> None:
        """Says that this rank's worker has no more part in `generation`, and the step of the last
        save that it asked for, -1 where there is none: it takes part in none after that."""
        self.store.set(f"over/{generation}/{self.rank}", str(last_save))

    def takes_no_part(self, generation: int, rank: int, step: int) -> bool:
        """Whether the worker of that rank is no more and never asked to save `step`."""
        key = f"over/{generation}/{rank}"
        return bool(self.store.check([key])) and int(self.store.get(key)) < step

    def forbid_in_place(self) -> None:
        """Says that on this node nobody can be thrown out of a collective: all are replaced."""
        self.store.set("afresh", "1")

    @property
    def is_in_place_forbidden(self) -> bool:
        """Whether that was said of any node."""
        found: bool = self.store.check(["afresh"])
        return found

    def arrive(self, key: str, generation: int) -> bool:
        """Says, once, that this guardian has come to `key` in `generation`; whether all have."""
        self.store.set(f"{key}/{generation}/{self.rank}", "1")
        is_last = self.store.add(f"{key}/{generation}/count", 1) == self.size
        if is_last:
            self.store.set(f"{key}/{generation}/all", "1")
        return bool(is_last)

    def all_arrived(self, key: str, generation: int) -> bool:
        """Whether every guardian has come to `key` in `generation`."""
        found: bool = self.store.check([f"{key}/{generation}/all"])
        return found

    def missing(self, key: str, generation: int) -> list[int]:
        """The ranks whose guardians have not come to `key` in `generation`; asks for each."""
        names = {rank: f"{key}/{generation}/{rank}" for rank in range(self.size)}
        return [rank for rank, name in names.items() if not self.store.check([name])]

    def wait_all(self, key: str, generation: int, *, seconds: float) -> bool:
        """Waits, at most so long, until every guardian has come to `key` in `generation`; whether
        all have."""
        try:
            self.store.wait([f"{key}/{generation}/all"], timedelta(seconds=seconds))
        except dist.DistStoreError:
            return False
        return True

    def share(self, key: str, make: Callable[[], str]) -> str:
        """What rank 0 has made, on every rank; the others wait for it."""
        if self.rank == 0:
            self.store.set(key, make())
        return str(self.store.get(key).decode())

    def note_address(self, address: tuple[str, int]) -> None:
        """Says where this rank's guardian takes in copies."""
        self.store.set(f"peers/address/{self.rank}", json.dumps(address))

    def address_of(self, rank: int) -> tuple[str, int] | None:
        """Where the guardian of that rank does; None where it has not said so."""
        key = f"peers/address/{rank}"
        if not self.store.check([key]):
            return None
        host, port = json.loads(self.store.get(key))
        return host, port

    def meet(self, key: str, generation: int, *, seconds: float) -> bool:
        """Comes to `key`, and waits as `wait_all` does."""
        return self.arrive(key, generation) or self.wait_all(key, generation, seconds=seconds)

    def any_of(self, key: str, generation: int, mine: bool, *, seconds: float) -> bool:
        """Whether any rank says yes; waits for all of them, as `wait_all`."""
        if mine:
            self.store.set(f"{key}/{generation}/yes", "1")
        self.meet(key, generation, seconds=seconds)
        found: bool = self.store.check([f"{key}/{generation}/yes"])
        return found

    def _said(self, key: str) -> dict[int, Any]:
        """What ranks have said under the key, of those that have."""
        keys = {rank: f"{key}/{rank}" for rank in range(self.size)}
        return {r: json.loads(self.store.get(k)) for r, k in keys.items() if self.store.check([k])}

    def _call(self, generation: int, turn: Turn) -> bool:
        said = json.dumps(asdict(turn))
        found: str = self.store.compare_set(f"turn/{generation}", "", said).decode()
        return found == said

    def _note(self, key: str, line: str) -> None:
        if (number := self.store.add(f"{key}/count", 1)) <= _MOST_HEARD:
            self.store.set(f"{key}/{number}", line)

    def _noted(self, key: str) -> Sequence[str]:
        count = self.store.add(f"{key}/count", 0)
        keys = [f"{key}/{number}" for number in range(1, min(count, _MOST_HEARD) + 1)]
        # One that was counted and not written yet is nobody's cause: its writer is still alive.
        return [self.store.get(one).decode() for one in keys if self.store.check([one])]


def _waiting(waits: Mapping[int, str]) -> str:
    """Who waits in what: the collective that most are in, and some of the ranks."""
    if not waits:
        return ""
    (said, count), *_ = Counter(waits.values()).most_common(1)
    ranks = [rank for rank in sorted(waits) if waits[rank] == said][:_MOST_NAMED]
    more = f" and {count - len(ranks)} more" if count > len(ranks) else ""
    who = f"rank {ranks[0]} waits" if count == 1 else f"ranks {ranks}{more} wait"
    return f"{who} in {said}"
