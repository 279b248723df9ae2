"""Generations: one number in the shared store that says which life of the process group is on, why
the last one ended, and whether the job is over. It kills and starts nothing."""

import json
import time
from dataclasses import asdict, dataclass

from torch.distributed import Store  # type: ignore[attr-defined]


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
class End:
    """The job is over for every guardian: exit code and one sentence."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Generations:
    """All guardians' view of the store; every method answers at once unless it says `wait`."""

    store: Store
    rank: int
    size: int

    def open(self) -> None:
        """Makes the keys exist, whoever comes first."""
        self.store.compare_set("generation", "", "0")
        self.store.compare_set("end", "", "{}")

    def agree_on_start(self, now: float, config_digest: str) -> tuple[float, list[str]]:
        """When the job began (the first caller's clock counts), and every rank's digest of its
        configuration in rank order. Blocks until all have come, at most the store's deadline."""
        started = self.store.compare_set("started", "", repr(now)).decode()
        self.store.set(f"config/{self.rank}", config_digest)
        digests = [self.store.get(f"config/{rank}").decode() for rank in range(self.size)]
        return float(started), digests

    def look(self) -> tuple[int, End | None]:
        """The generation that is on, and the job's end if it has been called. One round trip."""
        number, end = self.store.multi_get(["generation", "end"])
        found = json.loads(end)
        return int(number), End(**found) if found else None

    def raise_from(self, generation: int, failure: Failure) -> bool:
        """Ends `generation` for everybody; False where somebody else already had."""
        self.store.set(f"failure/{generation}/{self.rank}", json.dumps(asdict(failure)))
        after = str(generation + 1)
        if self.store.compare_set("generation", str(generation), after).decode() != after:
            return False
        # compare_set answers the new value to a second caller as well; one key settles who it was
        won: bool = self.store.add(f"raised/{generation}", 1) == 1
        return won

    def failures(self, generation: int) -> list[Failure]:
        """What was noted of the end of `generation`, by rank; complete once all have met again."""
        keys = [f"failure/{generation}/{rank}" for rank in range(self.size)]
        return [Failure(**json.loads(self.store.get(k))) for k in keys if self.store.check([k])]

    def note_late(self, generation: int, place: tuple[int, int], moment: float) -> None:
        """Says that this rank's worker gives no sign of life since `moment` (unix seconds), and its
        place then: (step, phase)."""
        self.store.set(f"late/{generation}/{self.rank}", json.dumps([place, moment]))

    def furthest_behind(self, generation: int) -> int:
        """Of the ranks whose workers are late, the one the others wait for: the earliest place, and
        of equal ones the earliest moment. Needs one `note_late` at least."""
        keys = {rank: f"late/{generation}/{rank}" for rank in range(self.size)}
        late = {r: json.loads(self.store.get(k)) for r, k in keys.items() if self.store.check([k])}
        return min(late, key=late.__getitem__)

    def end(self, code: int, reason: str) -> None:
        """Calls the job's end; the first call counts."""
        self.store.compare_set("end", "{}", json.dumps(asdict(End(code=code, reason=reason))))

    def arrive(self, key: str, generation: int) -> None:
        """Says that this guardian has come to `key` in `generation`."""
        self.store.set(f"{key}/{generation}/{self.rank}", "1")

    def all_arrived(self, key: str, generation: int) -> bool:
        """Whether every guardian has come to `key` in `generation`."""
        names = [f"{key}/{generation}/{rank}" for rank in range(self.size)]
        found: bool = self.store.check(names)
        return found

    def missing(self, key: str, generation: int) -> list[int]:
        """The ranks whose guardians have not come to `key` in `generation`."""
        names = {rank: f"{key}/{generation}/{rank}" for rank in range(self.size)}
        return [rank for rank, name in names.items() if not self.store.check([name])]

    def wait_all(self, key: str, generation: int, *, seconds: float) -> None:
        """Waits, at most so long, until every guardian has come to `key` in `generation`."""
        deadline = time.monotonic() + seconds
        while not self.all_arrived(key, generation) and time.monotonic() < deadline:
            time.sleep(0.01)
