"""Which start of the launcher this is, agreed upon by the ranks that are there now.

A launcher's store may outlive a group of ranks, and its own count of restarts is each node's own
(pytorch#135712): a node that joins counts from 0 while the others have been restarted.
"""

import secrets
import time

from torch.distributed import Store  # type: ignore[attr-defined]

from ...parallel import World

_HELLO = "keepstep/hello"
_PAUSE_SECONDS = 0.02
_MEET_SECONDS = 300.0


def corner_of(store: Store, world: World, name: str) -> str:
    """Collective: the prefix of this start's keys for what is called `name`; blocks for minutes at
    most. Raises as `agree_on_round`."""
    if not world.has_agent_store:  # rank 0's own store, which no other start has
        return f"keepstep/{name}"
    ranks = {"rank": world.rank, "size": world.world_size}
    return f"keepstep/{agree_on_round(store, **ranks, seconds=_MEET_SECONDS)}/{name}"


def agree_on_round(store: Store, *, rank: int, size: int, seconds: float) -> str:
    """A name that all ranks of this start have in common, and no other start has. Every rank calls
    it; blocks until all have.

    Each rank leaves a hello of its own. Rank 0 answers every hello that it finds, those of earlier
    starts too, whose ranks are no more; what counts is who has read the answer.

    Raises:
        TimeoutError: not all have come in that time.
    """
    deadline = time.monotonic() + seconds
    return _host(store, size, deadline) if rank == 0 else _join(store, rank, deadline)


def _join(store: Store, rank: int, deadline: float) -> str:
    hello = secrets.token_hex(8)
    store.set(f"{_HELLO}/{store.add(f'{_HELLO}/count', 1)}", hello)
    answer = f"{_HELLO}/answer/{hello}"
    while not store.check([answer]):
        _pause(deadline, f"rank {rank}", "an answer of rank 0")
    name: str = store.get(answer).decode()
    store.add(f"{_HELLO}/read/{name}", 1)
    return name


def _host(store: Store, size: int, deadline: float) -> str:
    name, seen, unread = secrets.token_hex(4), 0, set[int]()
    while store.add(f"{_HELLO}/read/{name}", 0) < size - 1:
        count = store.add(f"{_HELLO}/count", 0)
        unread |= set(range(seen + 1, count + 1))
        seen = count
        for number in [one for one in unread if store.check([f"{_HELLO}/{one}"])]:
            hello = store.get(f"{_HELLO}/{number}").decode()
            store.set(f"{_HELLO}/answer/{hello}", name)
            unread.discard(number)
        _pause(deadline, "rank 0", f"a word of each of {size} ranks")
    return name


def _pause(deadline: float, who: str, needed: str) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(
            f"{who}: found the launcher's store without {needed}, needed that to begin; look at "
            "the machines of the other ranks and start the same command again"
        )
    time.sleep(_PAUSE_SECONDS)
