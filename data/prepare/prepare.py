"""Where prepared data lives, that it is made once, and that it appears whole or not at all."""

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import xxhash

from ..config import DataConfig, DataFormat, data_folder
from ..errors import CorruptDataError, DataError
from ..manifest import FORMAT, VERSION, check_sizes, is_prepared, read_manifest
from .build import Report, build
from .corpora import named_corpus
from .documents import Documents
from .files import SourceFile, list_files
from .tokenizer import Tokenizer

_FULL_OR_FORBIDDEN = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedInfo:
    """What a folder of prepared tokens says of itself; `tokens` and `documents` are by split."""

    folder: Path
    name: str
    vocabulary_size: int
    end_token: int
    unigram_entropy_nats: float
    tokens: dict[str, int]
    documents: dict[str, int]
    tokenizer_path: Path
    digest: str


def open_prepared(folder: Path) -> PreparedInfo:
    """Reads the manifest of a prepared folder and checks that its files have their sizes.

    Raises:
        DataError: no manifest, or one of another format or version.
        CorruptDataError: the manifest is damaged, or a file is missing or has another size.
    """
    manifest = read_manifest(folder)
    check_sizes(folder, manifest)
    return PreparedInfo(
        folder=folder,
        name=manifest.name,
        vocabulary_size=manifest.vocabulary_size,
        end_token=manifest.end_token,
        unigram_entropy_nats=manifest.unigram_entropy_nats,
        tokens={name: split.tokens for name, split in manifest.splits.items()},
        documents={name: split.documents for name, split in manifest.splits.items()},
        tokenizer_path=folder / manifest.tokenizer.name,
        digest=manifest.digest("train", "eval"),
    )


def prepare(
    config: DataConfig,
    *,
    out: Path | None = None,
    report: Report,
    lock_seconds: float = 3600.0,
) -> Path:
    """Makes token shards of the configured text, once, and returns their folder.

    Any process may call it, several at once too: one works, the others wait for it and then find
    the folder. The folder's name holds a digest of the settings and of the files' names, sizes
    and stamps, so that other text or settings never meet an old folder.

    Args:
        out: a new or empty folder to write to, in place of the cache.
        report: takes lines on progress.
        lock_seconds: how long to wait for another process that prepares the same.

    Raises:
        DataError: the text, a setting or the folder cannot be used.
        TimeoutError: another process took longer than `lock_seconds`.
    """
    ready = _prepared_path(config)
    if ready is not None:
        if out is not None:
            raise DataError(
                f"data.path: found prepared tokens in {ready}, needed text to prepare; "
                "copy the folder, or give the text that it was made of"
            )
        return ready
    files = list_files(config.path) if config.path is not None else named_corpus(config.name)
    tokenizer = None if config.tokenizer is None else Tokenizer.load(config.tokenizer)
    facts = _facts(config, files, tokenizer)

    def fill(folder: Path) -> None:
        begun = time.monotonic()
        documents = Documents(files, config.format, config.text_field)
        build(folder, documents, config, tokenizer=tokenizer, facts=facts, report=report)
        report(f"prepared {config.name} in {time.monotonic() - begun:.1f} s")

    if out is not None:
        with _said_in_a_sentence("the folder to write to", out):
            return _publish(_empty(out.absolute()), fill)
    cache = data_folder(config)
    with _said_in_a_sentence("data.cache.folder", cache):
        return _once(cache / _folder_name(config, facts), fill, report, lock_seconds)


def _prepared_path(config: DataConfig) -> Path | None:
    """The folder `data.path` itself, where it holds prepared tokens."""
    asked = config.format is DataFormat.tokens
    if config.path is None:
        if asked:
            raise DataError(
                "data.format: found tokens without data.path, needed the folder that holds them; "
                "set data.path or leave data.format out"
            )
        return None
    path = Path(config.path.removeprefix("file://")).expanduser()
    if asked or (config.format is DataFormat.auto and is_prepared(path)):
        open_prepared(path)
        return path
    return None


def _facts(
    config: DataConfig, files: list[SourceFile], tokenizer: Tokenizer | None
) -> dict[str, dict[str, Any]]:
    """What the result depends on: the text as it is listed, and the settings that shape it."""
    listing = [(file.name, file.size, file.stamp) for file in files]
    settings: dict[str, Any] = {
        name: getattr(config, name) for name in ("text_field", "seed", "eval_fraction")
    }
    settings["format"] = str(config.format)
    if tokenizer is None:
        settings["vocabulary_size"] = config.vocabulary_size
    else:
        settings["tokenizer"] = xxhash.xxh3_128_hexdigest(tokenizer.to_json().encode())
    source = {
        "path": config.path or config.name,
        "files": len(files),
        "bytes": sum(file.size for file in files),
        "digest": xxhash.xxh3_128_hexdigest(json.dumps(listing).encode()),
    }
    return {"source": source, "settings": settings}


def _folder_name(config: DataConfig, facts: dict[str, dict[str, Any]]) -> str:
    content = [FORMAT, VERSION, facts["source"]["digest"], facts["settings"]]
    digest = xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', config.name).strip('.-') or 'data'}-{digest[:16]}"


def _once(folder: Path, fill: Callable[[Path], None], report: Report, lock_seconds: float) -> Path:
    if _is_whole(folder, report):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        report(f"another process prepares {folder.name}; waiting for it")
        lock.acquire(timeout=lock_seconds)
    try:
        if _is_whole(folder, report):
            return folder
        # Under the lock nobody else writes these: they are what a killed process left.
        for debris in (*folder.parent.glob(f".{folder.name}.partial-*"), folder):
            shutil.rmtree(debris, ignore_errors=True)
        return _publish(folder, fill)
    finally:
        lock.release()


def _is_whole(folder: Path, report: Report) -> bool:
    if not folder.exists():
        return False
    try:
        open_prepared(folder)
    except (CorruptDataError, DataError) as error:
        report(f"{error}; preparing it again")
        return False
    return True


def _publish(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Fills a hidden sibling and renames it, so that `folder` is whole as soon as it exists."""
    partial = folder.with_name(f".{folder.name}.partial-{secrets.token_hex(4)}")
    partial.mkdir(parents=True)
    try:
        fill(partial)
        _sync(partial)
        partial.rename(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _empty(folder: Path) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"the folder to write to: found {folder} in use, needed a new or empty folder; "
            "name another one, or remove it first"
        )
    return folder


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _said_in_a_sentence(thing: str, folder: Path) -> Iterator[None]:
    """A full disk or a folder that may not be written is the user's to mend, not a fault."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL_OR_FORBIDDEN:
            raise
        raise DataError(
            f"{thing}: found {folder} not writable ({error.strerror}), needed room and permission "
            "for the prepared tokens; free some space or name another folder"
        ) from error
