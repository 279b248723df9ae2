"""A language model's data, from its settings: text is prepared, tokens are read where they lie."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import xxhash

from ..config import DataConfig, DataFormat, Packing
from ..dataset import Dataset
from ..errors import DataError, DeniedError, MissingError
from ..manifest import MANIFEST, Manifest, parse_manifest
from ..packing import Chunks, Fitted, compile_packing
from ..prepare import Tokenizer, prepare
from ..quarantine import Column, GoodSamples, Policy, Skips
from ..sources import Source
from ..sources.listing import base_url
from ..sources.open import TOKEN_FORMATS, open_records, open_tokens
from ..table import join
from .locate import locate, text_at
from .mixed import Mixed
from .rows import TokenRows
from .slice import Slice
from .supply import Supply

Report = Callable[[str], None]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """What a language model trains on. `supply` has the threads and maps; `close` it after use."""

    name: str
    train: Source
    held_out: Source | None
    """None where there is not enough for a single sample."""
    vocabulary_size: int
    end_token: int | None
    tokenizer: Tokenizer | None
    unigram_entropy_nats: float | None
    """Entropy of the train split's token counts; None where nothing tells it."""
    supply: Supply

    @property
    def skips(self) -> list[Skips]:
        """Bad samples of each source that can have some; part of the data's state."""
        parts = self.train.parts.values() if isinstance(self.train, Mixed) else [self.train]
        return [part.skips for part in parts if isinstance(part, GoodSamples)]

    def close(self) -> None:
        """Ends all threads and connections of the data; safe twice."""
        self.supply.close()


def open_corpus(config: DataConfig, *, report: Report, supply: Supply | None = None) -> Corpus:
    """Prepares, lists, locks and packs what is not yet, then opens it. May take a while, and says
    so; any number of processes may call it at once.

    Args:
        supply: of the same settings, where another than the usual one is to be used; it becomes the
            corpus's own.

    Raises:
        DataError: data or settings that cannot be used.
        CorruptDataError: data that is not what its index says.
        TransientError: a store that does not answer for long.
    """
    supply = supply or Supply(config, report)
    try:
        return (
            _mixture(config, supply, report) if config.mixture else _single(config, supply, report)
        )
    except (MissingError, DeniedError) as error:
        supply.close()
        raise DataError(f"data.path: {error}") from error
    except BaseException:
        supply.close()
        raise


def _mixture(config: DataConfig, supply: Supply, report: Report) -> Corpus:
    """All sources of `data.mixture`; text among them is prepared with the first one's tokenizer."""
    parts: dict[str, Corpus] = {}
    for one in config.mixture:
        own = config.part(one)
        if parts and own.tokenizer is None:
            own.tokenizer = _tokenizer_file(next(iter(parts.values())))
        parts[one.name] = _single(own, supply, report)
    first = next(iter(parts.values()))
    for name, part in parts.items():
        _check_same_tokens(name, part, first)
    held_out = {name: part.held_out for name, part in parts.items() if part.held_out is not None}
    return Corpus(
        name="+".join(parts),
        train=Mixed({name: part.train for name, part in parts.items()}, config.weights()),
        held_out=Mixed(held_out, [(0, [1.0] * len(held_out))]) if held_out else None,
        vocabulary_size=first.vocabulary_size,
        end_token=first.end_token,
        tokenizer=first.tokenizer,
        unigram_entropy_nats=None,
        supply=supply,
    )


def _single(config: DataConfig, supply: Supply, report: Report) -> Corpus:
    url = config.path
    if url is None or _is_text(config, url, supply):
        url = str(prepare(config, report=report, settings=config.prepare))
    manifest = _manifest(url, supply) if _may_be_prepared(config) else None
    if manifest is not None:
        return _prepared(config, url, manifest, supply, report)
    return _foreign(config, url, supply, report)


def _is_text(config: DataConfig, url: str, supply: Supply) -> bool:
    if url.endswith(".lock"):
        return False
    return text_at(url, supply.store(url), config.format)


def _may_be_prepared(config: DataConfig) -> bool:
    foreign = set(DataFormat) - {
        *(DataFormat.auto, DataFormat.tokens, DataFormat.text),
        *(DataFormat.jsonl, DataFormat.parquet),
    }
    return config.format not in foreign


def _manifest(url: str, supply: Supply) -> Manifest | None:
    """What `keepstep data prepare` wrote there; None where it did not."""
    if url.endswith(".lock"):
        return None
    place = join(base_url(url), MANIFEST)
    try:
        content = supply.content(place)
    except MissingError:
        return None
    return parse_manifest(content, place)


