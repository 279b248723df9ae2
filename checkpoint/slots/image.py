"""What a slot's bytes mean: a rank's shard file as on a disk, then what else the rank holds.

Worked out once a topology, alike by the worker that fills it and the one that takes its place.

    header of the shard file | the boxes that this rank writes | boxes that other ranks write
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, final

import torch

from ..dtypes import BY_NAME
from ..layout import Chunk, State, local_chunks, plan_writes
from ..pieces import num_pieces
from ..shardfile import ALIGNMENT, file_order, shard_header
from ..specs import Spec, describe

_DIGEST_BYTES = 16


@final
@dataclass(frozen=True)
class Image:
    """Of one rank. `label` says whose it is; images of other labels or boxes are not this one.

    `specs` are the names that this rank may write in full form, as `describe` says them.
    """

    label: Mapping[str, Any]
    specs: Mapping[str, Spec]
    own: tuple[Chunk, ...]
    beside: tuple[Chunk, ...]

    @classmethod
    def of(
        cls,
        state: State,
        saved: State,
        *,
        rank: int,
        holders: Sequence[int],
        label: Mapping[str, Any],
    ) -> "Image":
        """The image of a state's local part.

        Args:
            saved: what of it this rank may write to a checkpoint, the same tensors.
            rank, holders: as those of `plan_writes`, of `saved`.
        """
        held = sorted((chunk for chunk, _ in local_chunks(state)), key=file_order)
        boxes = (chunk for chunk in held if chunk.name in saved)
        mine = plan_writes(saved, boxes, rank=rank, holders=holders)
        own = tuple(chunk for chunk in held if chunk.name in mine)
        beside = tuple(chunk for chunk in held if chunk.name not in mine)
        return cls(label, describe(saved), own, beside)

    @classmethod
    @lru_cache(maxsize=2)  # the slots of a rank have one plan, as long as its layout stays
    def decode(cls, plan: bytes) -> "Image":
        """The image from what `encode` made of it."""
        record = json.loads(plan)
        specs = {
            name: Spec(**{**spec, "shape": tuple(spec["shape"])})
            for name, spec in record["specs"].items()
        }
        return cls(record["label"], specs, chunks_of(record["own"]), chunks_of(record["beside"]))

    def encode(self) -> bytes:
        """The plan that a slot keeps, from which the image is known again; JSON."""
        record = {
            "label": dict(self.label),
            "specs": dict(self.specs),
            "own": self.own,
            "beside": self.beside,
        }
        return json.dumps(record, default=record_of, sort_keys=True).encode()

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """All boxes in the order in which they lie."""
        return self.own + self.beside

    @cached_property
    def header(self) -> bytes:
        """The header of the shard file."""
        return shard_header(self.own)

    @cached_property
    def starts(self) -> Sequence[int]:
        """Where each box begins, in bytes from the image's beginning, and where the last ends."""
        found = [len(self.header)]
        for chunk in self.own:
            found.append(found[-1] + chunk.num_bytes)
        if self.beside:
            found[-1] = -(-found[-1] // ALIGNMENT) * ALIGNMENT
        for chunk in self.beside:
            found.append(found[-1] + chunk.num_bytes)
        return found

    def views(self, data: memoryview) -> list[torch.Tensor]:
        """Each box as a tensor over its bytes of a mapped image."""
        every = zip(self.boxes(data), self.chunks, strict=True)
        return [view_of(box, chunk) for box, chunk in every]

    def boxes(self, data: memoryview) -> list[memoryview]:
        """The bytes of each box of a mapped image."""
        every = zip(self.starts, self.chunks, strict=False)
        return [data[start : start + chunk.num_bytes] for start, chunk in every]


def pack_digests(digests: Sequence[str]) -> bytes:
    """The digests of each box's pieces as 16 bytes a piece."""
    return bytes.fromhex("".join(digests))


def unpack_tail(tail: bytes, chunks: Sequence[Chunk]) -> tuple[list[str], dict[str, Any]]:
    """The digests of each box's pieces and the facts that follow them in a slot's tail."""
    every, position = [], 0
    for chunk in chunks:
        end = position + num_pieces(chunk.num_bytes) * _DIGEST_BYTES
        every.append(tail[position:end].hex())
        position = end
    return every, json.loads(tail[position:])


def view_of(data: memoryview, chunk: Chunk) -> torch.Tensor:
    """A box as a tensor over its bytes."""
    if not len(data):
        return torch.empty(chunk.shape, dtype=BY_NAME[chunk.dtype])
    return torch.frombuffer(data, dtype=BY_NAME[chunk.dtype]).view(chunk.shape)


def record_of(one: Chunk | Spec) -> dict[str, Any]:
    """Its fields, as JSON takes them; dataclasses.asdict copies each, which takes twenty times as
    long."""
    return {name: getattr(one, name) for name in one.__slots__}


def chunks_of(records: Sequence[Mapping[str, Any]]) -> tuple[Chunk, ...]:
    """Boxes from what JSON has kept of them."""
    boxes = ("global_shape", "offsets", "shape")
    return tuple(
        Chunk(**{**record, **{name: tuple(record[name]) for name in boxes}}) for record in records
    )
