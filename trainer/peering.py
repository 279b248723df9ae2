"""This rank's part in what the nodes keep for one another: who keeps whose copies, and where."""

import contextlib
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from ..parallel import Degrees, World, copies_of
from .config import RunConfig
from .identity import run_folder
from .recovery.generation import Generations
from .recovery.peers import Keeper, Pair, Sender, address_towards, peer_of
from .recovery.slots import SlotSet, kept_paths, mark_paths
from .telemetry.events import Events

_MEET_SECONDS = 300.0


@final
@dataclass(kw_only=True, slots=True)
class Peering:
    """Parts that this rank has; None where it has none."""

    keeper: Keeper | None = None
    sender: Sender | None = None
    marks: Pair | None = None

    def close(self, *, forget: bool) -> None:
        """Ends them; where the state is saved nobody wants what they hold."""
        if self.sender is not None:
            self.sender.close()
        if self.keeper is not None:
            self.keeper.close()
        if not forget:
            return
        if self.keeper is not None:
            self.keeper.forget()
        if self.marks is not None:
            self.marks.forget()


def start_peering(
    config: RunConfig,
    world: World,
    generations: Generations,
    slots: SlotSet,
    events: Events,
    *,
    say: Callable[[str], None],
) -> Peering:
    """Collective where `recovery.peers` is 1: meets the others and begins to send and to keep."""
    found = Peering()
    is_over = generations.turn(0) is not None
    if is_over or not config.recovery.peers or world.master_addr is None:
        return found
    run, rank = str(run_folder(config).resolve()), world.rank
    copies = copies_of(Degrees.resolve(config.parallel, world.world_size).describe())
    sizes = {"size": world.world_size, "node_size": world.local_world_size}
    peers = [peer_of(one, **sizes, copies=copies) for one in range(world.world_size)]
    token = generations.share("peers/token", lambda: secrets.token_hex(32)).encode()
    if rank in peers:
        host = config.recovery.peer_address
        host = host or address_towards(world.master_addr, world.master_port or 1)
        try:
            found.keeper = Keeper(host, token, lambda sender: Pair(kept_paths(run, sender)))
            found.keeper.start()
            generations.note_address(found.keeper.address)
        except OSError as error:
            _refuse(
                events,
                f"recovery.peer_address: found that rank {rank} cannot listen at {host} ({error}), "
                "needed an address of its node; set that, or recovery.peers=0",
            )
    generations.meet("peers", 0, seconds=_MEET_SECONDS)
    peer = peers[rank]
    if peer is None or not slots.named or (address := generations.address_of(peer)) is None:
        return found

    try:
        found.marks = Pair(mark_paths(run, rank))
    except OSError as error:
        _refuse(events, f"rank {rank}: found no room for marks ({error}), needed it")
        return found
    found.sender = Sender(
        slots.named,
        found.marks,
        address,
        rank=rank,
        every=config.recovery.peer_every,
        token=token,
        tell=_Teller(events, say, rank=rank, peer=peer),
    )
    found.sender.start()
    return found


def _refuse(events: Events, reason: str) -> None:
    """Says why this rank has no part: the run goes on without, as with recovery.peers=0."""
    sys.stderr.write(f"keepstep: {reason}\n")
    with contextlib.suppress(OSError):
        events.write("peer_lost", step=None, generation=0, reason=reason)


@final
class _Teller:
    """Says, once each, that copies are kept and that they are not."""

    def __init__(self, events: Events, say: Callable[[str], None], *, rank: int, peer: int) -> None:
        self._events, self._say = events, say
        self._rank, self._peer = rank, peer
        self._was_well: bool | None = None

    def __call__(self, step: int, count: int, seconds: float, trouble: str) -> None:
        is_well, before = not trouble, self._was_well
        self._was_well = is_well
        if is_well == before:
            return
        fields = {"bytes": count, "seconds": seconds} if is_well else {"reason": trouble}
        kind = "peer_copy" if is_well else "peer_lost"
        with contextlib.suppress(OSError):  # a full disk must not end what sends
            self._events.write(kind, step=step, generation=0, peer=self._peer, **fields)
        if not is_well:
            self._say(f"rank {self._rank}: rank {self._peer} keeps no copies of it: {trouble}")
