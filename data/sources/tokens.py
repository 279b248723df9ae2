"""Samples of prepared token shards in a local folder, memory-mapped: concatenated, then cut.

Sample k is tokens [k T, k T + T + 1) of the split's shards put end to end: the last token of a
sample, its last target, is the first of the next.
"""

from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import Tensor

from ..errors import CorruptDataError, DataError
from ..manifest import FileFacts, check_sizes, read_manifest

_Tokens = npt.NDArray[Any]


class TokenShards:
    """The samples of one split; build it with `open`."""

    def __init__(self, shards: list[_Tokens], sequence_length: int, digest: str) -> None:
        self._shards = shards
        self._starts = np.array([0, *accumulate(len(shard) for shard in shards)])
        self._length = sequence_length
        self.digest = digest

    @classmethod
    def open(cls, folder: Path, *, split: str = "train", sequence_length: int) -> Self:
        """Maps the shards of `split`, "train" or "eval", after checking every file's size.

        Raises:
            DataError: no manifest, no such split, or fewer tokens than one sample needs.
            CorruptDataError: a file is missing, or has another size or header than it should.
        """
        manifest = read_manifest(folder)
        check_sizes(folder, manifest)
        if split not in manifest.splits:
            raise DataError(
                f"data split: found {split!r}, needed one of {', '.join(manifest.splits)}; "
                f"ask for a split that {folder} holds"
            )
        tokens = manifest.splits[split].tokens
        if tokens < sequence_length + 1:
            raise DataError(
                f"data.sequence_length: found {sequence_length}, needed {max(tokens - 1, 0)} or "
                f"less, since the {split} split of {folder} holds {tokens} tokens; set it lower "
                "or prepare more text"
            )
        shards = [_map(folder, s, manifest.dtype) for s in manifest.splits[split].shards]
        digest = xxhash.xxh3_128_hexdigest(f"{manifest.digest(split)} T={sequence_length}".encode())
        return cls(shards, sequence_length, digest)

    def __len__(self) -> int:
        return (int(self._starts[-1]) - 1) // self._length

    def read(self, ids: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        """One entry, "tokens": int64 of shape (len(ids), sequence_length + 1)."""
        rows = np.empty((len(ids), self._length + 1), dtype=np.int64)
        starts = ids * self._length
        shards = np.searchsorted(self._starts, starts, side="right") - 1
        for row, shard, start in zip(rows, shards.tolist(), starts.tolist(), strict=True):
            self._fill(row, shard, start - int(self._starts[shard]))
        return {"tokens": torch.from_numpy(rows)}

    def _fill(self, row: npt.NDArray[np.int64], shard: int, offset: int) -> None:
        done = 0
        while done < len(row):
            piece = self._shards[shard][offset : offset + len(row) - done]
            row[done : done + len(piece)] = piece
            done, shard, offset = done + len(piece), shard + 1, 0


def _map(folder: Path, shard: FileFacts, dtype: str) -> _Tokens:
    path = folder / shard.name
    try:
        tokens: _Tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise CorruptDataError(
            path, f"no .npy header ({error})", f"{shard.tokens} tokens"
        ) from error
    if tokens.shape != (shard.tokens,) or tokens.dtype != np.dtype(dtype):
        found = f"{tokens.dtype} of shape {tokens.shape}"
        raise CorruptDataError(path, found, f"{dtype} of shape {(shard.tokens,)}")
    # A plain view: slicing a memmap object costs microseconds more a slice than the copy itself.
    return tokens.view(np.ndarray)
