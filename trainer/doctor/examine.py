"""The whole examination: each node's first rank looks at the node, then all ranks measure what they
do together, and rank 0 has it all."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Any

import torch
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from ...parallel import World, join, leave, open_store, pick_device
from ..config import RunConfig
from ..recovery.round import corner_of
from .compare import judge_ranks
from .finding import Finding, Level, is_fine, judged
from .node import Node
from .ranks import Measured, measure_ranks

_RANKS_SHARE, _MOST_RANKS_SECONDS = 0.4, 12.0
_PATIENCE = timedelta(seconds=60)


@dataclass(kw_only=True, slots=True)
class Report:
    """All findings, in the order in which they were made, and the measured numbers behind them."""

    findings: list[Finding]
    ranks: int
    seconds: float
    measured: dict[str, Any] = field(default_factory=dict)

    @property
    def is_fine(self) -> bool:
        """Whether no finding is a problem."""
        return is_fine(self.findings)


def examine(
    config: RunConfig,
    world: World,
    *,
    place: str | None = None,
    seconds: float = 30.0,
    say: Callable[[str], None] = lambda area: None,
) -> Report:
    """Collective: looks at every node and at the ranks together; the report is whole on rank 0.

    Blocks for `seconds` or a little longer, mostly much less. Every rank calls it, in a process
    that runs one thread and is in no process group.

    Args:
        place: folder or URL to try in place of those the run writes to.
        say: told, on the first rank of each node, what is looked at next.
    """
    begun = time.monotonic()
    together = min(_MOST_RANKS_SECONDS, _RANKS_SHARE * seconds)
    node = Node(config, world, deadline=begun + seconds - together, say=say)
    if world.local_rank == 0:
        node.look(place)
        say("ranks")
    store = open_store(world, timeout=timedelta(seconds=seconds) + _PATIENCE)
    shared = PrefixStore(corner_of(store, world, "doctor"), store)
    device, odd = _device(shared, config, world)
    join(shared, world.rank, world.world_size, device=device, timeout=_PATIENCE)
    try:
        findings = _shared(shared, world, node.findings)
        measured = measure_ranks(device, seconds=together)
    finally:
        leave()
    return Report(
        findings=findings + odd + judge_ranks(measured),
        ranks=world.world_size,
        seconds=time.monotonic() - begun,
        measured=_plain(measured),
    )


def _device(store: Store, config: RunConfig, world: World) -> tuple[torch.device, list[Finding]]:
    """Where this rank measures: on its GPU, but on the CPU where any rank has none that it should
    have, which is a finding then."""
    words, mine = "", torch.device("cpu")
    try:
        mine = pick_device(
            config.parallel.device, world.local_rank, local_world_size=world.local_world_size
        )
    except ValueError as error:
        words = str(error)
    store.set(f"device-{world.rank}", f"{mine.type} {words}")
    said = [store.get(f"device-{rank}").decode().partition(" ") for rank in range(world.world_size)]
    is_one = len({kind for kind, _, _ in said}) == 1
    refused = [f"rank {rank}: {why}" for rank, (_, _, why) in enumerate(said) if why]
    kinds = refused[0] if refused else ", ".join(f"{kind}" for kind, _, _ in said)
    finding = judged(
        *("ranks", "devices", kinds),
        worst=Level.problem,
        needed="a device for each rank, of one kind; what follows was measured on the CPU",
        remedy="start as many ranks a node as CUDA shows GPUs, or set parallel.device=cpu",
    )
    return mine if is_one else torch.device("cpu"), [] if is_one and not refused else [finding]


def _shared(store: Store, world: World, mine: list[Finding]) -> list[Finding]:
    """Every node's findings, on rank 0; on others their own."""
    first, last = world.rank, world.world_size
    if world.local_rank == 0 and first > 0:
        store.set(f"node-{first}", json.dumps([asdict(one) for one in mine]))
    if first > 0:
        return mine
    found = list(mine)
    for number, rank in enumerate(range(world.local_world_size, last, world.local_world_size), 1):
        said = json.loads(store.get(f"node-{rank}"))
        others = (Finding(**{**one, "level": Level(one["level"])}) for one in said)
        found += [replace(one, node=number) for one in others]
    return found


def _plain(measured: Measured) -> dict[str, Any]:
    """As JSON takes it."""
    pairs = [[*pair, speed] for pair, speed in measured.pairs.items()]
    return {**asdict(measured), "pairs": pairs}
