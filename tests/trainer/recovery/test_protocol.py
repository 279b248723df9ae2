"""The protocol of generations under every kind of bad luck: guardians that run word by word in any
order over one store, whose workers and who themselves die anywhere in between."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from support.baton import Baton
from support.memory_store import MemoryStore

from keepstep.trainer.recovery.generation import Failure, Generations, Turn

FINISHED, FAILED = 0, 1
MOST_TURNS = 6000


@dataclass
class World:
    """What is true of workers and guardians, whatever anybody believes."""

    size: int
    began: dict[int, set[int]] = field(default_factory=dict)
    """Ranks whose worker has begun, by generation."""
    died: dict[int, set[int]] = field(default_factory=dict)
    """Ranks whose worker has died in it."""
    gone: set[int] = field(default_factory=set)
    """Ranks whose guardian is dead, and its worker with it."""
    turns: dict[int, list[Turn]] = field(default_factory=dict)
    """What each guardian heard, in order."""

    def has_all(self, generation: int) -> bool:
        """Whether the ranks of that generation can train to the end."""
        lives = self.began.get(generation, set()) - self.died.get(generation, set()) - self.gone
        return len(lives) == self.size

    def is_broken(self, generation: int) -> bool:
        """Whether somebody who had begun is no more: the others' collectives fail."""
        lost = self.died.get(generation, set()) | (self.began.get(generation, set()) & self.gone)
        return bool(lost)


def guard(generations: Generations, world: World, kills: list[int], code: list[int]) -> None:
    """What `Guardian` does with the store, without its processes."""
    rank, number = generations.rank, 0
    while True:
        generations.arrive("here", number)
        assert number == 0 or generations.turn(number - 1) is not None
        world.began.setdefault(number, set()).add(rank)
        turn = _live(generations, world, kills, number)
        world.turns.setdefault(rank, []).append(turn)
        generations.note_over(number, -1)
        if turn.code is not None:
            code.append(turn.code)
            return
        number += 1


def _live(generations: Generations, world: World, kills: list[int], number: int) -> Turn:
    rank, is_done = generations.rank, False
    while (turn := generations.turn(number)) is None:
        died = world.died.setdefault(number, set())
        if kills and kills[0] == rank and not is_done:
            kills.pop(0)
            died.add(rank)
        failure = Failure(rank=rank, step=number, cause="killed", reason="", time=0.0)
        if rank in died or world.is_broken(number):
            generations.raise_from(number, failure)
        elif world.gone and generations.all_arrived("here", number):
            generations.raise_from(number, failure)  # the deadline of the ranks' meeting
        elif world.gone:
            generations.end(number, FAILED, "a guardian has not come")
        elif not is_done and world.has_all(number):
            is_done = True
            if generations.arrive("done", number):
                generations.end(number, FINISHED)
    return turn


@given(data=st.data(), size=st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_whatever_dies_and_whoever_is_slow_all_guardians_live_the_same_chain(
    data: st.DataObject, size: int
) -> None:
    kills = data.draw(st.lists(st.integers(0, size - 1), max_size=4), label="workers that die")
    doomed = data.draw(st.lists(st.integers(0, size - 1), max_size=1), label="guardians that die")
    when = data.draw(st.integers(0, 60), label="turn of the guardian's death")
    order = data.draw(st.lists(st.integers(0, 99), max_size=120), label="who goes on")
    world, turns = World(size), 0

    def choose(alive: Sequence[int]) -> int:
        nonlocal turns
        turns += 1
        if doomed and turns == when + 1 and doomed[0] in alive:
            baton.doom(doomed[0])
            world.gone.add(doomed[0])
        # After what was drawn: each in turn, so that nobody is kept waiting for ever.
        return alive[(order[turns - 1] if turns <= len(order) else turns) % len(alive)]

    baton, store = Baton(choose), MemoryStore()
    codes: dict[int, list[int]] = {rank: [] for rank in range(size)}

    def body(rank: int) -> None:
        client = store.client(lambda: baton.pause(rank))
        guard(Generations(client, rank, size), world, kills, codes[rank])  # type: ignore[arg-type]

    baton.run({rank: lambda rank=rank: body(rank) for rank in range(size)}, most_turns=MOST_TURNS)
    lived = [rank for rank in range(size) if rank not in world.gone]
    longest = max(world.turns.values(), key=len, default=[])
    for rank in range(size):
        heard = world.turns.get(rank, [])
        assert heard == longest[: len(heard)]
        assert rank in world.gone or (
            len(heard) == len(longest) and codes[rank] == [longest[-1].code]
        )
    if lived and longest[-1].code == FINISHED:
        assert world.began[len(longest) - 1] == set(range(size))
        assert not world.died.get(len(longest) - 1)
    if not world.gone:
        assert longest[-1].code == FINISHED
