"""Token arrays -> .npy shards of even size, with their digests and counts. Knows no text."""

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from numpy.lib import format as npy

from ..manifest import FileFacts, SplitFacts

SHARD_BYTES = 16 * 1024 * 1024


def token_dtype(vocabulary_size: int) -> str:
    """The smallest of uint16 and uint32 that holds every id."""
    return "uint16" if vocabulary_size < 65536 else "uint32"


def write_file(path: Path, content: bytes) -> FileFacts:
    """Writes `content` durably and returns the file's facts."""
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return FileFacts(name=path.name, bytes=len(content), digest=xxhash.xxh3_128_hexdigest(content))


class ShardWriter:
    """Writes one split's tokens as `<split>-00000.npy`, ...; the last shard may be short."""

    def __init__(
        self, folder: Path, split: str, vocabulary_size: int, shard_bytes: int = SHARD_BYTES
    ) -> None:
        self._folder = folder
        self._split = split
        self._dtype = np.dtype(token_dtype(vocabulary_size))
        self._shard = np.empty(shard_bytes // self._dtype.itemsize, dtype=self._dtype)
        self._filled = 0
        self._counts = np.zeros(vocabulary_size, dtype=np.int64)
        self.facts = SplitFacts()

    def add(self, tokens: npt.NDArray[np.uint32]) -> None:
        """Appends one document; writes every shard that it fills."""
        self.facts.documents += 1
        self.facts.tokens += len(tokens)
        while len(tokens):
            piece = tokens[: len(self._shard) - self._filled]
            self._shard[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            tokens = tokens[len(piece) :]
            if self._filled == len(self._shard):
                self._write()

    def close(self) -> SplitFacts:
        """Writes the last shard and returns the split's facts."""
        if self._filled:
            self._write()
        return self.facts

    def entropy_nats(self) -> float:
        """Entropy of the frequencies of all tokens written, natural logarithm; after `close`."""
        shares = self._counts[self._counts > 0] / max(1, self._counts.sum())
        return float(-(shares * np.log(shares)).sum())

    def _write(self) -> None:
        tokens = self._shard[: self._filled]
        self._counts += np.bincount(tokens, minlength=len(self._counts))
        name = f"{self._split}-{len(self.facts.shards):05d}.npy"
        facts = write_file(self._folder / name, _npy_header(tokens) + tokens.tobytes())
        facts.tokens = len(tokens)
        self.facts.shards.append(facts)
        self._filled = 0


def _npy_header(tokens: npt.NDArray[Any]) -> bytes:
    stream = BytesIO()
    npy.write_array_header_1_0(stream, npy.header_data_from_array_1_0(tokens))
    return stream.getvalue()
