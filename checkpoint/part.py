"""What one rank contributes to a save: the names it holds, and the writing of its shard file.

Owns the way from live tensors. Knows nothing of attempts and manifests.
"""

from collections.abc import Sequence
from typing import Protocol, final

from .exchange import Exchange
from .layout import Local, State, plan_writes
from .manifest import ChunkEntry, FileEntry
from .seal import Seal
from .shardfile import write_shard
from .specs import Spec, gather_boxes
from .stores import Store


class Part(Protocol):
    """One rank's part of a checkpoint. A new one for each save."""

    def specs(self, exchange: Exchange) -> dict[str, Spec]:
        """Collective: every name that any rank's part has; the same answer on every rank.

        Raises:
            ValueError: on every rank, for what checkpoints do not hold, or for a name with which
                two ranks mean different tensors.
        """
        ...

    def write(
        self, place: Store, folder: str, rank: int, seal: Seal
    ) -> tuple[FileEntry, list[ChunkEntry]] | None:
        """Creates this rank's shard file in `folder`, durable; None where it has nothing to write.

        Called once, after `specs`; what it raises fails the save on every rank.
        """
        ...


@final
class LivePart:
    """The live tensors of a state; of equal copies over several ranks exactly one is written.

    Args:
        state: read while the save blocks.
        holders: global ranks whose states have the same names as this one's, this one among them.
    """

    def __init__(self, state: State, holders: Sequence[int]) -> None:
        self._state = state
        self._holders = holders
        self._held: list[Local] = []

    def specs(self, exchange: Exchange) -> dict[str, Spec]:
        specs, self._held = gather_boxes(exchange, self._state)
        return specs

    def write(
        self, place: Store, folder: str, rank: int, seal: Seal
    ) -> tuple[FileEntry, list[ChunkEntry]] | None:
        boxes = (chunk for chunk, _ in self._held)
        mine = plan_writes(self._state, boxes, rank=rank, holders=self._holders)
        chunks = [one for one in self._held if one[0].name in mine]
        return write_shard(place, folder, rank, chunks, seal) if chunks else None