def _prepared(
    config: DataConfig, url: str, manifest: Manifest, supply: Supply, report: Report
) -> Corpus:
    def split(name: str) -> Source:
        found = _located(config, url, supply, report, split=name)
        return _samples(config, found, manifest.end_token, supply, report)

    has_eval = manifest.splits["eval"].tokens > config.sequence_length
    place = join(base_url(url), manifest.tokenizer.name)
    return Corpus(
        name=manifest.name,
        train=split("train"),
        held_out=split("eval") if has_eval else None,
        vocabulary_size=manifest.vocabulary_size,
        end_token=manifest.end_token,
        tokenizer=Tokenizer.parse(supply.content(place), place),
        unigram_entropy_nats=manifest.unigram_entropy_nats,
        supply=supply,
    )


def _foreign(config: DataConfig, url: str, supply: Supply, report: Report) -> Corpus:
    """Tokens that others wrote: the last part of the samples is held out."""
    tokenizer = None if config.tokenizer is None else Tokenizer.load(config.tokenizer)
    end_token = tokenizer.end_token if tokenizer and config.end_token is None else config.end_token
    found = _located(config, url, supply, report)
    samples = _samples(config, found, end_token, supply, report)
    kept = len(samples) - max(1, int(len(samples) * config.eval_fraction))
    if kept < 1:
        raise DataError(
            f"{url}: found {len(samples)} samples of data.sequence_length="
            f"{config.sequence_length}, needed 2 or more; set it lower or give more data"
        )
    size = tokenizer.vocabulary_size if tokenizer else config.vocabulary_size
    return Corpus(
        name=config.name,
        train=_good(Slice(samples, 0, kept), config, size, report),
        held_out=Slice(samples, kept, len(samples), leads=False),
        vocabulary_size=size,
        end_token=end_token,
        tokenizer=tokenizer,
        unigram_entropy_nats=None,
        supply=supply,
    )


def _good(source: Source, config: DataConfig, size: int, report: Report) -> GoodSamples:
    """The samples, of which those that cannot be read or hold ids of no token are refused, or
    skipped and said."""
    return GoodSamples(
        source,
        [Column(name="tokens", lowest=0, highest=size - 1)],
        policy=Policy(on_bad=config.on_bad, max_bad=config.max_bad, seed=config.seed),
        report=lambda bad: report(f"skipped sample {bad.id}: {bad.reason}"),
    )


def _located(
    config: DataConfig, url: str, supply: Supply, report: Report, *, split: str | None = None
) -> Dataset:
    return locate(
        url,
        supply.store(url),
        format=DataFormat.tokens if split else config.format,
        split=split,
        dtype=None if split else config.token_dtype,
        kept=supply.folder / "locks",
        report=report,
        key=None if config.require_signed is None else Path(config.require_signed),
    )


def _samples(
    config: DataConfig, found: Dataset, end_token: int | None, supply: Supply, report: Report
) -> Source:
    access, length = supply.access(found), config.sequence_length
    if found.format not in TOKEN_FORMATS:
        field, dtype = config.token_field, config.token_dtype
        return TokenRows(open_records(found, access), length, field=field, dtype=dtype)
    tokens = open_tokens(found, access)
    if config.packing is Packing.fitted:
        folder = compile_packing(
            tokens, length, folder=supply.folder / "packing", end_token=end_token, report=report
        )
        return Fitted(tokens, length, folder)
    isolate = config.packing is Packing.isolated
    return Chunks(tokens, length, isolate=isolate, end_token=end_token)


def _tokenizer_file(first: Corpus) -> str | None:
    """A file with the first source's tokenizer; None where it has none."""
    if first.tokenizer is None:
        return None
    content = first.tokenizer.to_json()
    return str(_kept(first.supply.folder / "tokenizers", content))


def _kept(folder: Path, content: str) -> Path:
    """The file of this content, named by its digest."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{xxhash.xxh3_64_hexdigest(content.encode())}.json"
    if not path.exists():
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_text(content)
        draft.rename(path)
    return path


def _check_same_tokens(name: str, part: Corpus, first: Corpus) -> None:
    if (part.vocabulary_size, part.end_token) != (first.vocabulary_size, first.end_token):
        raise DataError(
            f"data.mixture {name}: found a vocabulary of {part.vocabulary_size} with end token "
            f"{part.end_token}, needed {first.vocabulary_size} with {first.end_token} as in "
            f"{first.name!r}; prepare all sources with one tokenizer (data.tokenizer)"
        )
