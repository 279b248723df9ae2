"""A sealed slot -> a durable checkpoint, by a guardian, or back into live tensors, by a worker."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import final

import torch

from ..commit import Cargo
from ..digest import digest_bytes, tensor_bytes
from ..errors import CorruptError
from ..exchange import Exchange
from ..layout import State, local_tensor
from ..manifest import ChunkEntry, FileEntry
from ..pieces import copy_pieces, first_damaged
from ..seal import Seal
from ..shardfile import chunk_entry, file_name, write_shard
from ..specs import Spec, merge_specs
from ..stores import Store
from .image import Image, unpack_tail, view_of
from .slotfile import Sealed, SlotFile

MEMORY = "memory"
_PIECE_BYTES = 8 * 2**20
_logger = logging.getLogger(__name__)


@final
class Held:
    """What a slot holds, as its seal says; the slot stays sealed while this is used.

    It is a `Part`: ready bytes, and no tensors.

    Args:
        index: of the slot, as its owner counts them.

    Raises:
        ValueError, KeyError, TypeError: sealed, but no image of this version.
    """

    def __init__(self, slot: SlotFile, sealed: Sealed, index: int) -> None:
        self._slot = slot
        self.index, self.plan = index, sealed.plan
        self.image = Image.decode(sealed.plan)
        self._digests, facts = unpack_tail(sealed.tail, self.image.chunks)
        self.created: float = facts.pop("created")
        self.cargo = Cargo(**facts)

    @property
    def name(self) -> str:
        """As events name it."""
        return f"slot-{self.index}-step-{self.step:09d}"

    @property
    def step(self) -> int:
        """After which optimizer step it was taken."""
        return self.cargo.step

    def prove(self) -> None:
        """Reads every byte.

        Raises:
            CorruptError: one is not as it was.
        """
        for prove in self.proven_boxes():
            prove()

    def proven_boxes(self) -> list[Callable[[], torch.Tensor]]:
        """What makes each box of the image, a view of the slot, once it is proven to be as it was
        copied; raises as `prove`, when it is called."""
        views = self.image.views(self._slot.map())
        return [partial(self._proven, index, view) for index, view in enumerate(views)]

    def load_into(self, state: State) -> None:
        """Fills the local parts of the live tensors, whose boxes are those of the image.

        Call `prove` before: nothing is checked here.
        """
        views = self.image.views(self._slot.map())
        with torch.no_grad():
            for chunk, view in zip(self.image.chunks, views, strict=True):
                local_tensor(state[chunk.name]).copy_(view)

    def fill(self, state: State) -> None:
        """As `load_into`, and proves every byte where it has come to lie: one pass over the memory
        and not two. After it raised, the live tensors hold anything.

        Raises:
            CorruptError: a byte is not as it was.
        """
        boxes = self.image.boxes(self._slot.map())
        for index, (chunk, box) in enumerate(zip(self.image.chunks, boxes, strict=True)):
            target = local_tensor(state[chunk.name])
            if target.is_cpu and target.is_contiguous():
                if copy_pieces(box, tensor_bytes(target)) != self._digests[index]:
                    raise self._damage(index)
            else:
                target.copy_(self._proven(index, view_of(box, chunk)))

    def specs(self, exchange: Exchange) -> dict[str, Spec]:
        """Collective: as `Part.specs`."""
        return merge_specs(exchange, lambda: self.image.specs)

    def write(
        self, place: Store, folder: str, rank: int, seal: Seal
    ) -> tuple[FileEntry, list[ChunkEntry]] | None:
        """Creates this rank's shard file; as `Part.write`. Nothing is copied on the way, but what
        is encrypted, a piece at a time."""
        if not self.image.own:
            return None
        if not seal.is_plain:
            # Proven first: nobody is to sign what the memory has damaged since.
            chunks = list(zip(self.image.own, self.proven_boxes(), strict=False))
            return write_shard(place, folder, rank, chunks, seal)
        name, header = file_name(rank), self.image.header
        starts = self.image.starts
        entries = [
            chunk_entry(chunk, name, start, digest)
            for chunk, start, digest in zip(self.image.own, starts, self._digests, strict=False)
        ]
        stop = entries[-1].end
        place.create(f"{folder}/{name}", _pieces(self._slot.map()[:stop]))
        file = FileEntry(
            name=name,
            bytes=stop,
            header_bytes=len(header),
            header_digest=digest_bytes(header),
        )
        return file, entries

    def _proven(self, index: int, view: torch.Tensor) -> torch.Tensor:
        """The box as it was copied, or CorruptError."""
        if first_damaged(tensor_bytes(view), self._digests[index]) is not None:
            raise self._damage(index)
        return view

    def _damage(self, index: int) -> CorruptError:
        reason = f"tensor {self.image.chunks[index].name} does not match its digest"
        return CorruptError(reason, path=MEMORY, file=self.name)


def _pieces(image: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(image), _PIECE_BYTES):
        yield image[start : start + _PIECE_BYTES]


def newest(slots: Sequence[SlotFile]) -> list[Held]:
    """What the slots hold that is whole, the newest step first; never blocks."""
    found = []
    for index, slot in enumerate(slots):
        sealed = slot.read()
        if sealed is None:
            continue
        try:
            found.append(Held(slot, sealed, index))
        except (ValueError, KeyError, TypeError) as error:
            _logger.warning("Slot %d is left alone: %s", index, error)
    return sorted(found, key=lambda held: held.step, reverse=True)
