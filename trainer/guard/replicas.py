"""Ranks that hold copies of the same parameters compare them: the odd ones out are named."""

import json
from collections.abc import Mapping, Sequence

import xxhash
from torch import Tensor

from ...parallel import Exchange, Topology
from .prints import print_of, read


def odd_ones(copies: Sequence[Sequence[int]], found: Sequence[bytes]) -> list[int]:
    """The ranks whose digest is not that of most of their copies; all of these where none has a
    majority. Pure.

    Args:
        copies: ranks that must hold the same, group by group.
        found: digests by rank.
    """
    odd = []
    for ranks in copies:
        own = [found[rank] for rank in ranks]
        most = max(own, key=own.count)
        has_majority = own.count(most) * 2 > len(own)
        if own.count(most) < len(own):
            odd += [rank for rank in ranks if not has_majority or found[rank] != most]
    return sorted(odd)


def compare(tensors: Mapping[str, Tensor], topology: Topology) -> dict[int, list[str]]:
    """Collective: the odd ranks, with the names of the tensors in which one differs from a copy;
    empty where all are equal. Waits for the device.

    Args:
        tensors: live parameters; each rank compares its own part of them.
    """
    own = read({name: print_of(tensors[name]) for name in sorted(tensors)})
    exchange = Exchange(topology.control)
    packed = json.dumps(own).encode()
    odd = odd_ones(topology.copies, exchange.gather_bytes(xxhash.xxh3_128_digest(packed)))
    if not odd:
        return {}
    every = [json.loads(answer) for answer in exchange.gather_bytes(packed)]
    found = {}
    for ranks in topology.copies:
        for rank in set(ranks) & set(odd):
            names = sorted(every[rank])
            found[rank] = [n for n in names if any(every[o][n] != every[rank][n] for o in ranks)]
    return found
