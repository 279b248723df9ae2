"""The last two stages: tokens of parts laid end to end in shards, and what describes them."""

import dataclasses
import importlib.metadata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...manifest import MANIFEST, FileFacts, Manifest, SplitFacts
from ...store import LocalStore
from ...table import join
from ..card import CARD, card
from ..job import TOKENIZER, Job
from ..publish import sync
from ..shards import entropy_nats, span, token_dtype, write_array, write_file
from ..tokenizer import Tokenizer
from .encode import SPLITS


class Shard(NamedTuple):
    """Tokens [start, stop) of a split."""

    split: str
    place: int
    start: int
    stop: int


def shards(job: Job) -> list[Shard]:
    """All shards, once every part is encoded; the last of a split may be short."""
    encoded = [job.results.facts("encode", part) for part in range(len(job.parts()))]
    length = job.settings.shard_bytes // np.dtype(_dtype(job)).itemsize
    found = []
    for split in SPLITS:
        total = sum(facts[split][0] for facts in encoded)
        starts = range(0, total, length)
        found += [
            Shard(split, place, start, min(total, start + length))
            for place, start in enumerate(starts)
        ]
    return found


def write_shard(job: Job, number: int) -> None:
    """Writes shard `number` of `shards` into the folder that is filled."""
    shard = shards(job)[number]
    work, parts = job.results, range(len(job.parts()))
    tokens = [work.array("encode", part, f"{shard.split}_tokens") for part in parts]
    count = shard.stop - shard.start
    job.filling.mkdir(exist_ok=True)
    facts = write_array(
        job.filling / f"{shard.split}-{shard.place:05d}.npy",
        span(tokens, shard.start, shard.stop),
        count,
        _dtype(job),
    )
    facts.tokens = count
    work.put("shard", number, dataclasses.asdict(facts))


def finish(job: Job, number: int, tokenizer: Tokenizer) -> None:
    """Writes where documents begin, tokenizer, card, manifest and locks, and renames the folder to
    what it is to be. The work folder is the caller's to remove."""
    work, folder = job.results, job.filling
    folder.mkdir(exist_ok=True)
    _remove_drafts(folder)
    splits = {split: SplitFacts() for split in SPLITS}
    for place, shard in enumerate(shards(job)):
        splits[shard.split].shards.append(FileFacts(**work.facts("shard", place)))
    parts = range(len(job.parts()))
    for split, facts in splits.items():
        encoded = [work.facts("encode", part)[split] for part in parts]
        facts.tokens, facts.documents = (sum(column) for column in zip(*encoded, strict=True))
        lengths = (work.array("encode", part, f"{split}_lengths") for part in parts)
        facts.starts = write_array(
            folder / f"{split}-documents.npy", _starts(lengths), facts.documents, "int64"
        )
    counts = np.zeros(tokenizer.vocabulary_size, dtype=np.int64)
    for part in parts:
        counts += work.array("encode", part, "counts")
    decided = work.facts("decide", number)
    manifest = Manifest(
        name=job.name,
        dtype=token_dtype(tokenizer.vocabulary_size),
        vocabulary_size=tokenizer.vocabulary_size,
        end_token=tokenizer.end_token,
        tokenizer=write_file(folder / TOKENIZER, tokenizer.to_json().encode()),
        splits=splits,
        unigram_entropy_nats=entropy_nats(counts),
        source=job.facts["source"],
        settings=job.facts["settings"],
        created_by=f"keepstep {importlib.metadata.version('keepstep')}",
        counts={name: decided[name] for name in ("documents", "characters", "problems")},
    )
    manifest.card = write_file(folder / CARD, card(manifest).encode())
    write_file(folder / MANIFEST, manifest.to_json().encode())
    _write_locks(folder)
    sync(folder)
    folder.rename(job.folder)
    sync(job.folder.parent)


def _starts(lengths: Iterator[npt.NDArray[np.int64]]) -> Iterator[npt.NDArray[np.int64]]:
    """The first token of each document, part by part."""
    base = 0
    for part in lengths:
        ends = base + np.cumsum(part)
        yield ends - part
        base = int(ends[-1]) if len(ends) else base


def _write_locks(folder: Path) -> None:
    """A lock of each split, whose names and digests alone count: it moves with the folder."""
    # Imported here: sources know the room's configuration, which holds this package's.
    from ...lockfile import HERE, write_lock
    from ...sources.token_files.npy import survey_prepared

    for split in SPLITS:
        found = survey_prepared(LocalStore(), str(folder), split=split)
        objects = [replace(obj, url=join(HERE, found.name(obj)), tag="") for obj in found.objects]
        moved = replace(found, url=HERE, objects=objects)
        write_lock(moved, folder / f"keepstep-{split}.lock", replace=True)


def _dtype(job: Job) -> str:
    return str(job.results.array("encode", 0, "train_tokens").dtype)


def _remove_drafts(folder: Path) -> None:
    """What killed processes left half-written; nobody writes here any more."""
    for draft in folder.glob(".*.draft"):
        draft.unlink(missing_ok=True)
