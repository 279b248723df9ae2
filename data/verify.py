"""Looks at a folder of prepared tokens: is every byte what was written, and what is in it."""

from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from .errors import CorruptDataError, DataError
from .lockfile import read_lock
from .manifest import FileFacts, SplitFacts, check_sizes, read_manifest
from .prepare import Tokenizer

_EXCERPT_TOKENS = 64
_READ_BYTES = 8 * 1024 * 1024


def verify(folder: Path) -> list[str]:
    """Reads every byte and returns one sentence a problem; an empty list means all is whole."""
    try:
        manifest = read_manifest(folder)
    except (DataError, CorruptDataError) as error:
        return [str(error)]
    problems = [_problem(folder, file) for file in manifest.files]
    problems += [_lock_problem(folder, split, facts) for split, facts in manifest.splits.items()]
    return [problem for problem in problems if problem is not None]


def inspect(folder: Path, sequence_length: int = 128) -> dict[str, Any]:
    """Facts for a person: counts, sizes, entropy, and how the train split begins.

    Raises:
        DataError: no manifest, or one of another format or version.
        CorruptDataError: a file is missing or not of its size.
    """
    manifest = read_manifest(folder)
    check_sizes(folder, manifest)
    first = np.load(folder / manifest.splits["train"].shards[0].name, mmap_mode="r")
    tokenizer = Tokenizer.load(folder / manifest.tokenizer.name)
    return {
        "name": manifest.name,
        "folder": str(folder),
        "documents": {name: split.documents for name, split in manifest.splits.items()},
        "tokens": {name: split.tokens for name, split in manifest.splits.items()},
        "samples": {
            name: max(0, split.tokens - 1) // sequence_length
            for name, split in manifest.splits.items()
        },
        "sequence_length": sequence_length,
        "vocabulary_size": manifest.vocabulary_size,
        "unigram_entropy_nats": manifest.unigram_entropy_nats,
        "dtype": manifest.dtype,
        "bytes": sum(file.bytes for file in manifest.files),
        "digest": manifest.digest("train", "eval"),
        "source": manifest.source,
        "settings": manifest.settings,
        "created_by": manifest.created_by,
        "excerpt": tokenizer.decode(first[:_EXCERPT_TOKENS].tolist()),
    }


def _problem(folder: Path, file: FileFacts) -> str | None:
    path = folder / file.name
    try:
        found = path.stat().st_size
        if found != file.bytes:
            return str(CorruptDataError(path, f"{found} bytes", f"{file.bytes} bytes"))
        digest = _digest(path)
    except OSError as error:
        return str(CorruptDataError(path, f"no readable file ({error.strerror})", file.digest))
    if digest != file.digest:
        return str(CorruptDataError(path, f"digest {digest}", f"digest {file.digest}"))
    return None


def _lock_problem(folder: Path, split: str, facts: SplitFacts) -> str | None:
    """What is wrong with a split's lock; folders of older releases have none."""
    path = folder / f"keepstep-{split}.lock"
    if facts.starts is None:
        return None
    try:
        found = dict(read_lock(path).digests)
    except (DataError, CorruptDataError) as error:
        return str(error)
    needed = {shard.name: f"xxh3_128:{shard.digest}" for shard in facts.shards}
    if found == needed:
        return None
    return str(CorruptDataError(path, "digests of other shards", "those of the manifest"))


def _digest(path: Path) -> str:
    state = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while chunk := stream.read(_READ_BYTES):
            state.update(chunk)
    return state.hexdigest()
