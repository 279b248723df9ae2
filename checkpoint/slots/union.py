"""What several slots hold of one state, of whichever ranks: where it is whole, and how those who
found them write it to a checkpoint together. It reads slots and fills none."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from ..exchange import Exchange
from ..layout import Chunk
from ..manifest import ChunkEntry, FileEntry
from ..seal import Seal
from ..shardfile import write_shard
from ..specs import Spec, merge_specs
from ..stores import Store
from ..tiling import check_tilings
from .held import Held
from .image import chunks_of, record_of

CopiesOf = Callable[[Mapping[str, int]], list[list[int]]]
"""Degrees by name -> groups of ranks that hold the same boxes."""
Box = dict[str, Any]
"""A chunk as JSON keeps it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Left:
    """One sealed slot, as all ranks are told of it."""

    finder: int
    """Rank that has it now."""
    index: int
    """Its place among what that rank found."""
    samples: int
    step: int
    """What the state is of: a later place in the data, then a later step, is the newer one."""
    created: float
    """Unix seconds of the snapshot."""
    label: Mapping[str, Any]
    """Of its image: `rank`, `world_size` and `topology` (degrees) of whom it was of."""

    @classmethod
    def of(cls, held: Held, *, finder: int, index: int) -> "Left":
        """Of a slot that this rank has found."""
        return cls(
            finder=finder,
            index=index,
            samples=int(held.cargo.progress["samples"]),
            step=held.step,
            created=held.created,
            label=dict(held.image.label),
        )

    @property
    def rank(self) -> int:
        """Whose it was."""
        return int(self.label["rank"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    """A state of which the slots hold every part."""

    every: tuple[Left, ...]
    """All slots of it."""
    lefts: tuple[Left, ...]
    """Those that are enough: one of each group of ranks with equal boxes."""
    lost: tuple[int, ...]
    """Ranks of which no slot of it was found, whose boxes others have as well."""

    @property
    def step(self) -> int:
        """After which optimizer step it was taken."""
        return self.lefts[0].step

    @property
    def created(self) -> float:
        """Unix seconds of its last snapshot."""
        return max(left.created for left in self.every)

    @property
    def label(self) -> Mapping[str, Any]:
        """What all its images' labels say, but for the rank."""
        return self.lefts[0].label


def wholes(found: Sequence[Left], copies_of: CopiesOf) -> list[Whole]:
    """The states that the slots hold whole between them, the newest first. Pure: all ranks that
    know of the same slots come to the same answer."""
    states: dict[tuple[tuple[int, int], str], list[Left]] = {}
    for left in found:
        world = json.dumps({**left.label, "rank": None}, sort_keys=True)
        states.setdefault(((left.samples, left.step), world), []).append(left)
    answers = []
    for _, every in sorted(states.items(), key=lambda item: item[0], reverse=True):
        ranks = {left.rank: left for left in reversed(every)}
        groups = copies_of(every[0].label["topology"])
        chosen = [next((ranks[rank] for rank in group if rank in ranks), None) for group in groups]
        lefts = tuple(left for left in chosen if left is not None)
        lost = tuple(sorted(rank for group in groups for rank in group if rank not in ranks))
        if len(lefts) == len(groups):
            answers.append(Whole(every=tuple(every), lefts=lefts, lost=lost))
    return answers


def boxes_of(held: Held) -> list[Box]:
    """What of its image a slot may write to a checkpoint."""
    return [record_of(chunk) for _, chunk in _writable(held)]


def deal(offered: Sequence[Sequence[Box]]) -> list[list[int]]:
    """Of the boxes that several slots offer, those that each slot is to write: every one once, by
    the first that has it. Answers their positions in what each offered.

    Raises:
        ValueError: the boxes of a tensor are not the whole of it.
    """
    taken: dict[str, dict[str, Box]] = {}
    dealt: list[list[int]] = []
    for boxes in offered:
        dealt.append([])
        for at, box in enumerate(boxes):
            known, key = taken.setdefault(box["name"], {}), json.dumps(box)
            if key not in known:
                known[key] = box
                dealt[-1].append(at)
    check_tilings(chunks_of(list(known.values())) for known in taken.values())
    return dealt


def _writable(held: Held) -> list[tuple[int, Chunk]]:
    image = held.image
    return [(at, chunk) for at, chunk in enumerate(image.chunks) if chunk.name in image.specs]


@final
class Union:
    """Boxes of several slots: a `Part`, of a rank that may have been none of theirs.

    Args:
        taken: slots, and the positions in `boxes_of` each of what this part writes.
    """

    def __init__(self, taken: Sequence[tuple[Held, Sequence[int]]]) -> None:
        self._taken = list(taken)

    def specs(self, exchange: Exchange) -> dict[str, Spec]:
        """Collective: as `Part.specs`."""
        return merge_specs(exchange, self._own_specs)

    def write(
        self, place: Store, folder: str, rank: int, seal: Seal
    ) -> tuple[FileEntry, list[ChunkEntry]] | None:
        """Creates this rank's shard file, of bytes that were proven; as `Part.write`."""
        chunks = []
        for held, positions in self._taken:
            proven, boxes = held.proven_boxes(), _writable(held)
            chunks += [(boxes[at][1], proven[boxes[at][0]]) for at in positions]
        return write_shard(place, folder, rank, chunks, seal) if chunks else None

    def _own_specs(self) -> dict[str, Spec]:
        found: dict[str, Spec] = {}
        for held, _ in self._taken:
            found |= held.image.specs
        return found
