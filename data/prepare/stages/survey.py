"""First stage, by part: reads, normalises and filters every document, and keeps what decides.

Of each document 13 bytes are kept, 20 more of one that passes the filters, and its signature
where near-duplicates are asked for. No text is kept: the stage that needs it reads it again.
"""

from array import array
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import xxhash

from ...errors import DataError
from ..config import Deduplicate, Normalise, OnBad
from ..job import Job
from ..text.documents import Document, documents
from ..text.filters import Bound, dropped_by, parse_filters
from ..text.normalise import fold_blanks, normalise
from . import fate
from .near import Signatures

ROW = np.dtype([("split", "<u8"), ("characters", "<u4"), ("fate", "u1")])
"""Of every record read, in order: the hash that decides its split, its length, its fate."""
KEY = np.dtype([("high", "<u8"), ("low", "<u8"), ("place", "<u4")])
"""Of those that pass the filters: xxh3-128 of the text and place in the part, sorted by the key."""
_MOST_NAMED = 1000


def survey(job: Job, number: int) -> None:
    """Writes the part's rows, keys and signatures.

    Raises:
        DataError: a file or a record that cannot be read, unless bad ones are skipped.
    """
    bounds = parse_filters(job.settings.filters)
    rows, keys = array("Q"), array("Q")
    problems: list[str] = []
    is_near = job.settings.deduplicate is Deduplicate.near
    signatures = Signatures(job.settings) if is_near else None
    lengths, fates = array("L"), bytearray()
    for document in read_part(job, number):
        code = _fate(document, bounds)
        if code == fate.BAD:
            _note(job, document, problems)
        elif code == fate.KEPT:
            keys.extend((*text_key(document.text or ""), len(fates)))
            if signatures is not None:
                signatures.add(document.text or "")
        rows.append(split_hash(document.name, job.seed))
        lengths.append(min(len(document.text or ""), 2**32 - 1))
        fates.append(code)
    table = np.zeros(len(fates), dtype=ROW)
    table["split"], table["characters"] = np.frombuffer(rows, np.uint64), np.array(lengths)
    table["fate"] = np.frombuffer(bytes(fates), np.uint8)
    extra = {} if signatures is None else signatures.arrays()
    facts = {"documents": len(fates), "problems": problems[:_MOST_NAMED]}
    job.results.put("survey", number, facts, rows=table, keys=_sorted_keys(keys), **extra)


def read_part(job: Job, number: int) -> Iterator[Document]:
    """The records of a part in order, their texts normalised."""
    for piece in job.parts()[number]:
        for document in documents(
            job.files[piece.file], piece, format=job.format, text_field=job.text_field
        ):
            text = document.text
            if text is not None and job.settings.normalise is not Normalise.none:
                text = normalise(text)
                if job.settings.normalise is Normalise.folded:
                    text = fold_blanks(text)
                document = document._replace(text=text)
            yield document


def text_key(text: str) -> tuple[int, int]:
    """The xxh3-128 of a text in UTF-8, as its high and low halves."""
    digest = xxhash.xxh3_128_intdigest(text.encode("utf-8", "surrogatepass"))
    return digest >> 64, digest & (2**64 - 1)


def split_hash(name: str, seed: int) -> int:
    """What decides the split of a document: a hash of its name under the seed."""
    return int(xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"), seed=seed))


def _fate(document: Document, bounds: list[Bound]) -> int:
    if document.text is None:
        return fate.BAD if document.problem else fate.BINARY
    if not document.text.strip():
        return fate.EMPTY
    rule = dropped_by(document.text, bounds)
    return fate.KEPT if rule is None else fate.RULES + rule


def _note(job: Job, document: Document, problems: list[str]) -> None:
    if job.is_tolerant:
        return
    problems.append(document.problem)
    if job.settings.on_bad is OnBad.refuse:
        raise DataError(document.problem)
    if len(problems) > job.settings.max_bad:
        raise too_many(len(problems), job.settings.max_bad, document.problem)


def too_many(found: int, most: int, last: str) -> DataError:
    """More bad records than may be left out."""
    return DataError(
        f"data.prepare.max_bad: found {found} bad records or more, needed {most} at most; repair "
        f"them or set data.prepare.max_bad higher (one of them: {last})"
    )


def _sorted_keys(flat: "array[int]") -> npt.NDArray[np.void]:
    columns = np.frombuffer(flat, dtype=np.uint64).reshape(-1, 3)
    found = np.zeros(len(columns), dtype=KEY)
    order = np.lexsort((columns[:, 2], columns[:, 1], columns[:, 0]))
    for place, name in enumerate(("high", "low", "place")):
        found[name] = columns[order, place]
    return found
