"""Which pieces of which documents make each sequence, worked out once and kept beside the cache.

A packing window is some thousand documents; each is fitted by itself and its result published by
rename, so that a killed compilation goes on with the next window.
"""

import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..errors import DataError
from ..order.permutation import derive_key, permute
from ..sources.source import Ids, Tokens
from .fit import best_fit, cut_long

VERSION = 1
WINDOW_DOCUMENTS = 8192
_SHUFFLE = 7
_SCAN_TOKENS = 2**20
INDEX = "packing.json"

Arrays = dict[str, Any]


def compile_packing(
    tokens: Tokens,
    sequence_length: int,
    *,
    folder: Path,
    end_token: int | None = None,
    report: Callable[[str], None] = lambda words: None,
) -> Path:
    """The folder of the packing of `tokens` into sequences of `sequence_length` + 1, under
    `folder`; compiles what is not there yet, which reads all tokens where they do not say
    themselves where documents begin.

    Any number of processes may do it at once: each window's result is the same whoever made it.

    Raises:
        DataError: no way to tell documents apart, or none of two tokens.
    """
    words = f"{VERSION} {tokens.digest} {sequence_length} {WINDOW_DOCUMENTS} {end_token}"
    place = folder / f"packing-{xxhash.xxh3_64_hexdigest(words.encode())}"
    if (place / INDEX).exists():
        return place
    place.mkdir(parents=True, exist_ok=True)
    starts = _documents(tokens, end_token)
    counts = []
    windows = range(0, len(starts), WINDOW_DOCUMENTS)
    ends = np.append(starts[1:], len(tokens))
    for number, first in enumerate(windows):
        path, some = place / window_name(number), slice(first, first + WINDOW_DOCUMENTS)
        if not _is_whole(path):
            lengths = ends[some] - starts[some]
            _publish(path, _fitted(starts[some], lengths, sequence_length + 1, number))
            report(
                f"packed {min(first + WINDOW_DOCUMENTS, len(starts))} of {len(starts)} documents"
            )
        with safe_open(path, framework="numpy") as stored:
            counts.append(len(stored.get_tensor("bounds")) - 1)
    if not sum(counts):
        raise DataError(
            f"data.packing=fitted: found {len(starts)} documents without two tokens, needed at "
            "least one; give other data"
        )
    firsts = starts[::WINDOW_DOCUMENTS].tolist()
    index = {"version": VERSION, "sequences": counts, "tokens": firsts}
    _write(place / INDEX, json.dumps(index).encode())
    return place


def window_name(number: int) -> str:
    """File name of the packing window `number`."""
    return f"window-{number:06d}.safetensors"


def _fitted(starts: Ids, lengths: Ids, capacity: int, number: int) -> Arrays:
    """ "starts" int64 and "lengths" int32 of all pieces, sequence by sequence, and "bounds" int64:
    sequence k has the pieces [bounds[k], bounds[k + 1])."""
    starts, lengths = cut_long(starts, lengths, capacity)
    bins = best_fit(lengths, capacity)
    # Bins come longest piece first; shuffled, neighbours are of all kinds.
    places = permute(len(bins), derive_key(_SHUFFLE, number), np.arange(len(bins)))
    bins = [bins[place] for place in places.tolist()]
    pieces = np.array([piece for one in bins for piece in one], dtype=np.int64)
    bounds = np.cumsum([0, *(len(one) for one in bins)], dtype=np.int64)
    return {
        "starts": starts[pieces],
        "lengths": lengths[pieces].astype(np.int32),
        "bounds": bounds,
    }


def _documents(tokens: Tokens, end_token: int | None) -> Ids:
    """The first token of each document."""
    if tokens.documents is not None:
        return tokens.documents
    if end_token is None:
        raise DataError(
            "data.packing=fitted: found tokens that do not say where documents begin, needed their "
            "ends; set data.end_token to the id that ends each document"
        )
    found = [np.zeros(1, dtype=np.int64), *_after_ends(tokens, end_token)]
    starts = np.concatenate(found)
    return starts[starts < len(tokens)]


def _after_ends(tokens: Tokens, end_token: int) -> Iterator[Ids]:
    for first in range(0, len(tokens), _SCAN_TOKENS):
        row = tokens.gather(np.array([first]), min(_SCAN_TOKENS, len(tokens) - first))
        yield first + 1 + np.flatnonzero(row[0] == end_token)


def _is_whole(path: Path) -> bool:
    """Whether a window's file is there and as long as its header says."""
    try:
        with safe_open(path, framework="numpy") as stored:
            return "bounds" in stored.keys()  # noqa: SIM118 - no mapping, it only has keys()
    except (OSError, SafetensorError):
        return False


def _publish(path: Path, arrays: Arrays) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    save_file(arrays, partial)
    partial.rename(path)


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    partial.write_bytes(content)
    partial.rename(path)
