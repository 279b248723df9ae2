"""One life of one rank, seen from the training process: who it is, how it says that it is alive,
what it tells its guardian. It knows nothing of training."""

import json
import os
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from ...parallel import World
from .heartbeat import Page, Phase


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
    report_fd: int | None = None
    """Write end of the pipe to the guardian; None where there is no guardian."""

    def meeting_store(self) -> Store:
        """The store under which the ranks of this generation, and no others, meet: torch's own
        prefixes are not unique over restarts (pytorch#135712)."""
        return PrefixStore(f"generation-{self.generation}", self.store)

    def beat(self, step: int, phase: Phase) -> None:
        """Says that this worker is alive and what it is doing."""
        self.page.beat(step, phase)

    def stop_requested(self) -> bool:
        """Whether this rank's guardian has been asked to end the run early."""
        return self.page.stop_requested()

    def wait_for_node(self) -> None:
        """Waits for `release_node` of this node's first rank, a day at most."""
        self.store.wait([self._node_key()], timedelta(days=1))

    def release_node(self) -> None:
        """Lets the other ranks of this node go on."""
        self.store.set(self._node_key(), "1")

    def _node_key(self) -> str:
        node = self.world.rank // self.world.local_world_size
        return f"released/{self.generation}/{node}"

    def tell(self, kind: str, **fields: object) -> None:
        """Sends one message to the guardian; messages under 4 KiB arrive whole or not at all."""
        if self.report_fd is not None:
            line = json.dumps({"kind": kind, **fields}) + "\n"
            os.write(self.report_fd, line.encode())
