"""A checkpoint of any layout -> live tensors of any layout, by intersecting boxes.

Of a saved box only the pieces are read that hold something wanted, into its place where they can
be; how bytes travel is `transfer`'s affair.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import final

import torch

from .boxes import Slices, holds, intersect, run_of, scatter
from .digest import tensor_bytes
from .dtypes import BY_NAME
from .errors import CorruptError, MismatchError
from .layout import Chunk, Local
from .manifest import ChunkEntry, Manifest
from .pieces import PIECE_BYTES
from .seal import Opener
from .shardfile import verify_file
from .specs import Spec, spell
from .stores import Store
from .transfer import Span, Transfer

# Of boxes that cannot be read into their place, so many bytes are held at once.
_STAGE_BYTES = 256 * 2**20


def narrow(
    held: Sequence[Local], specs: Mapping[str, Spec], only: Sequence[str] | None
) -> tuple[Sequence[Local], Mapping[str, Spec], list[str]]:
    """The boxes and specs without the names that no glob of `only` matches; and these names.

    Raises:
        ValueError: a glob matches no name that any rank has.
    """
    if only is None:
        return held, specs, []
    idle = [glob for glob in only if specs and not any(fnmatchcase(name, glob) for name in specs)]
    if idle or not only:
        raise ValueError(
            f"only: found {idle or list(only)}, which no tensor of the state matches, needed globs "
            f"of names such as {next(iter(specs), 'model.*')}; correct or drop them"
        )
    taken = {name: spec for name, spec in specs.items() if is_taken(name, only)}
    left = sorted(specs.keys() - taken.keys())
    return [one for one in held if one[0].name in taken], taken, left


def is_taken(name: str, only: Sequence[str] | None) -> bool:
    """Whether a glob matches the name; None takes all."""
    return only is None or any(fnmatchcase(name, glob) for glob in only)


def check_match(
    manifest: Manifest,
    specs: Mapping[str, Spec],
    *,
    path: str,
    only: Sequence[str] | None = None,
) -> None:
    """Raises MismatchError unless names, dtypes and global shapes equal those of all the ranks.

    Args:
        only: globs of the names that are compared; None: all.
    """
    saved = {
        name: spell(entries[0].dtype, entries[0].global_shape)
        for name, entries in manifest.by_name.items()
        if is_taken(name, only)
    }
    live = {name: spec.kind for name, spec in specs.items()}
    missing, unexpected = sorted(live.keys() - saved.keys()), sorted(saved.keys() - live.keys())
    differing = [
        f"{name}: saved {saved[name]}, live {live[name]}"
        for name in sorted(live.keys() & saved.keys())
        if live[name] != saved[name]
    ]
    if missing or unexpected or differing:
        raise MismatchError(path, missing=missing, unexpected=unexpected, differing=differing)


@final
@dataclass(frozen=True, slots=True)
class Target:
    """A wanted box, the live tensor that is it, and CPU memory to read it into."""

    chunk: Chunk
    live: torch.Tensor
    memory: torch.Tensor

    @classmethod
    def staged(cls, chunk: Chunk, live: torch.Tensor) -> "Target":
        """Reads beside the live tensor."""
        return cls(chunk, live, torch.empty(chunk.shape, dtype=BY_NAME[chunk.dtype]))

    def settle(self) -> None:
        """Copies what was read beside the live tensor into it."""
        if self.memory is not self.live and self.memory.numel():
            with torch.no_grad():
                self.live.copy_(self.memory)


@final
class Reader:
    """This rank's part of one checkpoint.

    Args:
        opener: of the checkpoint, where it is encrypted.
    """

    def __init__(
        self, place: Store, folder: str, manifest: Manifest, opener: Opener | None
    ) -> None:
        self._place = place
        self._folder = folder
        self._manifest = manifest
        self._saved = manifest.by_name
        self._transfer = Transfer(place, folder, opener)

    def check_files(self, *, rank: int, size: int) -> None:
        """Proves this rank's share of the files' headers and sizes; CorruptError otherwise."""
        for file in sorted(self._manifest.files, key=lambda file: file.name)[rank::size]:
            verify_file(self._place, self._folder, file)

    def stage(self, held: Sequence[Local]) -> list[Target]:
        """Reads the boxes that this rank holds beside them, whole and proven; takes as much memory.

        Raises:
            CorruptError: for a byte that is wrong, missing or short.
            SealError: for another key than the checkpoint was encrypted with.
            OSError: for a place that does not answer.
        """
        targets = [Target.staged(*one) for one in held]
        self._read(targets)
        return targets

    def fill(self, held: Sequence[Local]) -> None:
        """Reads the boxes into the live tensors; raises as `stage`, and then they hold
        anything."""
        is_direct = [live.device.type == "cpu" and live.is_contiguous() for _, live in held]
        both = list(zip(held, is_direct, strict=True))
        self._read([Target(chunk, live, live) for (chunk, live), direct in both if direct])
        for group in _groups([one for one, direct in both if not direct]):
            targets = [Target.staged(chunk, live) for chunk, live in group]
            self._read(targets)
            for target in targets:
                target.settle()

    def _read(self, targets: Sequence[Target]) -> None:
        self._transfer.run(span for target in targets for span in self._spans(target))

    def _spans(self, target: Target) -> Iterator[Span]:
        chunk, memory, filled = target.chunk, target.memory, 0
        for entry in self._saved[chunk.name]:
            if (entry.offsets, entry.shape) == (chunk.offsets, chunk.shape):
                yield from self._run_spans(entry, 0, tensor_bytes(memory))
                return
            if (overlap := intersect(chunk, entry)) is not None:
                filled += math.prod(one.stop - one.start for one in overlap[0])
                yield from self._shared_spans(memory, entry, *overlap)
        if filled != math.prod(chunk.shape):
            raise CorruptError(
                f"{chunk.name} has {filled} of {math.prod(chunk.shape)} elements",
                path=self._place.address(self._folder),
                file="manifest.json",
            )

    def _shared_spans(
        self, memory: torch.Tensor, entry: ChunkEntry, into: Slices, source: Slices
    ) -> Iterator[Span]:
        """What fills `into` of a contiguous tensor from `source` of a saved box."""
        runs = run_of(memory.shape, into), run_of(entry.shape, source)
        size = memory.element_size()
        if runs[0] is not None and runs[1] is not None:
            target = tensor_bytes(memory)[runs[0][0] * size : runs[0][1] * size]
            return self._run_spans(entry, runs[1][0] * size, target)
        return _part_spans(entry, source, memory[into])

    def _run_spans(self, entry: ChunkEntry, start: int, target: memoryview) -> Iterator[Span]:
        """The pieces that hold the bytes from `start` of a chunk on which are to fill the target:
        in its place what is taken whole, through other memory what is not."""
        stop, whole = start + len(target), entry.end - entry.start
        index = start // PIECE_BYTES
        while (low := index * PIECE_BYTES) < stop:
            count = max(1, min(self._transfer.most_pieces, (stop - low) // PIECE_BYTES))
            high = min(low + count * PIECE_BYTES, whole)
            if low >= start and high <= stop:
                yield Span(entry, index, count, target[low - start : high - start])
            else:
                count = 1
                high = min(low + PIECE_BYTES, whole)
                first, last = max(low, start), min(high, stop)
                part = target[first - start : last - start]
                yield Span(entry, index, 1, _copier(part, first - low))
            index += count


def _groups(held: Sequence[Local]) -> Iterator[list[Local]]:
    group: list[Local] = []
    size = 0
    for one in held:
        if group and size + one[0].num_bytes > _STAGE_BYTES:
            yield group
            group, size = [], 0
        group.append(one)
        size += one[0].num_bytes
    if group:
        yield group


def _copier(target: memoryview, start: int) -> Callable[[memoryview], None]:
    def copy(data: memoryview) -> None:
        target[:] = data[start : start + len(target)]

    return copy


def _part_spans(entry: ChunkEntry, part: Slices, region: torch.Tensor) -> Iterator[Span]:
    """The pieces that hold an element of a part, each of which gives those that it holds."""
    size = region.element_size()
    step = PIECE_BYTES // size
    total = (entry.end - entry.start) // size
    for index, first in enumerate(range(0, total, step)):
        if holds(first, min(step, total - first), entry.shape, part):
            yield Span(entry, index, 1, _scatterer(first, entry.shape, part, region))


def _scatterer(
    first: int, shape: Sequence[int], part: Slices, region: torch.Tensor
) -> Callable[[memoryview], None]:
    def put(data: memoryview) -> None:
        flat = torch.frombuffer(data, dtype=torch.uint8).view(region.dtype)
        scatter(flat, first, shape, part, region)

    return put
