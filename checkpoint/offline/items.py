"""A checkpoint's tensors in full form, each read when it is asked for; and other names for them."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from ..dtypes import BY_NAME, num_bytes
from ..layout import Chunk
from ..manifest import ChunkEntry, Manifest
from ..seal import PLAIN, Seal
from ..shardfile import read_chunk, verify_file
from ..stores import Store

Progress = Callable[[int, int], None]
"""Told bytes done and bytes in all; may be called often."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A tensor in full form; `read` gives it on the CPU, its bytes proven where they can be."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]

    @property
    def num_bytes(self) -> int:
        return num_bytes(self.dtype, self.shape)

    @property
    def chunk(self) -> Chunk:
        """The box that is the whole tensor."""
        return Chunk(
            name=self.name,
            dtype=self.dtype,
            global_shape=self.shape,
            offsets=(0,) * len(self.shape),
            shape=self.shape,
        )


def items_of(place: Store, folder: str, manifest: Manifest, seal: Seal = PLAIN) -> list[Item]:
    """The tensors of a checkpoint, names sorted. Looks at the files' sizes and headers now.

    Args:
        seal: with the key of a checkpoint that is encrypted.

    Raises:
        CorruptError: for a file that is missing, short or has another header; `read` of an item
            raises it for a byte that is wrong.
        SealError: it is encrypted with another key.
    """
    opener = seal.opener(place.address(folder), folder, manifest)
    for file in manifest.files:
        verify_file(place, folder, file)
    return [
        Item(
            name=name,
            dtype=entries[0].dtype,
            shape=entries[0].global_shape,
            read=partial(_whole, partial(read_chunk, place, folder, opener=opener), entries),
        )
        for name, entries in manifest.by_name.items()
    ]


def rename(items: Iterable[Item], rules: Sequence[tuple[str, str]]) -> list[Item]:
    """The items under other names, sorted by these.

    The first rule whose glob matches counts: each `*` of its right side takes what the `*` at the
    same turn matched. An empty right side leaves the tensor out; what no rule matches keeps its
    name.

    Raises:
        ValueError: two tensors get one name, or a right side has more `*` than its glob.
    """
    compiled = [(_pattern(glob), glob, to) for glob, to in rules]
    for _, glob, to in compiled:
        if to.count("*") > glob.count("*"):
            raise ValueError(
                f"rename: found {glob}={to}, needed at most as many * on the right as on the left; "
                "write the right side without one"
            )
    found: dict[str, Item] = {}
    for item in items:
        name = _renamed(item.name, compiled)
        if not name:
            continue
        if name in found:
            raise ValueError(
                f"rename: found two tensors that become {name}, needed a name for each; make the "
                "rules narrower"
            )
        found[name] = replace(item, name=name)
    return [found[name] for name in sorted(found)]


def checked(item: Item, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, if it is what the item says; ValueError otherwise."""
    if tensor.dtype != BY_NAME[item.dtype] or tuple(tensor.shape) != item.shape:
        raise ValueError(
            f"Tensor {item.name}: found {tensor.dtype} {list(tensor.shape)}, needed {item.dtype} "
            f"{list(item.shape)} as its index says; take another copy of what is read"
        )
    return tensor


def _whole(
    read: Callable[[ChunkEntry], torch.Tensor], entries: Sequence[ChunkEntry]
) -> torch.Tensor:
    first = entries[0]
    if len(entries) == 1:
        return read(first)
    whole = torch.empty(first.global_shape, dtype=BY_NAME[first.dtype])
    for entry in entries:
        spans = zip(entry.offsets, entry.shape, strict=True)
        box = tuple(slice(start, start + size) for start, size in spans)
        whole[box] = read(entry)
    return whole


def _pattern(glob: str) -> re.Pattern[str]:
    return re.compile("(.*)".join(map(re.escape, glob.split("*"))), re.DOTALL)


def _renamed(name: str, rules: Sequence[tuple[re.Pattern[str], str, str]]) -> str:
    for pattern, _, to in rules:
        if matched := pattern.fullmatch(name):
            parts = to.split("*")
            taken = [*matched.groups()[: len(parts) - 1], ""]
            return "".join(part + text for part, text in zip(parts, taken, strict=True))
    return name
