"""One life of one rank, seen from the training process: who it is, how it says that it is alive,
what it tells its guardian. It knows nothing of training."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from ...checkpoint.claims import Claim
from ...parallel import Links, World
from .heartbeat import Page, Phase
from .line import Line
from .slots import SlotSet


@dataclass(frozen=True, kw_only=True, slots=True)
class Life:
    """What a worker is given by its guardian (or makes itself, where there is none)."""

    world: World
    """Which rank this is, of how many."""
    generation: int
    """Life of the process group, counted from 0; each one meets under a prefix of its own."""
    store: Store
    """The run's own corner of the rendezvous store."""
    page: Page
    """Heartbeat to the guardian, stop request from it."""
    started: float
    """Unix seconds at which the job began, the same on all ranks and in all generations."""
    claim: Claim | None = None
    """On rank 0: the job's claim of the place of its checkpoints."""
    line: Line | None = None
    """To the guardian; None where there is none."""
    links: Links = field(default_factory=Links)
    """The connections of this generation, which end with it."""
    slots: SlotSet | None = None
    """Where snapshots go; None where nobody would hold them after this process."""

    @contextlib.contextmanager
    def meeting(self, *, silence_seconds: float) -> Iterator[Store]:
        """Around the making of all groups: the store under which the ranks of this generation, and
        no others, meet. torch's own prefixes are not unique over restarts (pytorch#135712).

        Args:
            silence_seconds: after which a peer that does not answer counts as gone; 0: never.
        """
        if self.line is not None:
            self.line.listen()
        with self.links.recording():
            yield PrefixStore(f"generation-{self.generation}", self.store)
        self.links.limit_silence(silence_seconds)

    def beat(self, step: int, phase: Phase) -> None:
        """Says that this worker is alive and what it is doing."""
        self.page.beat(step, phase)

    def stop_requested(self) -> bool:
        """Whether this rank's guardian has been asked to end the run early."""
        return self.page.stop_requested()

    def wait_for_node(self) -> None:
        """Waits for `release_node` of this node's first rank, in this generation or an earlier one,
        a day at most."""
        self.store.wait([self._node_key()], timedelta(days=1))

    def release_node(self) -> None:
        """Lets the other ranks of this node go on."""
        self.store.set(self._node_key(), "1")

    def _node_key(self) -> str:
        node = self.world.rank // self.world.local_world_size
        return f"released/{node}"

    def tell(self, kind: str, **fields: object) -> None:
        """Sends one message to the guardian, where there is one."""
        if self.line is not None:
            self.line.tell(kind, **fields)

    def offer(self, kind: str, **fields: object) -> None:
        """As `tell`, unless the guardian is busy: then it is left out."""
        if self.line is not None:
            self.line.offer(kind, **fields)

    def is_over(self, *, seconds: float = 0.0) -> bool:
        """Whether the guardian has said that this generation is over and this process is wanted in
        the next; waits for that word so long."""
        return self.line is not None and self.line.is_called(self.generation, seconds=seconds)
