"""Arrays -> .npy files of one shape of header, with digests and counts. Knows no text."""

import os
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from numpy.lib import format as npy

from ..manifest import FileFacts

SHARD_BYTES = 16 * 1024 * 1024
Array = npt.NDArray[Any]


def token_dtype(vocabulary_size: int) -> str:
    """The smallest of uint16 and uint32 that holds every id."""
    return "uint16" if vocabulary_size < 65536 else "uint32"


def write_file(path: Path, content: bytes) -> FileFacts:
    """Writes `content` durably, by rename, and returns the file's facts."""
    return _write(path, [content])


def write_array(path: Path, pieces: Iterable[Array], count: int, dtype: str) -> FileFacts:
    """Writes `count` values, piece by piece, as one flat .npy; its facts."""
    kind = np.dtype(dtype).newbyteorder("<")
    contents = (np.ascontiguousarray(piece, dtype=kind).tobytes() for piece in pieces)
    header = BytesIO()
    npy.write_array_header_1_0(
        header, {"descr": npy.dtype_to_descr(kind), "fortran_order": False, "shape": (count,)}
    )
    return _write(path, [header.getvalue()], contents)


def span(arrays: Sequence[Array], start: int, stop: int) -> list[Array]:
    """Values [start, stop) of arrays laid end to end, without copying them."""
    found, base = [], 0
    for array in arrays:
        piece = array[max(0, start - base) : max(0, stop - base)]
        if len(piece):
            found.append(piece)
        base += len(array)
    return found


def entropy_nats(counts: npt.NDArray[np.int64]) -> float:
    """Entropy of the frequencies that `counts` are, natural logarithm; 0 where there are none."""
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(-(shares * np.log(shares)).sum())


def _write(path: Path, *contents: Iterable[bytes]) -> FileFacts:
    state, size = xxhash.xxh3_128(), 0
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        with draft.open("wb") as stream:
            for content in (piece for pieces in contents for piece in pieces):
                stream.write(content)
                state.update(content)
                size += len(content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return FileFacts(name=path.name, bytes=size, digest=state.hexdigest())
