"""Documents -> one folder of shards, tokenizer and manifest. Owns neither cache nor publishing."""

import importlib.metadata
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..config import DataConfig
from ..errors import DataError
from ..manifest import MANIFEST, Manifest
from .documents import Documents
from .shards import ShardWriter, token_dtype, write_file
from .split import Survey, held_out, survey
from .tokenizer import Tokenizer

Report = Callable[[str], None]
_REPORT_SECONDS = 2.0


def build(
    folder: Path,
    documents: Documents,
    config: DataConfig,
    *,
    tokenizer: Tokenizer | None,
    facts: dict[str, dict[str, Any]],
    report: Report,
) -> None:
    """Fills the empty `folder`, the manifest last; every file is durable on return.

    Args:
        tokenizer: the given one, or None to train one on the train split.
        facts: the manifest's "source" and "settings".

    Raises:
        DataError: the documents are too few or unreadable.
    """
    found = _survey(documents, config, report)
    is_held = held_out(found.hashes, config.eval_fraction)
    if tokenizer is None:
        report(f"training a tokenizer of {config.vocabulary_size} entries")
        train_texts = (
            text for (_, text), held in zip(documents, is_held, strict=False) if not held
        )
        tokenizer = Tokenizer.train(train_texts, config.vocabulary_size)
    size = tokenizer.vocabulary_size
    writers = {name: ShardWriter(folder, name, size) for name in ("train", "eval")}
    texts = _progress(documents, found, report)
    done = 0
    for tokens, held in zip(tokenizer.encode_documents(texts), is_held, strict=False):
        writers["eval" if held else "train"].add(tokens)
        done += 1
    if done != len(found):
        raise DataError(
            f"data.path: found {done} documents where a first reading found {len(found)}, needed "
            "files that stay as they are; prepare again once nothing writes to them"
        )
    manifest = Manifest(
        name=config.name,
        dtype=token_dtype(size),
        vocabulary_size=size,
        end_token=tokenizer.end_token,
        tokenizer=write_file(folder / "tokenizer.json", tokenizer.to_json().encode()),
        splits={name: writer.close() for name, writer in writers.items()},
        unigram_entropy_nats=writers["train"].entropy_nats(),
        source={**facts["source"], "skipped": len(documents.skipped)},
        settings=facts["settings"],
        created_by=f"keepstep {importlib.metadata.version('keepstep')}",
    )
    write_file(folder / MANIFEST, manifest.to_json().encode())


def _survey(documents: Documents, config: DataConfig, report: Report) -> Survey:
    """Counts; a lone document is cut into pieces, so that a split by document exists."""
    found = survey(documents, config.seed)
    if len(found) == 1:
        documents.is_cut = True
        found = survey(documents, config.seed)
    if len(found) < 2:
        raise DataError(
            f"data.path: found {len(found)} documents with text in {len(documents.files)} files "
            f"({len(documents.skipped)} empty or not UTF-8), needed 2 or more, or a longer one "
            "to cut; give more text"
        )
    note = f", {len(documents.skipped)} empty or not UTF-8 left out" if documents.skipped else ""
    report(f"{len(found)} documents, {found.characters / 1e6:.1f} million characters{note}")
    return found


def _progress(documents: Documents, found: Survey, report: Report) -> Iterator[str]:
    """The texts, with a line now and then on how far the reading is."""
    begun = last = time.monotonic()
    for number, (_, text) in enumerate(documents, start=1):
        now = time.monotonic()
        if now - last > _REPORT_SECONDS:
            last = now
            report(f"tokenising document {number} of {len(found)}, {now - begun:.0f} s")
        yield text
