"""What a folder of token shards declares about itself: format "keepstep-tokens", version 1.

Owns the manifest's shape, reading and writing, and the cheap check of sizes; writes no tokens.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from .errors import CorruptDataError, DataError

MANIFEST = "manifest.json"
FORMAT = "keepstep-tokens"
VERSION = 1


@dataclass(kw_only=True, slots=True)
class FileFacts:
    """One file of the folder; `digest` is the xxh3-128 of its bytes, in hexadecimal."""

    name: str
    bytes: int
    digest: str
    tokens: int = 0


@dataclass(kw_only=True, slots=True)
class SplitFacts:
    """One split: "train" or "eval"."""

    documents: int = 0
    tokens: int = 0
    shards: list[FileFacts] = field(default_factory=list)
    starts: FileFacts | None = None
    """An int64 .npy with the first token of each document; None in folders of older releases."""


@dataclass(kw_only=True, slots=True)
class Manifest:
    """Everything needed to read the shards, to check them and to know where they came from."""

    name: str
    dtype: str
    vocabulary_size: int
    end_token: int
    tokenizer: FileFacts
    splits: dict[str, SplitFacts]
    unigram_entropy_nats: float
    """Entropy of the train split's token counts, natural logarithm: the loss of a model that
    knows only how frequent each token is."""
    source: dict[str, Any]
    settings: dict[str, Any]
    created_by: str
    counts: dict[str, Any] = field(default_factory=dict)
    """"documents": how many were read, dropped by each rule, and kept (whole ones, before a lone
    one is cut); "characters" of those kept; "problems", what was wrong with the bad ones."""
    card: FileFacts | None = None

    @property
    def files(self) -> list[FileFacts]:
        """Every file of the folder but the manifest."""
        shards = [shard for split in self.splits.values() for shard in split.shards]
        others = [*(split.starts for split in self.splits.values()), self.card]
        return [*shards, *(file for file in others if file is not None), self.tokenizer]

    def digest(self, *splits: str) -> str:
        """xxh3-128 over the named splits' tokens, whatever the folder is called."""
        parts = [self.dtype, *(f"{s}:{x.digest}" for s in splits for x in self.splits[s].shards)]
        return xxhash.xxh3_128_hexdigest(" ".join(parts).encode())

    def to_json(self) -> str:
        """The text of manifest.json; its last key is a digest of all the others."""
        body = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}
        return json.dumps({**body, "digest": _digest(body)}, indent=1) + "\n"


def is_prepared(folder: Path) -> bool:
    """Whether `folder` holds a manifest of prepared tokens, whole or not, of any version."""
    try:
        found = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("format") == FORMAT


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks manifest.json itself, not the files that it names.

    Raises:
        DataError: there is none, or it is of another format or version.
        CorruptDataError: it is not JSON or not what was written.
    """
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"data.path: found no {MANIFEST} in {folder}, needed a folder of prepared tokens; "
            "run `keepstep data prepare` or give the folder that it wrote"
        ) from None
    return parse_manifest(content, path)


def parse_manifest(content: bytes, path: Path | str) -> Manifest:
    """Checks the bytes of a manifest.json; `path` is where they lie.

    Raises:
        DataError: it is of another format or version.
        CorruptDataError: it is not JSON or not what was written.
    """
    try:
        body = json.loads(content)
    except ValueError as error:
        raise CorruptDataError(path, f"no JSON ({error})", "a manifest") from error
    found = (body.get("format"), body.get("version")) if isinstance(body, dict) else None
    if found != (FORMAT, VERSION):
        raise DataError(
            f"{path}: found format and version {found}, needed {(FORMAT, VERSION)}; "
            "prepare the data again with this release"
        )
    written = body.pop("digest", None)
    if written != _digest(body):
        raise CorruptDataError(path, f"content of digest {_digest(body)}", f"digest {written}")
    del body["format"], body["version"]
    splits = {name: _split(split) for name, split in body.pop("splits").items()}
    card = _file(body.pop("card", None))
    return Manifest(splits=splits, tokenizer=FileFacts(**body.pop("tokenizer")), card=card, **body)


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Raises CorruptDataError for the first file that is missing or not of its size."""
    for file in manifest.files:
        path = folder / file.name
        if not path.is_file():
            raise CorruptDataError(path, "no such file", f"{file.bytes} bytes")
        if path.stat().st_size != file.bytes:
            raise CorruptDataError(path, f"{path.stat().st_size} bytes", f"{file.bytes} bytes")


def _split(body: dict[str, Any]) -> SplitFacts:
    shards = [FileFacts(**shard) for shard in body["shards"]]
    return SplitFacts(**{**body, "shards": shards, "starts": _file(body.get("starts"))})


def _file(body: dict[str, Any] | None) -> FileFacts | None:
    return None if body is None else FileFacts(**body)


def _digest(body: dict[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_128_hexdigest(text.encode())
