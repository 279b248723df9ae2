"""Files -> documents, each with an identity and a text, in one fixed order, one at a time.

Knows text, JSONL and Parquet; chooses no split and counts no tokens.
"""

import gzip
import json
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from ..config import DataFormat
from ..errors import DataError
from .files import SourceFile, unreadable

PIECE_CHARACTERS = 64 * 1024
_FEWEST_PIECES = 20
_SMALLEST_PIECE = 256


@dataclass(slots=True)
class Documents:
    """All documents of some files; may be iterated again, and gives the same ones.

    `skipped` holds, of the last iteration, the names of text files that are not UTF-8 and of
    documents without any text.
    """

    files: list[SourceFile]
    format: DataFormat = DataFormat.auto
    text_field: str = "text"
    is_cut: bool = False
    """Whether each document is cut into pieces that count as documents."""
    skipped: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        self.skipped = []
        for name, text in self._whole():
            if not text.strip():
                self.skipped.append(name)
            elif self.is_cut:
                for number, piece in enumerate(cut(text, piece_characters(text))):
                    yield f"{name}#{number}", piece
            else:
                yield name, text

    def _whole(self) -> Iterator[tuple[str, str]]:
        for file in self.files:
            kind = detect(file.name) if self.format is DataFormat.auto else self.format
            try:
                if kind is DataFormat.jsonl:
                    yield from _jsonl(file, self.text_field)
                elif kind is DataFormat.parquet:
                    yield from _parquet(file, self.text_field)
                else:
                    yield from self._text(file)
            except PermissionError as error:
                raise unreadable(file.path, error) from error
            except (gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError) as error:
                raise DataError(
                    f"{file.path}: found a packed file that does not unpack ({error}), needed a "
                    "whole one; copy it again or remove it"
                ) from error

    def _text(self, file: SourceFile) -> Iterator[tuple[str, str]]:
        try:
            with _open(file) as stream:
                text = stream.read().decode("utf-8-sig")
        except UnicodeDecodeError:
            self.skipped.append(file.name)
        else:
            yield file.name, text


def detect(name: str) -> DataFormat:
    """The format that a file's suffix stands for; text where it stands for none."""
    stem = name.lower()
    for packed in (".gz", ".bz2", ".xz"):
        stem = stem.removesuffix(packed)
    if stem.endswith((".jsonl", ".ndjson")):
        return DataFormat.jsonl
    return DataFormat.parquet if stem.endswith(".parquet") else DataFormat.text


def piece_characters(text: str) -> int:
    """How long the pieces of a lone document are: 64 Ki, or less so that there are 20 of them."""
    return max(_SMALLEST_PIECE, min(PIECE_CHARACTERS, len(text) // (_FEWEST_PIECES + 1)))


def cut(text: str, characters: int) -> Iterator[str]:
    """Cuts at the line ends that follow every `characters`; a line far longer is cut inside."""
    start = 0
    while start < len(text):
        wanted = start + characters
        end = text.find("\n", wanted - 1, wanted + characters) + 1
        end = end or min(wanted, len(text))
        yield text[start:end]
        start = end


def _open(file: SourceFile) -> IO[bytes]:
    return file.filesystem.open(file.path, "rb", compression="infer")  # type: ignore[no-any-return]


def _jsonl(file: SourceFile, text_field: str) -> Iterator[tuple[str, str]]:
    with _open(file) as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield f"{file.name}:{number}", _text_of(file, number, line, text_field)


def _text_of(file: SourceFile, number: int, line: bytes, text_field: str) -> str:
    try:
        record: Any = json.loads(line)
    except ValueError as error:
        raise DataError(
            f"{file.path}, line {number}: found {_excerpt(line)} ({error}), needed one JSON "
            "object a line; repair or remove the line"
        ) from error
    if not isinstance(record, dict) or not isinstance(record.get(text_field), str):
        found = sorted(record) if isinstance(record, dict) else type(record).__name__
        raise DataError(
            f"{file.path}, line {number}: found {found}, needed an object with a text in "
            f"{text_field!r}; set data.text_field to the field that holds the text"
        )
    return str(record[text_field])


def _excerpt(line: bytes) -> str:
    return repr(line[:40].decode("utf-8", "replace"))


def _parquet(file: SourceFile, text_field: str) -> Iterator[tuple[str, str]]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(
            f"{file.path}: found a Parquet file but no pyarrow, needed pyarrow to read it; "
            "run `pip install keepstep[parquet]`"
        ) from error
    with file.filesystem.open(file.path, "rb") as stream:
        try:
            table = parquet.ParquetFile(stream)
        except arrow.ArrowInvalid as error:
            raise DataError(
                f"{file.path}: found no Parquet data ({error}), needed a Parquet file; "
                "set data.format or give another path"
            ) from error
        names = table.schema_arrow.names
        if text_field not in names or not _is_text(table.schema_arrow.field(text_field).type):
            raise DataError(
                f"{file.path}: found columns {', '.join(names)}, needed a column {text_field!r} "
                "of strings; set data.text_field to the column that holds the text"
            )
        number = 0
        for batch in table.iter_batches(batch_size=1024, columns=[text_field]):
            for value in batch.column(0).to_pylist():
                yield f"{file.name}:{number}", value or ""
                number += 1


def _is_text(kind: Any) -> bool:
    import pyarrow as arrow

    return bool(arrow.types.is_string(kind) or arrow.types.is_large_string(kind))
