"""How much of a step each rank was busy itself, and did not wait for others.

Wall times say nothing of it: who is slow keeps all others waiting, and their step takes as long.
What tells them apart is who comes last to each collective. Gloo says when a rank begins one
(`flight`), and all ranks leave the vote at the end of a step at nearly the same instant, so times
since then can be compared without a common clock. A rank's front is the last arrival at any of
its collectives so far; its own time is the sum of what each of its arrivals moves that front by.

CPU time would cost less and see nobody who sleeps, reads or waits for a device. NCCL's collectives
are queued ahead, so nothing is known there: all own times are the step's. The sends of a pipeline
are not recorded: a stage that waits for another one seems busy, which is for the caller to know.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch.distributed as dist

from .collectives import Exchange
from .flight import begun_between

Arrivals = Mapping[str, Sequence[int]]


def own_seconds(exchange: Exchange, *, begin: int, end: int) -> list[float] | None:
    """Collective: the seconds between two votes that each rank was busy itself, by rank; None on
    all where that is not known. Tens of milliseconds.

    Args:
        begin: unix nanoseconds by this rank's clock at which it left the first vote; `end`: the
            second.
    """
    found = begun_between(begin, end)
    labels = {name: _label(name) for name in {name for name, _ in found or []}}
    said = None if found is None else [(labels[name], moment - begin) for name, moment in found]
    every = [json.loads(one) for one in exchange.gather_bytes(json.dumps(said).encode())]
    return None if None in every else own_times(every)


def own_times(begun: Sequence[Sequence[tuple[str, int]]]) -> list[float] | None:
    """As `own_seconds`, of what each rank has begun, in its order: group, and nanoseconds since
    the first vote. None where ranks of a group have not begun as many. Pure."""
    by_group: dict[str, list[list[int]]] = defaultdict(list)
    for collectives in begun:
        for name, moments in _by_group(collectives).items():
            by_group[name].append(moments)
    latest = {}
    for name, ranks in by_group.items():
        if len({len(moments) for moments in ranks}) > 1:
            return None
        latest[name] = np.array(ranks).max(0).tolist()
    return [_own(collectives, latest) for collectives in begun]


def _own(collectives: Sequence[tuple[str, int]], latest: Arrivals) -> float:
    """Seconds by which one rank has moved its front."""
    left = {name: iter(moments) for name, moments in latest.items()}
    own = front = 0
    for name, moment in collectives:
        own += max(0, moment - front)
        front = max(front, next(left[name]))
    return own / 1e9


def _by_group(collectives: Sequence[tuple[str, int]]) -> Mapping[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for name, moment in collectives:
        found[name].append(moment)
    return found


def _label(name: str) -> str:
    """A name that no two groups have: those of one mesh axis may share torch's."""
    group = dist.distributed_c10d._resolve_process_group(name)  # type: ignore[attr-defined,arg-type]
    return f"{name}/{dist.get_process_group_ranks(group)[0]}"
