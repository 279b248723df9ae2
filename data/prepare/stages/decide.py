"""Second stage, once: which documents are dropped as duplicates, which are held out, and the
tokenizer. Depends on what the parts hold alone, not on who made them or when.

In memory are 1 byte a document, the merge's 250 MB at most, and 100 bytes or so a near-duplicate.
"""

import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import DataError
from ..config import Deduplicate
from ..job import TOKENIZER, Job
from ..text.documents import cut, piece_characters
from ..tokenizer import Tokenizer
from ..work import publish
from . import fate
from .groups import Sorted, groups
from .near import near_duplicates
from .split import held_out, limit
from .survey import read_part, split_hash, text_key, too_many

Fates = npt.NDArray[np.uint8]


def decide(job: Job, number: int) -> None:
    """Writes every part's fates, and the tokenizer where none is given.

    Raises:
        DataError: too few documents are left, or more bad ones than may be.
    """
    work = job.results
    count = len(job.parts())
    problems = [x for part in range(count) for x in work.facts("survey", part)["problems"]]
    if len(problems) > job.settings.max_bad:
        raise too_many(len(problems), job.settings.max_bad, problems[0])
    rows = [work.array("survey", part, "rows") for part in range(count)]
    bases = np.concatenate([[0], np.cumsum([len(part) for part in rows])]).astype(np.int64)
    fates = np.concatenate([part["fate"] for part in rows]) if rows else np.zeros(0, np.uint8)
    _drop_duplicates(job, fates, bases)
    kept = int((fates == fate.KEPT).sum())
    is_lone = kept == 1
    if kept > 1:
        _hold_out(job, rows, fates, bases)
    if not kept or (is_lone and _pieces_of_lone(job, fates, bases) < 2):
        # Nothing of this can be gone on from.
        shutil.rmtree(job.work, ignore_errors=True)
        raise _too_few(job, kept, fates)
    for part in range(count):
        codes = fates[bases[part] : bases[part + 1]]
        publish(
            job.work / f"fates-{part:05d}.npy",
            lambda stream, codes=codes: np.save(stream, codes),  # type: ignore[misc]
        )
    if not (job.work / TOKENIZER).exists():
        content = (
            Tokenizer.train(_train_texts(job, is_lone), job.vocabulary_size).to_json().encode()
        )
        publish(job.work / TOKENIZER, lambda stream: stream.write(content))
    characters = sum(
        int(part["characters"][fates[base : base + len(part)] <= fate.EVAL].sum())
        for part, base in zip(rows, bases.tolist(), strict=False)
    )
    counts = np.bincount(fates, minlength=256).tolist()
    facts = {"characters": characters, "documents": fate.counts_by_name(counts, job.settings)}
    work.put("decide", number, {**facts, "is_lone": is_lone, "problems": problems})


def kept_texts(job: Job, part: int, *, is_lone: bool) -> Iterator[tuple[str, bool]]:
    """The texts of a part that are kept, and whether each is held out; a lone one in pieces.

    Raises:
        DataError: the part is not what it was when it was surveyed.
    """
    fates = np.load(job.work / f"fates-{part:05d}.npy")
    keys = job.results.array("survey", part, "keys")
    known = np.zeros((len(fates), 2), dtype=np.uint64)
    known[keys["place"]] = np.stack([keys["high"], keys["low"]], axis=1)
    seen = 0
    for place, document in enumerate(read_part(job, part)):
        seen += 1
        code = int(fates[place]) if place < len(fates) else fate.BAD
        if code not in (fate.KEPT, fate.EVAL):
            continue
        if document.text is None or text_key(document.text) != tuple(known[place].tolist()):
            raise _changed(document.name)
        if is_lone:
            yield from _pieces(job, document.name, document.text)
        else:
            yield document.text, code == fate.EVAL
    if seen != len(fates):
        raise _changed(f"part {part} ({seen} documents in place of {len(fates)})")


def _train_texts(job: Job, is_lone: bool) -> Iterator[str]:
    for part in range(len(job.parts())):
        for text, is_held in kept_texts(job, part, is_lone=is_lone):
            if not is_held:
                yield text


def _pieces(job: Job, name: str, text: str) -> list[tuple[str, bool]]:
    """The pieces of a lone document, so that a split by document exists."""
    pieces = list(cut(text, piece_characters(text)))
    hashes = [split_hash(f"{name}#{place}", job.seed) for place in range(len(pieces))]
    is_held = held_out(np.array(hashes, dtype=np.uint64), job.eval_fraction)
    return list(zip(pieces, is_held.tolist(), strict=True))


def _drop_duplicates(job: Job, fates: Fates, bases: npt.NDArray[np.int64]) -> None:
    if job.settings.deduplicate is Deduplicate.none:
        return
    keys = [job.results.array("survey", part, "keys") for part in range(len(bases) - 1)]
    columns = [
        Sorted(part["high"], part["low"], part["place"].astype(np.int64) + base)
        for part, base in zip(keys, bases.tolist(), strict=False)
    ]
    for _, _, others in groups(columns):
        fates[others] = fate.EXACT
    if job.settings.deduplicate is not Deduplicate.near:
        return
    # Signatures are of those that passed the filters; their places among all documents:
    places = np.concatenate([np.sort(column.places) for column in columns])
    arrays = [
        [job.results.array("survey", part, name) for part in range(len(keys))]
        for name in ("signatures", "bands")
    ]
    for found in near_duplicates(arrays[0], arrays[1], job.settings.near_threshold):
        if fates[places[found]] == fate.KEPT:
            fates[places[found]] = fate.NEAR


def _hold_out(
    job: Job, rows: Sequence[npt.NDArray[Any]], fates: Fates, bases: npt.NDArray[np.int64]
) -> None:
    views = [fates[bases[part] : bases[part + 1]] for part in range(len(rows))]
    hashes = [part["split"][view == fate.KEPT] for part, view in zip(rows, views, strict=True)]
    found = [part for part in hashes if len(part)]
    lowest, highest = min(int(x.min()) for x in found), max(int(x.max()) for x in found)
    edge = np.uint64(limit(lowest, highest, job.eval_fraction))
    for part, view in zip(rows, views, strict=True):
        view[(view == fate.KEPT) & (part["split"] < edge)] = fate.EVAL


def _pieces_of_lone(job: Job, fates: Fates, bases: npt.NDArray[np.int64]) -> int:
    place = int(np.flatnonzero(fates == fate.KEPT)[0])
    part = int(np.searchsorted(bases, place, side="right")) - 1
    row = place - int(bases[part])
    texts = (x.text for at, x in enumerate(read_part(job, part)) if at == row)
    return len(_pieces(job, "", next(texts) or ""))


def _too_few(job: Job, kept: int, fates: Fates) -> DataError:
    counts = fate.counts_by_name(np.bincount(fates, minlength=256).tolist(), job.settings)
    left_out = {
        name: number for name, number in counts.items() if number and name not in ("read", "kept")
    }
    why = "".join(f", {number} {name}" for name, number in left_out.items())
    return DataError(
        f"data.path: found {kept} documents with text in {len(job.files)} files{why}, needed 2 or "
        "more, or a longer one to cut; give more text"
    )


def _changed(what: str) -> DataError:
    return DataError(
        f"data.path: found {what} changed since it was first read, needed files that stay as they "
        "are; prepare again once nothing writes to them"
    )
