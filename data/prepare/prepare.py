"""Text -> token shards: finds what is there, goes on with what was begun, publishes it whole."""

import json
import os
import re
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from ..errors import CorruptDataError, DataError
from ..folder import data_folder
from ..lockfile import VERSION as LOCK_VERSION
from ..manifest import FORMAT, MANIFEST, VERSION, check_sizes, is_prepared, read_manifest
from .config import Deduplicate, PrepareConfig
from .job import STAGES, TOKENIZER, Job
from .pool import Pool
from .progress import Progress
from .publish import Report, alone, check_empty, said_in_a_sentence
from .stages.assemble import shards
from .text.corpora import named_corpus
from .text.files import SourceFile, list_files
from .text.filters import parse_filters
from .text.parts import Part, kind_of, slice_bytes
from .tokenizer import Tokenizer
from .work import publish

if TYPE_CHECKING:
    from ..config import DataConfig

# Less text than this is not worth the start of other processes.
_ALONE_BYTES = 64 * 2**20
_POLL_SECONDS = 0.05
_FACTS = "facts.json"
_NOT_OF_THE_RESULT = ("on_bad", "max_bad", "workers")


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
    config: "DataConfig",
    *,
    out: Path | None = None,
    report: Report,
    lock_seconds: float = 3600.0,
    settings: PrepareConfig | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Path:
    """Makes token shards of the configured text, once, and returns their folder.

    The same bytes come out whatever the number of workers and ranks. Work that is done is kept in
    a hidden folder beside the result; after any end, kill -9 included, the same call goes on.

    Any process may call it, several at once too: one works, the others wait for it and then find
    the folder. The folder's name in the cache, and the work folder's, hold a digest of the settings
    and of the files' names, sizes and stamps, so that other text or settings never meet old work.

    Args:
        out: a new or empty folder to write to, in place of the cache; or the result of the same.
        report: takes lines on progress.
        lock_seconds: how long to wait for another process that prepares the same, or for other
            ranks while nothing is done.
        settings: cleaning, deduplication, and how the work is shared out; None: the defaults.
        rank, world_size: with more than one rank every rank calls it, with one shared disk; each
            makes the parts whose number modulo `world_size` is its own, and rank 0 the rest.

    Raises:
        DataError: the text, a setting or the folder cannot be used.
        ChildProcessError: a worker was killed.
        TimeoutError: another process or rank took longer than `lock_seconds`.
    """
    settings = settings or PrepareConfig()
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
    job = _job(config, files, settings, tokenizer, out)
    if _is_whole(job, report) and (rank or not job.work.exists()):
        return job.folder
    thing = "the folder to write to" if out is not None else "data.cache.folder"
    with said_in_a_sentence(thing, job.folder if out is not None else job.folder.parent):
        if out is not None and not _is_whole(job, lambda line: None):
            check_empty(job.folder)
        if rank == 0:
            with alone(job.folder, report, lock_seconds):
                if not _is_whole(job, lambda line: None):
                    if out is None:
                        # Under the lock nobody reads it: it is what went bad.
                        shutil.rmtree(job.folder, ignore_errors=True)
                    _begin(job, tokenizer, report)
                    _make(job, rank, world_size, report, lock_seconds)
                shutil.rmtree(job.work, ignore_errors=True)
        else:
            _begin(job, tokenizer, lambda line: None)
            _make(job, rank, world_size, report, lock_seconds)
    return job.folder


