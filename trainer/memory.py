"""What the ranks still have in memory of a run, and which steps of it all of them do."""

import json
from collections.abc import Sequence
from typing import final

from ..checkpoint import CorruptError, Damage, Found, Restored
from ..checkpoint.slots import MEMORY, Held, Image, newest
from ..parallel import Exchange
from .build import Job
from .config import RunConfig
from .recovery.life import Life
from .state import State

# A run that went back has come by some steps twice, but never by the same samples: of two snapshots
# the later one has the greater position in the data.
Place = tuple[int, int]
"""(samples, step) of a snapshot."""


@final
class Memory:
    """The slots of this rank and the snapshots that every rank has whole, the newest first."""

    def __init__(self, held: Sequence[Held], places: Sequence[Place], life: Life, job: Job) -> None:
        self._held = {_place(one): one for one in held}
        self._places = list(places)
        self._is_damaged = False
        self._life = life
        self._exchange = Exchange(job.topology.control)

    @classmethod
    def of(cls, job: Job, image: Image, life: Life) -> "Memory":
        """Collective: looks and asks. Of an earlier job only what may be resumed counts, and
        nothing where no snapshots are wanted: slots hold what is being saved all the same."""
        is_wanted = resumes_from_memory(job.config, is_going_on=life.generation > 0)
        return cls._found(job, image, life, is_wanted=is_wanted)

    @classmethod
    def of_live(cls, job: Job, image: Image, life: Life) -> "Memory":
        """Collective: as `of`, of a run that is going on, which has settled its last snapshot."""
        return cls._found(job, image, life, is_wanted=True)

    @classmethod
    def _found(cls, job: Job, image: Image, life: Life, *, is_wanted: bool) -> "Memory":
        held: list[Held] = []
        if life.slots is not None and is_wanted:
            plan = image.encode()
            held = [one for one in newest(life.slots.all) if one.plan == plan]
        own = json.dumps([_place(one) for one in held]).encode()
        answers = Exchange(job.topology.control).gather_bytes(own)
        common = set.intersection(*({(p, s) for p, s in json.loads(a)} for a in answers))
        return cls(held, sorted(common, reverse=True), life, job)

    @property
    def has_steps(self) -> bool:
        """Whether there is any step that all ranks have."""
        return bool(self._places)

    @property
    def is_untouched(self) -> bool:
        """Whether there is, and none was found damaged yet."""
        return self.has_steps and not self._is_damaged

    def is_newer(self, found: Sequence[Found]) -> bool:
        """Whether the newest step that all have in memory is what the run did last.

        Args:
            found: the durable checkpoints, the last committed first.
        """
        if not self._places:
            return False
        place = self._places[0]
        if not found:
            return True
        return place[1] >= found[0].step or self._held[place].created > found[0].created

    def go_back(self, snapshots: int, *, before: Place) -> None:
        """Leaves out all but the one that is so many snapshots before that place, and those older
        still; where there are fewer, all but the oldest."""
        earlier = [one for one in self._places if one[0] < before[0] and one[1] < before[1]]
        self._places = earlier[min(snapshots, len(earlier)) - 1 :] if earlier else []

    def load(
        self, state: State, damaged: list[Damage], *, in_place: bool = False
    ) -> Restored | None:
        """Collective: fills the state from the newest common snapshot, which is then given up on
        where a rank finds a wrong byte in it: None, and the damage is noted.

        Args:
            in_place: prove the bytes where they have come to lie, which is faster, and leaves a
                state that holds anything where it answers None.
        """
        held = self._held[self._places.pop(0)]
        own: list[str] = []
        try:
            if in_place:
                held.fill(state.tensors)
            else:
                held.prove()
        except CorruptError as error:
            own.append(f"rank {self._life.world.rank}: {error.reason}")
        answers = self._exchange.gather_bytes(json.dumps(own).encode())
        reasons = [reason for answer in answers for reason in json.loads(answer)]
        if reasons:
            self._is_damaged = True
            damaged += [Damage(path=MEMORY, file=held.name, reason=reason) for reason in reasons]
            return None
        if not in_place:
            held.load_into(state.tensors)
        return Restored(
            step=held.step,
            path=MEMORY,
            progress=held.cargo.progress,
            lineage=held.cargo.lineage,
            damaged=list(damaged),
        )

    def keep_until(self, step: int) -> None:
        """As `forget_after`."""
        forget_after(self._life, step)


def resumes_from_memory(config: RunConfig, *, is_going_on: bool = False) -> bool:
    """Whether a job may begin with what an earlier one left in memory, or go on with its own."""
    may_resume = is_going_on or config.run.resume in ("auto", "must")
    return may_resume and config.recovery.snapshot_every != 0


def forget_after(life: Life, step: int) -> None:
    """Empties this rank's slots of later steps than that: they are of a line that is not gone on
    with; what is still being saved stays."""
    for slot in life.slots.all if life.slots else ():
        if slot.step > step and not slot.is_pinned:
            slot.unseal()


def holds(life: Life, place: Place) -> bool:
    """Whether this rank has a whole snapshot of that place."""
    return any(_place(one) == place for one in newest(life.slots.all if life.slots else []))


def forget_older(life: Life, place: Place) -> None:
    """Empties this rank's slots of the same step with an earlier position in the data, but for what
    is still being saved."""
    slots = life.slots.all if life.slots else []
    for one in newest(slots):
        is_older = one.step == place[1] and _place(one)[0] < place[0]
        if is_older and not slots[one.index].is_pinned:
            slots[one.index].unseal()


def _place(held: Held) -> Place:
    return int(held.cargo.progress["samples"]), held.step