def _make(job: Job, rank: int, world_size: int, report: Report, wait_seconds: float) -> None:
    """Runs all stages, this rank's share of each."""
    begun = time.monotonic()
    parts = job.parts()
    workers = job.settings.workers or _workers(job, world_size)
    with Pool(job, min(workers, max(1, len(parts) // world_size))).started() as pool:
        for stage in STAGES:
            try:
                sizes = _sizes(job, stage, parts)
            except FileNotFoundError:
                # Rank 0 removes the work as soon as it needs no other rank any more.
                if not is_prepared(job.folder):
                    raise
                break
            done = job.results.done(stage)
            progress = Progress(stage, sizes, done, report, time.monotonic())
            mine = [x for x in sizes if x % world_size == rank and x not in done]
            pool.run(stage, mine, progress)
            if world_size > 1 and (rank or stage != "finish"):
                _wait_for_others(job, stage, set(sizes), progress, wait_seconds)
            if stage == "decide" and rank == 0:
                report(_said(job))
    if rank == 0:
        report(f"prepared {job.name} in {time.monotonic() - begun:.1f} s")


def _workers(job: Job, world_size: int) -> int:
    if world_size > 1 or sum(file.size for file in job.files) < _ALONE_BYTES:
        return 1
    return _usable_cores()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _sizes(job: Job, stage: str, parts: list[Part]) -> dict[int, int]:
    """The numbers of a stage, and about how many bytes each is."""
    if stage == "shard":
        return dict.fromkeys(range(len(shards(job))), job.settings.shard_bytes)
    if stage in ("decide", "finish"):
        return {0: sum(file.size for file in job.files)}
    return {place: slice_bytes(job.files, part) for place, part in enumerate(parts)}


def _wait_for_others(
    job: Job, stage: str, wanted: set[int], progress: Progress, wait_seconds: float
) -> None:
    """Waits until every rank has done its share, or the folder is there."""
    last, delay, seen = time.monotonic(), _POLL_SECONDS, 0
    while not is_prepared(job.folder):
        done = job.results.done(stage)
        missing = sorted(wanted - done)
        if not missing:
            return
        if len(done) > seen:
            last, delay, seen = time.monotonic(), _POLL_SECONDS, len(done)
        for number in done:
            progress(number)
        if time.monotonic() - last > wait_seconds:
            raise TimeoutError(
                f"{job.work}: found {len(missing)} parts of stage {stage} not done by other ranks "
                f"for {wait_seconds:.0f} s (the first is {missing[0]}), needed all; start every "
                "rank again, with the same folder on a shared disk"
            )
        time.sleep(delay)
        delay = min(1.0, delay * 2)


def _said(job: Job) -> str:
    facts = job.results.facts("decide", 0)
    counts = facts["documents"]
    dropped = [(x, name) for name, x in counts.items() if x and name not in ("read", "kept")]
    note = "".join(f", {x} left out as {name.replace('_', ' ')}" for x, name in dropped)
    return f"{counts['kept']} documents, {facts['characters'] / 1e6:.1f} million characters{note}"


def _prepared_path(config: "DataConfig") -> Path | None:
    """The folder `data.path` itself, where it holds prepared tokens."""
    asked = config.format == "tokens"
    if config.path is None:
        if asked:
            raise DataError(
                "data.format: found tokens without data.path, needed the folder that holds them; "
                "set data.path or leave data.format out"
            )
        return None
    path = Path(config.path.removeprefix("file://")).expanduser()
    if asked or (config.format == "auto" and is_prepared(path)):
        open_prepared(path)
        return path
    return None


def _job(
    config: "DataConfig",
    files: list[SourceFile],
    settings: PrepareConfig,
    tokenizer: Tokenizer | None,
    out: Path | None,
) -> Job:
    for file in files:
        kind_of(file.name, config.format)
    facts = _facts(config, files, settings, tokenizer)
    # Folders of an earlier release's format stay as they are: that release may still use them.
    versions = [FORMAT, VERSION, LOCK_VERSION]
    content = [*versions, facts["source"]["digest"], facts["settings"]]
    digest = xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())[:16]
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", config.name).strip(".-") or "data"
    folder = (
        data_folder(config.cache.folder) / f"{name}-{digest}" if out is None else out.absolute()
    )
    stem = folder.name if out is None else f"{folder.name}-{digest}"
    return Job(
        name=config.name,
        url=config.path if config.path is not None else files[0].path,
        folder=folder,
        work=folder.with_name(f".{stem}.work"),
        files=files,
        format=str(config.format),
        text_field=config.text_field,
        seed=config.seed,
        eval_fraction=config.eval_fraction,
        vocabulary_size=config.vocabulary_size,
        is_tolerant=config.path is None,
        settings=settings,
        facts=facts,
    )


def _facts(
    config: "DataConfig",
    files: list[SourceFile],
    settings: PrepareConfig,
    tokenizer: Tokenizer | None,
) -> dict[str, dict[str, Any]]:
    """What the result depends on: the text as it is listed, and the settings that shape it."""
    listing = [(file.name, file.size, file.stamp) for file in files]
    is_near = settings.deduplicate is Deduplicate.near
    said: dict[str, Any] = {
        name: getattr(config, name) for name in ("text_field", "seed", "eval_fraction")
    }
    said["format"] = str(config.format)
    for name, value in asdict(settings).items():
        if name not in _NOT_OF_THE_RESULT and (is_near or not name.startswith("near_")):
            said[name] = str(value) if isinstance(value, str) else value
    said["filters"] = [f"{name}={bound:g}" for name, bound in parse_filters(settings.filters)]
    if tokenizer is None:
        said["vocabulary_size"] = config.vocabulary_size
    else:
        said["tokenizer"] = xxhash.xxh3_128_hexdigest(tokenizer.to_json().encode())
    source = {
        "path": config.path or config.name,
        "files": len(files),
        "bytes": sum(file.size for file in files),
        "digest": xxhash.xxh3_128_hexdigest(json.dumps(listing).encode()),
    }
    return {"source": source, "settings": said}


def _is_whole(job: Job, report: Report) -> bool:
    """Whether the folder is there and is the result of this very job."""
    if not is_prepared(job.folder) and not (job.folder / MANIFEST).exists():
        return False
    try:
        open_prepared(job.folder)
        manifest = read_manifest(job.folder)
    except (CorruptDataError, DataError) as error:
        report(f"{error}; preparing it again")
        return False
    return (manifest.source["digest"], manifest.settings) == (
        job.facts["source"]["digest"],
        job.facts["settings"],
    )


def _begin(job: Job, tokenizer: Tokenizer | None, report: Report) -> None:
    """Makes the work folder, and says what other work lies beside it."""
    job.work.mkdir(parents=True, exist_ok=True)
    stem = job.work.name.removesuffix(".work").rpartition("-")[0]
    for other in sorted(job.work.parent.glob(f"{stem}-*.work")):
        if other != job.work and (changes := _changes(job, other)):
            report(
                f"{other}: found work that was begun with other input or settings ({changes}), "
                "which this is not part of; remove the folder once nobody needs it"
            )
    if tokenizer is not None and not (job.work / TOKENIZER).exists():
        content = tokenizer.to_json().encode()
        publish(job.work / TOKENIZER, lambda stream: stream.write(content))
    facts = json.dumps(job.facts).encode()
    publish(job.work / _FACTS, lambda stream: stream.write(facts))


def _changes(job: Job, other: Path) -> str:
    """What differs between this job and that of another work folder, in words."""
    try:
        facts = json.loads((other / _FACTS).read_bytes())
    except (OSError, ValueError):
        return ""
    found = [
        f"{name} {facts[kind].get(name)} -> {value}"
        for kind in ("source", "settings")
        for name, value in job.facts[kind].items()
        if facts[kind].get(name) != value and name != "digest"
    ]
    if not found and facts["source"]["digest"] != job.facts["source"]["digest"]:
        found = ["other files or times"]
    return ", ".join(found)
